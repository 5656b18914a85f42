"""Guards: what each of them is needed for, or why it is not.

A guard of an action of a family is taken out of the action. Then some claim that held of a design
is refuted by a run of the mutant, or the guard is redundant, with a proof for each design that has
it: it follows from the action's other guards in every reachable state, or every claim that holds of
the design still holds of the mutant. Whatever is neither is a gap of the study.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from dmaproof.counterexamples.study.guards_by_hand import by_hand
from dmaproof.counterexamples.study.table import ScenarioRow, table
from dmaproof.engine.cache import Cache, default_folder
from dmaproof.engine.candidates import Clause
from dmaproof.engine.explicit import Explorer
from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.engine.known import Known
from dmaproof.engine.library import clause_of, text_of
from dmaproof.engine.reproof import Reproof
from dmaproof.engine.scenarios import Proved, goal_of
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import ReplayError, Step, holds, replay
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Formula, and_, forall, implies, not_, or_
from dmaproof.model.scenario import (
    Claim,
    ClaimKind,
    Scenario,
    StudyDesign,
    always,
    builtin,
    builtins,
    refused,
)

SCHEMA: Final = "dmaproof/guards/1"

QUICK, THOROUGH, SECONDS = 3_000, 60_000, 20.0
"""States that are visited of a mutant in one world, before and after proofs are tried; the time."""

PROOF_SECONDS = 120.0
"""Budget of one proof."""


@dataclass(frozen=True, order=True)
class Place:
    """A guard of an action of a family; several designs of the family may have it."""

    family: str
    action: str
    guard: str


@dataclass(frozen=True)
class Flip:
    """A run of the mutant that refutes what holds of the design.

    Attributes:
        world: which of the scenario's instances.
    """

    design: str
    claim: str
    world: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Needless:
    """Why a design does not need the guard.

    Attributes:
        how: ``implied``: wherever a run leads and the action's other guards hold, this one holds
            or the step would change nothing; ``proved``: every claim of a row that holds of the
            design holds of the mutant; ``nothing``: no row says that something holds of it, and
            more runs refute no run.
        clauses: the invariant that proves it.
    """

    design: str
    how: str
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Finding:
    """What became of one guard.

    Attributes:
        flip: a claim that needs it; None: none was found.
        needless: for each design that has it, why not; empty after a flip.
        open: designs for which neither was found.
    """

    place: Place
    flip: Flip | None = None
    needless: tuple[Needless, ...] = ()
    open: tuple[str, ...] = ()


# -- what holds -----------------------------------------------------------------------------


@cache
def _rows() -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """What rows expect of (design, claim): (row, expected)."""
    found: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
    for row in table().rows:
        if isinstance(row, ScenarioRow):
            key = (row.design, row.claim)
            found[key] = (*found.get(key, ()), (row.id, row.expected))
    return found


def rows_of(design: str, claim: str) -> list[str]:
    """The ids of the rows about a claim of a design, each once."""
    return list(dict.fromkeys(row for row, _ in _rows().get((design, claim), ())))


def holding(design: StudyDesign) -> list[Claim]:
    """Claims of rows that more runs could refute: what always holds, and what never happens."""
    found = []
    for claim in design.scenario.claims.values():
        wanted = "refuted" if claim.kind is ClaimKind.CAN else "proved"
        if any(expected == wanted for _, expected in _rows().get((design.name, claim.id), ())):
            found.append(claim)
    return found


# -- mutants --------------------------------------------------------------------------------


def mutant(scenario: Scenario, action: str, guard: str) -> Scenario:
    """The scenario without a guard; what is claimed of refusals is claimed of the new action.

    Raises:
        KeyError: there is no such action or guard.
    """
    act = scenario.system.action(action).without_guard(guard)
    claims = {n: _of_mutant(c, act) for n, c in scenario.claims.items()}
    return replace(scenario, system=scenario.system.with_action(act), claims=claims)


def _of_mutant(claim: Claim, act: Action) -> Claim:
    if claim.action != act.name or claim.made is None:
        return claim
    return refused(claim.id, claim.says, act, claim.made, claim.errno)


def needed(act: Action, guard: str) -> Formula:
    """Wherever the other guards of an action hold, the guard holds or the step changes nothing."""
    mine = [g.condition for g in act.guards if g.name == guard]
    others = act.without_guard(guard)
    kept = []
    for update in act.updates:
        before, after = update.rel(*update.variables), update.after(update.variables)
        same = or_(and_(before, after), and_(not_(before), not_(after)))
        kept.append(forall(update.variables, same))
    return forall(act.params, implies(others.guard, or_(and_(*mine), and_(*kept))))


def flip(design: StudyDesign, action: str, guard: str, states: int = QUICK) -> Flip | None:
    """A shortest run of the mutant that refutes a claim of a row, in the first world with one."""
    changed = mutant(design.scenario, action, guard)
    names = [c.id for c in holding(design)]
    targets = {n: not_(goal_of(changed.claims[n])) for n in names}
    if not targets:
        return None
    for number, instance in enumerate(changed.instances):
        explorer = Explorer(changed.system, instance)
        found = explorer.look({"any": or_(*targets.values())}, max_states=states,
                              seconds=SECONDS)
        for steps in found.traces.values():
            end = replay(changed.system, instance, steps)[-1]
            claim = next(n for n, t in targets.items() if holds(t, instance, end, {}))
            return Flip(design.name, claim, number, tuple(steps))
    return None


def flips(found: Flip, place: Place) -> str:
    """Why a run does not show that a guard is needed; "" if it does."""
    design = builtin(found.design)
    if all(c.id != found.claim for c in holding(design)):
        return f"no row expects {found.claim} of {found.design} to hold"
    if not 0 <= found.world < len(design.scenario.instances):
        return f"{found.design} has no world {found.world}"
    instance = design.scenario.instances[found.world]
    changed = mutant(design.scenario, place.action, place.guard)
    try:
        end = replay(changed.system, instance, found.steps)[-1]
    except ReplayError as error:
        return f"the mutant does not run so: {error}"
    if holds(goal_of(changed.claims[found.claim]), instance, end, {}):
        return f"the run of the mutant does not refute {found.claim}"
    return ""


# -- redundant guards -----------------------------------------------------------------------


class Prover:
    """Proves of a design that it does not need a guard; keeps what is known of the design."""

    def __init__(self, design: StudyDesign, known: Known) -> None:
        """Take a design and where its invariants are looked up."""
        self.design, self.known = design, known
        self._reproof = Reproof(design.scenario.system)

    @cached_property
    def invariants(self) -> dict[str, tuple[Clause, ...]]:
        """An invariant for each claim of a row that holds for any number of everything."""
        found = {}
        for claim in holding(self.design):
            proof, _ = self.known.settle(self.design.scenario, claim, PROOF_SECONDS)
            if isinstance(proof, Proved):
                found[claim.id] = proof.invariant
        return found

    @cached_property
    def clauses(self) -> tuple[Clause, ...]:
        """All of them."""
        return tuple(dict.fromkeys(c for i in self.invariants.values() for c in i))

    def needless(self, action: str, guard: str) -> Needless | None:
        """Why the design does not need a guard; None if no reason was found."""
        if not holding(self.design):
            return Needless(self.design.name, "nothing", ())
        goal = needed(self.design.scenario.system.action(action), guard)
        for clauses in ((), self.clauses):
            if _holds(self._reproof, clauses, goal):
                return Needless(self.design.name, "implied", clauses)
        changed = mutant(self.design.scenario, action, guard)
        hand = by_hand(self.design.name, action, guard, changed)
        proof = self._proved(changed, tuple(map(clause_of, hand)))
        if proof is not None:
            return Needless(self.design.name, "proved", proof)
        implied = always("implied", f"{action} does not need {guard}", goal)
        found, _ = self.known.settle(self.design.scenario, implied, PROOF_SECONDS)
        if isinstance(found, Proved):
            return Needless(self.design.name, "implied", found.invariant)
        return None

    def _proved(self, changed: Scenario, hand: tuple[Clause, ...]) -> tuple[Clause, ...] | None:
        """Clauses by which every claim of a row that holds of the design holds of a mutant."""
        goals = [goal_of(changed.claims[c.id]) for c in holding(self.design)]
        reproof = Reproof(changed.system)
        for clauses in (self.clauses, *([hand] if hand else [])):
            if _holds(reproof, clauses, and_(*goals)):
                return clauses
        found: list[Clause] = []
        for held in holding(self.design):
            proof, _ = self.known.settle(changed, changed.claims[held.id], PROOF_SECONDS)
            if not isinstance(proof, Proved):
                return None
            found += proof.invariant
        return tuple(dict.fromkeys(found))


def why_needed(found: Needless, place: Place) -> str:
    """Why a proof that a design does not need a guard does not stand; "" if it does."""
    design = builtin(found.design)
    if found.how == "nothing":
        return f"rows say that something holds of {found.design}" if holding(design) else ""
    if found.how == "implied":
        system, goals = design.scenario.system, [
            needed(design.scenario.system.action(place.action), place.guard)
        ]
    else:
        changed = mutant(design.scenario, place.action, place.guard)
        system, goals = changed.system, [goal_of(changed.claims[c.id]) for c in holding(design)]
    if _holds(Reproof(system), found.clauses, and_(*goals)):
        return ""
    return f"z3 does not verify the invariant of {found.design}"


def _holds(reproof: Reproof, clauses: Sequence[Clause], goal: Formula) -> bool:
    try:
        return reproof.holds(clauses, goal, Clock.seconds(PROOF_SECONDS))
    except GaveUp:
        return False


# -- all of them ----------------------------------------------------------------------------


def places(designs: Iterable[StudyDesign] = ()) -> dict[Place, list[StudyDesign]]:
    """Every guard of every family, with the designs that have it, those of most rows first."""
    found: dict[Place, list[StudyDesign]] = {}
    for design in designs or builtins().values():
        for act in design.scenario.system.actions:
            for name in dict.fromkeys(g.name for g in act.guards):
                found.setdefault(Place(design.family, act.name, name), []).append(design)
    for having in found.values():
        having.sort(key=lambda d: -len(holding(d)))
    return dict(sorted(found.items()))


def examine(
    place: Place, having: Sequence[StudyDesign], prover: Callable[[StudyDesign], Prover]
) -> Finding:
    """Look for a claim that needs a guard, for the proof that none does, and again for a claim."""
    for design in having:
        shown = flip(design, place.action, place.guard)
        if shown is not None:
            return Finding(place, shown)
    proofs, left = [], []
    for design in having:
        why = prover(design).needless(place.action, place.guard)
        if why is not None:
            proofs.append(why)
            continue
        shown = flip(design, place.action, place.guard, THOROUGH)
        if shown is not None:
            return Finding(place, shown)
        left.append(design.name)
    return Finding(place, None, tuple(proofs), tuple(left))


# -- on disk --------------------------------------------------------------------------------


def data_of(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings of one family as JSON data; clauses are written once a design."""
    clauses: dict[str, dict[str, int]] = {}

    def numbers(why: Needless) -> list[int]:
        known = clauses.setdefault(why.design, {})
        return [known.setdefault(text_of(c), len(known)) for c in why.clauses]

    guards = []
    for found in findings:
        entry: dict[str, Any] = {"action": found.place.action, "guard": found.place.guard}
        if found.flip is not None:
            shown = found.flip
            entry["flips"] = {"design": shown.design, "claim": shown.claim, "world": shown.world,
                              "steps": [[s.action, *s.args] for s in shown.steps]}
        else:
            entry["needless"] = [[n.design, n.how, numbers(n)] for n in found.needless]
            entry["open"] = list(found.open)
        guards.append(entry)
    return {"schema": SCHEMA, "family": findings[0].place.family, "guards": guards,
            "clauses": {d: list(texts) for d, texts in clauses.items() if texts}}


