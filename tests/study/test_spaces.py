"""PASID spaces, nesting containers, C19: verdicts, and what each choice is good for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmaproof.engine.scenarios import Proved, Run, decide
from dmaproof.model import scenario
from dmaproof.model.scenario import Scenario

HOLDS = {
    "r03-table-per-device": ("device-isolation", "user-isolation", "nobody-else-unbinds"),
    "guest-pasid-own-table": ("device-isolation", "user-isolation", "nobody-else-unbinds"),
    "r03-shared-table": ("nobody-else-unbinds",),
    "host-pasid-given": ("device-isolation", "user-isolation", "nobody-else-unbinds"),
    "nesting-container": ("container-isolation", "uniform"),
    "nesting-one-group": ("device-isolation", "group-isolation", "container-isolation"),
    "nesting-one-group-many": ("group-isolation", "container-isolation", "uniform"),
    "nesting-no-replay": ("container-isolation",),
    "nesting-device": ("device-isolation", "group-isolation"),
    "c19-all-first": ("same-tables",),
    "c19-both-replay": ("same-tables",),
}
FALLS = {
    "r03-shared-table": ("device-isolation", "user-isolation"),
    "guest-pasid-shared-table": ("device-isolation", "user-isolation", "nobody-else-unbinds"),
    "nesting-container": ("device-isolation", "group-isolation"),
    "nesting-one-group-many": ("device-isolation",),
    "nesting-no-replay": ("uniform", "device-isolation"),
    "nesting-device": ("uniform",),
    "c19-linux-7.0": ("same-tables",),
}


@pytest.mark.parametrize("name", HOLDS)
def test_what_holds(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in HOLDS[name]:
        assert isinstance(decide(found, found.claims[claim]), Proved), claim


@pytest.mark.parametrize("name", FALLS)
def test_what_falls(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in FALLS[name]:
        assert isinstance(decide(found, found.claims[claim]), Run), claim


def _without(found: Scenario, action: str, guard: str) -> Scenario:
    changed = found.system.action(action).without_guard(guard)
    return replace(found, system=found.system.with_action(changed))


@pytest.mark.parametrize(("design", "action", "guard", "claim"), [
    ("host-pasid-given", "bind", "pasid-is-the-callers", "nobody-else-unbinds"),
    ("host-pasid-given", "bind", "pasid-unused", "device-isolation"),
    ("host-pasid-given", "unbind", "pasid-is-the-callers", "nobody-else-unbinds"),
    ("host-pasid-given", "share", "pasid-is-the-callers", "nobody-else-unbinds"),
    ("host-pasid-given", "allocate", "unallocated", "nobody-else-unbinds"),
    ("nesting-one-group", "join", "nesting-container-empty", "device-isolation"),
    ("nesting-container", "join", "in-no-container", "uniform"),
    ("nesting-container", "bind", "in-the-container", "uniform"),
    ("nesting-container", "bind", "pasid-unused", "can-own-tables"),
    ("c19-all-first", "bind", "inside", "same-tables"),
])
def test_a_guard_less(design: str, action: str, guard: str, claim: str) -> None:
    broken = _without(scenario.load(design).scenario, action, guard)
    found = decide(broken, broken.claims[claim], 20)
    assert isinstance(found, Run) != ((action, guard) in REDUNDANT), found


REDUNDANT = {
    # A call for a device outside binds inside all the same, and grants nothing that lasts.
    ("bind", "in-the-container"), ("bind", "inside"),
}
