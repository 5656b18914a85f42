"""Mutation: a single change to a guard, an update or a flush flips a known verdict.

Each mutant names the verdict that flips. The verdict of the unchanged design is shown on the same
small machine by exhaustive search, and by its theorem. The flip is shown by a run that replays, and
by the theorem, which does not hold any more: its invariant no longer verifies, the prover finds
none, or the machine no longer meets its premise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from dmaproof.counterexamples.refusals import settle_on
from dmaproof.engine.driver import target
from dmaproof.engine.explicit import Search, search
from dmaproof.engine.induction import Clock
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.recheck import Claim, verified
from dmaproof.engine.theorems import NotProved, Prover, Theorem, safe_goal
from dmaproof.engine.worlds import World
from dmaproof.model.design import Design, Step, load
from dmaproof.model.logic.sets import Instance, holds, replay
from dmaproof.model.logic.system import Action, action, delete, delete_where
from dmaproof.model.logic.terms import Eq, Formula, Var, and_, exists, or_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model, build
from dmaproof.model.vfio.container import KERNEL_DRIVER
from dmaproof.properties.base import Premise
from dmaproof.properties.errno import REFUSALS
from dmaproof.properties.registry import find

BUDGET = 60_000

BOTH = frozenset({("A", "B"), ("B", "A")})
ONE = World(("A",), {"A": "gA"})
TWO = World(("A", "B"), {"A": "gA", "B": "gB"})
INCAPABLE = World(("A",), {"A": "gA"}, incapable=frozenset("A"))
SIBLINGS = World(("A", "B"), {"A": "g", "B": "g"}, influence=BOTH, p2p=BOTH)
BEHIND_SWITCH = World(("A", "B"), {"A": "gA", "B": "gB"}, p2p=BOTH, bad_path=frozenset("AB"))
SIBLINGS_AND_ONE = World(("A", "B", "D"), {"A": "g", "B": "g", "D": "gD"}, p2p=BOTH)


# -- changes of a design ---------------------------------------------------------------------


def design(name: str, **sections: dict[str, Any]) -> Design:
    """A built-in design with keys replaced, section by section."""
    plain = load(name)
    return plain.model_copy(
        update={s: getattr(plain, s).model_copy(update=keys) for s, keys in sections.items()}
    )


def steps(*order: Step) -> dict[str, Any]:
    return {"steps": order}


CLEAR, PASID = Step.CLEAR, Step.FLUSH_PASID_CACHE
IOTLB, DEVICE = Step.FLUSH_IOTLB, Step.FLUSH_DEVICE_TLB

# -- changes of a model ----------------------------------------------------------------------


def with_action(model: Model, act: Action) -> Model:
    return replace(model, system=model.system.with_action(act))


def no_guard(act: str, guard: str) -> Callable[[Model], Model]:
    return lambda m: with_action(m, m.system.action(act).without_guard(guard))


def no_update(act: str, rel: str) -> Callable[[Model], Model]:
    return lambda m: with_action(m, m.system.action(act).without_update(rel))


def no_leave_program(model: Model) -> Model:
    """UNSET_CONTAINER only takes the group out."""
    old = model.system.action("unset-container")
    return with_action(model, replace(old, updates=(delete(v.IN, v.G, v.C),)))


def returns_before_the_flushes(model: Model) -> Model:
    """Unbind may return, and free its PASID, once the entry is cleared."""
    assert model.binder is not None
    teardown, old = model.binder.teardown, model.system.action("unbind.return")
    early, last = teardown.stages[1], teardown.stages[-1]
    ready = replace(
        old.guards[0], condition=or_(early(*teardown.params), last(*teardown.params))
    )
    updates = [*old.updates, delete(early, *teardown.params)]
    return with_action(model, action(old.name, old.params, [ready], updates, old.actor, old.says))


def flushes_requests_without_pasid(model: Model) -> Model:
    """The IOTLB invalidation of an unbind carries the tag of requests without PASID."""
    old = model.system.action("unbind.flush-iotlb")
    r, p, s = (Var(f"m.{x.name}", x) for x in v.IOTLB.sorts)
    wrong = delete_where(v.IOTLB, (r, p, s), Eq(p, v.NO_PASID))
    kept = tuple(u for u in old.updates if u.rel != v.IOTLB)
    return with_action(model, replace(old, updates=(*kept, wrong)))


# -- mutants ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change and the verdict that it flips.

    Attributes:
        flips: the property; it holds of `base` (a `can` property: it does not).
        premise: under which it is a theorem of `base`.
        change: what is done to the model; or `other`, a design that differs in one key.
        world: the small machine; it meets the premise.
    """

    name: str
    base: Design
    flips: str
    premise: Premise
    world: World
    change: Callable[[Model], Model] | None = None
    other: Design | None = None
    counts: tuple[int, int, int] = (1, 1, 1)

    def model(self) -> Model:
        if self.other is not None:
            return build(self.other)
        assert self.change is not None
        return self.change(build(self.base))


