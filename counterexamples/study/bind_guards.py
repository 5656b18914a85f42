"""Guards of bind designs: what each is needed for, or why it is not; see `guards` for the families.

A guard is needed when its mutant breaks a property that a row says is proved of the design, on a
small world that meets the premise of the proof, or answers a call otherwise than an errno row says.
It is redundant for a design when every theorem that rows rest on is proved of the mutant as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from dmaproof.counterexamples import expected
from dmaproof.counterexamples.expected import ErrnoCheck, VerdictCheck
from dmaproof.counterexamples.refusals import settle_on
from dmaproof.counterexamples.study.guards_by_hand import of_bind
from dmaproof.engine.candidates import Clause
from dmaproof.engine.explicit import Explorer
from dmaproof.engine.induction import Clock, GaveUp, Inductor
from dmaproof.engine.library import clause_of, hints, text_of
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.recheck import Claim, verified
from dmaproof.engine.theorems import Prover, Theorem, names_of, safe_goal
from dmaproof.engine.vacuity import SMALL
from dmaproof.engine.worlds import SAMPLES, World
from dmaproof.model.design import builtin_names, load
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import Instance, ReplayError, Step, holds, replay
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise, PropertyKind
from dmaproof.properties.errno import REFUSALS
from dmaproof.properties.registry import find

SCHEMA: Final = "dmaproof/bind-guards/1"
FEW: Final = (1, 1, 1)
MANY: Final = (2, 1, 2)
_BOTH = frozenset({("A", "B"), ("B", "A")})
_MATES = World(("A", "B"), {"A": "g", "B": "g"}, influence=_BOTH, p2p=_BOTH)
_UNFIT = World(("A", "B", "D"), {"A": "gA", "B": "gB", "D": "gD"}, ported=frozenset({"gB"}),
               influence=frozenset({("D", "B")}))
WORLDS: Final = (
    *((w, FEW) for w in (*SMALL, _MATES)),
    *((_MATES, counts) for counts in ((2, 1, 1), (1, 1, 2))),
    *((w, (2, 1, 1)) for w in SMALL[:2]),
    *((w, MANY) for w in (*SMALL, *SAMPLES)),
    (_UNFIT, FEW),
    (replace(_UNFIT, ported=frozenset(), incapable=frozenset("B")), FEW),
)
"""Worlds with numbers of containers, PASIDs (besides none) and spaces, the cheap ones first. In the
last two one group must not be bound, and a function of another group acts through its member."""

CHEAP: Final = len(SMALL) + 5
QUICK, THOROUGH, SECONDS = 2_000, 3_000, 10.0
"""States that are visited of a mutant on one world: on cheap ones before proofs are tried, and on
all of them afterwards; the time."""

PROOF_SECONDS, VERIFY_SECONDS = 10.0, 300.0

Key = tuple[str, str]
"""A property and the premise under which it is a theorem."""


@dataclass(frozen=True)
class Flip:
    """What the mutant of a design breaks.

    Attributes:
        claim: property and premise; or ``errno`` and the name of a refusal.
        world: which of `WORLDS` (-1 for a refusal: its run is found when it is settled).
    """

    design: str
    claim: Key
    world: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Finding:
    """What became of a guard.

    Attributes:
        needless: for each design that has it, invariants by which the theorems hold of the mutant
            (where they are not those of the library).
        open: designs for which nothing was found.
    """

    action: str
    guard: str
    flip: Flip | None = None
    needless: tuple[tuple[str, Mapping[Key, tuple[Clause, ...]]], ...] = ()
    open: tuple[str, ...] = ()


# -- what rows say --------------------------------------------------------------------------


@cache
def theorems_of(name: str) -> Mapping[Key, tuple[Clause, ...]]:
    """The known theorems of a design about properties of which a row says that they are proved.

    Of a design that no row speaks of, all of them: they are what `check` and `gate` say.
    """
    wanted = set()
    for row in expected.rows():
        for check in row.check:
            if isinstance(check, VerdictCheck) and name in check.designs and not check.changes:
                for prop in check.properties:
                    never = find(prop).kind is PropertyKind.CAN
                    if check.result == ("refuted" if never else "proved"):
                        wanted.add(prop)
    known = hints(build(load(name))).theorems
    return {key: c for key, c in known.items() if not wanted or key[0] in wanted}


def refusals_of(name: str) -> list[str]:
    """The refusals of calls that rows speak of for a design."""
    checks = (c for row in expected.rows() for c in row.check)
    return [r for c in checks if isinstance(c, ErrnoCheck) and name in c.designs
            for r in c.refusals if r in REFUSALS]


def mutant(name: str, action: str, guard: str) -> Model:
    """The model of a design without a guard.

    Raises:
        KeyError: there is no such action or guard.
    """
    model = build(load(name))
    act = model.system.action(action).without_guard(guard)
    return replace(model, system=model.system.with_action(act))


def places() -> dict[tuple[str, str], list[str]]:
    """Every guard of every bind design, with the designs that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in builtin_names():
        for act in build(load(name)).system.actions:
            for guard in dict.fromkeys(g.name for g in act.guards):
                found.setdefault((act.name, guard), []).append(name)
    return dict(sorted(found.items()))


