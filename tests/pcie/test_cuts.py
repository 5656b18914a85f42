"""Leak channels L1 to L10 as typed edges, and the smallest sets of bits that cut ways."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie.channels import PERMISSIVE, Channel, Cut, Edge, Fabric
from dmaproof.model.pcie.cuts import kernel_setting, possible, smallest_cuts, switched
from dmaproof.model.pcie.delivery import MEMORY, EndKind, TlpKind, ends
from dmaproof.model.pcie.kernel_parameters import KernelParameters, apply
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Machine
from pcie.strategies import machines
from pcie.test_fabric_scale import rich_machines

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
DISHONEST = {**PERMISSIVE, "ats_honest": False}


def with_ats(found: Machine, tb: int = 0) -> Machine:
    """The machine with ATS in all functions; *tb* is added to the control of root ports."""
    devices = [
        replace(
            device,
            ats=not device.is_bridge,
            acs=device.acs
            and replace(
                device.acs,
                control=device.acs.control | (tb if device.label.startswith("RP") else 0),
            ),
        )
        for device in found.devices
    ]
    return Machine(found.name, devices)


def leaks(found: Machine, assume: dict[str, bool]) -> dict[str, set[str]]:
    """For each leak channel the pairs of labels it joins."""
    seen: dict[str, set[str]] = {}
    label = {device.bdf: device.label for device in found.devices}
    for _, _, edge in Fabric(found).leak_graph(assume).edges(data="edge"):
        pair = f"{label[edge.source]}>{label.get(edge.target)}"
        seen.setdefault(edge.channel.leak, set()).add(pair)
    return seen


def test_every_channel_of_the_fabric_has_its_number() -> None:
    numbers = ["L1", "L2", "L3", "L4", "L5", "L9", "L10"]
    assert [channel.leak for channel in Channel] == numbers


def test_l5_needs_ats_dishonesty_and_no_translation_blocking() -> None:
    found = machine("SS")
    assert "L5" not in leaks(found, DISHONEST)
    assert leaks(with_ats(found), DISHONEST)["L5"] == {"A>None", "B>None"}
    assert "L5" not in leaks(with_ats(found), PERMISSIVE | {"ats_honest": True})
    assert "L5" not in leaks(with_ats(found, ACS_BITS["TB"]), DISHONEST)
    (edge,) = [
        e
        for *_, e in Fabric(with_ats(found))
        .leak_graph(DISHONEST)
        .out_edges(found.by_label("A").bdf, data="edge")
    ]
    assert edge.ways_to_cut == ((Cut(found.by_label("RP1").bdf, "TB"),),)
    assert "TT or DTE" in edge.reason


def test_l9_is_a_way_to_a_function_whose_own_path_isolates() -> None:
    assert leaks(machine("SW(off,on)"), PERMISSIVE)["L9"] == {"A>B"}
    assert leaks(machine("T3"), PERMISSIVE)["L9"] == {"A>C", "B>C"}
    assert "L9" not in leaks(machine("SW(off,off)"), PERMISSIVE)
    assert "L9" not in leaks(machine("SS"), PERMISSIVE)


def test_l10_leads_from_a_physical_function_to_its_virtual_ones() -> None:
    found = leaks(machine("VF"), PERMISSIVE)
    assert found["L10"] == {"PF>VF1", "PF>VF2"}


def test_side_channels_join_no_component() -> None:
    quiet = {**PERMISSIVE, "mf_loopback": False, "spoof": False, "rp_loopback": False}
    fabric = Fabric(with_ats(machine("VF")))
    assert {len(part) for part in fabric.components(quiet)} == {1}
    assert nx.number_of_edges(fabric.leak_graph({**quiet, "ats_honest": False})) >= 2


@given(st.one_of(machines(), rich_machines()), st.data())
@few
def test_tb_anywhere_on_the_way_stops_translated_requests(found: Machine, data) -> None:
    found = Machine("ats", [replace(d, ats=d.kind.is_pcie) for d in found.devices])
    fabric = Fabric(found)
    for _, _, edge in fabric.leak_graph(DISHONEST).edges(data="edge"):
        if edge.channel is not Channel.TRANSLATED:
            continue
        for way in edge.ways_to_cut:
            after = Fabric(switched(found, way))
            kept = ends(
                after.machine, edge.source, TlpKind.TRANSLATED, MEMORY, after.acs, DISHONEST
            )
            assert all(end.kind is EndKind.BLOCKED for end in kept)


# -- cuts ----------------------------------------------------------------------------------------


def acts(found: Machine, source, target, assume) -> bool:
    return Fabric(found).acts(assume).has_edge(source, target)


def candidates(found: Machine) -> list[Cut]:
    """Every bit that could matter, on where it is off; EC off where it is on."""
    cuts = []
    for device in found.devices:
        if not possible(found, Cut(device.bdf, "SV")) or not device.kind.is_pcie:
            continue
        for bit in ("SV", "RR", "UF"):
            cuts.append(Cut(device.bdf, bit))
        if device.acs and device.acs.control & ACS_BITS["EC"]:
            cuts.append(Cut(device.bdf, "EC", False))
    return cuts


def smallest_by_trying(found: Machine, source, target, assume, limit: int) -> set[frozenset[Cut]]:
    """All smallest sets of up to *limit* bits, by trying all of them."""
    bits = candidates(found)
    for size in range(limit + 1):
        good = {
            frozenset(some)
            for some in combinations(bits, size)
            if not acts(switched(found, some), source, target, assume)
        }
        if good:
            return good
    return set()


@pytest.mark.parametrize("name", ["SWG", "SW(off,on)", "MF(off)", "T3", "VF", "AL2", "BR"])
@pytest.mark.parametrize("spoof", [True, False])
def test_smallest_cuts_are_all_the_smallest(name: str, spoof: bool) -> None:
    found = machine(name)
    assume = {**PERMISSIVE, "spoof": spoof}
    first, second = (device.bdf for device in found.functions[:2])
    for source, target in ((first, second), (second, first)):
        if not acts(found, source, target, assume):
            continue
        answer = smallest_cuts(found, source, target, assume)
        assert answer.complete
        tried = smallest_by_trying(found, source, target, assume, 3)
        sets = {frozenset(cuts) for cuts in answer.sets}
        if answer.able and tried and all(len(some) < 4 for some in sets):
            able = {s for s in tried if all(found.device(c.port).acs for c in s)}
            assert sets == able or (not able and len(next(iter(sets))) > len(next(iter(tried))))
        elif tried:
            assert sets == tried
        assert bool(sets) != bool(answer.uncut)


@given(rich_machines(), st.data())
@few
def test_cuts_cut_and_none_of_their_bits_is_idle(found: Machine, data) -> None:
    assume = data.draw(st.fixed_dictionaries({name: st.booleans() for name in PERMISSIVE}))
    edges = [edge for edge in Fabric(found).acts(assume).edges if edge[0] != edge[1]]
    if not edges:
        return
    source, target = data.draw(st.sampled_from(edges))
    answer = smallest_cuts(found, source, target, assume)
    for cuts in answer.sets:
        assert not acts(switched(found, cuts), source, target, assume)
        if answer.able:
            for fewer in combinations(cuts, len(cuts) - 1):
                assert acts(switched(found, fewer), source, target, assume)


def test_any_port_that_checks_the_source_would_do() -> None:
    found = machine("SW(off,off)")
    a, b = (device.bdf for device in found.functions)
    lax = Machine(
        "lax", [replace(d, acs=Acs(0x5F, 0x1C)) if d.label == "RP" else d for d in found.devices]
    )
    spoofs = [e for e in Fabric(lax).edges_between(a, b) if e.channel is Channel.SPOOF]
    ports = set(chain.from_iterable(e.ways_to_cut for e in spoofs))
    assert ports == {(Cut(found.by_label("DSP1").bdf, "SV"),)}, "the root port's range has both"
    apart = machine("SS")
    open_ports = Machine(
        "open", [replace(d, acs=Acs(0x5F, 0)) if d.is_bridge else d for d in apart.devices]
    )
    first, second = (device.bdf for device in open_ports.functions)
    (edge,) = [
        e for e in Fabric(open_ports).edges_between(first, second) if e.channel is Channel.SPOOF
    ]
    assert edge.ways_to_cut == ((Cut(apart.by_label("RP1").bdf, "SV"),),)


def test_an_egress_vector_that_lets_through_has_to_go_off() -> None:
    found = machine("SW(on,on)")
    dsp = found.by_label("DSP1").bdf
    leaky = Machine(
        "vector", [replace(d, acs=Acs(0x7F, 0x3D)) if d.bdf == dsp else d for d in found.devices]
    )
    a, b = (device.bdf for device in leaky.functions)
    answer = smallest_cuts(leaky, a, b, {**PERMISSIVE, "spoof": False})
    assert answer.sets == ((Cut(dsp, "EC", False),),)
    setting = kernel_setting(leaky, answer.sets[0])
    assert setting == f"pci=config_acs=0011101@{dsp}"


@pytest.mark.parametrize("name", names())
def test_kernel_settings_do_what_the_bits_do(name: str) -> None:
    found = machine(name)
    for source in found.functions:
        for target in found.functions:
            if not acts(found, source.bdf, target.bdf, PERMISSIVE) or source == target:
                continue
            answer = smallest_cuts(found, source.bdf, target.bdf, PERMISSIVE)
            for cuts in answer.sets:
                setting = kernel_setting(found, cuts)
                assert (setting is not None) == answer.able
                if setting is not None:
                    booted = apply(found, KernelParameters.parse([setting]))
                    assert booted.devices == switched(found, cuts).devices
                    assert not acts(booted, source.bdf, target.bdf, PERMISSIVE)


def test_ways_to_cut_of_an_edge_that_acs_cannot_cut() -> None:
    found = machine("BR")
    a, b = (device.bdf for device in found.functions)
    edges: list[Edge] = list(Fabric(found).edges_between(a, b))
    assert {e.ways_to_cut for e in edges} == {()}
    answer = smallest_cuts(found, a, b, PERMISSIVE)
    assert answer.sets == ()
    assert "conventional" in answer.uncut


def test_either_of_two_ports_can_check_the_source() -> None:
    """A sits below two ports without SV, C elsewhere: SV at either port is enough."""
    switch = [
        replace(d, acs=Acs(0x5F, 0x1C)) if d.label in {"RP", "DSP1"} else d
        for d in machine("SW(on,on)").devices
    ]
    other = [
        replace(
            d,
            bdf=replace(d.bdf, bus=d.bdf.bus and 5, device=9 if d.is_bridge else 0),
            secondary=d.secondary and 5,
            subordinate=d.subordinate and 5,
            label={"RP": "RP2", "A": "C"}[d.label],
        )
        for d in machine("S").devices
    ]
    found = Machine("two", [*switch, *other])
    a, c = found.by_label("A").bdf, found.by_label("C").bdf
    answer = smallest_cuts(found, a, c, PERMISSIVE)
    ports = [found.by_label(name).bdf for name in ("RP", "DSP1")]
    assert answer.sets == tuple((Cut(port, "SV"),) for port in sorted(ports))
    assert answer.complete and answer.able
