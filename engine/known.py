"""Answers about scenarios that were found before: of the package's library, of the user's cache.

Both are hints. An invariant counts once z3 has verified it for the system at hand, a run once it
has been replayed there and ends outside the goal; anything else is as if it were not there.
``python -m dmaproof.engine.known`` writes the library again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from dmaproof.engine.cache import Cache, key_of, program
from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.engine.library import clause_of, text_of
from dmaproof.engine.scenarios import (
    Found,
    Inference,
    Proved,
    Run,
    decide,
    goal_of,
    reach,
    verified,
)
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import Instance, ReplayError, Step, holds, replay
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.scenario import Claim, Scenario, builtins

SCHEMA: Final = "dmaproof/known/1"
RECHECK_SECONDS = 20.0
"""Time for the verification of one answer; one that takes longer is found anew."""


def meaning(scenario: Scenario, goal: Formula) -> str:
    """Return the name of the question whether *goal* always holds in a scenario.

    Raises:
        ValueError: a name of the system cannot be written in SMT-LIB.
    """
    return key_of([Inference.of(scenario).once("text", _text_of), smtlib.text(goal)])


def _text_of(scenario: Scenario) -> str:
    return key_of([smtlib.system_text(scenario.system), *map(world_text, scenario.instances)])


def world_text(instance: Instance) -> str:
    """Return a small world as text, whatever the order in which it was built."""
    return repr((
        sorted((s.name, e) for s, e in instance.elements.items()),
        sorted((f.name, sorted(t.items())) for f, t in instance.functions.items()),
        sorted((r.name, sorted(c)) for r, c in instance.facts.items()),
    ))


# -- answers as data ------------------------------------------------------------------------


def data_of(found: Proved | Run) -> dict[str, Any]:
    """Return an answer as JSON data."""
    if isinstance(found, Run):
        return {"world": found.world, "steps": [[s.action, *s.args] for s in found.steps]}
    return {
        "invariant": [text_of(c) for c in found.invariant],
        "by_hand": [i for i, c in enumerate(found.invariant) if c in found.by_hand],
    }


def answer_of(data: Any, system: System) -> Proved | Run:  # noqa: ANN401
    """Return the answer that JSON data describe.

    Raises:
        ValueError, TypeError, KeyError, IndexError: they describe none over this system.
    """
    if "steps" in data:
        steps = tuple(Step(str(name), tuple(map(int, args))) for name, *args in data["steps"])
        return Run(int(data["world"]), steps)
    reader = smtlib.Reader(system)
    clauses = tuple(clause_of(reader.formula(text)) for text in data["invariant"])
    return Proved(clauses, tuple(clauses[i] for i in data["by_hand"]))


def stands(scenario: Scenario, goal: Formula, found: Proved | Run) -> bool:
    """Whether an answer is right: an invariant verified, a run replayed to its end."""
    if isinstance(found, Proved):
        try:
            return verified(scenario, found.invariant, goal, Clock.seconds(RECHECK_SECONDS))
        except GaveUp:
            return False
    if not 0 <= found.world < len(scenario.instances):
        return False
    instance = scenario.instances[found.world]
    try:
        last = replay(scenario.system, instance, found.steps)[-1]
    except ReplayError:
        return False
    return not holds(goal, instance, last, {})


# -- where answers are kept -----------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What is known before anything is asked.

    Attributes:
        cache: the user's.
        library: whether to look into the package's library, too.
    """

    cache: Cache = field(default_factory=lambda: Cache(None))
    library: bool = True

    def settle(self, scenario: Scenario, claim: Claim, seconds: float = 60.0) -> tuple[Found, str]:
        """Decide a claim as `engine.scenarios.decide` does; also say where the answer is from.

        Returns:
            The answer, and ``library``, ``cache`` or ``engines``.
        """
        found, origin = self._settled(
            scenario, goal_of(claim), lambda: decide(scenario, claim, seconds)
        )
        assert found is not None
        return found, origin

    def reach(self, scenario: Scenario, formula: Formula, seconds: float = 20.0) -> Run | None:
        """Return a run to a state where a closed formula holds, None if none was found."""
        found, _ = self._settled(
            scenario, not_(formula), lambda: reach(scenario, formula, seconds), runs_only=True
        )
        return found if isinstance(found, Run) else None

    def _settled(
        self, scenario: Scenario, goal: Formula, ask: Callable[[], Found | None],
        *, runs_only: bool = False,
    ) -> tuple[Found | None, str]:
        try:
            key = meaning(scenario, goal)
        except ValueError:  # a system that cannot be named cannot be known
            return ask(), "engines"
        own = key_of([key, program("engine", "model.logic")])
        for origin, data in (("library", self._shipped(key)), ("cache", self.cache.get(own))):
            if data is None or (runs_only and "steps" not in data):
                continue
            try:
                known = answer_of(data, scenario.system)
            except (ValueError, TypeError, KeyError, IndexError):
                continue
            if stands(scenario, goal, known):
                return known, origin
        found = ask()
        if isinstance(found, Proved | Run):
            self.cache.put(own, data_of(found))
        return found, "engines"

    def _shipped(self, key: str) -> Any | None:  # noqa: ANN401
        return _library().get(key) if self.library else None


@cache
def _library() -> Mapping[str, Any]:
    """All answers of the library, by the name of the question; unreadable files are left out."""
    found: dict[str, Any] = {}
    for entry in resources.files("dmaproof.engine.library.study").iterdir():
        if entry.name.endswith(".json"):
            try:
                data = json.loads(entry.read_bytes())
                if data["schema"] == SCHEMA:
                    found.update(data["answers"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
    return found


# -- writing the library --------------------------------------------------------------------


def entry(name: str, scenario: Scenario, seconds: float, known: Known) -> dict[str, Any]:
    """Return the file of a design: every answer about its claims."""
    answers = {}
    for claim in scenario.claims.values():
        found, _ = known.settle(scenario, claim, seconds)
        if isinstance(found, Proved | Run):
            answers[meaning(scenario, goal_of(claim))] = data_of(found)
        if claim.when is not None:
            run = known.reach(scenario, claim.when, seconds)
            if run is not None:
                answers[meaning(scenario, not_(claim.when))] = data_of(run)
    return {"schema": SCHEMA, "design": name, "answers": answers}


def main(folder: Path, everything: bool) -> None:
    """Write one file for each built-in design; answers that still stand are kept."""
    known = Known(library=not everything)
    for name, design in builtins().items():
        start = time.monotonic()
        data = entry(name, design.scenario, 300.0, known)
        path = folder / f"{name}.json"
        text = json.dumps(data, indent=1) + "\n"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"{path.name}: {len(data['answers'])} answers, {time.monotonic() - start:.1f} s",
                  flush=True)
    for path in set(folder.glob("*.json")) - {folder / f"{n}.json" for n in builtins()}:
        path.unlink()


if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "library" / "study", "--all" in sys.argv[1:])
