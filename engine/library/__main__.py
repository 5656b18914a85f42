"""Write the library of invariants again: ``python -m dmaproof.engine.library [--all]``.

Only files that are not those of today's models and inference are written, unless ``--all`` is
given. Takes up to some minutes: every theorem is inferred and made minimal.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from dmaproof.engine import library
from dmaproof.engine.candidates import Clause
from dmaproof.engine.induction import Clock
from dmaproof.engine.recheck import Claim, verified
from dmaproof.engine.theorems import NotProved, Prover, Theorem, safe_goal
from dmaproof.model import design
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise, Property
from dmaproof.properties.registry import PROPERTIES, applicable


def entry(model: Model) -> dict[str, Any]:
    """Infer all theorems of a model; returns what its file says."""
    prover = Prover(model, use_library=False)
    numbers: dict[str, int] = {}
    theorems: dict[str, dict[str, list[int]]] = {}
    unproved: dict[str, list[str]] = {}
    for prop in PROPERTIES:
        if applicable(prop, model):
            continue
        found = {q: prover.prove(prop, q) for q in prop.premises}
        proofs = {q: x.invariant for q, x in found.items() if isinstance(x, Theorem)}
        for premise, answer in found.items():
            invariant = proofs.get(premise)
            if isinstance(answer, NotProved):
                known = _written(model, prop, premise)
                known += list(proofs.values()) if answer.gave_up else []
                invariant = _borrowed(model, prop, premise, known)
            if invariant is not None:
                texts = [library.text_of(c) for c in invariant]
                ids = [numbers.setdefault(t, len(numbers)) for t in texts]
                theorems.setdefault(prop.id, {})[premise.value] = ids
            elif isinstance(answer, NotProved) and not answer.gave_up:
                unproved.setdefault(prop.id, []).append(premise.value)
    return {
        "schema": library.SCHEMA,
        "design": model.design.name,
        "hot_add": model.scheme.hot_add,
        "fingerprint": library.fingerprint(model),
        "inference": library.inference(),
        "clauses": list(numbers),
        "theorems": theorems,
        "unproved": unproved,
    }


def _written(model: Model, prop: Property, premise: Premise) -> list[tuple[Clause, ...]]:
    """Return the invariant that the library has for a theorem, perhaps written there by hand."""
    known = library.hints(model).theorems.get((prop.id, premise.value))
    return [] if known is None else [known]


def _borrowed(
    model: Model, prop: Property, premise: Premise, known: list[tuple[Clause, ...]]
) -> tuple[Clause, ...] | None:
    """Return an invariant for another premise that proves the property under this one, too."""
    goal = safe_goal(prop, model)
    for clauses in known:
        if verified(model, [Claim(clauses, premise, goal)], Clock.seconds(60)) == [True]:
            return clauses
    return None


def stale(path: Path, model: Model) -> bool:
    """Whether a file is not that of a model."""
    try:
        known = json.loads(path.read_bytes())
        marks = known["fingerprint"], known["inference"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return marks != (library.fingerprint(model), library.inference())


def main(folder: Path, everything: bool) -> None:
    """Write one file for each built-in design, with and without hot-add."""
    wanted = set()
    for name in design.builtin_names():
        for hot_add in (False, True):
            model = build(design.load(name), hot_add)
            path = folder / f"{name}{'+hot-add' if hot_add else ''}.json"
            wanted.add(path)
            if not everything and not stale(path, model):
                continue
            start = time.monotonic()
            data = entry(model)
            path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
            count = sum(map(len, data["theorems"].values()))
            seconds = time.monotonic() - start
            print(f"{path.name}: {count} theorems, {len(data['clauses'])} clauses, {seconds:.1f} s",
                  flush=True)
    for path in set(folder.glob("*.json")) - wanted:
        path.unlink()


if __name__ == "__main__":
    main(Path(__file__).resolve().parent, "--all" in sys.argv[1:])
