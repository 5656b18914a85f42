"""Every modelled rule is cited, and every rule of the engine decides some vector."""

from __future__ import annotations

from dmaproof.model import rules
from dmaproof.model.vtd import (
    caches,
    faults,
    invalidation,
    obligations,
    page_requests,
    programs,
    queue,
    recording,
)
from dmaproof.model.vtd.rules_used import rules_used

from . import cases  # noqa: F401  (registers the vectors)
from .vocabulary import CASES

ENGINE_MODULES = {
    "registers", "translate", "legacy", "scalable", "pasid", "extended", "second_stage",
    "first_stage", "nested", "pass_through", "interrupt_range",
}
LOADED = (caches, invalidation, obligations, page_requests, programs, queue, recording)


def vtd_rules():
    return [r for r in rules.all_rules() if r.where.startswith("dmaproof.model.vtd.")]


def test_every_rule_is_cited():
    found = vtd_rules()
    assert len(found) > 50
    for rule in found:
        known = ("VT-d ", "rev 2.x ", "drivers/iommu/intel", "patch v4")
        assert rule.source.startswith(known), rule
        assert rule.meaning.endswith("."), rule


def test_every_engine_rule_decides_some_vector():
    used = set()
    for case in CASES:
        used.update(rules_used(case.image, case.registers, case.request)[1])
    engine = {r.name for r in vtd_rules() if r.where.split(".")[3] in ENGINE_MODULES}
    # These are computed once, when registers are made or first used.
    once = {"vtd.rtaddr.mode", "vtd.second-stage.reserved", "vtd.first-stage.reserved"}
    assert engine - used <= once


def test_trace_names_rules_in_order():
    case = next(c for c in CASES if c.number == "16-read")
    outcome, used = rules_used(case.image, case.registers, case.request)
    assert outcome.condition.name == "LGN.3"
    order = ["vtd.legacy.context-entry", "vtd.legacy.root-entry", "vtd.second-stage.walk",
             "vtd.second-stage.rights"]
    assert [name for name in used if name in order] == order


def test_explain_prints_every_rule():
    """Name, sentence, source and place; and what of it is not confirmed."""
    from click.testing import CliRunner

    from dmaproof.cli import cli

    blocks: dict[str, str] = {}
    for name in ("vtd", "linux"):
        for line in CliRunner().invoke(cli, ["explain", name]).stdout.splitlines():
            if not line.startswith(" "):
                head = line
            blocks[head] = blocks.get(head, "") + line + "\n"
    for rule in vtd_rules():
        for part in (rule.meaning, rule.source, rule.where, rule.unconfirmed):
            assert part in blocks[rule.name], rule.name


def test_what_is_not_confirmed_is_marked():
    """The codes of extended mode that no published table has: on the rules and on outcomes."""
    marked = {r.name for r in vtd_rules() if r.unconfirmed}
    assert marked == {f"vtd.extended.{name}" for name in (
        "with-pasid", "nested-pasid-table", "pasid-entry", "execute")}
    for row in faults.CONDITIONS[1:]:
        if row.name.startswith("X."):
            assert not row.code
            assert row.rule in marked or row.rule == "vtd.extended.context-entry"
