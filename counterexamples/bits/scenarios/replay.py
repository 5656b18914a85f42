"""Replays a run of a scenario on the bits, step by step, and compares after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.replay import FAILED, Done
from dmaproof.counterexamples.bits.scenarios import NOTHING, REASONS, bits_of
from dmaproof.counterexamples.bits.scenarios.base import BitsOfFamily, Lookup, Moment, covered
from dmaproof.counterexamples.bits.unit import NotExecuted
from dmaproof.counterexamples.explain import falsified, satisfied
from dmaproof.counterexamples.runs import RunTrace, design_of, replayed
from dmaproof.counterexamples.trace import instance_of, steps_of
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance, State, apply, failing_guard, initial_state
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Formula, Not, Quantified, Rel, Sort
from dmaproof.model.scenario import Claim, ClaimKind, StudyDesign, family_of

REPLAYED = "replayed"
ROOM = 12
"""Elements of a sort that the layout of every family has room for."""


@dataclass
class RunReplay:
    """A run replayed on the bits.

    Attributes:
        result: "reproduced", "nothing" (no VT-d state: *reason* says why), or "undecided".
        reason: why it is not reproduced, else "".
        steps: those executed.
        end: what the end shows.
        bits: the machine as the replay left it (None if it never started).
    """

    result: Literal["reproduced", "nothing", "undecided"]
    reason: str
    steps: list[Done] = field(default_factory=list)
    end: Seen = field(default_factory=Seen)
    bits: BitsOfFamily | None = None

    @property
    def word(self) -> str:
        """"replayed", or the reason why it is not."""
        return REPLAYED if self.result == "reproduced" else self.reason


class Simulation:
    """Rules and bits side by side.

    Attributes:
        bits: the machine.
        state: of the rules.
    """

    def __init__(self, design: StudyDesign, instance: Instance) -> None:
        """Boot the machine of a design in a world.

        Raises:
            KeyError: the family has no bits.
        """
        self.scenario, self.instance = design.scenario, instance
        options = family_of(design.family).options.model_validate(design.options)
        self.bits = bits_of(design.family)(self.scenario, options, instance)
        self.state: State = initial_state(self.scenario.system, instance)

    def step(self, action: str, args: tuple[int, ...], says: str = "") -> Done:
        """Let rules and bits take a step (guards are not tested).

        Raises:
            NotReproduced: the action has no meaning on the bits.
            NotExecuted: the unit stopped.
        """
        act = self.scenario.system.action(action)
        after = apply(act, args, self.instance, self.state)
        named = {p.name: a for p, a in zip(act.params, args, strict=True)}
        stutter = self.bits.step(act, Moment(action, named, self.state, after))
        self.state = after
        return Done(action, says, stutter, self.bits.board.memory.taken())

    def allowed(self, act: Action, args: tuple[int, ...]) -> bool:
        """Whether the rules allow a step."""
        return failing_guard(act, args, self.instance, self.state) is None

    def differences(self) -> Iterator[str]:
        """Yield what the bits and the rules disagree about, in words."""
        for rel, found in self.bits.tables(self.state).items():
            rules = self.state[rel]
            for word, part in (("bits", found - rules), ("rules", rules - found)):
                if part:
                    rows = ", ".join(self._row(rel, row) for row in sorted(part))
                    yield f"only the {word} have {rows}"
        yield from covered(self.bits.held(), self.state)
        for lookup in self.bits.lookups(self.state):
            yield from self._looked_up(lookup)

    def _looked_up(self, lookup: Lookup) -> Iterator[str]:
        board, wire, request = self.bits.board, lookup.wire, lookup.request
        by_tables = board.pages_by_tables(wire, request)
        if by_tables != lookup.tables:
            yield (f"the tables give {_pages(by_tables)} to {lookup.says}, those of the rules"
                   f" {_pages(lookup.tables)}")
        reached = board.pages(wire, request) | set(board.device_pages(wire, request))
        beyond = reached - lookup.tables - lookup.caches
        if beyond:
            yield f"caches lead {lookup.says} to {_pages(beyond)}, those of the rules do not"

    def _row(self, rel: Rel, row: tuple[int, ...]) -> str:
        args = (self.instance.name(s, a) for s, a in zip(rel.sorts, row, strict=True))
        return f"{rel.name}({', '.join(args)})"

    def reading(self) -> State:
        """Return the state as the bits say it: what no bit shows is the rules' own."""
        found = dict(self.state)
        for rel, rows in self.bits.tables(self.state).items():
            found[rel] = frozenset(rows)
        cached: dict[Rel, frozenset[tuple[int, ...]]] = {}
        for entry in self.bits.held():
            cached[entry.rel] = cached.get(entry.rel, frozenset()) | (
                entry.rows & self.state[entry.rel]
            )
        for rel in self.bits.cached:
            if rel in found:
                found[rel] = cached.get(rel, frozenset())
        return found


