"""Refinement and confinement proofs, and broken rules that they refute with a memory image."""

from __future__ import annotations

import pytest
import z3

from dmaproof.model.algebra import Image, IntCarrier
from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.invalidation import Command, Op, PagingTag, drops_paging
from dmaproof.model.vtd.obligations import check, satisfiable, symbolic_request
from dmaproof.model.vtd.obligations_caches import teardown_drops
from dmaproof.model.vtd.obligations_confinement import confinement
from dmaproof.model.vtd.obligations_tables import (
    fixed_words,
    frame_condition,
    identity,
    leaf_lands,
    pasid_type,
)
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import evaluate, translate

from . import broken
from .vocabulary import DT, ECS, ERS, FSTS, NEST, PASID, PRS, PSS, PT, SID, SMPWC, SMTS, SRS, SSTS

CAP = 2 | 0b100 << 8 | 47 << 16 | 3 << 34  # 4 levels; 2 MiB and 1 GiB pages
ROOT, TOP = 0x1000, 0x9000
LEGACY = Registers(CAP, 0, ROOT, haw=48)
SECOND = Registers(CAP, SMTS | SSTS, ROOT | 1 << 10, haw=48)
FIRST = Registers(CAP, SMTS | FSTS | PASID | PSS | SMPWC | SRS, ROOT | 1 << 10, haw=48)
NESTED = Registers(
    CAP, SMTS | FSTS | SSTS | NEST | PASID | PSS | SMPWC | SRS, ROOT | 1 << 10, haw=48)
PASS = Registers(CAP, SMTS | PT, ROOT | 1 << 10, haw=48)
EXTENDED = Registers(CAP, PT | DT | ECS | NEST | PASID | PRS | SRS | ERS, ROOT | 2 << 10, haw=48)


def nested_host():
    """Root, context, directory and PASID entry of PASID 5, as the host wrote them."""
    words = {ROOT: 0x2001, 0x3000: 0x4001}
    for n, word in enumerate(entries.scalable_context(0x3000, paside=1)):
        words[0x2000 + 32 * SID + 8 * n] = word
    # The guest chooses FSPTPTR; the host writes the rest.
    entry = entries.pasid(3, 1, second=TOP, aw=2, pwsnp=1)
    for n in (0, 1, 3, 4, 5, 6, 7):
        words[0x4000 + 64 * 5 + 8 * n] = entry[n]
    return words


def extended_host():
    """Root entry and extended context entry with PASIDE and NESTE; PASIDPTR is the guest's."""
    q0, q1, _, q3 = entries.extended_context(TOP, 2, 1, paside=1, neste=1)
    where = 0x2000 + 32 * SID
    return {ROOT: 0x2001, where: q0, where + 8: q1, where + 24: q3}


def guest(registers):
    return confinement(
        registers, symbolic_request("guest", SID, 5), TOP,
        nested_host() if registers is NESTED else extended_host())


def proved(obligation):
    assert satisfiable(obligation), "vacuous"
    assert check(obligation) is None


@pytest.mark.parametrize("level", [1, 2, 3])
def test_legacy_slot(level):
    proved(frame_condition(LEGACY, SID, None, 1, level))
    proved(leaf_lands(LEGACY, SID, None, 1, level))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_second_stage_slot(level):
    proved(frame_condition(SECOND, SID, None, 1, level))
    proved(leaf_lands(SECOND, SID, None, 1, level))


