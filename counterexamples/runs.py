"""Runs of scenarios: replayed, minimised, put in words, written down.

A `Run` of the engines is a candidate. It counts once it has been replayed in the set reading and
its end shows what it is said to show: that a claim is violated, that what can happen has happened,
or that a call is made as a claim says and is refused with the errno it names. The file
(`dmaproof/run/1`) carries the whole design and its small world, so it replays anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmaproof.counterexamples.explain import Falsified, falsified, satisfied
from dmaproof.counterexamples.trace import (
    Facts,
    Name,
    TraceStep,
    Tuples,
    differences,
    facts_of,
    instance_of,
    named,
    read,
    sentence,
    steps_of,
)
from dmaproof.engine.cache import keep
from dmaproof.engine.scenarios import Run
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import (
    Instance,
    ReplayError,
    State,
    Step,
    failing_guard,
    replay,
)
from dmaproof.model.logic.terms import Kind, not_
from dmaproof.model.scenario import (
    Claim,
    ClaimKind,
    Scenario,
    StudyDesign,
    family_of,
)

SCHEMA: Final = "dmaproof/run/1"

Shows = Literal["violated", "happens", "refused"]
"""What the end of a run shows about a claim."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class End(_Strict):
    """What the last state shows.

    Attributes:
        shows: about the claim.
        says: in a sentence.
        conjunct: the part of the claim that is false (or true, for what can happen).
        objects: the elements it is about, by variable.
        call: for a refused call its name.
        guard: the first guard that fails.
        errno: what the call returns.
    """

    shows: Shows
    says: str
    conjunct: str
    objects: dict[Name, Name]
    call: Name = ""
    guard: Name = ""
    errno: Name = ""


class RunTrace(_Strict):
    """A replayable run of a scenario."""

    schema_: Annotated[Literal["dmaproof/run/1"], Field(alias="schema")] = SCHEMA
    design: dict[str, Any]
    claim: Name
    says: str
    world: Facts
    initial: dict[Name, Tuples]
    steps: Annotated[list[TraceStep], Field(max_length=10_000)]
    end: End

    def dump(self) -> str:
        """The run as JSON text."""
        data = self.model_dump(by_alias=True, mode="json")
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Rejected:
    """A candidate that did not replay, or shows something else; never shown as a refutation."""

    reason: str


# -- from a candidate to a run --------------------------------------------------------------


def confirm(
    design: StudyDesign, claim: Claim, run: Run, shows: Shows, *, minimal: bool = False,
    scenario: Scenario | None = None,
) -> RunTrace | Rejected:
    """Replay a candidate; a run only if it reproduces and ends as it should.

    Args:
        design: the design.
        claim: one of its claims.
        run: the candidate.
        shows: what its end must show.
        minimal: the run was minimised before.
        scenario: the design's scenario with further worlds, if the run is in one of those.
    """
    found = scenario or design.scenario
    if not 0 <= run.world < len(found.instances):
        return Rejected(f"replay-failed: there is no world {run.world}")
    instance = found.instances[run.world]
    steps = list(run.steps)
    if not minimal:
        problem = _problem(found, instance, claim, steps, shows)
        if problem:
            return Rejected(f"replay-failed: {problem}")
        steps = minimised(found, instance, claim, steps, shows)
    try:
        return _written(design, found, instance, claim, steps, shows)
    except (ReplayError, ValueError) as error:
        return Rejected(f"replay-failed: {error}")


def minimised(
    scenario: Scenario, instance: Instance, claim: Claim, steps: Sequence[Step], shows: Shows
) -> list[Step]:
    """Leave out every step that is not needed, one at a time until none can go."""
    kept = list(steps)
    place = len(kept) - 1
    while place >= 0:
        shorter = kept[:place] + kept[place + 1 :]
        if _problem(scenario, instance, claim, shorter, shows):
            place -= 1
        else:
            kept, place = shorter, len(shorter) - 1
    return kept


def _problem(
    scenario: Scenario, instance: Instance, claim: Claim, steps: Sequence[Step], shows: Shows
) -> str:
    try:
        last = replay(scenario.system, instance, steps)[-1]
        _end_of(scenario, instance, claim, last, shows)
    except (ReplayError, ValueError) as error:
        return str(error)
    return ""


def _end_of(
    scenario: Scenario, instance: Instance, claim: Claim, state: State, shows: Shows
) -> End:
    """What the last state shows.

    Raises:
        ValueError: not what it is said to show.
    """
    if shows == "refused":
        return _refusal(scenario, instance, claim, state)
    if (shows == "happens") != (claim.kind is ClaimKind.CAN):
        raise ValueError(f"{claim.id} is not a claim of that kind")
    if claim.kind is ClaimKind.CAN:
        found, template = satisfied(claim.formula, instance, state), claim.says
    else:
        found, template = falsified(claim.formula, instance, state), claim.violated
    return _end(found, shows, template or f"not so: {claim.says}")


def _refusal(scenario: Scenario, instance: Instance, claim: Claim, state: State) -> End:
    if claim.kind is not ClaimKind.REFUSED or claim.when is None:
        raise ValueError(f"{claim.id} is not about a refused call")
    found = falsified(not_(claim.when), instance, state)
    act = scenario.system.action(claim.action)
    env = {p.name: p.sort for p in act.params}
    if set(env) - set(found.objects):
        raise ValueError(f"{claim.id} does not say with which arguments {claim.action} is called")
    args = tuple(instance.elements[p.sort].index(found.objects[p.name]) for p in act.params)
    guard = failing_guard(act, args, instance, state)
    if guard is None or guard.errno != claim.errno:
        got = "succeeds" if guard is None else f"returns {guard.errno or 'nothing, but waits'}"
        raise ValueError(f"{claim.action} {got} there, and not {claim.errno}")
    names = {n: found.objects[n] for n in env}
    says = sentence(act.says or act.name, names)
    return End(
        shows="refused", says=f"{says}: refused with {guard.errno} by guard {guard.name}",
        conjunct=found.conjunct, objects=names, call=act.name, guard=guard.name,
        errno=guard.errno,
    )


