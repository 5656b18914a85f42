"""Verdicts on machines whose dump hides something: right for every machine it could be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pcie.test_undecided import dumps

from dmaproof.counterexamples.verdict import Judge
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.hidden import FEW_EDGES, HiddenCase, case_of
from dmaproof.model.design import load as load_design
from dmaproof.model.pcie.device import Device, Fact, PortKind
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.topology import Bdf, Machine
from dmaproof.model.vfio.build import build
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import find

MODEL = build(load_design("bind-2018-device"))


def judge(shown: Machine, prop: str, **assumed: str):
    chosen = Assumptions.of(assumed)
    judging = Judge(load_design("bind-2018-device"), chosen, "linux")
    (verdict,) = judging.judge([shown], [find(prop)])
    return verdict


def hide(found: Machine, *labels: str, facts: frozenset[Fact]) -> Machine:
    def changed(device: Device) -> Device:
        if device.label not in labels:
            return device
        acs = None if Fact.ACS in facts else device.acs
        return replace(device, unknown=facts, acs=acs)

    return Machine(found.name, map(changed, found.devices))


ACS = frozenset({Fact.ACS})


def test_what_does_not_matter_costs_no_verdict() -> None:
    """Nobody asks a single function for its own ACS."""
    shown = hide(machine("SS"), "A", "B", facts=ACS)
    plain = judge(machine("SS"), "device-isolation")
    found = judge(shown, "device-isolation")
    assert (found.result, found.premise) == (plain.result, plain.premise) == ("proved", "no_edges")
    assert not case_of(shown, "linux", Assumptions.of(), ats=False).unsure


def test_what_matters_is_undecided_and_named() -> None:
    shown = hide(machine("SW(on,on)"), "DSP1", facts=ACS)
    found = judge(shown, "device-isolation", spoof="off")
    assert found.result == "undecided"
    assert "these functions hide their capabilities: 0000:02:00.0" in found.reason
    # either way the groups hold what leaks, or nothing does
    assert judge(machine("SW(on,on)"), "device-isolation", spoof="off").result == "proved"
    assert judge(machine("SW(off,on)"), "device-isolation", spoof="off").result == "refuted"


def test_a_run_among_known_functions_refutes() -> None:
    """Beside a switch that surely leaks there is a port of which nothing is known."""
    hidden = frozenset({Fact.KIND, Fact.ACS, Fact.CAPABILITIES})
    extra = Device(
        bdf=Bdf(0, 0, 9, 0),
        kind=PortKind.CONVENTIONAL_BRIDGE,
        header_type=1,
        class_code=0x0604,
        secondary=9,
        subordinate=9,
        unknown=hidden,
    )
    below = Device(bdf=Bdf(0, 9, 0, 0), kind=PortKind.CONVENTIONAL, unknown=hidden)
    shown = Machine("part", [*machine("SW(off,off)").devices, extra, below])
    found = judge(shown, "device-isolation", spoof="off")
    assert found.result == "refuted" and found.evidence is not None
    assert judge(shown, "unbind-final").result == "proved"
    beside = replace(below, bdf=Bdf(0, 9, 1, 0))
    unknown = Machine("all", [extra, below, beside])
    assert judge(unknown, "device-isolation").result == "undecided"


@pytest.mark.parametrize("facts", [{Fact.CAPABILITIES}, {Fact.CAPABILITIES, Fact.PORT_ABOVE}])
def test_no_fact_is_taken_from_a_default(facts: set[Fact]) -> None:
    """As if they had no PASID, nothing could be bound to them, and every proof would be empty."""
    devices = machine("SWR").devices
    plain = [replace(d, pasid=None) if d.label in {"A", "B"} else d for d in devices]
    assert judge(Machine("SWR", plain), "device-isolation").vacuous
    shown = hide(Machine("SWR", plain), "A", "B", facts=frozenset(facts))
    found = judge(shown, "device-isolation")
    assert found.result == "undecided" and not found.vacuous
    assert "PASID and ATS of these functions are not shown: 0000:03:00.0" in found.reason


@given(dumps(), st.sampled_from(["linux", "v3", "components"]), st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_premises_and_facts_hold_for_the_real_machine(drawn, grouping: str, spoof: bool) -> None:
    truth, shown = drawn
    assumptions = Assumptions.of({"spoof": "on" if spoof else "off"})
    real = Case(truth, grouping, assumptions, ats=True)
    seen = case_of(shown, grouping, assumptions, ats=True)
    if not real.functions:
        return
    for premise in FEW_EDGES | {Premise.NOTHING_BINDABLE}:
        if seen.breaks(premise, MODEL) is None:
            assert real.breaks(premise, MODEL) is None, premise
    if isinstance(seen, HiddenCase):
        for pair in seen.pairs.values():
            first, last = pair[0], pair[-1]
            assert seen.pair_world(first, last) == real.pair_world(first, last)
