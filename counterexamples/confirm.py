"""From a candidate run to a refutation: replay it on the machine, minimise it, write it down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from dmaproof.counterexamples.bits.fabric import topology_of
from dmaproof.counterexamples.explain import Falsified, holder
from dmaproof.counterexamples.trace import (
    Hop,
    Trace,
    TraceStep,
    Violation,
    differences,
    end_of,
    facts_of,
    named,
    replayed,
    sentence,
)
from dmaproof.engine.case import Case, Chain
from dmaproof.engine.driver import anonymous, target
from dmaproof.engine.explicit import search
from dmaproof.engine.finding import Candidate
from dmaproof.engine.worlds import World
from dmaproof.model.logic.sets import (
    Instance,
    ReplayError,
    Step,
    apply,
    failing_guard,
    initial_state,
    replay,
)
from dmaproof.model.logic.terms import Kind
from dmaproof.model.pcie.channels import Channel, Edge
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Property, PropertyKind

CLOSED_LIMIT = 6
"""Functions up to which a run that needs its group mates is searched anew with all of them."""

LARGE = 32
"""Functions up to which all of a group take part in a replay."""


@dataclass(frozen=True)
class Refused:
    """A candidate that did not replay; never shown as a refutation."""

    reason: str


def confirm(candidate: Candidate, prop: Property, model: Model, case: Case) -> Trace | Refused:
    """Replay a candidate on its part of the machine; a trace only if it reproduces.

    The part is closed: every function of every group that takes part is there, since the kernel's
    loops visit them all. Of a group too large for that, two more of each kind stand for the others:
    a loop treats these as it treats their like, and what it sets up for them takes nothing away.
    """
    closed = _closed(candidate.chain, case)
    absent: frozenset[Bdf] = frozenset()
    if model.scheme.hot_add:  # who is not part of the run is never plugged in
        absent = frozenset(closed) - set(candidate.chain.functions)
        if len(candidate.chain.functions) > 1:
            absent |= {candidate.chain.functions[0]}
    world = case.world(closed, absent)
    found = _settled(
        _Identical(model), prop, anonymous(world), candidate.counts,
        tuple(_moved(candidate, world.instance(*candidate.counts), model)),
    )
    if isinstance(found, Refused):  # once more, to tell it in the machine's names
        instance = world.instance(*candidate.counts)
        steps = _completed(_moved(candidate, instance, model), model, instance)
        return Refused(_problem(steps, prop, model, instance) or found.reason)
    for name in [n for i, n in enumerate(world.functions) if i not in found.functions]:
        smaller = _drop(world, name)
        assert smaller is not None
        world = smaller
    small = world.instance(*found.counts)
    trace = _written(small, list(found.steps), prop, model, case)
    problem = replayed(trace)
    return Refused(problem) if problem else trace


@dataclass(frozen=True, eq=False)
class _Identical:
    """A model as part of a key: two are the same if they are one object."""

    model: Model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identical) and other.model is self.model


@dataclass(frozen=True)
class _Settled:
    """A run without anything that it does not need.

    Attributes:
        functions: places of those that are left, in the order of the world.
        counts: containers, PASIDs and spaces that are left.
    """

    steps: tuple[Step, ...]
    functions: tuple[int, ...]
    counts: tuple[int, int, int]


@lru_cache(maxsize=1024)
def _settled(
    model: _Identical, prop: Property, world: World, counts: tuple[int, int, int],
    given: tuple[Step, ...],
) -> _Settled | Refused:
    """Replay and minimise a run on a world whose functions have no names of their own.

    Many machines differ in names only, so that one answer serves them all.
    """
    system = model.model
    instance = world.instance(*counts)
    steps: list[Step] | None = _completed(list(given), system, instance)
    problem = _problem(steps, prop, system, instance)
    if problem and len(world.functions) <= CLOSED_LIMIT:
        steps = _searched(prop, system, instance)
        problem = _problem(steps, prop, system, instance)
    if problem or steps is None:
        return Refused(problem)
    steps = minimised(steps, prop, system, instance)
    left, counts, steps = _without_idle(steps, prop, system, world, counts)
    places = tuple(i for i, n in enumerate(world.functions) if n in left.functions)
    return _Settled(tuple(steps), places, counts)


def _closed(chain: Chain, case: Case) -> tuple[Bdf, ...]:
    members = dict.fromkeys(chain.functions)
    for function in chain.functions:
        members.update(dict.fromkeys(case.mates(function, LARGE)))
    return tuple(members)


def _moved(candidate: Candidate, instance: Instance, model: Model) -> list[Step]:
    """The candidate's steps on another instance, by the names of their elements."""
    source = candidate.world.instance(*candidate.counts)
    moved = []
    for step in candidate.steps:
        params = model.system.action(step.action).params
        args = tuple(
            instance.elements[p.sort].index(source.name(p.sort, a))
            for p, a in zip(params, step.args, strict=True)
        )
        moved.append(Step(step.action, args))
    return moved


