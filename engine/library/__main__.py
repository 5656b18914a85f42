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
from dmaproof.engine.theorems import Prover, Theorem
from dmaproof.model import design
from dmaproof.model.vfio.build import Model, build
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
        for premise in prop.premises:
            found = prover.prove(prop, premise)
            if isinstance(found, Theorem):
                texts = [library.text_of(c) for c in found.invariant]
                ids = [numbers.setdefault(t, len(numbers)) for t in texts]
                theorems.setdefault(prop.id, {})[premise.value] = ids
            elif not found.gave_up:
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