def _pages(pages: set[int] | frozenset[int]) -> str:
    return ", ".join(f"{page:#x}" for page in sorted(pages)) or "no page"


def replay_run(trace: RunTrace) -> RunReplay:
    """Replay a run on the bit-level engine.

    Raises:
        InputError: the run contradicts itself.
    """
    problem = replayed(trace)
    if problem:
        return RunReplay("undecided", f"{FAILED}: the rules themselves: {problem}")
    design = design_of(trace)
    if design.family in REASONS:
        return RunReplay("nothing", REASONS[design.family])
    instance = instance_of(trace.world, design.scenario)
    _check_size(instance)
    found = RunReplay("undecided", "")
    try:
        simulation = Simulation(design, instance)
        found.bits = simulation.bits
        _run(trace, simulation, found)
        _end(trace, simulation, found)
    except (NotReproduced, NotExecuted) as error:
        found.reason = f"{FAILED}: {error}"
    return found


def _check_size(instance: Instance) -> None:
    """Refuse a world that does not fit the layout: device numbers, 8-bit domain ids, one table.

    Raises:
        InputError: a sort has too many elements.
    """
    for sort, names in instance.elements.items():
        if len(names) > ROOM:
            raise InputError(
                f"{len(names)} elements of sort {sort}; the replay on the bits has room for"
                f" {ROOM}", "world", "edited by hand: runs are made in small worlds",
                "write the run anew",
            )


def _run(trace: RunTrace, simulation: Simulation, found: RunReplay) -> None:
    _agree(simulation, "at boot")
    steps = steps_of(trace.steps, simulation.scenario, simulation.instance)
    for number, (step, written) in enumerate(zip(steps, trace.steps, strict=True), 1):
        found.steps.append(simulation.step(step.action, step.args, written.says))
        _agree(simulation, f"after step {number} ({step.action})")


def _agree(simulation: Simulation, when: str) -> None:
    problem = next(simulation.differences(), "")
    if problem:
        raise NotReproduced(f"{when}: {problem}")


def _end(trace: RunTrace, simulation: Simulation, found: RunReplay) -> None:
    """Judge the claim in the state as the bits say it, and let the family show it.

    Raises:
        NotReproduced: the bits say something else.
    """
    claim = simulation.scenario.claims[trace.claim]
    objects = _objects(claim, simulation, trace)
    if claim.id in simulation.bits.unseen:
        found.result, found.reason = "nothing", NOTHING + simulation.bits.unseen[claim.id]
        return
    if trace.end.shows != "refused":  # a refused call is no step: that tables agree is all
        simulation.bits.show(claim.id, objects, found.end)
    if trace.end.shows == "violated" and not found.end.says:
        raise NotReproduced(f"nothing on the bits shows {claim.id}")
    found.result = "reproduced"


def _objects(claim: Claim, simulation: Simulation, trace: RunTrace) -> Mapping[str, int]:
    """Return what the claim is about, in the state as the bits say it.

    Raises:
        NotReproduced: there the claim is not violated, what can happen has not happened, or the
            call is not refused.
    """
    state, instance = simulation.reading(), simulation.instance
    sorts = _sorts(claim.formula)
    try:
        if claim.kind is ClaimKind.CAN:
            names = satisfied(claim.formula, instance, state).objects
        elif claim.kind is ClaimKind.REFUSED:
            assert claim.when is not None
            names, sorts = trace.end.objects, _sorts(claim.when)
            act = simulation.scenario.system.action(claim.action)
            args = tuple(instance.elements[p.sort].index(names[p.name]) for p in act.params)
            guard = failing_guard(act, args, instance, state)
            if guard is None or guard.errno != claim.errno:
                raise ValueError(f"{claim.action} is not refused with {claim.errno}")
        else:
            names = falsified(claim.formula, instance, state).objects
    except ValueError as error:
        raise NotReproduced(f"in the state that the bits stand for: {error}") from None
    return {n: instance.elements[sorts[n]].index(text) for n, text in names.items() if n in sorts}


def _sorts(formula: Formula) -> Mapping[str, Sort]:
    """Return the sorts of the variables that a claim quantifies first."""
    match formula:
        case Not(Quantified(_, variables, _)) | Quantified(_, variables, _):
            return {x.name: x.sort for x in variables}
    return {}