def _completed(steps: list[Step], model: Model, instance: Instance) -> list[Step]:
    """The steps with the visits of further group members that the kernel's loops make."""
    visits = [a for a in model.system.actions if a.name in ("bind.visit", "join.visit")]
    state = initial_state(model.system, instance)
    found: list[Step] = []
    for step in steps:
        act = model.system.action(step.action)
        refused = failing_guard(act, step.args, instance, state)
        if refused is not None and refused.name in ("all-members-visited", "all-replayed"):
            for visit in visits:
                for args in instance.tuples(p.sort for p in visit.params):
                    if failing_guard(visit, args, instance, state) is None:
                        state = apply(visit, args, instance, state)
                        found.append(Step(visit.name, args))
        found.append(step)
        if failing_guard(act, step.args, instance, state) is None:
            state = apply(act, step.args, instance, state)
    return found


def _problem(
    steps: list[Step] | None, prop: Property, model: Model, instance: Instance
) -> str:
    """Why steps do not settle a property on an instance; "" if they do."""
    if steps is None:
        return "replay-failed: no run was found with all members of the groups present"
    try:
        states = replay(model.system, instance, steps)
        end_of(prop, model, instance, states[-1])
    except (ReplayError, ValueError) as error:
        return f"replay-failed: {error}"
    return ""


def _searched(prop: Property, model: Model, instance: Instance) -> list[Step] | None:
    found = search(model.system, instance, {prop.id: target(prop, model)},
                   max_states=60_000, seconds=10.0)
    return found.traces.get(prop.id)


def minimised(
    steps: list[Step], prop: Property, model: Model, instance: Instance
) -> list[Step]:
    """Leave out every step that is not needed, one at a time until none can go."""
    changed = True
    while changed:
        changed = False
        for place in range(len(steps)):
            shorter = steps[:place] + steps[place + 1 :]
            if not _problem(shorter, prop, model, instance):
                steps, changed = shorter, True
                break
    return steps


def _without_idle(
    steps: list[Step], prop: Property, model: Model, world: World, counts: tuple[int, int, int]
) -> tuple[World, tuple[int, int, int], list[Step]]:
    """Fewer containers, functions: objects that take no part are left out if it still replays."""
    instance = world.instance(*counts)
    if counts[0] > 1:
        fewer = world.instance(1, *counts[1:])
        if not _problem(_fits(steps, model, fewer), prop, model, fewer):
            instance, counts = fewer, (1, *counts[1:])
    for name in world.functions:
        smaller = _drop(world, name)
        if smaller is None:
            continue
        other = smaller.instance(*counts)
        moved = _renumbered(steps, model, instance, other)
        if not _problem(moved, prop, model, other):
            assert moved is not None
            world, instance, steps = smaller, other, moved
    return world, counts, steps


def _fits(steps: list[Step], model: Model, instance: Instance) -> list[Step] | None:
    for step in steps:
        params = model.system.action(step.action).params
        if any(a not in instance.domain(p.sort) for p, a in zip(params, step.args, strict=True)):
            return None
    return steps


def _renumbered(
    steps: list[Step], model: Model, old: Instance, new: Instance
) -> list[Step] | None:
    moved = []
    for step in steps:
        params = model.system.action(step.action).params
        args = []
        for param, arg in zip(params, step.args, strict=True):
            name = old.name(param.sort, arg)
            if name not in new.elements[param.sort]:
                return None
            args.append(new.elements[param.sort].index(name))
        moved.append(Step(step.action, tuple(args)))
    return moved


