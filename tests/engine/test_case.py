"""Machines as cases: premises of the built-in machines, and pairs that speak for the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.engine.assumptions import FABRIC, Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.worlds import World
from dmaproof.model.design import load
from dmaproof.model.logic.sets import holds
from dmaproof.model.pcie.generated import generated
from dmaproof.model.pcie.machines import load as load_machine
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.topology import Bdf, Machine
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise

RECORDINGS = sorted((Path(__file__).parents[1] / "pcie" / "data").glob("*/*.lspci-xxxx.txt"))
SEVERAL = ["bind-2018-device", "sva-2018-core", "type1"]

ALL = {p for p in Premise if p is not Premise.NOTHING_BINDABLE}
APART = {Premise.NONE, Premise.CLOSED_GROUPING, Premise.NO_EDGES, Premise.NO_P2P,
         Premise.P2P_IN_GROUP, Premise.LONE_GROUPS}
MIXED = {Premise.NONE, Premise.CLOSED_GROUPING, Premise.ONE_GROUP, Premise.SINGLE_GROUP,
         Premise.P2P_IN_GROUP}  # one group, peers inside it
SPOOFS = MIXED | {Premise.NO_P2P}  # one group, no peers, but another's requester id
LEAKY = {Premise.NONE}

DEVICE_BIND = {
    "S": ALL, "SS": APART, "SW(on,on)": APART, "SW(off,off)": LEAKY, "SW(off,on)": LEAKY,
    "SW(on,off)": LEAKY, "SW(nocap,nocap)": LEAKY,
    "SW(rruf,rruf)": {Premise.NONE, Premise.NO_P2P, Premise.P2P_IN_GROUP},
    "SWR": MIXED, "SWG": SPOOFS, "MF(on)": APART, "MF(off)": MIXED, "MF(nocap)": MIXED,
    "BR": (ALL | {Premise.NOTHING_BINDABLE}) - {Premise.SINGLE_FUNCTION},
    "AL": ALL, "AL2": SPOOFS, "T3": LEAKY, "VF": LEAKY,
}
"""Premises that the built-in machines meet for a bind that any capable function can make."""


def case_of(made: Machine, grouping: str = "linux", **assume: str) -> Case:
    return Case(made, grouping, Assumptions.of(assume), ats=False)


def met(case: Case, model: Model) -> set[Premise]:
    return {p for p in Premise if case.breaks(p, model) is None}


def met_by_all(case: Case, model: Model) -> set[Premise]:
    """The same, asked of the whole machine at once."""
    instance = case.world([d.bdf for d in case.functions]).instance(1, 1, 1)
    return {p for p in Premise if holds(premise_formula(p, model), instance, {}, {})}


@pytest.mark.parametrize("name", names())
def test_premises_of_the_built_in_machines(name: str) -> None:
    assert met(case_of(machine(name)), build(load("bind-2018-device"))) == DEVICE_BIND[name]


@pytest.mark.parametrize(
    ("name", "holds_there"),
    [
        ("SS", APART), ("S", ALL),
        ("SWR", (ALL | {Premise.NOTHING_BINDABLE}) - {Premise.SINGLE_FUNCTION}),
        ("SW(off,on)", {Premise.NONE, Premise.NO_P2P}),  # A is in a crowd, B a true singleton
    ],
)
def test_premises_of_a_singleton_design(name: str, holds_there: set[Premise]) -> None:
    assert met(case_of(machine(name)), build(load("sva-2018-core"))) == holds_there


@pytest.mark.parametrize("grouping", ["linux", "components"])
@pytest.mark.parametrize("name", names())
def test_pairs_speak_for_built_in_machines(name: str, grouping: str) -> None:
    for design in SEVERAL:
        model = build(load(design))
        case = case_of(machine(name), grouping)
        assert met(case, model) == met_by_all(case, model)


@pytest.mark.parametrize("grouping", ["linux", "components"])
@pytest.mark.parametrize("name", names())
def test_pairs_speak_for_machines_with_hot_add(name: str, grouping: str) -> None:
    for design in SEVERAL:
        model = build(load(design), True)
        case = case_of(machine(name), grouping, static_fabric="off")
        assert met(case, model) == met_by_all(case, model)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.name.split(".")[0])
def test_pairs_speak_for_recordings(path: Path) -> None:
    case = case_of(load_machine(str(path)))
    for design in SEVERAL[:2]:
        model = build(load(design))
        assert met(case, model) == met_by_all(case, model)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(names()), st.sampled_from(["linux", "components"]),
    st.dictionaries(st.sampled_from(FABRIC), st.sampled_from(["on", "off"])),
)
def test_pairs_speak_for_machines_under_assumptions(
    name: str, grouping: str, assume: dict[str, str]
) -> None:
    case = case_of(machine(name), grouping, **assume)
    for design in SEVERAL[:2]:
        model = build(load(design))
        assert met(case, model) == met_by_all(case, model)


def every_pair(case: Case) -> dict[World, tuple[Bdf, ...]]:
    """The kinds of pairs found by asking all pairs, those with an edge first."""
    nodes = [d.bdf for d in case.functions]
    pairs = [(f, h) for f in nodes for h in nodes if f != h]
    joined = [(f, h) for f, h in pairs if case.acts(f, h) or case.p2p(f, h)]
    found: dict[World, tuple[Bdf, ...]] = {}
    for f, h in [*joined, *pairs]:
        found.setdefault(case.pair_world(f, h), (f, h))
    for f in nodes:
        found.setdefault(case.pair_world(f, f), (f,))
    return found


@settings(max_examples=20, deadline=None)
@given(
    st.builds(generated, st.integers(2, 30), st.integers(0, 500)),
    st.dictionaries(st.sampled_from([*FABRIC, "static_fabric"]), st.sampled_from(["on", "off"])),
)
def test_the_sweep_finds_every_kind_of_pair(made: Machine, assume: dict[str, str]) -> None:
    """Pairs without an edge are sampled: enough for every premise, not for every world."""
    case = case_of(made, **assume)
    wanted, found = every_pair(case), case.pairs
    assert set(found) <= set(wanted)
    joined = {w: p for w, p in wanted.items() if w.emits or w.p2p}
    directed = {w: p for w, p in joined.items() if case.acts(*p) or case.p2p(*p)}
    assert {w: found[w] for w in directed if w in found} == directed


@pytest.mark.parametrize("name", names())
def test_the_sweep_finds_every_kind_of_pair_on_built_in_machines(name: str) -> None:
    case = case_of(machine(name))
    assert set(case.pairs) == set(every_pair(case))


def test_the_pair_that_breaks_a_premise_is_an_edge() -> None:
    case = case_of(machine("SW(off,on)"))
    pair = case.breaks(Premise.CLOSED_GROUPING, build(load("bind-2018-device")))
    assert pair is not None
    assert case.acts(*pair)
    assert case.group_of[pair[0]] != case.group_of[pair[1]]
    chain = case.chain(pair)
    assert chain.functions == pair
    assert chain.edges
    assert chain.edges[0].source == pair[0]


def test_a_chain_of_one_function_has_no_edges() -> None:
    case = case_of(machine("S"))
    (pair,) = case.pairs.values()
    assert case.chain(pair).functions == pair
    assert case.chain(pair).edges == ()


def test_a_group_with_more_members_than_a_world_shows_is_crowded() -> None:
    case = case_of(machine("SWR"))
    first, second = (d.bdf for d in case.functions)
    assert case.world([first]).ported
    assert case.mates(first) == [first, second]


def test_an_absent_function_is_not_there_at_boot() -> None:
    case = case_of(machine("SS"))
    both = [d.bdf for d in case.functions]
    assert case.world(both, frozenset(both[:1])).absent == {case.name(both[0])}


def test_pairs_are_found_behind_other_mates() -> None:
    """Two capable functions of one group count, however many others come before them."""
    found = machine("MF(nocap)")  # one group, and no edges when nothing loops back
    port, first, _ = found.devices
    four = [
        replace(first, bdf=Bdf(0, first.bdf.bus, 0, n), label=f"A.{n}",
                pasid=first.pasid if n > 1 else None)
        for n in range(4)
    ]
    crowded = Machine("four", (port, *four))
    for design in ("bind-2018-device", "bind-2018-group", "bind-2018-container", "type1"):
        model = build(load(design))
        case = case_of(crowded, deputy="off", spoof="off", mf_loopback="off")
        assert len(case.groups) == 2
        assert met(case, model) == met_by_all(case, model)
        assert Premise.ONE_FUNCTION not in met(case, model)
        assert Premise.LONE_GROUPS not in met(case, model)


def test_two_mates_of_each_kind_stand_for_a_large_group() -> None:
    case = case_of(generated(200), "components", static_fabric="on")
    first = case.functions[0].bdf
    every, some = case.mates(first), case.mates(first, 32)
    assert len(every) > 32 > len(some)
    assert set(some) < set(every)
    kinds = {case._kind[mate] for mate in every}
    assert {case._kind[mate] for mate in some} == kinds
    assert len(some) <= 2 * len(kinds)
    assert case.mates(first, len(every)) == every


def test_a_port_that_blocks_translations_keeps_a_dishonest_device_from_raw_requests() -> None:
    found = machine("SS")
    for blocks in (False, True):
        made = Machine("ats", [
            replace(d, ats=not d.is_bridge,
                    acs=d.acs and replace(d.acs, control=d.acs.control | 2 * blocks))
            for d in found.devices
        ])
        for honest in ("on", "off"):
            case = Case(made, "linux", Assumptions.of({"ats_honest": honest}), ats=True)
            first = case.functions[0].bdf
            assert case.raw(first) is (not blocks and honest == "off")
        assert not Case(made, "linux", Assumptions.of({}), ats=False).raw(first)