# -- needed ---------------------------------------------------------------------------------


@cache
def _worlds(name: str, premise: str) -> tuple[tuple[int, Instance], ...]:
    """The worlds that meet a premise."""
    model = build(load(name))
    formula = premise_formula(Premise(premise), model)
    found = []
    for number, (world, counts) in enumerate(WORLDS):
        instance = world.instance(*counts)
        axioms = model.system.axioms.values()
        if all(holds(f, instance, {}, {}) for f in (*axioms, formula)):
            found.append((number, instance))
    return tuple(found)


def flip(name: str, action: str, guard: str, states: int = QUICK) -> Flip | None:
    """What the mutant of a design breaks; None if nothing was found."""
    changed = mutant(name, action, guard)
    for refusal in refusals_of(name):
        claim = REFUSALS[refusal]
        if (claim.action, claim.guard) != (action, guard):
            continue  # without another guard, this one is the first that fails all the more
        if settle_on(claim, changed).verdict.result == "refuted":
            return Flip(name, ("errno", refusal), -1, ())
    model = build(load(name))
    explorers: dict[int, Explorer] = {}
    for key in theorems_of(name):
        goal = not_(safe_goal(find(key[0]), model))
        for number, instance in _worlds(name, key[1]):
            if number >= CHEAP and states == QUICK:
                break
            if number not in explorers:
                explorers[number] = Explorer(changed.system, instance)
            found = explorers[number].look({"out": goal}, max_states=states, seconds=SECONDS)
            for steps in found.traces.values():
                return Flip(name, key, number, tuple(steps))
    return None


def _flips(found: Flip, action: str, guard: str) -> str:
    """Why a flip does not stand; "" if it does."""
    changed = mutant(found.design, action, guard)
    if found.claim[0] == "errno":
        if found.claim[1] not in refusals_of(found.design):
            return f"no row speaks of {found.claim[1]}"
        result = settle_on(REFUSALS[found.claim[1]], changed).verdict.result
        return "" if result == "refuted" else f"{found.claim[1]} is {result} of the mutant"
    if found.claim not in theorems_of(found.design):
        return f"no row rests on {' under '.join(found.claim)}"
    worlds = dict(_worlds(found.design, found.claim[1]))
    if found.world not in worlds:
        return f"world {found.world} does not meet {found.claim[1]}"
    try:
        end = replay(changed.system, worlds[found.world], found.steps)[-1]
    except ReplayError as error:
        return f"the mutant does not run so: {error}"
    goal = safe_goal(find(found.claim[0]), build(load(found.design)))
    return "the run breaks nothing" if holds(goal, worlds[found.world], end, {}) else ""


# -- redundant ------------------------------------------------------------------------------


def needless(name: str, action: str, guard: str) -> dict[Key, tuple[Clause, ...]] | None:
    """Invariants by which the theorems of a design hold of its mutant; None if some were not found.

    Those of the library are tried first, and are not told when they do.
    """
    changed = mutant(name, action, guard)
    known = theorems_of(name)
    found: dict[Key, tuple[Clause, ...]] = {}
    if changed.core == build(load(name)).core:  # a guard that proofs leave out anyway
        return found if not _weak(name) else None
    offers = (*of_bind(action, guard, changed), *_clauses_of(name))
    inductor = Inductor(changed.core, _premises(changed), tuple(dict.fromkeys(offers)))
    prover = Prover(changed, PROOF_SECONDS, use_library=False)
    for key in _unproved(changed, known):
        own = _among(inductor, key, changed)
        if own is None:
            theorem = prover.prove(find(key[0]), Premise(key[1]))
            own = theorem.invariant if isinstance(theorem, Theorem) else None
        if own is None:
            return None
        found[key] = own
    return None if _unproved(changed, found) else found


def _clauses_of(name: str) -> tuple[Clause, ...]:
    """The clauses of every known theorem of a design: one may need what another rests on."""
    return tuple(c for known in hints(build(load(name))).theorems.values() for c in known)


def _premises(model: Model) -> dict[str, Formula]:
    return {p.value: premise_formula(p, model) for p in Premise if p is not Premise.NONE}


def _among(inductor: Inductor, key: Key, changed: Model) -> tuple[Clause, ...] | None:
    """An invariant of a mutant that proves a theorem, of the clauses that an inductor has."""
    goal, names = safe_goal(find(key[0]), changed), names_of(Premise(key[1]))
    clock = Clock.seconds(PROOF_SECONDS)
    try:
        alive = inductor.inductive(range(len(inductor.clauses)), (), names, clock)
        if inductor.safety(goal, alive, names, clock) is None:
            return None
        kept = inductor.minimal(goal, alive, names, clock)
    except GaveUp:
        return None
    return tuple(inductor.clauses[i] for i in kept)


