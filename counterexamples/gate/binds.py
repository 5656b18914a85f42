"""Two bind designs, property by property, on machines.

Each machine is asked twice: under the assumptions given, and with leak channels that devices could
refuse to serve switched off (`SOFTWARE`). Where every level is lost through the fabric anyway, the
second shows what the software itself gives away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dmaproof.counterexamples.expected import Asker
from dmaproof.counterexamples.gate.calls import Compiled, differences, leads_out_of, telling, worded
from dmaproof.counterexamples.gate.changes import (
    Change,
    Comparison,
    Operation,
    Relation,
    Shown,
)
from dmaproof.counterexamples.show import lines
from dmaproof.counterexamples.study.pool import Work, spread
from dmaproof.counterexamples.trace import Trace
from dmaproof.counterexamples.verdict import Verdict
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.driver import anonymous
from dmaproof.engine.worlds import World
from dmaproof.model.design import Design
from dmaproof.model.logic.sets import Instance, Step
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Property, PropertyKind
from dmaproof.properties.registry import PROPERTIES, applicable, find

SOFTWARE: Final = {"deputy": "off", "spoof": "off"}
"""Assumptions under which devices neither work for others nor lie about who they are."""

DESIGN_SECONDS = 60.0
OPERATION_SECONDS = 3.0
MOST_FUNCTIONS = 3
"""Machines of up to so many functions are searched for operations."""


@dataclass(frozen=True)
class _Ask:
    """What a worker is asked: one design, everywhere."""

    design: Design
    machines: tuple[Machine, ...]
    settings: tuple[Assumptions, ...]
    grouping: str | None


def _judging() -> Work:
    """Return what judges a design in a worker; engines serve all machines and assumptions."""
    def work(ask: _Ask) -> Iterator[tuple[int, int, Verdict]]:
        asker = Asker()
        wanted = [p for p in PROPERTIES if not p.asked_only]
        grouping = ask.grouping or ask.design.fabric.grouping
        for place, assumptions in enumerate(ask.settings):
            judge = asker.judge(ask.design, assumptions, grouping)
            for number, machine in enumerate(ask.machines):
                for verdict in judge.judge([machine], wanted):
                    yield place, number, verdict

    return work


_Key = tuple[int, int, str]
"""Which assumptions, which machine, which property."""


def compare(
    old: Design, new: Design, machines: Sequence[Machine], assumptions: Assumptions,
    grouping: str | None = None, progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare two bind designs.

    Args:
        old: the design as it was.
        new: the design as it is to be.
        machines: where they are compared.
        assumptions: a value for each.
        grouping: the grouping algorithm (None: each design's own).
        progress: is told what is done.
    """
    settings = [assumptions]
    quiet = {n: v for n, v in SOFTWARE.items() if assumptions.value(n) == "free"}
    if quiet:
        settings.append(Assumptions.of(dict(assumptions.values) | quiet))
    asks = [_Ask(d, tuple(machines), tuple(settings), grouping) for d in (old, new)]
    found: tuple[dict[_Key, Verdict], dict[_Key, Verdict]] = ({}, {})
    notes = []
    for event in spread(_judging, (), [(a, DESIGN_SECONDS) for a in asks], 2):
        if event.kind == "answer":
            place, number, verdict = event.value
            found[event.number][place, number, verdict.property] = verdict
            progress(f"{verdict.machine}, {verdict.property}")
        elif event.kind == "lost":
            notes.append(f"{asks[event.number].design.name}: {event.value}")
    matcher = _Matcher(old, new, machines, settings, grouping)
    keys = sorted({*found[0], *found[1]}, key=lambda k: (k[1], k[0], _order(k[2])))
    changes = []
    for key in keys:
        change = _change(key, found[0].get(key), found[1].get(key), matcher,
                         lost=bool(notes))
        if key[0]:
            change = replace(change, assumptions=quiet)
        changes.append(change)
    progress("operations")
    operations = _operations(matcher)
    return Comparison(old.name, new.name, tuple(changes), tuple(operations), tuple(notes))


def _order(prop: str) -> int:
    return [p.id for p in PROPERTIES].index(prop)


# -- one property on one machine ------------------------------------------------------------


