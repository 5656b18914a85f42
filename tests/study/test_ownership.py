"""Ownership, vDEVICE, reset window: every guard that can be left out makes a claim fall."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmaproof.engine.scenarios import Proved, Run, decide
from dmaproof.model import scenario
from dmaproof.model.families import ownership, reset_window, vdevice
from dmaproof.model.scenario import Scenario

HOLDS = {
    "dma-ownership-7.0": ("one-container", "one-context", "one-owner",
                          "no-kernel-dma-beside-a-user"),
    "vdevice-7.0": ("virtual-id-names-one", "one-vdevice", "invalidation-complete",
                    "invalidation-own"),
    "reset-function": ("blocked-while-reset", "tracked-once", "no-orphan-record",
                       "uniform-after-reset"),
}


@pytest.mark.parametrize("name", HOLDS)
def test_what_holds(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in HOLDS[name]:
        assert isinstance(decide(found, found.claims[claim]), Proved), claim


def _without(found: Scenario, action: str, guard: str) -> Scenario:
    changed = found.system.action(action).without_guard(guard)
    return replace(found, system=found.system.with_action(changed))


@pytest.mark.parametrize(("design", "action", "guard", "claim"), [
    ("dma-ownership-7.0", "set_container", "no-kernel-driver", "no-kernel-dma-beside-a-user"),
    ("dma-ownership-7.0", "bind_iommufd", "no-kernel-driver", "no-kernel-dma-beside-a-user"),
    ("dma-ownership-7.0", "bind_iommufd", "no-other-owner", "one-owner"),
    ("dma-ownership-7.0", "probe", "group-not-owned", "no-kernel-dma-beside-a-user"),
    ("vdevice-7.0", "vdevice_alloc", "device-has-none", "one-vdevice"),
    ("vdevice-7.0", "vdevice_alloc", "virtual-id-free", "virtual-id-names-one"),
    ("reset-function", "attach_pasid", "no-reset-in-group", "blocked-while-reset"),
    ("reset-function", "attach_pasid", "pasid-unused", "tracked-once"),
])
def test_a_guard_less_and_a_claim_falls(design: str, action: str, guard: str, claim: str) -> None:
    broken = _without(scenario.load(design).scenario, action, guard)
    assert isinstance(decide(broken, broken.claims[claim], 20), Run)


@pytest.mark.parametrize(("design", "action", "guard", "claim"), [
    # Its errno apart: the owner of the group refuses another container as well.
    ("dma-ownership-7.0", "set_container", "not-in-a-container", "one-container"),
    # Two files of one group lead to one owner: the claim of ownership decides, not the open.
    ("dma-ownership-7.0", "open_group", "no-device-file-open", "one-owner"),
    # With the function alone put back, a second reset in the group disturbs nobody.
    ("reset-function", "reset.prepare", "no-other-reset-in-group", "blocked-while-reset"),
])
@pytest.mark.slow
def test_guards_that_are_redundant(design: str, action: str, guard: str, claim: str) -> None:
    broken = _without(scenario.load(design).scenario, action, guard)
    assert isinstance(decide(broken, broken.claims[claim], 30), Proved)


@pytest.mark.parametrize(("design", "action", "guard", "claim"), [
    ("dma-ownership-7.0", "open_group", "group-not-open", "errno-open-twice"),
    ("dma-ownership-7.0", "open_group", "no-device-file-open", "errno-open-beside-device"),
    ("dma-ownership-7.0", "open_device", "group-not-open", "errno-open-beside-group"),
    ("dma-ownership-7.0", "set_container", "not-in-a-container", "errno-container-twice"),
    ("dma-ownership-7.0", "bind_iommufd", "not-bound", "errno-bind-twice"),
    ("dma-ownership-7.0", "bind_iommufd", "no-other-owner", "errno-foreign-sibling"),
    ("dma-ownership-7.0", "bind_iommufd", "no-kernel-driver", "errno-not-viable"),
    ("dma-ownership-7.0", "probe", "group-not-owned", "errno-probe-owned"),
    ("vdevice-7.0", "vdevice_alloc", "device-has-none", "errno-second-vdevice"),
    ("vdevice-7.0", "vdevice_alloc", "virtual-id-free", "errno-virtual-id-taken"),
    ("reset-function", "attach_pasid", "no-reset-in-group", "errno-attach-in-reset"),
    ("reset-function", "reset.prepare", "no-other-reset-in-group", "errno-second-reset"),
])
def test_a_guard_less_and_an_errno_is_missed(
    design: str, action: str, guard: str, claim: str
) -> None:
    found = scenario.load(design).scenario
    assert isinstance(decide(found, found.claims[claim]), Proved)
    system = found.system.with_action(found.system.action(action).without_guard(guard))
    claims = {
        "ownership": lambda: ownership.refusals(system, ownership.OwnershipOptions()),
        "vdevice": lambda: vdevice.refusals(system, vdevice.VdeviceOptions()),
        "reset-window": lambda: reset_window.refusals(system, reset_window.ResetOptions()),
    }[scenario.load(design).family]()
    less = next(c for c in claims if c.id == claim)
    assert isinstance(decide(found, less), Run)