NONE, EDGES, CLOSED = Premise.NONE, Premise.NO_EDGES, Premise.CLOSED_GROUPING
FINAL, UNIFORM, FAILED = "unbind-final", "uniform", "failed-call-changes-nothing"
DEV, GROUP, CONT = "bind-2018-device", "bind-2018-group", "bind-2018-container"
CORE, VFIO, TYPE1 = "sva-2018-core", "sva-2018-vfio", "type1"
ATS = {"ats": True}
PATH = {"acs_path": True}

MUTANTS = [
    # flushes
    Mutant("no-pasid-cache-flush", load(DEV), FINAL, NONE, ONE,
           other=design(DEV, teardown=steps(CLEAR, IOTLB, DEVICE))),
    Mutant("no-iotlb-flush", load(GROUP), FINAL, NONE, ONE,
           other=design(GROUP, teardown=steps(CLEAR, PASID, DEVICE))),
    Mutant("no-device-tlb-flush", design(CORE, fabric=ATS), FINAL, NONE, ONE,
           other=design(CORE, fabric=ATS, teardown=steps(CLEAR, PASID, IOTLB))),
    Mutant("clear-after-the-flushes", load(CORE), FINAL, NONE, ONE,
           other=design(CORE, teardown=steps(PASID, IOTLB, DEVICE, CLEAR))),
    Mutant("iotlb-flushed-before-the-pasid-cache", load(CORE), FINAL, NONE, ONE,
           other=design(CORE, teardown=steps(CLEAR, IOTLB, PASID, DEVICE))),
    Mutant("unmap-does-not-flush", load(TYPE1), FINAL, NONE, ONE,
           other=design(TYPE1, teardown=steps(CLEAR, PASID))),
    Mutant("flush-step-does-nothing", load(CONT), FINAL, NONE, ONE,
           no_update("unbind.flush-iotlb", "iotlb")),
    Mutant("flush-with-the-wrong-tag", load(CORE), FINAL, NONE, ONE,
           flushes_requests_without_pasid),
    Mutant("pasid-reused-before-the-flushes", load(CORE), "device-isolation", EDGES, ONE,
           returns_before_the_flushes, counts=(1, 1, 2)),
    Mutant("leave-does-not-flush", load(VFIO), FINAL, NONE, TWO,
           no_update("leave.flush-iotlb", "iotlb")),
    # clearing
    Mutant("unbind-does-not-clear-the-entry", load(CORE), "device-isolation", EDGES, ONE,
           no_update("unbind.clear", "pasid_entry")),
    Mutant("unbind-does-not-clear-the-pointer", load(DEV), FAILED, NONE, ONE,
           no_update("unbind.clear", "table_pointer")),
    Mutant("leave-does-not-clear", load(CONT), FAILED, NONE, ONE,
           no_update("leave.clear", "table_pointer"), counts=(2, 1, 1)),
    Mutant("group-leaves-without-the-program", load(CONT), FINAL, NONE, TWO, no_leave_program),
    # whose table
    Mutant("table-shared-between-devices", load(DEV), "device-isolation", EDGES, TWO,
           other=design(DEV, interface={"table": "container"})),
    Mutant("table-of-the-iommu", load(CORE), "device-isolation", EDGES, TWO,
           other=design(CORE, interface={"table": "iommu"})),
    Mutant("device-loop-visits-strangers", load(CORE), "group-isolation", CLOSED, TWO,
           no_guard("bind.visit", "member-of-object")),
    Mutant("container-loop-visits-strangers", load(VFIO), "container-isolation", CLOSED, TWO,
           no_guard("bind.visit", "member-of-object"), counts=(2, 1, 1)),
    # what bind refuses
    Mutant("no-singleton-test", load(CORE), "device-isolation", CLOSED, SIBLINGS,
           other=design(CORE, guards={"singleton": False})),
    Mutant("no-singleton-test-when-joining", load(VFIO), "no-misroute", Premise.P2P_IN_GROUP,
           SIBLINGS_AND_ONE, no_guard("set-container", "group-is-singleton")),
    Mutant("no-pasid-capability-test", load(DEV), "can-bind", Premise.NOTHING_BINDABLE, INCAPABLE,
           other=design(DEV, guards={"pasid_capable": False})),
    Mutant("no-acs-path-test", design(DEV, guards=PATH), "no-misroute", Premise.NO_P2P,
           BEHIND_SWITCH, other=load(DEV)),
    Mutant("a-container-takes-a-larger-group", load("bind-2018-device-singleton"),
           "levels-coincide", CLOSED, SIBLINGS, no_guard("set-container", "group-of-one-function")),
    # loops, joining, undo
    Mutant("no-replay", load(CONT), UNIFORM, NONE, TWO,
           other=design(CONT, bind={"replay": False})),
    Mutant("no-undo", load(CONT), FAILED, NONE, TWO, other=design(CONT, bind={"undo": False})),
    Mutant("loop-misses-a-member", load(CONT), UNIFORM, NONE, TWO,
           no_guard("bind.return", "all-members-visited")),
    Mutant("replay-misses-a-member", load(VFIO), UNIFORM, NONE, TWO,
           no_guard("join.return", "all-replayed")),
    Mutant("type1-join-without-attach", load(TYPE1), UNIFORM, NONE, TWO,
           no_guard("join.return", "all-replayed")),
    Mutant("bind-not-locked-against-leaving", load(VFIO), "container-isolation", CLOSED, TWO,
           no_guard("bind.enter", "container-not-locked")),
    Mutant("leaving-not-locked", load(CONT), FINAL, NONE, TWO,
           no_guard("unset-container", "container-not-locked")),
    Mutant("group-in-two-containers", load(CONT), FAILED, NONE, ONE,
           no_guard("set-container", "group-has-no-container"), counts=(2, 1, 1)),
    # bookkeeping and hardware
    Mutant("bind-grants-nothing", load(CORE), "device-isolation", EDGES, ONE,
           no_update("bind.enter", "grant")),
    Mutant("write-grants-nothing", load(GROUP), "group-isolation", CLOSED, ONE,
           no_update("table.write", "ggrant")),
    Mutant("iotlb-fills-from-nothing", load(DEV), "device-isolation", EDGES, ONE,
           no_guard("iotlb.fill", "entry-found")),
    Mutant("pasid-cache-fills-from-nothing", load(CONT), "container-isolation", CLOSED, ONE,
           no_guard("pasid-cache.fill", "entry-found")),
]