def findings_of(data: Any) -> list[Finding]:  # noqa: ANN401
    """Return the findings that JSON data describe.

    Raises:
        ValueError, TypeError, KeyError, IndexError: they describe none.
    """
    clauses: dict[str, list[Clause]] = {}
    for name, texts in data["clauses"].items():
        reader = smtlib.Reader(builtin(name).scenario.system)
        clauses[name] = [clause_of(reader.formula(text)) for text in texts]
    found = []
    for entry in data["guards"]:
        place = Place(data["family"], entry["action"], entry["guard"])
        if "flips" in entry:
            shown = entry["flips"]
            steps = tuple(Step(str(name), tuple(map(int, args))) for name, *args in shown["steps"])
            flip_ = Flip(shown["design"], shown["claim"], int(shown["world"]), steps)
            found.append(Finding(place, flip_))
            continue
        proofs = tuple(
            Needless(design, how, tuple(clauses[design][i] for i in numbers))
            for design, how, numbers in entry["needless"]
        )
        found.append(Finding(place, None, proofs, tuple(entry["open"])))
    return found


def families() -> list[str]:
    """The families of which findings are kept."""
    folder = resources.files("dmaproof.counterexamples.study.guards_found")
    names = (e.name.removesuffix(".json") for e in folder.iterdir() if e.name.endswith(".json"))
    return sorted(n for n in names if n != "bind-designs")