def _drop(world: World, name: str) -> World | None:
    """The world without a function that shares its group with nobody."""
    rest = tuple(f for f in world.functions if f != name)
    mine = world.groups[name]
    if not rest or any(world.groups[f] == mine for f in rest):
        return None  # a group mate is visited by the kernel's loops: it stays

    def both(pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        return frozenset(p for p in pairs if name not in p)

    return replace(
        world, functions=rest, groups={f: world.groups[f] for f in rest},
        influence=both(world.influence), emits=both(world.emits), p2p=both(world.p2p),
        ported=world.ported & {world.groups[f] for f in rest},
        incapable=world.incapable - {name}, bad_path=world.bad_path - {name},
        raw=world.raw - {name}, absent=world.absent - {name},
    )


# -- writing --------------------------------------------------------------------------------


def _written(
    instance: Instance, steps: list[Step], prop: Property, model: Model, case: Case
) -> Trace:
    states = replay(model.system, instance, steps)
    written = []
    for step, before, after in zip(steps, states, states[1:], strict=False):
        act = model.system.action(step.action)
        names = {
            p.name: instance.name(p.sort, a)
            for p, a in zip(act.params, step.args, strict=True)
        }
        written.append(TraceStep(
            action=step.action, args=names,
            changed=differences(model, instance, before, after),
            says=sentence(act.says or act.name, names),
        ))
    end = end_of(prop, model, instance, states[-1])
    functions = {n: case.machine.by_label(n).bdf for n in instance.elements[v.FUNCTION]}
    edges = _edges(dict(end.objects), prop, case, functions)
    return Trace(
        design=model.design.model_dump(by_alias=True, mode="json"),
        machine=case.machine.name,
        topology=_topology(instance, case, functions),
        grouping=case.grouping,
        assumptions=literals(prop, end, case, functions, edges, model),
        hot_add=model.scheme.hot_add,
        property=prop.id,
        facts=facts_of(model, instance),
        initial={
            r.name: named(instance, r, states[0][r])
            for r in model.system.rels if r.kind is not Kind.STATIC and states[0][r]
        },
        steps=written,
        violation=_violation(prop, end, model, case, edges, instance, states[-1]),
    )


def _topology(
    instance: Instance, case: Case, functions: dict[str, Bdf]
) -> dict[str, object]:
    """The part of the machine that the run needs: its functions and the deputies between them."""
    bdfs = list(functions.values())
    pairs = ((bdfs[f], bdfs[h]) for f, h in instance.facts[v.INFLUENCE] if f != h)
    return topology_of(case.machine, case.reach, bdfs, pairs)


def _violation(
    prop: Property, end: Falsified, model: Model, case: Case, edges: list[Edge],
    instance: Instance, state: object,
) -> Violation:
    objects = dict(end.objects)
    path = _path(edges, case)
    template = prop.says if prop.kind is PropertyKind.CAN else prop.violated
    return Violation(
        property=prop.id,
        says=sentence(template, objects),
        conjunct=end.conjunct,
        function=objects.get("f1"),
        pasid=objects.get("p1"),
        space=objects.get("s1"),
        objects=objects,
        held_by=holder(model, instance, state, objects),  # type: ignore[arg-type]
        path=path,
        channels=list(dict.fromkeys(h.channel for h in path)),
    )


def _edges(
    objects: dict[str, str], prop: Property, case: Case, functions: dict[str, Bdf]
) -> list[Edge]:
    """The leak edges from the guilty function to the one whose binding it uses.

    The guilty function may be any function of the run, not only one of the chain that was searched:
    a group mate that the kernel's loops brought in does as well.
    """
    owner = objects.get("r1", "").removeprefix("rid(").removesuffix(")") or objects.get("h1", "")
    source = objects.get("f1", "")
    if source not in functions or owner not in functions or source == owner:
        return []
    ends, assume = (functions[source], functions[owner]), case.assumptions.fabric()
    if prop.id in _TO_A_BAR:
        return [case.fabric.edge(*ends, assume, frozenset({Channel.PEER_TO_PEER}))]
    return case.fabric.witness(*ends, assume)


def _path(edges: list[Edge], case: Case) -> list[Hop]:
    return [
        Hop(
            channel=e.channel.value, source=case.name(e.source),
            target=case.name(e.target) if e.target is not None else f"rid {e.rid:04x}",
            reason=e.reason, cuts=[f"{c.bits} at {c.port}" for c in e.cuts],
        )
        for e in edges
    ]


_TO_A_BAR = ("no-misroute", "can-p2p-and-pasid")
"""Properties about requests that end at a BAR: nobody works for whoever sent them."""


def literals(
    prop: Property, end: Falsified, case: Case, functions: dict[str, Bdf], edges: list[Edge],
    model: Model,
) -> dict[str, str]:
    """The assumption literals that a run rests on."""
    found: dict[str, bool] = {}
    for edge in edges:
        found.update(dict(edge.requires))
    if any(e.channel is Channel.PEER_TO_PEER for e in edges) and prop.id not in _TO_A_BAR:
        found["deputy"] = True
    if model.scheme.hot_add:
        found["static_fabric"] = False
    raw = {name for name, function in functions.items() if case.raw(function)}
    if case.ats and not edges and end.objects.get("f1") in raw:
        found["ats_honest"] = False
    return {n: "on" if value else "off" for n, value in sorted(found.items())}