@cache
def _weak(name: str) -> tuple[Key, ...]:
    """Theorems of a design itself that z3 does not verify: none."""
    return tuple(_unproved(build(load(name)), theorems_of(name)))


def _unproved(changed: Model, given: Mapping[Key, tuple[Clause, ...]]) -> list[Key]:
    """Those of some theorems that z3 does not verify of a mutant by the invariants given."""
    claims = [Claim(c, Premise(key[1]), safe_goal(find(key[0]), changed))
              for key, c in given.items()]
    good = verified(changed, claims, Clock.seconds(VERIFY_SECONDS))
    return [key for key, ok in zip(given, good, strict=True) if not ok]


def unfinished() -> list[tuple[str, str]]:
    """Guards, as (action, name), of which it has not been found out; see `guards.unfinished`."""
    listed = {(f.action, f.guard): f for f in kept()}
    return [place for place, having in places().items()
            if (found := listed.get(place)) is None or found.open
            or (found.flip is None and [n for n, _ in found.needless] != having)]


def problem(found: Finding) -> str:
    """Why a finding does not stand, or leaves something open; "" if all is well."""
    if found.flip is not None:
        return _flips(found.flip, found.action, found.guard)
    if found.open:
        return f"{', '.join(found.open)}: no row needs it, and no proof says that none does"
    for name, own in found.needless:
        changed = mutant(name, found.action, found.guard)
        if not own and changed.core == build(load(name)).core and not _weak(name):
            continue
        if left := _unproved(changed, {**theorems_of(name), **own}):
            return f"z3 does not verify {' under '.join(left[0])} of the mutant of {name}"
    return ""


# -- all ------------------------------------------------------------------------------------


def examine(action: str, guard: str, having: Sequence[str]) -> Finding:
    """Look for what needs a guard, then for the proof that nothing does."""
    for name in having:
        shown = flip(name, action, guard)
        if shown is not None:
            return Finding(action, guard, shown)
    proofs, left = [], []
    for name in having:
        own = needless(name, action, guard)
        if own is not None:
            proofs.append((name, own))
            continue
        shown = flip(name, action, guard, THOROUGH)
        if shown is not None:
            return Finding(action, guard, shown)
        left.append(name)
    return Finding(action, guard, None, tuple(proofs), tuple(left))


def data_of(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as JSON data."""
    guards = []
    for found in findings:
        entry: dict[str, Any] = {"action": found.action, "guard": found.guard}
        if found.flip is not None:
            shown = found.flip
            entry["flips"] = {"design": shown.design, "claim": list(shown.claim),
                              "world": shown.world,
                              "steps": [[s.action, *s.args] for s in shown.steps]}
        else:
            entry["needless"] = [
                [name, [[*key, [text_of(c) for c in clauses]] for key, clauses in own.items()]]
                for name, own in found.needless
            ]
            entry["open"] = list(found.open)
        guards.append(entry)
    return {"schema": SCHEMA, "guards": guards}


def findings_of(data: Any) -> list[Finding]:  # noqa: ANN401
    """Return the findings that JSON data describe.

    Raises:
        ValueError, TypeError, KeyError: they describe none.
    """
    found = []
    for entry in data["guards"]:
        action, guard = entry["action"], entry["guard"]
        if "flips" in entry:
            shown = entry["flips"]
            steps = tuple(Step(str(n), tuple(map(int, args))) for n, *args in shown["steps"])
            prop, premise = shown["claim"]
            found.append(Finding(action, guard, Flip(
                shown["design"], (prop, premise), int(shown["world"]), steps)))
            continue
        proofs = []
        for name, listed in entry["needless"]:
            reader = smtlib.Reader(build(load(name)).core)
            proofs.append((name, {
                (prop, premise): tuple(clause_of(reader.formula(t)) for t in texts)
                for prop, premise, texts in listed
            }))
        found.append(Finding(action, guard, None, tuple(proofs), tuple(entry["open"])))
    return found


@cache
def kept() -> list[Finding]:
    """The findings as they are kept; none, where there is no file."""
    folder = resources.files("dmaproof.counterexamples.study.guards_found")
    if not folder.joinpath("bind-designs.json").is_file():
        return []
    return findings_of(json.loads(folder.joinpath("bind-designs.json").read_text("utf-8")))


def main(path: Path) -> None:
    """Examine every guard; findings that stand are kept."""
    before = {(f.action, f.guard): f for f in kept()} if path.exists() else {}
    found = []
    for place, having in places().items():
        old = before.pop(place, None)
        complete = old is not None and (
            old.flip is not None or [n for n, _ in old.needless] == having)
        if old is None or not complete or problem(old):
            old = examine(*place, having)
            if old.open:
                print(*place, "open:", *old.open, flush=True)
        found.append(old)
        text = json.dumps(data_of([*found, *before.values()]), indent=1) + "\n"
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "guards_found" / "bind-designs.json")
