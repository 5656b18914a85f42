"""Traces of the rule layer on the bits: each reproduces, and what does not is not called so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dmaproof.counterexamples.bits import fabric, gamma, landing
from dmaproof.counterexamples.bits.gamma import FITTING, STUTTERS
from dmaproof.counterexamples.bits.landing import known
from dmaproof.counterexamples.bits.places import Places
from dmaproof.counterexamples.bits.replay import replay_on_bits
from dmaproof.counterexamples.bits.unit import Tables
from dmaproof.counterexamples.expected import Asker, changed
from dmaproof.counterexamples.matrix import judged
from dmaproof.counterexamples.trace import Trace, parse
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case
from dmaproof.model.design import Payload, builtin_names, load
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind
from dmaproof.model.vfio.build import Model, build
from dmaproof.model.vtd import extended, second_stage
from dmaproof.properties.base import PropertyKind
from dmaproof.properties.registry import PROPERTIES, find

from .support import design, found, trace

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "kernel-groups"

CASES = [
    ("bind-2018-device", "SWR", "device-isolation"),
    ("bind-2018-device", "AL2", "device-isolation"),
    ("bind-2018-device", "SW(rruf,rruf)", "group-isolation"),
    ("bind-2018-device", "SW(off,off)", "container-isolation"),
    ("bind-2018-device", "SW(off,on)", "container-separation"),
    ("bind-2018-device", "MF(off)", "no-misroute"),
    ("bind-2018-device", "MF(off)", "can-p2p-and-pasid"),
    ("bind-2018-device-singleton", "SS", "can-bind"),
    ("bind-2018-group", "T3", "device-isolation"),
    ("bind-2018-group", "SW(nocap,nocap)", "group-isolation"),
    ("bind-2018-container", "SS", "device-isolation"),
    ("bind-2018-container", "MF(nocap)", "no-misroute"),
    ("bind-2018-container-noreplay", "SS", "uniform"),
    ("bind-2018-container-noundo", "SS", "unbind-final"),
    ("bind-2018-container-noundo", "SS", "failed-call-changes-nothing"),
    ("sva-2018-core", "SW(off,on)", "device-isolation"),
    ("sva-2018-core", "SS", "can-bind"),
    ("sva-2018-vfio", "SS", "group-isolation"),
    ("sva-2018-vfio", "VF", "no-misroute"),
    ("linux-7.0", "SWG", "can-bind"),
    ("linux-7.0-no-acs-test", "SWR", "device-isolation"),
    ("type1", "SS", "device-isolation"),
    ("type1", "BR", "device-isolation"),
    ("type1", "AL2", "device-isolation"),
    ("type1", "SWG", "device-isolation"),
    ("type1", "SS", "can-bind"),
    ("type1", "SW(off,off)", "container-separation"),
]


def formats(found_: Trace) -> tuple[Tables, ...]:
    return FITTING[Payload(found_.design["interface"]["payload"])]


def reproduces(found_: Trace) -> None:
    """Check that a trace reproduces in every table format that can hold it."""
    for tables in formats(found_):
        done = replay_on_bits(found_, tables=tables)
        assert (done.result, done.reason) == ("reproduced", ""), (found_.machine, tables)
        assert len(done.steps) == len(found_.steps)
        assert done.end.says


@pytest.mark.parametrize(("name", "where", "prop"), CASES)
def test_reproduces(name: str, where: str, prop: str) -> None:
    reproduces(trace(name, where, prop))


def test_every_design_is_here() -> None:
    assert {c[0] for c in CASES} == set(builtin_names())


def test_device_tlb_without_its_flush() -> None:
    what = changed(load("bind-2018-device"), "no-device-tlb-flush")
    stale = found(what, machine("S"), "unbind-final", ats_honest="on")
    reproduces(stale)
    done = replay_on_bits(stale)
    assert [issued.source for issued in done.end.requests] == ["device TLB"]
    assert any(k.action == "device-tlb.fill" for k in done.steps)


@pytest.mark.parametrize("name", ["bind-2018-group", "sva-2018-core"])
@pytest.mark.parametrize("change", ["no-pasid-cache-flush", "no-iotlb-flush", "clear-last"])
def test_unbind_without_one_flush(name: str, change: str) -> None:
    stale = found(changed(load(name), change), machine("S"), "unbind-final")
    reproduces(stale)
    (issued,) = replay_on_bits(stale).end.requests
    assert issued.source in ("cached table entries", "the IOTLB")
    assert not issued.rules


def test_raw_translated_request() -> None:
    ats = design("bind-2018-device", fabric={"ats": True})
    able = [dataclasses.replace(d, ats=d.pasid is not None) for d in machine("SS").devices]
    raw = found(ats, Machine("able", able), "device-isolation")
    assert raw.assumptions == {"ats_honest": "off"}
    reproduces(raw)
    assert [q.source for q in replay_on_bits(raw).end.requests] == ["raw"]


def test_hot_added_function() -> None:
    reproduces(trace("sva-2018-core", "SW(off,on)", "device-isolation", static_fabric="off"))


def two_segments() -> Machine:
    """A function in each of two PCI segments: each has an IOMMU of its own."""
    devices = []
    for segment in (0, 1):
        devices.append(Device(bdf=Bdf(segment, 0, 1, 0), kind=PortKind.ROOT_PORT, secondary=1,
                              class_code=0x0604, header_type=1, subordinate=1,
                              acs=Acs(0x5F, 0x1D)))
        devices.append(Device(bdf=Bdf(segment, 1, 0, 0), class_code=0x0200, pasid=20))
    return Machine("two segments", devices)


@pytest.mark.parametrize("name", ["type1", "bind-2018-container", "sva-2018-vfio"])
def test_two_segments_have_two_units(name: str) -> None:
    both = found(load(name), two_segments(), "device-isolation")
    reproduces(both)
    done = replay_on_bits(both)
    assert done.gamma is not None
    assert sorted(done.gamma.host.units) == [0, 1]
    roots = {unit.hardware.registers.rtaddr for unit in done.gamma.host.units.values()}
    assert len(roots) == 2


# -- the bits decide ------------------------------------------------------------------------


def test_a_port_that_redirects_refuses_the_hop() -> None:
    """The same trace with RR on at the emitter's port: the request goes up to the IOMMU."""
    data = trace("bind-2018-device", "SWR", "device-isolation").model_dump(by_alias=True)
    for device in data["topology"]["devices"]:
        if "acs" in device:
            device["acs"]["control"] = "0x1d"
    done = replay_on_bits(parse(data, "edited"))
    assert done.result == "undecided"
    assert done.reason.startswith("replay-failed: no request that")


