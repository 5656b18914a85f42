"""The built-in designs on small machines, state by state: bookkeeping, kernel invariants, vacuity.

Random runs visit some thousands of reachable states of each design. A claim that fails names the
state; a step or refusal that never happens would make proofs about it empty.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from dmaproof.engine.worlds import SAMPLES, World
from dmaproof.model.design import Object, Payload, builtin_names, load
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.terms import (
    Eq,
    Formula,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.vfio import ghosts
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model, build
from dmaproof.model.vfio.container import IOMMU_SET, KERNEL_DRIVER, OPENED

RUNS, LENGTH, PATIENCE = 8, 90, 12
DESIGNS = [(name, hot) for name in builtin_names() for hot in (False, True)]
IDS = [f"{name}{'+hot-add' if hot else ''}" for name, hot in DESIGNS]

# One group of which one member cannot take a PASID: a loop that meets it fails half-way.
BAD_PATH = World(("A", "B"), {"A": "g", "B": "g"}, bad_path=frozenset("B"))
MIXED = World(("A", "B"), {"A": "g", "B": "g"}, incapable=frozenset("B"))
LATE = (
    World(("A", "B"), {"A": "gA", "B": "gB"}, absent=frozenset("B")),
    World(("A", "B"), {"A": "gA", "B": "gB"}, incapable=frozenset("B")),
    World(("A", "B", "D"), {"A": "g", "B": "g", "D": "gD"}, absent=frozenset("B")),
)

NEVER_REFUSES = {
    # The device's own test at the entry of the call comes first; the loop repeats it.
    ("device", "bind.visit", "member-pasid-capable"),
}
"""(object of the design, action, guard) of refusals that are unreachable by design."""


def narrow(instance: Instance) -> Instance:
    """The instance with the last PASID beyond the limit of the last function."""
    last = len(instance.elements[v.FUNCTION]) - 1, len(instance.elements[v.PASID]) - 1
    return replace(instance, facts={**instance.facts, v.FITS: instance.facts[v.FITS] - {last}})


def small_instances(hot: bool) -> Iterator[Instance]:
    """Machines of up to three functions with two containers; hot: some functions appear late."""
    for world in (*(w for w in SAMPLES if w.absent or not hot), *(LATE if hot else ()), MIXED,
                  BAD_PATH):
        yield world.instance(containers=2, pasids=1, spaces=2)
    yield narrow(MIXED.instance(containers=1, pasids=2, spaces=1))
    # A function with a container and a group of its own: deep runs of one call.
    yield narrow(World(("A",), {"A": "gA"}).instance(containers=1, pasids=2, spaces=2))


class Explored:
    """Reachable states of a design on one machine, and the actions that fire in them."""

    def __init__(self, ground: GroundSystem, seed: int) -> None:
        self.ground = ground
        self.states: dict[int, None] = {ground.initial: None}
        self.fired: set[str] = set()
        self._successors = ground.compile_successors()
        self._random = random.Random(seed)
        self._taken: Counter[str] = Counter()

    def walk(self, runs: int = RUNS, length: int = LENGTH) -> None:
        """Random runs that prefer, of two kinds of action, the one they took less often."""
        for _ in range(runs):
            state = self.ground.initial
            for _ in range(length):
                kinds: dict[str, list[int]] = {}
                for number, after in self._successors(state):
                    kinds.setdefault(self.ground.actions[number].name, []).append(after)
                if not kinds:
                    break
                self.fired |= kinds.keys()
                two = self._random.choices(sorted(kinds), k=2)
                kind = min(two, key=lambda k: self._taken[k])
                self._taken[kind] += 1
                state = self._random.choice(kinds[kind])
                self.states[state] = None

    def shows(self, formula: Formula) -> bool:
        """Whether some visited state satisfies a closed formula."""
        holds = self.ground.compile_formula(formula)
        return any(holds(s) for s in self.states)

    def counterexample(self, claim: Formula) -> str:
        """The first state that violates a claim, in words; empty if there is none."""
        holds = self.ground.compile_formula(claim)
        bad = next((s for s in self.states if not holds(s)), None)
        if bad is None:
            return ""
        instance = self.ground.instance
        content = [
            f"{rel.name}({', '.join(map(instance.name, rel.sorts, args))})"
            for rel, tuples in self.ground.unpack(bad).items()
            for args in sorted(tuples)
        ]
        return f"{claim}\n  fails in {{{', '.join(content)}}}"


@cache
def explored(name: str, hot: bool) -> tuple[Model, tuple[Explored, ...]]:
    model = build(load(name), hot)
    found = []
    for seed, instance in enumerate(small_instances(hot)):
        instance.check(model.system)
        found.append(Explored(GroundSystem(model.system, instance), seed))
        found[-1].walk()
    return model, tuple(found)


def search(machines: Iterable[Explored], missing: Callable[[], bool]) -> None:
    """Walk on, evenly on all machines, until nothing is missing or patience ends."""
    for _ in range(PATIENCE):
        if not missing():
            return
        for machine in machines:
            machine.walk()


OPEN_IN_CONTAINER = "an open function is in a container with an IOMMU"
IOMMU_WITH_GROUP = "an IOMMU is set only while the container has a group"
LIFECYCLE_CLAIMS = (OPEN_IN_CONTAINER, IOMMU_WITH_GROUP)

# -- claims ----------------------------------------------------------------------------------


def stages(model: Model) -> list[list[Rel]]:
    """The stages that each kind of call passes."""
    found = []
    if model.binder is not None:
        found.append([model.binder.binding, model.binder.bound, *model.binder.teardown.stages])
    if model.mapper is not None:
        found.append(list(model.mapper.unmap.stages))
    if model.containers is not None and model.containers.wide:
        found.append(list(model.containers.leave.stages))
    return found


def stage_claims(model: Model) -> Iterator[tuple[str, Formula]]:
    for rels in stages(model):
        xs = tuple(Var(f"x{i}", s) for i, s in enumerate(rels[0].sorts))
        pairs = [(a, b) for i, a in enumerate(rels) for b in rels[:i]]
        twice = or_(*(and_(a(*xs), b(*xs)) for a, b in pairs))
        yield f"a {rels[-1].name} call is at one stage", not_(exists(xs, twice))


def container_claims(model: Model) -> Iterator[tuple[str, Formula]]:
    """drivers/vfio/group.c, container.c: reference in docs/semantics.md."""
    here, there = v.IN(v.G1, v.C1), v.IN(v.G1, v.C2)
    yield "a group is in at most one container", forall(
        (v.G1, v.C1, v.C2), implies(and_(here, there), Eq(v.C1, v.C2))
    )
    owned = exists((v.C1,), v.IN(v.group(v.F1), v.C1))
    yield "a group in a container has no kernel driver", forall(
        (v.F1,), not_(and_(owned, KERNEL_DRIVER(v.F1)))
    )
    ready = exists((v.C1,), and_(v.IN(v.group(v.F1), v.C1), IOMMU_SET(v.C1)))
    yield OPEN_IN_CONTAINER, forall((v.F1,), implies(OPENED(v.F1), ready))
    used = exists((v.G1,), v.IN(v.G1, v.C1))
    yield IOMMU_WITH_GROUP, forall((v.C1,), implies(IOMMU_SET(v.C1), used))
    granted = exists((v.P1, v.S1), v.grant(v.F1, v.P1, v.S1))
    yield "a grant's beneficiary is in a container", forall((v.F1,), implies(granted, owned))


def call_claims(model: Model) -> Iterator[tuple[str, Formula]]:
    scheme, binder = model.scheme, model.binder
    foreign = exists((v.P1, v.S1), and_(
        v.GRANTED(v.R1, v.P1, v.S1), forall((v.F1,), not_(Eq(v.rid(v.F1), v.R1)))
    ))
    yield "only functions benefit from calls", forall((v.R1,), not_(foreign))
    if scheme.payload is Payload.MAP:
        yield "a map is granted under no PASID", forall(
            (v.F1, v.P1, v.S1), implies(v.grant(v.F1, v.P1, v.S1), Eq(v.P1, v.NO_PASID))
        )
        return
    assert binder is not None
    yield "PASID 0 is never granted", forall(
        (v.F1, v.S1), not_(v.grant(v.F1, v.NO_PASID, v.S1))
    )
    args = tuple(Var(f"{a.name}1", a.sort) for a in scheme.args)
    pasid, space = args or (v.P1, v.S1)
    live = exists((scheme.key1, *((v.C1,) if scheme.containers else ())), and_(
        binder.live(scheme.key1, *args),
        Eq(scheme.key1, scheme.key_of(v.F1, v.C1)),
        *([v.IN(v.group(v.F1), v.C1)] if scheme.containers else []),
    ))
    yield "a grant rests on a live call", forall(
        (v.F1, pasid, space), implies(v.grant(v.F1, pasid, space), live)
    )
    slot_args = (v.rid(v.F1), *args) if scheme.slot.sorts[0] == v.RID else args
    yield "a function without PASID is never programmed", forall(
        (v.F1, *args), implies(scheme.slot(*slot_args), v.CAPABLE(v.F1))
    )
    if scheme.payload is Payload.PROCESS:
        two = and_(binder.live(scheme.key1, v.P1, v.S1), binder.live(scheme.key1, v.P1, v.S2))
        yield "an object's PASID means one space", forall(
            (scheme.key1, v.P1, v.S1, v.S2), implies(two, Eq(v.S1, v.S2))
        )
        p2 = Var("p2", v.PASID)
        twice = and_(binder.live(scheme.key1, v.P1, v.S1), binder.live(scheme.key1, p2, v.S1))
        yield "a space has one PASID in an object", forall(
            (scheme.key1, v.P1, p2, v.S1), implies(twice, Eq(v.P1, p2))
        )
    if model.design.guards.singleton and scheme.object is Object.DEVICE:
        bound = exists(args, binder.live(scheme.key1, *args))
        yield "a live bind's group has one member", forall(
            (scheme.key1,), implies(bound, _alone_at_boot(scheme.key1))
        )


def _alone_at_boot(function: Var) -> Formula:
    """No other function of the group was there at boot (a later one may have been hot-added)."""
    other = Var("other", v.FUNCTION)
    sibling = and_(Eq(v.group(other), v.group(function)), not_(Eq(other, function)))
    return and_(
        not_(v.PORTED(v.group(function))), forall((other,), implies(sibling, not_(v.BOOT(other))))
    )


def table_claims(model: Model) -> Iterator[tuple[str, Formula]]:
    """Where the entries of a table come from."""
    scheme = model.scheme
    if scheme.slot.sorts and scheme.slot.sorts[0] == v.RID:
        args = tuple(Var(f"{s.name}.slot", s) for s in scheme.slot.sorts[1:])
        stray = and_(
            exists(args, scheme.slot(v.R1, *args)), forall((v.F1,), not_(Eq(v.rid(v.F1), v.R1)))
        )
        yield "only functions get entries", forall((v.R1,), not_(stray))
    if scheme.payload is Payload.PROCESS and scheme.object is Object.DEVICE:
        entry = scheme.walk(v.rid(v.F1), v.P1, v.S1)
        assert model.binder is not None
        rests = model.binder.live(v.F1, v.P1, v.S1)
        yield "an entry rests on a live call", forall(
            (v.F1, v.P1, v.S1), implies(entry, rests)
        )


def claims(model: Model) -> list[tuple[str, Formula]]:
    found = [(f"{n} is the join of grant", f) for n, f in ghosts.ghost_is_join(model.scheme)]
    found += [*stage_claims(model), *call_claims(model), *table_claims(model)]
    if model.scheme.containers:
        found += container_claims(model)
    return found


def violations(name: str, hot: bool, labels: Callable[[str], bool]) -> list[str]:
    model, machines = explored(name, hot)
    found = []
    for label, claim in claims(model):
        if labels(label):
            texts = (m.counterexample(claim) for m in machines)
            found += [f"{label}: {text}" for text in texts if text][:1]
    return found


@pytest.mark.parametrize(("name", "hot"), DESIGNS, ids=IDS)
def test_every_reachable_state_is_sane(name: str, hot: bool) -> None:
    _, machines = explored(name, hot)
    assert sum(len(m.states) for m in machines) > 300
    broken = violations(name, hot, lambda label: label not in LIFECYCLE_CLAIMS)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(("name", "hot"), DESIGNS, ids=IDS)
def test_open_functions_and_iommus_end_with_their_container(name: str, hot: bool) -> None:
    broken = violations(name, hot, lambda label: label in LIFECYCLE_CLAIMS)
    assert not broken, "\n".join(broken)


# -- vacuity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "hot"), DESIGNS, ids=IDS)
def test_every_action_fires_in_a_reachable_state(name: str, hot: bool) -> None:
    model, machines = explored(name, hot)
    every = {a.name for a in model.system.actions}

    def silent() -> set[str]:
        return every - set().union(*(m.fired for m in machines))

    search(machines, lambda: bool(silent()))
    assert silent() == set()


def refusals(model: Model) -> Iterator[tuple[str, str, str, Formula]]:
    """For each guard with an errno: (action, guard, errno, it is the first that fails)."""
    for act in model.system.actions:
        for i, guard in enumerate(act.guards):
            if guard.errno:
                passed = (g.condition for g in act.guards[:i])
                refused = exists(act.params, and_(*passed, not_(guard.condition)))
                yield act.name, guard.name, guard.errno, refused


@pytest.mark.parametrize(("name", "hot"), DESIGNS, ids=IDS)
def test_every_refusal_is_the_first_in_a_reachable_state(name: str, hot: bool) -> None:
    model, machines = explored(name, hot)
    scheme = model.scheme
    silent = {(a, g): f for a, g, _, f in refusals(model)}
    expected = {(a, g) for o, a, g in NEVER_REFUSES if o == scheme.object and (a, g) in silent}

    def missing() -> bool:
        for key, refused in list(silent.items()):
            if any(m.shows(refused) for m in machines):
                del silent[key]
        return bool(silent.keys() - expected)

    search(machines, missing)
    assert silent.keys() == expected


# -- the tests can fail ----------------------------------------------------------------------


def breaks(model: Model, act: str, label: str, *, guard: str = "", update: str = "") -> bool:
    """Whether a claim fails once a guard or an update of an action is left out."""
    old = model.system.action(act)
    new = old.without_guard(guard) if guard else old.without_update(update)
    system = model.system.with_action(new)
    worlds = (SAMPLES[0], SAMPLES[1], MIXED)
    instances = [w.instance(containers=2, pasids=2, spaces=2) for w in worlds]
    machines = [Explored(GroundSystem(system, x), seed) for seed, x in enumerate(instances)]
    negated = [not_(claim) for name, claim in claims(model) if label in name]

    def found() -> bool:
        return any(m.shows(n) for m in machines for n in negated)

    search(machines, lambda: not found())
    return found()


@pytest.mark.parametrize(
    ("name", "act", "drop", "label"),
    [
        ("bind-2018-device", "set-container", {"guard": "group-has-no-container"}, "at most one"),
        ("bind-2018-device", "set-container", {"guard": "group-viable"}, "no kernel driver"),
        ("bind-2018-device", "driver.bind", {"guard": "group-not-owned"}, "no kernel driver"),
        ("bind-2018-device", "device.open", {"guard": "iommu-set"}, "with an IOMMU"),
        ("bind-2018-device", "unset-container", {"guard": "devices-closed"}, "with an IOMMU"),
        ("bind-2018-device", "unset-container", {"update": "iommu_set"}, "has a group"),
        ("bind-2018-container", "unset-container", {"guard": "work-ended"}, "in a container"),
        ("bind-2018-device", "unbind.return", {"update": "ggrant"}, "ggrant is the join"),
        ("bind-2018-group", "unbind.return", {"update": "cgrant"}, "cgrant is the join"),
        ("bind-2018-container", "unbind.return", {"update": "grant"}, "rests on a live call"),
        ("bind-2018-group", "bind.visit", {"guard": "member-pasid-capable"}, "without PASID"),
        ("bind-2018-device", "bind.return", {"update": "binding"}, "at one stage"),
        ("sva-2018-vfio", "bind.enter", {"guard": "space-not-bound"}, "one PASID in an object"),
        ("sva-2018-core", "bind.enter", {"guard": "group-is-singleton"}, "has one member"),
        ("sva-2018-core", "unbind.clear", {"update": "pasid_entry"}, "entry rests on a live"),
        ("sva-2018-core", "bind.enter", {"guard": "pasid-not-zero"}, "PASID 0"),
    ],
)
def test_a_mutant_breaks_a_claim(name: str, act: str, drop: dict[str, str], label: str) -> None:
    assert breaks(build(load(name)), act, label, **drop)
