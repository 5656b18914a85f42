"""What a dump hides: bounds hold for every machine it could be, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie.acs import pasid_path_ok
from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.groups import ALGORITHMS, groups
from dmaproof.model.pcie.topology import Bdf, Device, Fact, Machine, PortKind
from dmaproof.model.pcie.undecided import bounds, decide
from pcie.strategies import machines

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
HIDDEN = frozenset({Fact.KIND, Fact.ACS, Fact.CAPABILITIES})


def without_capabilities(device: Device) -> Device:
    """As lspci shows a function to a user without rights."""
    kind = PortKind.CONVENTIONAL_BRIDGE if device.is_bridge else PortKind.CONVENTIONAL
    return replace(device, kind=kind, acs=None, pasid=None, unknown=HIDDEN)


def without_acs(device: Device) -> Device:
    if not device.kind.is_pcie:
        return device
    return replace(device, acs=None, pasid=None, unknown=frozenset({Fact.ACS, Fact.CAPABILITIES}))


HIDE = {"kind": without_capabilities, "acs": without_acs, "": lambda device: device}


@st.composite
def dumps(draw: st.DrawFn, ways: tuple[str, ...] = tuple(HIDE)) -> tuple[Machine, Machine]:
    """A machine, and what a dump shows of it."""
    truth = draw(machines())
    how = draw(
        st.lists(st.sampled_from(ways), min_size=len(truth.devices), max_size=len(truth.devices))
    )
    shown = [HIDE[way](device) for way, device in zip(how, truth.devices, strict=True)]
    return truth, Machine("shown", shown)


def test_a_hidden_port_explains_components_that_have_no_ports() -> None:
    ports = [
        Device(
            bdf=Bdf.parse(f"00:0{n}.0"),
            kind=PortKind.CONVENTIONAL_BRIDGE,
            class_code=0x0604,
            header_type=1,
            secondary=n,
            subordinate=n,
            unknown=HIDDEN,
        )
        for n in (1, 2)
    ]
    below = [Device(bdf=Bdf.parse(f"0{n}:00.0"), class_code=0x0200) for n in (1, 2)]
    (doubt,) = decide(Machine("hidden", [*ports, *below]), "components").doubts
    assert set(doubt.hiding) == {port.bdf for port in ports}
    assert "hide their capabilities" in doubt.reason


def partition(found: list) -> set[frozenset[Bdf]]:
    return {frozenset(group.members) for group in found}


def finer(first: set[frozenset[Bdf]], second: set[frozenset[Bdf]]) -> bool:
    return all(any(block <= other for other in second) for block in first)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(dumps())
@few
def test_the_truth_lies_between_the_bounds(algorithm: str, drawn) -> None:
    truth, shown = drawn
    real = partition(groups(truth, algorithm))
    if algorithm != "v3":
        assert finer(partition(groups(bounds(shown)[0], algorithm)), real)
    decision = decide(shown, algorithm)
    assert partition(list(decision.groups)) <= real
    blocks = {frozenset(doubt.members) for doubt in decision.doubts}
    assert finer(real, partition(list(decision.groups)) | blocks)
    for doubt in decision.doubts:
        assert finer({frozenset(part) for part in doubt.parts}, real)
        near = {bdf for m in doubt.members for bdf in (m, *shown.ancestors(m))}
        assert doubt.hiding and set(doubt.hiding) <= near
        assert all(shown.device(bdf).unknown for bdf in doubt.hiding)
    members = [m for g in decision.groups for m in g.members]
    members += [m for doubt in decision.doubts for m in doubt.members]
    assert sorted(members) == [device.bdf for device in shown.devices]


ASSUME = [
    PERMISSIVE,
    {**PERMISSIVE, "spoof": False},
    {**PERMISSIVE, "spoof": False, "mf_loopback": False, "rp_loopback": False},
    {**PERMISSIVE, "rc_p2p": True, "mfd_rid_honest": False},
]


@given(dumps(("acs", "")), st.sampled_from(ASSUME))
@few
def test_leaks_lie_between_the_bounds(drawn, assume) -> None:
    truth, shown = drawn
    best, (worst,) = bounds(shown)
    for relation in ("acts", "p2p", "influence", "identity"):
        low, real, high = (
            set(getattr(Fabric(each), relation)(assume).edges) for each in (best, truth, worst)
        )
        assert low <= real <= high, relation
    for device in truth.functions:
        paths = [pasid_path_ok(each, device.bdf) for each in (best, truth, worst)]
        assert paths == sorted(paths, reverse=True)