def _end(found: Falsified, shows: Shows, template: str) -> End:
    objects = dict(found.objects)
    return End(shows=shows, says=sentence(template, objects), conjunct=found.conjunct,
               objects=objects)


def _written(
    design: StudyDesign, scenario: Scenario, instance: Instance, claim: Claim,
    steps: Sequence[Step], shows: Shows,
) -> RunTrace:
    """The run as data.

    Raises:
        ReplayError: the system does not allow it.
        ValueError: its end does not show what it is said to show.
    """
    system = scenario.system
    states = replay(system, instance, steps)
    written = []
    for step, before, after in zip(steps, states, states[1:], strict=False):
        act = system.action(step.action)
        names = {
            p.name: instance.name(p.sort, a) for p, a in zip(act.params, step.args, strict=True)
        }
        written.append(TraceStep(
            action=step.action, args=names,
            changed=differences(scenario, instance, before, after),
            says=sentence(act.says or act.name, names),
        ))
    return RunTrace(
        design=design.model_dump(by_alias=True, mode="json"),
        claim=claim.id,
        says=claim.says,
        world=facts_of(scenario, instance),
        initial={
            r.name: named(instance, r, states[0][r])
            for r in system.rels if r.kind is not Kind.STATIC and states[0][r]
        },
        steps=written,
        end=_end_of(scenario, instance, claim, states[-1], shows),
    )


# -- files ----------------------------------------------------------------------------------


def load(path: str) -> RunTrace:
    """Read a run.

    Raises:
        InputError: unreadable, not JSON, or not a run.
    """
    return parse(read(path), path)


def parse(data: Any, where: str) -> RunTrace:  # noqa: ANN401
    """Return the run that JSON data describe.

    Raises:
        InputError: they describe none.
    """
    try:
        return RunTrace.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"not a run: {first['msg']} at {key}", where,
                         "edited by hand, or of another version",
                         "`dmaproof study --out DIR` writes runs") from None


def design_of(trace: RunTrace) -> StudyDesign:
    """The design that a run carries.

    Raises:
        InputError: it is bad.
    """
    try:
        design = StudyDesign.model_validate(trace.design)
        family_of(design.family).options.model_validate(design.options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"the design in the run is bad: {first['msg']}", "design",
                         "edited by hand", "write the run anew") from None
    except KeyError:
        raise InputError("the design in the run is of a family that does not exist",
                         "design.family", "edited by hand, or of another version",
                         "write the run anew") from None
    return design


def replayed(trace: RunTrace) -> str:
    """Replay a run; "" if it reproduces, else why it does not.

    Raises:
        InputError: the file contradicts itself.
    """
    scenario = design_of(trace).scenario
    claim = scenario.claims.get(trace.claim)
    if claim is None:
        raise InputError(f"its design makes no claim {trace.claim!r}", "claim", "edited by hand",
                         f"claims: {', '.join(scenario.claims)}")
    instance = instance_of(trace.world, scenario)
    try:
        steps = steps_of(trace.steps, scenario, instance)
        states = replay(scenario.system, instance, steps)
        end = _end_of(scenario, instance, claim, states[-1], trace.end.shows)
    except (ReplayError, ValueError) as error:
        return str(error)
    for place, step in enumerate(trace.steps):
        if differences(scenario, instance, states[place], states[place + 1]) != step.changed:
            return f"step {place + 1}: the model changes something else than the run says"
    if end != trace.end:
        return "the last state shows something else than the run says"
    return ""


# -- words ----------------------------------------------------------------------------------


def lines(trace: RunTrace) -> Iterator[tuple[str, str]]:
    """Yield the lines of a run, each with its role (see `counterexamples.show`)."""
    head = {"violated": "A run that violates", "happens": "A run that shows",
            "refused": "A run to the call that is refused:"}[trace.end.shows]
    yield f"{head} {trace.claim} of {trace.design.get('name', '?')}", "head"
    yield f"claim: {trace.says}", "note"
    yield f"world: {_world(trace.world)}", "note"
    if not trace.steps:
        yield "  0. nothing happens", "step"
    for number, step in enumerate(trace.steps, 1):
        yield f"{number:3}. {step.says}", "step"
    yield f"  => {trace.end.says}", "end"
    truth = {"violated": "false", "happens": "holds", "refused": "holds"}[trace.end.shows]
    objects = ", ".join(f"{n} = {v}" for n, v in trace.end.objects.items())
    yield f"     {truth}: {trace.end.conjunct}{f' where {objects}' if objects else ''}", "note"


def _world(world: Facts) -> str:
    sorts = [f"{sort} {', '.join(names)}" for sort, names in world.elements.items()]
    facts = [f"{rel}({', '.join(row)})" for rel, rows in world.relations.items() for row in rows]
    values = [
        f"{fn}({', '.join(row[:-1])}) = {row[-1]}"
        for fn, rows in world.functions.items() for row in rows
    ]
    return "; ".join([*sorts, *values, *facts])


def write(trace: RunTrace, path: Path) -> None:
    """Write a run, in place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keep(path, trace.dump().encode())
