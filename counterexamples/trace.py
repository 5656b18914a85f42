"""Traces: a run that settles a property, with all that is needed to replay it.

The file (`dmaproof/trace/1`) carries the design itself and the facts of the functions that take
part, so that it replays on another computer, years later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmaproof.counterexamples.explain import Falsified, falsified, holder, satisfied
from dmaproof.model.design import Design
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance, ReplayError, State, Step, replay
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Kind, Rel, Sort
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Property, PropertyKind
from dmaproof.properties.registry import find

SCHEMA: Final = "dmaproof/trace/1"
MAX_BYTES = 16 << 20

Name = Annotated[str, Field(max_length=200)]
Tuples = list[list[Name]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Changed(_Strict):
    """What a step changed in one relation."""

    added: Tuples = []
    removed: Tuples = []


class TraceStep(_Strict):
    """One step: the action, its arguments by parameter, what it changed, and a sentence."""

    action: Name
    args: dict[Name, Name]
    changed: dict[Name, Changed]
    says: str = ""


class Hop(_Strict):
    """One edge of the leak path."""

    channel: Name
    source: Name
    target: Name
    reason: str
    cuts: list[str] = []


class Violation(_Strict):
    """Where the run ends."""

    property: Name
    says: str
    conjunct: str
    function: Name | None
    pasid: Name | None
    space: Name | None
    objects: dict[Name, Name]
    held_by: str
    path: list[Hop]
    channels: list[Name]


class Facts(_Strict):
    """The instance: elements of each sort, functions, static relations."""

    elements: dict[Name, list[Name]]
    functions: dict[Name, list[list[Name]]]
    relations: dict[Name, Tuples]


class Trace(_Strict):
    """A replayable run.

    Attributes:
        topology: the part of the machine that routes the requests of the functions that take part
            (``dmaproof/machine/1``); None in traces that were written before it was recorded.
    """

    schema_: Annotated[Literal["dmaproof/trace/1"], Field(alias="schema")] = SCHEMA
    design: dict[str, Any]
    machine: Name
    topology: dict[str, Any] | None = None
    grouping: Name
    assumptions: dict[Name, Name]
    hot_add: bool = False
    property: Name
    facts: Facts
    initial: dict[Name, Tuples]
    steps: Annotated[list[TraceStep], Field(max_length=10_000)]
    violation: Violation

    def dump(self) -> str:
        """The trace as JSON text."""
        data = self.model_dump(by_alias=True, mode="json")
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def read(path: str) -> Any:  # noqa: ANN401
    """Read the JSON data of a trace file, of whichever schema.

    Raises:
        InputError: unreadable, or not JSON.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError("larger than 16 MiB", path, "not a trace", "name a trace file")
        return json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"not a trace file: {error}", path,
                         "truncated, binary, or another kind of file",
                         "`dmaproof check --out DIR` writes traces") from None


def load(path: str) -> Trace:
    """Read a trace file.

    Raises:
        InputError: unreadable, not JSON, or not a trace.
    """
    return parse(read(path), path)


def parse(data: Any, where: str) -> Trace:  # noqa: ANN401
    """Return the trace that JSON data describe.

    Raises:
        InputError: they describe none.
    """
    try:
        return Trace.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"not a trace: {first['msg']} at {key}", where,
                         "edited by hand, or of another version",
                         "`dmaproof check --out DIR` writes traces") from None


# -- between a trace and the logic ----------------------------------------------------------


class Systematic(Protocol):
    """What has a transition system: a model of a design, a scenario of a family."""

    @property
    def system(self) -> System:
        """The transition system."""


def named(instance: Instance, rel: Rel, tuples: Iterable[tuple[int, ...]]) -> Tuples:
    """Tuples with the names of their elements, sorted."""
    return sorted(
        [instance.name(s, a) for s, a in zip(rel.sorts, t, strict=True)] for t in tuples
    )


def facts_of(model: Systematic, instance: Instance) -> Facts:
    """An instance as data."""
    functions = {
        fn.name: sorted(
            [*(instance.name(s, a) for s, a in zip(fn.sorts, args, strict=True)),
             instance.name(fn.result, value)]
            for args, value in instance.functions[fn].items()
        )
        for fn in model.system.fns
    }
    statics = [r for r in model.system.rels if r.kind is Kind.STATIC]
    return Facts(
        elements={s.name: list(e) for s, e in instance.elements.items()},
        functions=functions,
        relations={r.name: named(instance, r, instance.facts.get(r, ())) for r in statics},
    )