@cache
def kept(family: str) -> list[Finding]:
    """The findings of a family as they are kept.

    Raises:
        FileNotFoundError: none are.
    """
    folder = resources.files("dmaproof.counterexamples.study.guards_found")
    return findings_of(json.loads(folder.joinpath(f"{family}.json").read_text("utf-8")))


def unfinished() -> dict[str, list[Place]]:
    """Guards, by family, of which it has not been found out what they are needed for, or why not.

    That a finding stands is another question, see `problem`.
    """
    left: dict[str, list[Place]] = {}
    listed = {f.place: f for family in families() for f in kept(family)}
    for place, having in places().items():
        found = listed.get(place)
        if found is None or found.open or not _complete(found, having):
            left.setdefault(place.family, []).append(place)
    return left


def problem(found: Finding) -> str:
    """Why a finding does not stand, or leaves something open; "" if all is well."""
    if found.flip is not None:
        return flips(found.flip, found.place)
    if found.open:
        return f"{', '.join(found.open)}: no claim needs it, and no proof says that none does"
    return next((p for n in found.needless if (p := why_needed(n, found.place))), "")


def main(folder: Path, chosen: Sequence[str]) -> None:
    """Examine every guard of some families (none named: of all); findings that stand are kept."""
    known = Known(Cache(default_folder()))
    provers: dict[str, Prover] = {}

    def prover(design: StudyDesign) -> Prover:
        return provers.setdefault(design.name, Prover(design, known))

    every = places()
    for family in chosen or dict.fromkeys(p.family for p in every):
        before: dict[Place, Finding] = {}
        with suppress(OSError, ValueError, TypeError, KeyError, IndexError):
            before = {f.place: f for f in kept(family)}
        findings: list[Finding] = []
        for place, having in every.items():
            if place.family != family:
                continue
            old = before.pop(place, None)
            if old is None or not _complete(old, having) or problem(old):
                old = examine(place, having, prover)
            findings.append(old)
            # What follows is kept as it was until its turn comes.
            text = json.dumps(data_of([*findings, *before.values()]), indent=1) + "\n"
            (folder / f"{family}.json").write_text(text, "utf-8")
        left = [f.place for f in findings if f.open]
        print(f"{family}: {len(findings)} guards, {len(left)} open", *left, sep="\n  ", flush=True)


def _complete(found: Finding, having: Sequence[StudyDesign]) -> bool:
    """Whether a finding speaks of every design that has the guard."""
    return found.flip is not None or [n.design for n in found.needless] == [d.name for d in having]


if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "guards_found", sys.argv[1:])