def _change(
    key: _Key, before: Verdict | None, after: Verdict | None, matcher: _Matcher, *, lost: bool
) -> Change:
    prop = find(key[2])
    relation, reason = _relation(prop, before, after, matcher, key, lost=lost)
    shown = []
    if relation in (Relation.STRENGTHENED, Relation.INCOMPARABLE, Relation.LOST):
        shown += _shown("old", before)
    if relation in (Relation.WEAKENED, Relation.INCOMPARABLE, Relation.GAINED):
        shown += _shown("new", after)
    return Change(
        prop.id, prop.says, relation, before.result if before else "-",
        after.result if after else "-", reason, matcher.machines[key[1]].name,
        ability=prop.kind is PropertyKind.CAN, runs=tuple(shown),
    )


def _shown(side: str, verdict: Verdict | None) -> list[Shown]:
    if verdict is None or verdict.evidence is None:
        return []
    trace: Trace = verdict.evidence
    text = tuple(line for line, _ in lines(trace))
    return [Shown(side, text, trace.model_dump(by_alias=True, mode="json"))]


def _relation(
    prop: Property, before: Verdict | None, after: Verdict | None, matcher: _Matcher, key: _Key,
    *, lost: bool,
) -> tuple[Relation, str]:
    if lost and (before is None or after is None):
        return Relation.UNDECIDED, "an engine gave no answer"
    if after is None:
        assert before is not None
        kept = before.result != "proved" or before.vacuous
        return (Relation.SAME if kept else Relation.UNDECIDED), "has no meaning for the new design"
    if before is None:
        return Relation.SAME, f"{after.reason} (has no meaning for the old design)"
    pair = (before.result, after.result)
    if prop.kind is PropertyKind.CAN:
        change = {("proved", "refuted"): Relation.LOST, ("refuted", "proved"): Relation.GAINED}
        relation = Relation.UNDECIDED if "undecided" in pair else change.get(pair, Relation.SAME)
        return relation, after.reason
    if after.result == "proved":
        strengthened = before.result == "refuted"
        word = "every bind is refused" if after.vacuous else after.reason
        return (Relation.STRENGTHENED, f"now: {word}") if strengthened else (Relation.SAME, word)
    if "undecided" in pair:
        return Relation.UNDECIDED, after.reason if after.result == "undecided" else before.reason
    if before.result == "proved":
        return Relation.WEAKENED, after.reason
    return matcher.both_refuted(prop, before, after, key)


# -- calls ----------------------------------------------------------------------------------


class _Matcher:
    """Runs a design by the calls of another, each question once."""

    def __init__(
        self, old: Design, new: Design, machines: Sequence[Machine],
        settings: Sequence[Assumptions], grouping: str | None,
    ) -> None:
        hot = not settings[0].effective("static_fabric")
        self.models = (build(old, hot), build(new, hot))
        self.machines = machines
        self.settings = settings
        self.grouping = grouping
        self._compiled = tuple(Compiled(m.system) for m in self.models)
        self._known: dict[Any, bool | None] = {}
        self._cases: dict[tuple[int, int, str, bool], Case] = {}

    def case(self, model: Model, place: int, number: int) -> Case:
        """A machine as a design sees it, under some assumptions."""
        grouping = self.grouping or model.design.fabric.grouping
        key = (place, number, grouping, model.design.fabric.ats)
        if key not in self._cases:
            self._cases[key] = Case(self.machines[number], grouping, self.settings[place],
                                    ats=model.design.fabric.ats)
        return self._cases[key]

    def both_refuted(
        self, prop: Property, before: Verdict, after: Verdict, key: _Key
    ) -> tuple[Relation, str]:
        """Compare by calls two designs that both violate a property."""
        old, new = self.models
        kept = self._matched(prop, before, old, new, key)
        had = self._matched(prop, after, new, old, key)
        if kept is None or had is None:
            return Relation.UNDECIDED, "refuted for both; whether by the same calls was not found" \
                " out"
        match kept, had:
            case True, True:
                return Relation.SAME, "refuted for both, by the same calls"
            case False, True:
                return Relation.STRENGTHENED, \
                    f"the calls of the old run no longer do: {before.reason}"
            case True, False:
                return Relation.WEAKENED, f"also by calls that were harmless: {after.reason}"
        return Relation.INCOMPARABLE, "refuted for both, for each by calls that are harmless in" \
            " the other"

    def _matched(
        self, prop: Property, verdict: Verdict, source: Model, other: Model, key: _Key
    ) -> bool | None:
        trace = verdict.evidence
        if trace is None or applicable(prop, other):
            return None
        world = self._world(trace, other, key)
        if world is None:
            return None
        elements = trace.facts.elements
        counts = (len(elements.get(v.CONTAINER.name, "?")),
                  max(1, len(elements.get(v.PASID.name, "??")) - 1),
                  len(elements.get(v.SPACE.name, "?")))
        names = _renamed(world)
        instance = anonymous(world).instance(*counts)
        calls = _calls(trace, source, other, instance, names)
        if calls is None:
            return False  # the other design has no such calls
        asked = (other.design.name, prop.id, repr(anonymous(world)), counts, tuple(calls))
        if asked not in self._known:
            self._known[asked] = leads_out_of(
                other.system, instance, prop.formula(other), calls,
                telling(source.system, other.system), self._compiled[other is self.models[1]],
            )
        return self._known[asked]

    def _world(self, trace: Trace, other: Model, key: _Key) -> World | None:
        """The functions of a trace as the other design sees them."""
        case = self.case(other, key[0], key[1])
        wanted = set(trace.facts.elements.get(v.FUNCTION.name, ()))
        chosen: list[Bdf] = [d.bdf for d in case.functions if case.name(d.bdf) in wanted]
        return case.world(tuple(chosen)) if len(chosen) == len(wanted) else None