PROVED_AGAIN = ("no-replay", "pasid-reused-before-the-flushes", "device-loop-visits-strangers")
"""Mutants that the prover is asked about from scratch, too."""


@cache
def prover(base: Design) -> Prover:
    return Prover(build(base), seconds=20.0)


@cache
def theorem(base: Design, prop: str, premise: Premise) -> Theorem | NotProved:
    return prover(base).prove(find(prop), premise)


def look(model: Model, goal: Formula, instance: Instance) -> Search:
    return search(model.system, instance, {"goal": goal}, max_states=BUDGET)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_flips_a_known_verdict(mutant: Mutant) -> None:
    base, changed = build(mutant.base), mutant.model()
    prop = find(mutant.flips)
    instance = mutant.world.instance(*mutant.counts)
    instance.check(base.system)
    assert holds(premise_formula(mutant.premise, base), instance, {}, {})

    known = look(base, target(prop, base), instance)
    assert known.exhausted
    assert not known.traces

    # The formula is that of the mutant: a change of tables changes what reaching means.
    goal = target(prop, changed)
    run = look(changed, goal, instance).traces["goal"]
    assert holds(goal, instance, replay(changed.system, instance, run)[-1], {})


@pytest.mark.slow  # seconds each: the runs above refute the same mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_theorem_does_not_hold_of_the_mutant(mutant: Mutant) -> None:
    base, changed = build(mutant.base), mutant.model()
    prop = find(mutant.flips)
    known = theorem(mutant.base, mutant.flips, mutant.premise)
    assert isinstance(known, Theorem)
    instance = mutant.world.instance(*mutant.counts)
    if not holds(premise_formula(mutant.premise, changed), instance, {}, {}):
        return  # the mutant can bind more, and the machine no longer meets the premise
    if set(base.core.rels) == set(changed.core.rels):
        claim = Claim(known.invariant, mutant.premise, safe_goal(prop, changed))
        assert verified(changed, [claim], Clock.seconds(10)) == [False]
    else:  # the invariant speaks of relations that the mutant does not have
        assert not_proved(changed, mutant)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVED_AGAIN)
