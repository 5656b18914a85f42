"""Explicit search and bounded model checking: shortest runs, canonical forms, honest budgets."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logic.strategies import RELS, Names, formulas, instances, systems

from dmaproof.engine.bmc import bmc, cone
from dmaproof.engine.driver import COUNTS, target
from dmaproof.engine.explicit import Canonical, Search, search
from dmaproof.engine.worlds import SAMPLES, World
from dmaproof.model.design import load
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance, holds, replay
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import FALSE, TRUE, Formula
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import build
from dmaproof.properties.registry import PROPERTIES, applicable, find

DEPTH = 5
RANDOM = settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PEERS = SAMPLES[4]  # two functions in groups of their own that reach each other


def targets_of(name: str) -> tuple[System, dict[str, Formula]]:
    model = build(load(name))
    return model.system, {p.id: target(p, model) for p in PROPERTIES if not applicable(p, model)}


def lengths(found: Search) -> dict[str, int]:
    return {name: len(steps) for name, steps in found.traces.items()}


def check_runs(
    found: Search, system: System, instance: Instance, targets: dict[str, Formula]
) -> None:
    """Every run replays, and ends where it should and not before."""
    for name, steps in found.traces.items():
        states = replay(system, instance, steps)
        reached = [holds(targets[name], instance, s, {}) for s in states]
        assert reached == [False] * len(steps) + [True]


# -- random systems --------------------------------------------------------------------------


@RANDOM
@given(st.data())
def test_engines_agree_on_random_systems(data: st.DataObject) -> None:
    system, instance = data.draw(systems()), data.draw(instances())
    targets = {
        f"t{i}": data.draw(formulas((), Names(f"target{i}."), RELS, 3)) for i in range(3)
    }
    plain = search(system, instance, targets, symmetric=False)
    assert plain.exhausted or plain.traces.keys() == targets.keys()
    folded = search(system, instance, targets)
    assert lengths(folded) == lengths(plain)
    assert folded.states <= plain.states
    short = {name: n for name, n in lengths(plain).items() if n <= DEPTH}
    for symmetric in (True, False):
        bounded = bmc(system, instance, targets, DEPTH, symmetric=symmetric)
        assert lengths(bounded) == short
        check_runs(bounded, system, instance, targets)
    for found in (plain, folded):
        check_runs(found, system, instance, targets)


# -- bounded model checking ------------------------------------------------------------------


def test_bmc_finds_the_shortest_runs_of_a_design() -> None:
    system, targets = targets_of("bind-2018-device")
    instance = PEERS.instance(*COUNTS)
    explicit = search(system, instance, targets, max_states=4_000)
    bounded = bmc(system, instance, targets, 7)
    assert lengths(bounded) == {n: k for n, k in lengths(explicit).items() if k <= 7}
    assert lengths(bounded)["device-isolation"] > 1
    check_runs(bounded, system, instance, targets)
    assert bounded.depth == 7
    assert bounded.reason == "the bound of 7 steps is reached"


def test_bmc_stops_when_everything_was_reached() -> None:
    system, targets = targets_of("sva-2018-core")
    instance = World(("A",), {"A": "g"}).instance(*COUNTS)
    found = bmc(system, instance, {"can-bind": targets["can-bind"]}, 50)
    assert len(found.traces["can-bind"]) == found.depth == 3
    assert found.reason == ""


def test_out_of_time_is_not_clean() -> None:
    system, targets = targets_of("bind-2018-container")
    found = bmc(system, PEERS.instance(*COUNTS), targets, 30, seconds=0.0)
    assert (found.depth, found.exhausted) == (-1, False)
    assert "time" in found.reason
    late = bmc(system, PEERS.instance(*COUNTS), targets, 500, seconds=0.6)
    assert late.depth < 500
    assert not late.exhausted
    assert late.reason


def test_unknown_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import z3

    system, targets = targets_of("sva-2018-core")
    monkeypatch.setattr(z3.Solver, "check", lambda *_: z3.unknown)
    found = bmc(system, PEERS.instance(*COUNTS), targets, 3)
    assert found.depth == -1
    assert "unknown" in found.reason
    assert not found.traces


def test_bmc_on_goals_that_are_constant() -> None:
    system, _ = targets_of("sva-2018-core")
    found = bmc(system, PEERS.instance(*COUNTS), {"yes": TRUE, "no": FALSE}, 2)
    assert found.traces == {"yes": []}
    assert found.exhausted  # nothing that "no" could depend on ever changes
    nothing = bmc(system, PEERS.instance(*COUNTS), {}, 2)
    assert not nothing.traces


def test_the_cone_leaves_out_what_a_goal_cannot_depend_on() -> None:
    model = build(load("sva-2018-core"))
    ground = GroundSystem(model.system, PEERS.instance(*COUNTS))
    whole = cone(ground, [ground.ground(target(find("device-isolation"), model), {})])
    part = cone(ground, [ground.ground(target(find("can-bind"), model), {})])
    names = {ground.bits[b][0].name for b in part}
    assert part < whole
    assert not names & {"iotlb", "pasid_cache", "grant"}


# -- canonical forms -------------------------------------------------------------------------


def orbit(ground: GroundSystem, state: int) -> int:
    """The least state of an orbit, by trying every permutation."""
    classes = Canonical(ground).classes
    found = []
    for orders in product(*(permutations(m) for _, m in classes)):
        rename = {
            (sort, a): b
            for (sort, members), order in zip(classes, orders, strict=True)
            for a, b in zip(members, order, strict=True)
        }
        moved = 0
        for bit, (rel, args) in enumerate(ground.bits):
            if state >> bit & 1:
                there = tuple(rename.get((s, a), a) for s, a in zip(rel.sorts, args, strict=True))
                moved |= 1 << ground.bit_of[rel, there]
        found.append(moved)
    return min(found)


def walk(ground: GroundSystem, length: int, seed: int) -> list[int]:
    successors = ground.compile_successors()
    rng = random.Random(seed)
    states = [ground.initial]
    for _ in range(length):
        choices = successors(states[-1])
        if not choices:
            break
        states.append(rng.choice(choices)[1])
    return states


@pytest.mark.parametrize("name", ["bind-2018-container", "sva-2018-vfio", "type1"])
def test_a_canonical_form_is_of_the_same_orbit(name: str) -> None:
    model = build(load(name))
    ground = GroundSystem(model.system, PEERS.instance(2, 2, 2))
    canonical = Canonical(ground)
    successors = ground.compile_successors()
    assert {s for s, _ in canonical.classes} >= {v.CONTAINER, v.SPACE}
    assert canonical.form(ground.initial) == ground.initial
    for state in walk(ground, 60, seed=3):
        form = canonical.form(state)
        assert orbit(ground, form) == orbit(ground, state)
        if state != form:  # the same steps are possible from it, up to names
            both = [{orbit(ground, n) for _, n in successors(s)} for s in (state, form)]
            assert both[0] == both[1]


@RANDOM
@given(st.data())
def test_canonical_forms_of_random_systems(data: st.DataObject) -> None:
    system, instance = data.draw(systems()), data.draw(instances())
    ground = GroundSystem(system, instance)
    canonical = Canonical(ground)
    for state in walk(ground, 12, seed=data.draw(st.integers(0, 9))):
        assert orbit(ground, canonical.form(state)) == orbit(ground, state)


def test_what_no_pasid_means_is_not_interchangeable() -> None:
    model = build(load("sva-2018-core"))
    ground = GroundSystem(model.system, PEERS.instance(1, 3, 1))
    classes = dict(Canonical(ground).classes)
    assert classes[v.PASID] == (1, 2, 3)


def test_facts_tell_elements_apart() -> None:
    model = build(load("sva-2018-core"))
    instance = PEERS.instance(1, 2, 1)
    facts = {**instance.facts, v.FITS: instance.facts[v.FITS] - {(0, 2)}}
    ground = GroundSystem(model.system, replace(instance, facts=facts))
    assert v.PASID not in dict(Canonical(ground).classes)


@pytest.mark.parametrize("name", ["bind-2018-device", "sva-2018-core", "type1"])
def test_symmetry_changes_no_verdict(name: str) -> None:
    system, targets = targets_of(name)
    instance = World(("A", "B"), {"A": "g", "B": "g"}, emits=frozenset({("A", "B")})).instance(
        2, 1, 1
    )
    plain = search(system, instance, targets, max_states=6_000, symmetric=False)
    folded = search(system, instance, targets, max_states=6_000)
    depth = plain.depth if not plain.exhausted else 10_000
    assert {n: k for n, k in lengths(folded).items() if k <= depth} == lengths(plain)
    if plain.exhausted:
        assert folded.exhausted
        assert folded.states <= plain.states


# -- budgets of the explicit search ----------------------------------------------------------


def test_a_budget_is_told() -> None:
    system, targets = targets_of("bind-2018-container")
    found = search(system, PEERS.instance(*COUNTS), targets, max_states=50)
    assert not found.exhausted
    assert found.reason == "the budget of 50 states is used up"
    assert search(system, PEERS.instance(*COUNTS), targets, seconds=0.0).reason