@pytest.mark.parametrize("level", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_first_stage_slot(level):
    proved(frame_condition(FIRST, SID, 5, 2, level))
    proved(leaf_lands(FIRST, SID, 5, 2, level))


@pytest.mark.slow
@pytest.mark.parametrize("registers", [NESTED, EXTENDED], ids=["nested", "extended"])
def test_first_stage_slot_under_a_second_stage(registers):
    """Guest mapping one page: its first-stage slot decides no other address."""
    host = nested_host() if registers is NESTED else extended_host()
    proved(frame_condition(registers, SID, 5, 2, 1, premises=fixed_words(host)))


def test_pass_through_is_identity():
    proved(identity(PASS, SID, None))


def test_extended_guest_is_confined():
    proved(guest(EXTENDED))


@pytest.mark.slow
def test_nested_guest_is_confined():
    proved(guest(NESTED))


def test_a_leaf_can_land():
    """The claim about leaves is not about nothing: some leaf lands, at every level."""
    for level in (1, 2, 3):
        obligation = leaf_lands(LEGACY, SID, None, 1, level)
        obligation.hypotheses.append(obligation.claim.arg(0))
        assert satisfiable(obligation)


@pytest.mark.parametrize("pgtt", [1, 2, 3, 4])
def test_teardown_drops_every_entry(pgtt):
    """Caches, entry by entry: what the rules remove for (requester, PASID), the bits drop."""
    obligations = teardown_drops(pgtt)
    assert len(obligations) == (7 if pgtt in (1, 3) else 3)
    for obligation in obligations:
        assert check(obligation) is None, obligation.name


@pytest.mark.parametrize(("op", "cache"), [
    (Op.PASID_CACHE_PASID, "PASID cache"), (Op.PASID_IOTLB_PASID, "IOTLB"),
    (Op.PASID_DEVICE_TLB, "device TLB"),
])
def test_teardown_without_a_flush_leaves_an_entry(op, cache, monkeypatch):
    """With one flush left out some entry survives: each command is needed."""
    def shortened(*arguments, **fields):
        return [s for s in programs.clear_pasid(*arguments, **fields)
                if not (isinstance(s, programs.Flush) and s.commands[0].op is op)]

    monkeypatch.setattr("dmaproof.model.vtd.obligations_caches.clear_pasid", shortened)
    survivors = {o.name for o in teardown_drops(1) if check(o) is not None}
    assert cache in survivors


def test_teardown_by_pasid_misses_nested_translations_of_the_domain():
    """Flushing a nested PASID by PASID alone is enough for it, yet not for second-stage entries."""
    tag = PagingTag(False, 1, 0, 2, 0)
    assert not drops_paging(Command(Op.PASID_IOTLB_PASID, did=1, pasid=5), tag)
    assert drops_paging(Command(Op.IOTLB_DOMAIN, did=1), tag)


# ------------------------------------------------------------------------------------ broken rules


class Spy(IntCarrier):
    """The concrete carrier, noting the table reads."""

    def __init__(self, image):
        super().__init__(image)
        self.reads = []

    def read(self, address, fault):
        self.reads.append((address >> 12, fault))
        return super().read(address, fault)


def escapes(example, registers):
    """What a concrete run of the counterexample touches that the container does not own."""
    q = Request(SID, example.words["address"], bool(example.words["write"]), 5, True)
    spy = Spy(example.image)
    outcome = evaluate(spy, registers, q)
    owned = example.pages["owned"]
    found = [("table", frame) for frame, fault in spy.reads
             if fault in (f.SFS_1, f.X_PT_ACCESS) and frame not in owned]
    if not outcome.fault:
        if outcome.hpa >> 12 not in owned:
            found.append(("page", outcome.hpa >> 12))
        elif q.write and outcome.hpa >> 12 not in example.pages["writable"]:
            found.append(("write", outcome.hpa >> 12))
    return found


@pytest.mark.parametrize(("variant", "registers"), [
    (broken.pasid_table_host_physical, EXTENDED), (broken.neste_ignored, EXTENDED),
    (broken.table_not_translated, EXTENDED), (broken.page_not_translated, EXTENDED),
    (broken.table_not_translated, NESTED), (broken.page_not_translated, NESTED),
    (broken.nested_type_as_first, NESTED), (broken.second_stage_write_right_ignored, NESTED),
], ids=lambda v: getattr(v, "__name__", ""))
def test_broken_confinement_is_refuted(variant, registers):
    with variant():
        example = check(guest(registers))
        assert example is not None
        # That the unbroken engine stays inside is proved above, for every memory. On this image it
        # may not: the solver chose freely any second-stage entry that the broken walk skips.
        assert escapes(example, registers)


@pytest.mark.parametrize("registers", [EXTENDED, NESTED], ids=["extended", "nested"])
def test_guest_writable_second_stage_is_refuted(registers):
    host = nested_host() if registers is NESTED else extended_host()
    example = check(confinement(
        registers, symbolic_request("guest", SID, 5), TOP, host, disjoint=False))
    assert example is not None
    assert escapes(example, registers)


def changed_elsewhere(example, registers, pasid=None):
    """Outcomes of the other request before and after the write to the slot."""
    q = Request(SID, example.words["other"], bool(example.words["write"]), pasid or 0,
                pasid is not None)
    after = example.image.copy()
    after.words[example.words["slot"]] = example.words["value"]
    return [(o.fault, o.hpa, o.readable, o.writable)
            for o in (translate(image, registers, q) for image in (example.image, after))]


def test_shared_tables_are_refuted():
    """Without the tree invariant one write changes two translations."""
    example = check(frame_condition(LEGACY, SID, None, 1, 1, labels=False))
    before, after = changed_elsewhere(example, LEGACY)
    assert before != after
    assert example.words["mapped"] >> 12 != example.words["other"] >> 12


def test_narrow_index_is_refuted():
    with broken.index_too_narrow():
        example = check(frame_condition(LEGACY, SID, None, 1, 1))
        before, after = changed_elsewhere(example, LEGACY)
        assert before != after


def test_wrong_first_stage_index_is_refuted():
    with broken.first_stage_table_at_wrong_level():
        example = check(frame_condition(FIRST, SID, 5, 2, 1))
        before, after = changed_elsewhere(example, FIRST, 5)
        assert before != after


@pytest.mark.parametrize(("variant", "level"), [
    (broken.offset_dropped, 1), (broken.large_page_as_small, 2),
], ids=lambda v: getattr(v, "__name__", ""))
def test_wrong_offset_is_refuted(variant, level):
    bits = 3 + 9 * level
    with variant():
        example = check(leaf_lands(LEGACY, SID, None, 1, level))
        lost = landing(example)
    frame = example.words["value"] & LEGACY.address & ~((1 << bits) - 1)
    want = frame | example.words["mapped"] & ((1 << bits) - 1)
    assert lost not in (None, want)
    assert landing(example) == want


def landing(example):
    image = Image(example.image.words)
    image.words[example.words["slot"]] = example.words["value"]
    q = Request(SID, example.words["mapped"], bool(example.words["write"]))
    outcome = translate(image, LEGACY, q)
    return None if outcome.fault else outcome.hpa


def test_obligations_are_about_symbolic_memory():
    """The premise on the PASID type is a fact about memory, not a constant."""
    obligation = identity(PASS, SID, None)
    assert not z3.is_true(z3.simplify(z3.And(obligation.hypotheses)))
    assert pasid_type(4)(obligation.reads)
