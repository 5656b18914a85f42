"""Replays a rule-layer trace on the bits, step by step, and compares after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dmaproof.counterexamples.bits.alpha import Alpha
from dmaproof.counterexamples.bits.gamma import DEFAULT_TABLES, Args, Gamma
from dmaproof.counterexamples.bits.landing import Ending, NotReproduced, Seen, granted, show
from dmaproof.counterexamples.bits.memory import Event
from dmaproof.counterexamples.bits.places import Places, machine_of
from dmaproof.counterexamples.bits.unit import NotExecuted, Tables, registers
from dmaproof.counterexamples.trace import Trace, instance_of, model_of, replayed, steps_of
from dmaproof.model.errors import InputError
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd.registers import Registers

FAILED = "replay-failed"


@dataclass(frozen=True)
class Done:
    """One step as it was executed.

    Attributes:
        action: its name in the rule layer.
        says: the trace's sentence.
        stutter: why it writes nothing ("" if it may).
        events: quadwords written, descriptors queued, cache entries taken in or lost.
    """

    action: str
    says: str
    stutter: str
    events: tuple[Event, ...] = ()


@dataclass
class Replay:
    """A trace replayed on the bits.

    Attributes:
        result: "reproduced", or "undecided".
        reason: why it is undecided, else "".
        tables: the table format.
        steps: those executed.
        end: what the end shows.
        gamma: the machine as the replay left it (None if it never started).
        places: where the objects of the trace lie.
    """

    result: Literal["reproduced", "undecided"]
    reason: str
    tables: Tables
    steps: list[Done] = field(default_factory=list)
    end: Seen = field(default_factory=Seen)
    gamma: Gamma | None = None
    places: Places | None = None


class Observer(Protocol):
    """Follows a replay, such as another implementation of the unit.

    Each may raise NotReproduced: it shows something else than the engine.
    """

    def registers(self, tables: Tables, root: int) -> Registers:
        """Return the registers of a unit."""

    def booted(self, gamma: Gamma) -> None:
        """The machine is as it is before the first step."""

    def stepped(self, gamma: Gamma, action: str, args: Args, stutter: str) -> None:
        """A step has been executed; its events are still in the journal."""

    def ended(self, gamma: Gamma, seen: Seen) -> None:
        """The end has been shown."""


class Nobody:
    """Looks away."""

    def registers(self, tables: Tables, root: int) -> Registers:
        """Return registers with the features that the table format needs."""
        return registers(tables, root)

    def booted(self, gamma: Gamma) -> None:
        """Do nothing."""

    def stepped(self, gamma: Gamma, action: str, args: Args, stutter: str) -> None:
        """Do nothing."""

    def ended(self, gamma: Gamma, seen: Seen) -> None:
        """Do nothing."""


def replay_on_bits(
    trace: Trace,
    machine: str | None = None,
    tables: Tables | None = None,
    observer: Observer | None = None,
) -> Replay:
    """Replay a trace on the bit-level engine.

    Args:
        trace: the trace.
        machine: a machine to replay it on, where the trace carries none.
        tables: the table format (default: what the design's calls programmed).
        observer: follows the replay.

    Raises:
        InputError: the trace contradicts itself, its machine is missing, or the format does not
            fit the design.
    """
    model = model_of(trace)
    chosen = tables or DEFAULT_TABLES[model.scheme.payload]
    problem = replayed(trace)
    if problem:
        return Replay("undecided", f"{FAILED}: the rules themselves: {problem}", chosen)
    instance = instance_of(trace.facts, model)
    places = Places(model, instance, machine_of(trace, machine))
    found = Replay("undecided", "", chosen, places=places)
    try:
        watching = observer or Nobody()
        found.gamma = Gamma(model, places, chosen, watching.registers)
        watching.booted(found.gamma)
        _run(trace, model, found.gamma, found, watching)
        watching.ended(found.gamma, found.end)
    except (NotReproduced, NotExecuted) as error:
        found.reason = f"{FAILED}: {error}"
        return found
    found.result = "reproduced"
    return found


def _run(trace: Trace, model: Model, gamma: Gamma, found: Replay, watching: Observer) -> None:
    instance = gamma.places.instance
    steps = steps_of(trace.steps, model, instance)
    alpha = Alpha(gamma)
    _agree(alpha, "at boot")
    calls = []
    for number, step in enumerate(steps, 1):
        act = model.system.action(step.action)
        args = {p.name: a for p, a in zip(act.params, step.args, strict=True)}
        words = {r: gamma.layout.entry_words(r) for r in gamma.places.rids}
        calls.append((step.action, args, words))
        says = trace.steps[number - 1].says
        found.steps.append(_done(gamma, step.action, args, says, watching))
        alpha.step(act, step.args)
        _agree(alpha, f"after step {number} ({step.action})")
    end = Ending(gamma, alpha, _objects(trace, gamma), granted(trace.assumptions), calls)
    found.end = end.seen
    show(trace.property, end)


def _done(gamma: Gamma, action: str, args: Args, says: str, watching: Observer) -> Done:
    """Execute one step and collect what it did.

    Raises:
        NotReproduced: the action has no meaning on the bits.
    """
    try:
        stutter = gamma.step(action, args)
    except KeyError:
        raise NotReproduced(f"action {action} has no meaning on the bits") from None
    watching.stepped(gamma, action, args, stutter)
    return Done(action, says, stutter, gamma.host.memory.taken())


def _agree(alpha: Alpha, when: str) -> None:
    """Compare bits and rules.

    Raises:
        NotReproduced: they differ.
    """
    problem = next(alpha.differences(), "")
    if problem:
        raise NotReproduced(f"{when}: {problem}")


def _objects(trace: Trace, gamma: Gamma) -> Mapping[str, int]:
    """Return the elements of a violation, by variable.

    Raises:
        InputError: one of them is no element of the trace.
    """
    sorts = {**_SORT_OF, "k": gamma.model.scheme.key.sort}
    found = {}
    for name, text in trace.violation.objects.items():
        sort = sorts.get(name[:1])
        elements = gamma.places.instance.elements[sort] if sort else ()
        if text not in elements:
            raise InputError(
                f"{name} = {text!r} is no element of the trace",
                "violation.objects",
                "edited by hand",
                "write the trace anew",
            )
        found[name] = elements.index(text)
    return found


_SORT_OF = {
    "f": v.FUNCTION,
    "h": v.FUNCTION,
    "x": v.FUNCTION,
    "r": v.RID,
    "p": v.PASID,
    "s": v.SPACE,
    "c": v.CONTAINER,
    "g": v.GROUP,
}