def _renamed(world: World) -> dict[str, str]:
    """Names of functions, requester ids and groups of a world as its anonymous twin has them."""
    twin = anonymous(world)
    found = dict(zip(world.functions, twin.functions, strict=True))
    found |= {f"rid({a})": f"rid({b})" for a, b in list(found.items())}
    for a, b in zip(world.functions, twin.functions, strict=True):
        found.setdefault(world.groups[a], twin.groups[b])
    return found


def _calls(
    trace: Trace, source: Model, other: Model, instance: Instance, names: dict[str, str]
) -> list[Step] | None:
    """The calls of a trace as steps of the other design; None if it has no such calls."""
    actors = {a.name: a for a in other.system.actions}
    counting = telling(source.system, other.system)
    found = []
    for step in trace.steps:
        if step.action not in counting:
            continue
        act = actors.get(step.action)
        if act is None or {p.name for p in act.params} != set(step.args):
            return None
        try:
            args = tuple(
                instance.elements[p.sort].index(names.get(step.args[p.name], step.args[p.name]))
                for p in act.params
            )
        except ValueError:
            return None
        found.append(Step(act.name, args))
    return found


def _operations(matcher: _Matcher) -> list[Operation]:
    """Calls newly refused or allowed, each on the first machine that shows it."""
    systems = (matcher.models[0].system, matcher.models[1].system)
    found: dict[tuple[str, int], Operation] = {}
    seen = set()
    for number, machine in enumerate(matcher.machines):
        cases = [matcher.case(m, 0, number) for m in matcher.models]
        functions = tuple(d.bdf for d in cases[0].functions)
        if not 0 < len(functions) <= MOST_FUNCTIONS:
            continue
        worlds = [c.world(functions) for c in cases]
        if worlds[0] != worlds[1] or repr(anonymous(worlds[0])) in seen:
            continue
        seen.add(repr(anonymous(worlds[0])))
        instance = worlds[0].instance(1, 1, 1)
        for item in differences(
            *systems, instance=instance, seconds=OPERATION_SECONDS, max_sets=60
        ):
            key = (item.call.action, item.allowed_by)
            known = found.get(key)
            if known is not None and len(known.calls) <= len(item.before):
                continue
            act = systems[0].action(item.call.action)
            found[key] = Operation(
                act.name, ("old", "new")[item.allowed_by],
                worded(act, item.call.args, instance), item.errno, item.guard, machine.name,
                tuple(worded(systems[0].action(s.action), s.args, instance)
                      for s in item.before),
            )
    return sorted(found.values(), key=lambda o: (o.kind, len(o.calls), o.call))