def test_the_prover_does_not_prove_a_mutant(name: str) -> None:
    (mutant,) = (m for m in MUTANTS if m.name == name)
    assert not_proved(mutant.model(), mutant)


def not_proved(changed: Model, mutant: Mutant) -> bool:
    """Whether inference from scratch finds no theorem of the mutant."""
    found = Prover(changed, use_library=False).prove(find(mutant.flips), mutant.premise)
    return isinstance(found, NotProved)


# -- verdicts of kind errno, and a claim about ownership -------------------------------------


@pytest.mark.parametrize(("claim", "base", "other"), [
    ("second-table-bind", load(DEV), design(DEV, guards={"not_bound": False})),
    ("same-space-twice", load(CORE), design(CORE, guards={"not_bound": False})),
    ("second-device-in-group", load(CORE), design(CORE, guards={"singleton": False})),
    ("caller-without-pasid", load(GROUP), design(GROUP, guards={"pasid_capable": False})),
    ("member-without-pasid", load(GROUP), design(GROUP, guards={"pasid_capable": False})),
], ids=lambda x: x if isinstance(x, str) else "")
def test_a_bind_without_its_test_flips_an_errno(claim: str, base: Design, other: Design) -> None:
    assert settle_on(REFUSALS[claim], build(base)).verdict.result == "proved"
    assert settle_on(REFUSALS[claim], build(other)).verdict.result == "refuted"


def driven(model: Model) -> Formula:
    """A kernel driver does DMA for a function whose group a user owns."""
    assert model.containers is not None
    owned = v.IN(v.group(v.F1), v.C1)
    return exists((v.F1, v.C1), and_(KERNEL_DRIVER(v.F1), owned))


@pytest.mark.parametrize("change", [
    lambda _: build(design(DEV, guards={"viable": False})),
    no_guard("set-container", "group-viable"),
    no_guard("driver.bind", "group-not-owned"),
], ids=["viable", "group-viable", "group-not-owned"])
def test_ownership_without_viability(change: Callable[[Model], Model]) -> None:
    base = build(load(DEV))
    changed = change(base)
    instance = SIBLINGS.instance(1, 1, 1)
    known = look(base, driven(base), instance)
    assert known.exhausted
    assert not known.traces
    assert look(changed, driven(changed), instance).traces
    assert changed is not base


def test_there_are_twenty_mutants_and_more() -> None:
    names = [m.name for m in MUTANTS]
    assert len(set(names)) == len(names) >= 20
    assert set(PROVED_AGAIN) <= set(names)
    for mutant in MUTANTS:
        assert (mutant.change is None) != (mutant.other is None)
