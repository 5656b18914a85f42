"""Broken rules are refuted with memory images that ``dmaproof translate`` replays.

Each counterexample is written as translation vectors. The command, run with the broken rule and
without, answers differently, and the broken answer is the one that breaks the claim.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import z3
from click.testing import CliRunner

from dmaproof.cli import cli
from dmaproof.model.algebra import Image, IntCarrier
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import obligations_mapping as mapping
from dmaproof.model.vtd.obligations import check
from dmaproof.model.vtd.obligations_tables import frame_condition, identity, leaf_lands
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import evaluate
from dmaproof.model.vtd.vectors import encode

from . import broken
from .formats import EXTENDED, FIRST, FORMATS, LEGACY, NESTED, PASS, guest
from .vocabulary import SID


def refuted(make, variant, only=None):
    """A counterexample to *make*'s claim under the broken rule; the true rule's premises hold too.

    So the true engine keeps the claim on the very same image. *only* names a flag that must be set.
    """
    sound = make()
    with variant():
        bad = make()
    facts = [*bad.hypotheses, *sound.hypotheses, *map(z3.Bool, only or ())]
    both = replace(
        bad, hypotheses=facts, reads=[*bad.reads, *sound.reads],
        frames=[*bad.frames, *sound.frames],
    )
    example = check(both)
    assert example is not None
    return example


def command(images, registers, requests, folder, variant=nullcontext):
    """Write vectors to a file, run the command on it, return the outcomes."""
    path = folder / "counterexample.jsonl"
    lines = [encode(image, registers, q) for image, q in zip(images, requests, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with variant():
        result = CliRunner().invoke(cli, ["translate", str(path), "--json"])
    assert "bug" not in result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def both(example, registers, request, folder, variant):
    """Outcomes of one counterexample: with the broken rule, and without."""
    (bad,) = command([example.image], registers, [request], folder, variant)
    (good,) = command([example.image], registers, [request], folder)
    return bad, good


def asked(example, pasid, address="address", privileged="privileged"):
    words = example.words
    return Request(
        SID, words[address], bool(words["write"]), pasid or 0, pasid is not None,
        privileged=bool(words.get(privileged, 0)),
    )


# ------------------------------------------------------------------------------------- confinement


class Spy(IntCarrier):
    """The concrete carrier, noting the table reads."""

    def __init__(self, image):
        super().__init__(image)
        self.reads = []

    def read(self, address, fault):
        self.reads.append((address, fault))
        return super().read(address, fault)


def escapes(example, registers):
    """What a concrete run of the counterexample touches that the container does not own."""
    q = asked(example, 5)
    spy = Spy(example.image)
    outcome = evaluate(spy, registers, q)
    owned = example.pages["owned"]
    found = [("table", address >> 12) for address, fault in spy.reads
             if fault in (f.SFS_1, f.X_PT_ACCESS) and address >> 12 not in owned]
    if not outcome.fault:
        if outcome.hpa >> 12 not in owned:
            found.append(("page", outcome.hpa >> 12))
        elif q.write and outcome.hpa >> 12 not in example.pages["writable"]:
            found.append(("write", outcome.hpa >> 12))
    return found


@pytest.mark.parametrize(("variant", "registers"), [
    (broken.pasid_table_host_physical, EXTENDED), (broken.neste_ignored, EXTENDED),
    (broken.table_not_translated, EXTENDED), (broken.page_not_translated, EXTENDED),
    (broken.table_not_translated, NESTED),
    pytest.param(broken.page_not_translated, NESTED, marks=pytest.mark.slow),
    (broken.nested_type_as_first, NESTED),
    pytest.param(broken.second_stage_write_right_ignored, NESTED, marks=pytest.mark.slow),
], ids=lambda v: getattr(v, "__name__", {EXTENDED: "extended", NESTED: "nested"}.get(v)))
def test_broken_confinement(variant, registers, tmp_path):
    example = refuted(lambda: guest(registers), variant)
    with variant():
        found = escapes(example, registers)
    assert found
    assert not escapes(example, registers)
    bad, good = both(example, registers, asked(example, 5), tmp_path, variant)
    # Which counterexample is found is up to the solver: one that reads a foreign table may end in
    # the same fault as the unbroken engine does; that it reads it is what `escapes` has seen.
    kinds = {kind for kind, _ in found}
    assert bad != good or (kinds == {"table"} and "fault" in bad)
    owned, writable = example.pages["owned"], example.pages["writable"]
    if "hpa" in good:
        assert good["hpa"] >> 12 in owned
        assert not example.words["write"] or good["hpa"] >> 12 in writable
    if "page" in kinds:
        assert bad["hpa"] >> 12 not in owned
    if "write" in kinds:
        assert bad["hpa"] >> 12 not in writable


@pytest.mark.parametrize("registers", [EXTENDED, NESTED], ids=["extended", "nested"])
def test_guest_writable_second_stage(registers, tmp_path):
    """No rule is broken here, but the premise that the guest cannot write the second stage."""
    example = check(guest(registers, disjoint=False))
    assert example is not None
    assert escapes(example, registers)
    (outcome,) = command([example.image], registers, [asked(example, 5)], tmp_path)
    engine = evaluate(Spy(example.image), registers, asked(example, 5))
    assert outcome.get("hpa") == (None if engine.fault else engine.hpa)


# ------------------------------------------------------------------------------------------ tables


STEPS = {
    "P ignored": (broken.present_bit_ignored, mapping.cleared, "scalable first stage", 1),
    "U/S ignored": (broken.supervisor_pages_open, mapping.leaf, "scalable first stage", 1),
    "R/W ignored": (
        broken.first_stage_write_right_ignored, mapping.leaf, "scalable first stage", 2),
    "rights of the leaf alone": (broken.rights_of_the_leaf_alone, mapping.leaf, "legacy", 1),
    "empty entries walked": (broken.empty_entries_walked, mapping.cleared, "legacy", 2),
    "empty tables walked": (broken.empty_entries_walked, mapping.table, "legacy", 3),
    "offset dropped": (broken.offset_dropped, mapping.leaf, "scalable second stage", 1),
    "large page as small": (
        broken.large_page_as_small, mapping.leaf, "scalable second stage", 2),
    "write right of the second stage ignored": (
        broken.second_stage_write_right_ignored, mapping.leaf, "nested, second stage", 1),
}


@pytest.mark.parametrize("name", STEPS)
def test_broken_step(name, tmp_path):
    variant, claim, form_name, level = STEPS[name]
    form = FORMATS[form_name]
    # What a read lands on does not show a right to write.
    only = ["mapped.write"] if "right" in name or "R/W" in name else None
    example = refuted(lambda: claim(form, level), variant, only)
    bad, good = both(example, form.registers, asked(example, form.pasid), tmp_path, variant)
    assert bad != good
    if "hpa" in good:  # what the claim says of the leaf
        assert good["hpa"] == example.words["want"]
    elif claim is not mapping.leaf:
        assert good["condition"] in {"SFS.2", "SSS.2", "LGN.2", "LGN.3"}


def test_pass_through_not_identity(tmp_path):
    example = refuted(
        lambda: identity(PASS, SID, None), broken.pass_through_not_identity)
    q = asked(example, None, "mapped")
    bad, good = both(example, PASS, q, tmp_path, broken.pass_through_not_identity)
    assert good == {"hpa": q.address} != bad


def changed_elsewhere(example, registers, pasid, folder, variant=nullcontext):
    """Outcomes of the other request before and after the write to the slot."""
    after = example.image.copy()
    after.words[example.words["slot"]] = example.words["value"]
    q = asked(example, pasid, "other")
    return command([example.image, after], registers, [q, q], folder, variant)


@pytest.mark.parametrize(("variant", "registers", "pasid", "stage"), [
    (broken.index_too_narrow, LEGACY, None, 1),
    pytest.param(
        broken.first_stage_table_at_wrong_level, FIRST, 5, 2, marks=pytest.mark.slow),
], ids=["index too narrow", "index of the level above"])
def test_broken_index(variant, registers, pasid, stage, tmp_path):
    example = refuted(lambda: frame_condition(registers, SID, pasid, stage, 1), variant)
    before, after = changed_elsewhere(example, registers, pasid, tmp_path, variant)
    assert before != after
    before, after = changed_elsewhere(example, registers, pasid, tmp_path)
    assert before == after


def test_shared_tables(tmp_path):
    """Without the tree invariant one write changes two translations."""
    example = check(frame_condition(LEGACY, SID, None, 1, 1, labels=False))
    before, after = changed_elsewhere(example, LEGACY, None, tmp_path)
    assert before != after
    assert example.words["mapped"] >> 12 != example.words["other"] >> 12


@pytest.mark.parametrize("name", ["legacy", "scalable first stage"])
def test_shared_tables_are_read_by_others(name):
    """The same of the claim about reads: without labels some other walk reads the slot."""
    form = FORMATS[name]
    example = check(mapping.undisturbed(form, 1, labels=False))
    assert example is not None
    read = []
    for name in ("mapped", "other"):
        spy = Spy(example.image)
        evaluate(spy, form.registers, asked(example, form.pasid, name, f"{name}.privileged"))
        read += [address for address, _ in spy.reads]
    assert read.count(example.words["slot"]) > 1


@pytest.mark.parametrize(("variant", "name"), [
    (broken.index_too_narrow, "legacy"),
    (broken.first_stage_table_at_wrong_level, "scalable first stage"),
], ids=["index too narrow", "index of the level above"])
def test_broken_index_is_not_indexed(variant, name):
    form = FORMATS[name]
    with variant():
        assert check(mapping.indexed(form)) is not None


@pytest.mark.parametrize(("variant", "level"), [
    (broken.offset_dropped, 1), (broken.large_page_as_small, 2),
], ids=lambda v: getattr(v, "__name__", ""))
def test_wrong_offset_of_a_written_leaf(variant, level, tmp_path):
    """The same by `leaf_lands`, which writes the leaf."""
    bits = 3 + 9 * level
    example = refuted(lambda: leaf_lands(LEGACY, SID, None, 1, level), variant)
    image = Image(example.image.words)
    image.words[example.words["slot"]] = example.words["value"]
    q = asked(example, None, "mapped")
    (lost,) = command([image], LEGACY, [q], tmp_path, variant)
    (kept,) = command([image], LEGACY, [q], tmp_path)
    frame = example.words["value"] & LEGACY.address & ~((1 << bits) - 1)
    assert kept == {"hpa": frame | q.address & ((1 << bits) - 1)} != lost
