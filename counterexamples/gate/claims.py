"""Two designs of one family of the study, claim by claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dmaproof.counterexamples import runs
from dmaproof.counterexamples.gate.calls import (
    calls_of,
    differences,
    leads_out_of,
    telling,
    worded,
)
from dmaproof.counterexamples.gate.changes import (
    Change,
    Comparison,
    Operation,
    Relation,
    Shown,
)
from dmaproof.engine.known import Known
from dmaproof.engine.scenarios import Proved, Run, goal_of
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula
from dmaproof.model.scenario import Claim, ClaimKind, Scenario, StudyDesign

Side = Literal["old", "new"]


@dataclass(frozen=True)
class _Answer:
    """What a design says of a claim.

    Attributes:
        result: ``proved``, ``refuted``, ``undecided`` or ``-``.
        run: what shows it, and the same in words.
    """

    result: str
    reason: str = ""
    run: Run | None = None
    shown: Shown | None = None


def compare(
    old: StudyDesign, new: StudyDesign, known: Known, seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare two designs.

    Args:
        old: the design as it was.
        new: as it is to be, of the same family.
        known: answers that were found before.
        seconds: time for one claim of one design.
        progress: is told each claim.

    Raises:
        InputError: they are of two families, whose claims speak of other things.
    """
    if old.family != new.family:
        raise InputError(
            f"{old.name} is of family {old.family}, {new.name} of {new.family}", "OLD and NEW",
            "designs of two parts of the system", "compare designs of one family;"
            " `dmaproof design show NAME` says of which a design is",
        )
    found = []
    claims = {**new.scenario.claims, **old.scenario.claims}
    for name, claim in claims.items():
        progress(name)
        answers = {
            "old": _answer(old, name, known, seconds, "old"),
            "new": _answer(new, name, known, seconds, "new"),
        }
        found.append(_change(claim, old, new, answers["old"], answers["new"]))
    progress("operations")
    return Comparison(old.name, new.name, tuple(found), tuple(_operations(old, new)),
                      tuple(_notes(old, new)))


def _answer(
    design: StudyDesign, name: str, known: Known, seconds: float, side: Side
) -> _Answer:
    claim = design.scenario.claims.get(name)
    if claim is None:
        return _Answer("-", f"{design.name} makes no such claim")
    can = claim.kind is ClaimKind.CAN
    found, origin = known.settle(design.scenario, claim, seconds)
    if isinstance(found, Proved):
        return _Answer("refuted" if can else "proved", claim.says)
    if not isinstance(found, Run):
        return _Answer("undecided", found.reason)
    trace = runs.confirm(design, claim, found, "happens" if can else "violated",
                         minimal=origin != "engines")
    if isinstance(trace, runs.Rejected):
        return _Answer("undecided", trace.reason)
    shown = Shown(side, tuple(line for line, _ in runs.lines(trace)),
                  trace.model_dump(by_alias=True, mode="json"))
    return _Answer("proved" if can else "refuted", trace.end.says, found, shown)


def _change(
    claim: Claim, old: StudyDesign, new: StudyDesign, before: _Answer, after: _Answer
) -> Change:
    relation, reason = _relation(claim, before, after)
    shown: list[Shown] = []
    if relation is None:  # both refuted
        relation, reason = _both_refuted(claim, old, new, before, after)
    if relation in (Relation.STRENGTHENED, Relation.INCOMPARABLE, Relation.LOST) and before.shown:
        shown.append(before.shown)
    if relation in (Relation.WEAKENED, Relation.INCOMPARABLE, Relation.GAINED) and after.shown:
        shown.append(after.shown)
    return Change(claim.id, claim.says, relation, before.result, after.result, reason,
                  ability=claim.kind is ClaimKind.CAN, runs=tuple(shown))


def _relation(claim: Claim, before: _Answer, after: _Answer) -> tuple[Relation | None, str]:
    """The relation as far as results tell; None where both are refuted."""
    pair = (before.result, after.result)
    if claim.kind is ClaimKind.CAN:
        change = {("proved", "refuted"): Relation.LOST, ("refuted", "proved"): Relation.GAINED}
        if "undecided" in pair:
            return Relation.UNDECIDED, before.reason or after.reason
        return change.get(pair, Relation.SAME), after.reason
    if after.result == "proved":
        if before.result == "refuted":
            return Relation.STRENGTHENED, f"now: {after.reason}"
        return Relation.SAME, after.reason
    if after.result == "-":  # a promise that is no longer made
        kept = before.result != "proved"
        return (Relation.SAME if kept else Relation.UNDECIDED), after.reason
    if "undecided" in pair:
        return Relation.UNDECIDED, after.reason if after.result == "undecided" else before.reason
    if before.result == "refuted":
        return None, ""
    if before.result == "-":
        return Relation.SAME, f"{after.reason}; {before.reason}"
    return Relation.WEAKENED, after.reason


def _both_refuted(
    claim: Claim, old: StudyDesign, new: StudyDesign, before: _Answer, after: _Answer
) -> tuple[Relation, str]:
    assert before.run is not None
    assert after.run is not None
    goal = goal_of(claim)
    kept = _matched(old.scenario, before.run, new.scenario, goal_of(new.scenario.claims[claim.id]))
    had = _matched(new.scenario, after.run, old.scenario, goal)
    if kept is None or had is None:
        return Relation.UNDECIDED, "refuted for both; whether by the same calls was not found out"
    match kept, had:
        case True, True:
            return Relation.SAME, "refuted for both, by the same calls"
        case False, True:
            return Relation.STRENGTHENED, f"the calls of the old run no longer do: {before.reason}"
        case True, False:
            return Relation.WEAKENED, f"also by calls that were harmless: {after.reason}"
    return Relation.INCOMPARABLE, "refuted for both, for each by calls that are harmless in the" \
        " other"


def _matched(source: Scenario, run: Run, other: Scenario, goal: Formula) -> bool | None:
    """Whether the calls of a run violate the claim in the other design, too."""
    instance = source.instances[run.world]
    names = telling(source.system, other.system)
    calls = calls_of(names, run.steps)
    try:
        instance.check(other.system)
    except ValueError:
        return None
    return leads_out_of(other.system, instance, goal, calls, names)


OPERATION_SECONDS = 4.0


def _operations(old: StudyDesign, new: StudyDesign) -> Iterator[Operation]:
    systems = (old.scenario.system, new.scenario.system)
    worlds = list(old.scenario.instances)
    worlds += [i for i in new.scenario.instances if i not in worlds]
    told: set[tuple[str, int]] = set()
    for instance in worlds:
        if not all(_fits(instance, s) for s in systems):
            continue
        for found in differences(*systems, instance, seconds=OPERATION_SECONDS / len(worlds)):
            if (found.call.action, found.allowed_by) in told:
                continue
            told.add((found.call.action, found.allowed_by))
            yield Operation(
                found.call.action, ("old", "new")[found.allowed_by],
                worded(systems[0].action(found.call.action), found.call.args, instance),
                found.errno, found.guard, "",
                tuple(worded(systems[0].action(s.action), s.args, instance)
                      for s in found.before),
            )


def _fits(instance: Instance, system: System) -> bool:
    try:
        instance.check(system)
    except ValueError:
        return False
    return True


def _notes(old: StudyDesign, new: StudyDesign) -> Iterator[str]:
    names = [{a.name for a in d.scenario.system.actions} for d in (old, new)]
    for mine, other, word in ((names[0], names[1], "old"), (names[1], names[0], "new")):
        only = sorted(mine - other)
        if only:
            yield f"steps of the {word} design only: {', '.join(only)}"
