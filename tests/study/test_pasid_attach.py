"""iommufd's attach, replace and detach: what each guard and each choice is good for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmaproof.engine.scenarios import Proved, Run, decide, reach
from dmaproof.model import scenario
from dmaproof.model.families import pasid_attach as pa
from dmaproof.model.scenario import Scenario

RULES = pa.Rules(pa.AttachOptions())
SOME = {
    "iommufd-7.0": ("group-isolation", "uniform", "rid-sees-rid-domain", "no-silent-detach"),
    "iommufd-unwind-pasid": ("group-isolation", "no-silent-detach", "device-isolation",
                             "one-hwpt", "attached-translates"),
    "iommufd-no-rollback": ("uniform",),
    "iommufd-device": ("device-isolation", "detach-blocks-caller", "attached-means-own"),
    "iommufd-hot-add": ("uniform",),
    "iommufd-hot-add-replay": ("uniform",),
}
HOLDS = {
    ("iommufd-7.0", "uniform"), ("iommufd-7.0", "rid-sees-rid-domain"),
    ("iommufd-unwind-pasid", "group-isolation"), ("iommufd-unwind-pasid", "no-silent-detach"),
    ("iommufd-unwind-pasid", "one-hwpt"), ("iommufd-unwind-pasid", "attached-translates"),
    ("iommufd-device", "device-isolation"), ("iommufd-device", "detach-blocks-caller"),
    ("iommufd-device", "attached-means-own"), ("iommufd-hot-add-replay", "uniform"),
}


@pytest.mark.parametrize("name", [
    n if n == "iommufd-no-rollback" else pytest.param(n, marks=pytest.mark.slow)
    for n in SOME
])
def test_verdicts(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in SOME[name]:
        expected = Proved if (name, claim) in HOLDS else Run
        assert isinstance(decide(found, found.claims[claim]), expected), claim


def _without(found: Scenario, action: str, guard: str) -> Scenario:
    changed = found.system.action(action).without_guard(guard)
    return replace(found, system=found.system.with_action(changed))


@pytest.mark.parametrize(("design", "action", "guard", "claim"), [
    ("iommufd-unwind-pasid", "attach_pasid.enter", "group-not-locked", "uniform"),
    ("iommufd-unwind-pasid", "attach_pasid.enter", "first-of-the-group", "attached-translates"),
    ("iommufd-unwind-pasid", "attach_pasid.return", "all-visited", "uniform"),
    ("iommufd-unwind-pasid", "attach_rid", "follows-the-first", "one-hwpt"),
    ("iommufd-reserved", "attach_pasid.enter", "reserved-regions-free", "reserved-regions"),
    ("iommufd-reserved", "attach_rid", "reserved-regions-free", "reserved-regions"),
    ("iommufd-reserved", "replace", "reserved-regions-free", "reserved-regions"),
    ("r31-counts-incapable", "attach_pasid.enter", "pasid-fits", "can-attach-beside-incapable"),
])
def test_a_guard_less_and_a_claim_falls(design: str, action: str, guard: str, claim: str) -> None:
    broken = _without(scenario.load(design).scenario, action, guard)
    goal = broken.claims[claim]
    if goal.kind is scenario.ClaimKind.CAN:
        assert reach(broken, goal.formula) is not None
    else:
        assert isinstance(decide(broken, goal, 20), Run)


@pytest.mark.slow
def test_hot_add_need_not_wait_for_an_attach() -> None:
    """A member that appears in the loop is visited by it: here the lock is redundant."""
    broken = _without(scenario.load("iommufd-hot-add-replay").scenario, "hot_add",
                      "group-not-locked")
    assert isinstance(decide(broken, broken.claims["uniform"], 20), Proved)


@pytest.mark.parametrize(("action", "guard", "claim"), [
    ("attach_pasid.enter", "not-attached", "errno-attach-twice"),
    ("attach_pasid.enter", "pasid-is-not-0", "errno-pasid-0"),
    ("attach_pasid.enter", "follows-the-first", "errno-follow-the-first"),
    ("attach_pasid.enter", "hwpt-is-compatible", "errno-not-compatible"),
    ("attach_pasid.enter", "pasid-fits", "errno-width"),
    ("attach_rid", "compatible-or-no-pasids", "errno-rid-not-compatible"),
    ("attach_rid", "reserved-regions-free", "errno-reserved"),
])
def test_a_guard_less_and_an_errno_is_missed(action: str, guard: str, claim: str) -> None:
    found = scenario.load("iommufd-7.0").scenario
    changed = found.system.action(action).without_guard(guard)
    less = {c.id: c for c in pa.refusals(RULES, found.system.with_action(changed))}
    assert isinstance(decide(found, less[claim]), Run)


def test_errnos() -> None:
    found = scenario.load("iommufd-7.0").scenario
    for claim in pa.refusals(RULES, found.system):
        assert isinstance(decide(found, claim), Proved), claim.id