def instance_of(facts: Facts, model: Systematic) -> Instance:
    """The instance that the facts of a trace describe.

    Raises:
        InputError: an element, function or relation does not fit the design.
    """
    sorts = {s.name: s for s in model.system.sorts}
    elements = {s: tuple(facts.elements.get(n, ())) for n, s in sorts.items()}

    def number(sort: Sort, name: str) -> int:
        try:
            return elements[sort].index(name)
        except ValueError:
            raise InputError(f"{name!r} is no {sort} of the trace", "facts",
                             "edited by hand", "write the trace anew") from None

    functions = {}
    for fn in model.system.fns:
        table = {}
        for row in facts.functions.get(fn.name, []):
            if len(row) != len(fn.sorts) + 1:
                raise InputError(f"{fn.name} has a row of the wrong length", "facts.functions",
                                 "edited by hand", "write the trace anew")
            args = tuple(number(s, x) for s, x in zip(fn.sorts, row[:-1], strict=True))
            table[args] = number(fn.result, row[-1])
        functions[fn] = table
    content = {}
    for rel in model.system.rels:
        if rel.kind is Kind.STATIC:
            rows = facts.relations.get(rel.name, [])
            if any(len(r) != len(rel.sorts) for r in rows):
                raise InputError(f"{rel.name} has a row of the wrong length", "facts.relations",
                                 "edited by hand", "write the trace anew")
            content[rel] = frozenset(
                tuple(number(s, x) for s, x in zip(rel.sorts, r, strict=True)) for r in rows
            )
    instance = Instance(elements, functions, content)
    try:
        instance.check(model.system)
    except ValueError as error:
        raise InputError(f"the facts contradict the model: {error}", "facts",
                         "edited by hand", "write the trace anew") from None
    return instance


def model_of(trace: Trace) -> Model:
    """The transition system of a trace's design.

    Raises:
        InputError: the design in the trace is bad.
    """
    try:
        return build(Design.model_validate(trace.design), trace.hot_add)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"the design in the trace is bad: {first['msg']}", "design",
                         "edited by hand", "write the trace anew") from None


def steps_of(
    steps: Iterable[TraceStep], model: Systematic, instance: Instance
) -> list[Step]:
    """The steps as numbers.

    Raises:
        ReplayError: an action or argument that the system does not have.
    """
    found = []
    for place, step in enumerate(steps, 1):
        try:
            act = model.system.action(step.action)
            args = tuple(
                instance.elements[p.sort].index(step.args[p.name]) for p in act.params
            )
        except (KeyError, ValueError) as error:
            raise ReplayError(f"step {place}: {step.action}: unknown {error}") from None
        found.append(Step(step.action, args))
    return found


def end_of(prop: Property, model: Model, instance: Instance, state: State) -> Falsified:
    """What the last state shows about a property.

    Raises:
        ValueError: the property is not violated (a `can` property: not witnessed).
    """
    formula = prop.formula(model)
    if prop.kind is PropertyKind.CAN:
        return satisfied(formula, instance, state)
    return falsified(formula, instance, state)


def differences(
    model: Systematic, instance: Instance, before: State, after: State
) -> dict[str, Changed]:
    """What a step changed, by relation."""
    found = {}
    for rel in model.system.rels:
        if rel.kind is Kind.STATIC or before[rel] == after[rel]:
            continue
        found[rel.name] = Changed(
            added=named(instance, rel, after[rel] - before[rel]),
            removed=named(instance, rel, before[rel] - after[rel]),
        )
    return found


def replayed(trace: Trace) -> str:
    """Replay a trace; "" if it reproduces, else why it does not.

    Raises:
        InputError: the trace contradicts itself.
    """
    model = model_of(trace)
    instance = instance_of(trace.facts, model)
    prop = find(trace.property)
    try:
        steps = steps_of(trace.steps, model, instance)
        states = replay(model.system, instance, steps)
    except ReplayError as error:
        return str(error)
    for place, step in enumerate(trace.steps):
        if differences(model, instance, states[place], states[place + 1]) != step.changed:
            return f"step {place + 1}: the model changes something else than the trace says"
    try:
        end = end_of(prop, model, instance, states[-1])
    except ValueError as error:
        return f"the last state: {error}"
    if dict(end.objects) != trace.violation.objects:
        return "the last state shows other objects than the trace says"
    if holder(model, instance, states[-1], end.objects) != trace.violation.held_by:
        return "another table or cache holds the entry than the trace says"
    return ""


def sentence(template: str, names: Mapping[str, str]) -> str:
    """A sentence with its objects filled in; unknown ones stay as they are."""
    text = template
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text