def test_an_assumption_that_the_trace_does_not_list_is_not_granted() -> None:
    data = trace("bind-2018-device", "SWR", "device-isolation").model_dump(by_alias=True)
    done = replay_on_bits(parse({**data, "assumptions": {}}, "edited"))
    assert done.result == "undecided"


def test_misroute_by_a_router_that_reads_the_prefix() -> None:
    data = trace("bind-2018-device", "MF(off)", "no-misroute").model_dump(by_alias=True)
    data["design"]["fabric"]["router"] = "prefix"
    done = replay_on_bits(parse(data, "edited"))
    assert "goes up to the IOMMU" in done.reason


MUTATIONS = {
    "PASIDPTR is taken as host-physical": (
        extended, "locate_pasid_entry", lambda c, r, context, address: address, "SWR"),
    "no second-stage leaf gives a right": (
        second_stage, "walk", lambda *_: (0, False, False, 12), "SWR"),
    "the visit points to nothing": (
        gamma.Gamma, "_visit", lambda self, args: "", "SWR"),
    "the user's entries are not written": (
        gamma.Gamma, "_write", lambda self, args: "", "SWR"),
    "no chain of deputies": (fabric, "way", lambda *_: [], "SWR"),
    "no alias is on the wire": (
        Places, "wires", property(lambda self: {
            r: self.fabric.requester_ids(self.functions[self.owner(r)])[:1] for r in self.rids
        }), "AL2"),
    "requests never pose": (fabric, "posing", lambda *_: {}, "AL2"),
    "the request asks elsewhere": (landing, "OFFSET", 0x1000, "SWR"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_does_not_reproduce(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, value, on = MUTATIONS[name]
    good = trace("bind-2018-device", on, "device-isolation")
    monkeypatch.setattr(where, attribute, value)
    done = replay_on_bits(good)
    assert done.result == "undecided"
    assert done.reason.startswith("replay-failed: ")


def test_a_context_cache_holds_no_leaf_of_type1() -> None:
    """The rules let type1's context cache lead to an unmapped page; the bits do not.

    So what the rules call a refutation is undecided on the bits: no request lands.
    """
    what = changed(load("type1"), "no-pasid-cache-flush")
    for tables in (Tables.LEGACY, Tables.SCALABLE):
        done = replay_on_bits(found(what, machine("S"), "unbind-final"), tables=tables)
        assert done.result == "undecided"
        assert "no request that A (0000:01:00.0) causes lands in s1" in done.reason


@pytest.mark.parametrize("bits", [False, True])
def test_a_verdict_may_ask_for_the_bits(bits: bool) -> None:
    """`check --bits`: the same run is a refutation of the rules, and undecided on the bits."""
    judge = Asker().judge(
        changed(load("type1"), "no-pasid-cache-flush"), Assumptions.of(), "linux", search=True
    )
    judge.bits = bits
    wanted = [find("unbind-final"), find("can-bind")]
    final, able = judge.judge([machine("S")], wanted)
    assert able.result == "proved"
    if bits:
        assert final.result == "undecided"
        assert final.reason.startswith("replay-failed: ")
    else:
        assert final.result == "refuted"


# -- every action, every property -----------------------------------------------------------


def all_models():
    for name in builtin_names():
        for extra in ({}, {"fabric": {"ats": True}}):
            for hot_add in (False, True):
                yield build(design(name, **extra), hot_add)


def test_every_action_of_every_design_has_a_gamma() -> None:
    used: set[str] = set()
    where = machine("SS")
    for model in all_models():
        places = Places(model, instance_on(model, where), where)
        for tables in FITTING[model.scheme.payload]:
            entries = gamma.Gamma(model, places, tables).names
            actions = {a.name for a in model.system.actions}
            assert actions <= entries, actions - entries
            used |= actions
    assert used >= STUTTERS.keys(), "a stutter that no design has"
    assert all(reason[0].islower() and not reason.endswith(".") for reason in STUTTERS.values())


def instance_on(model: Model, where: Machine) -> Instance:
    case = Case(where, "linux", Assumptions.of(), ats=model.design.fabric.ats)
    return case.world([d.bdf for d in where.functions]).instance(1, 1, 1)


def test_an_action_without_gamma_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gamma, "STUTTERS", {})
    done = replay_on_bits(trace("bind-2018-device", "SWR", "device-isolation"))
    assert done.reason == "replay-failed: action set-iommu has no meaning on the bits"


def test_every_property_has_an_ending() -> None:
    assert known() == {p.id for p in PROPERTIES}
    shown = {prop for _, _, prop in CASES}
    assert shown | {"levels-coincide"} == known()


def test_levels_coincide_is_shown_as_a_request() -> None:
    reproduces(trace("bind-2018-container", "SS", "levels-coincide"))


# -- bad input ------------------------------------------------------------------------------


def edited(**changes) -> Trace:
    data = trace("bind-2018-device", "SWR", "device-isolation").model_dump(by_alias=True)
    return parse({**data, **changes}, "edited")


def test_trace_without_topology_uses_the_machine_it_names() -> None:
    assert replay_on_bits(edited(topology=None)).result == "reproduced"
    with pytest.raises(InputError, match="carries no topology"):
        replay_on_bits(edited(topology=None, machine="gone.txt"))
    there = replay_on_bits(edited(topology=None, machine="gone.txt"), "SWR")
    assert there.result == "reproduced"


@pytest.mark.parametrize("topology", [
    {}, {"schema": "dmaproof/machine/1", "devices": []}, {"schema": "x", "devices": [{}]},
    {"schema": "dmaproof/machine/1", "devices": [{"bdf": "00:01.0"}]},
])
def test_bad_topology(topology: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replay_on_bits(edited(topology=topology))


def test_format_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="legacy tables cannot hold a table bind"):
        replay_on_bits(edited(), tables=Tables.LEGACY)


def test_objects_that_are_no_elements() -> None:
    data = trace("bind-2018-device", "SWR", "device-isolation").model_dump(by_alias=True)
    data["violation"]["objects"]["f1"] = "nobody"
    done = replay_on_bits(parse(data, "edited"))
    assert done.reason == "replay-failed: the rules themselves: the last state shows other" \
        " objects than the trace says"


def test_too_many_elements() -> None:
    data = trace("type1", "SS", "can-bind").model_dump(by_alias=True)
    data["facts"]["elements"]["Space"] += [f"t{n}" for n in range(40)]
    with pytest.raises(InputError, match="has room for 32"):
        replay_on_bits(parse(data, "edited"))


def test_replay_is_deterministic() -> None:
    one = trace("bind-2018-container-noundo", "SS", "unbind-final")
    assert replay_on_bits(one).steps == replay_on_bits(one).steps


# -- everything -----------------------------------------------------------------------------


def all_traces(folder: Path, machines: list[Machine]) -> list[Trace]:
    designs = [load(n) for n in builtin_names()]
    always = [p for p in PROPERTIES if p.kind is PropertyKind.ALWAYS and not p.asked_only]
    found_ = judged(designs, machines, always, Assumptions.of(), out=folder)
    assert not [v for v in found_ if v.reason.startswith("replay-failed")]
    paths = [v.trace for v in found_ if v.trace is not None and v.result == "refuted"]
    return [parse(json.loads(Path(p).read_text("utf-8")), p) for p in paths]


@pytest.mark.slow
def test_the_whole_matrix(tmp_path: Path) -> None:
    traces = all_traces(tmp_path, [machine(n) for n in names()])
    assert len(traces) > 350
    for one in traces:
        reproduces(one)


@pytest.mark.slow
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings in {RECORDINGS}")
def test_the_recorded_machines(tmp_path: Path) -> None:
    from dmaproof.model.pcie.machines import load as load_machine

    files = sorted(RECORDINGS.glob("*/*.lspci-xxxx.txt"))
    traces = all_traces(tmp_path, [load_machine(str(f)) for f in files])
    assert len(traces) > 250
    for one in traces:
        reproduces(one)
