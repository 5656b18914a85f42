"""Known invariants of the built-in designs: hints that make proofs fast, never trusted.

Each file holds the minimal invariants of the theorems of one transition system, as SMT-LIB text,
and which theorems inference looked for in vain. A hint counts only after the solver has verified it
(`engine.recheck`); files carry a fingerprint of the system, of its premises and of its properties,
and are ignored when that is not the model at hand. That a theorem was looked for in vain counts
only while inference is the program that looked. ``python -m dmaproof.engine.library`` writes them
again.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dmaproof.engine.candidates import Clause
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.worlds import SAMPLES
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.terms import Formula, Or, Quantified
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import PROPERTIES, applicable

SCHEMA = "dmaproof/invariants/1"


@dataclass(frozen=True)
class Hints:
    """What is believed of one model.

    Attributes:
        theorems: (property, premise) -> clauses that are said to be inductive and to imply it.
        unproved: (property, premise) for which inference found no invariant.

    """

    theorems: Mapping[tuple[str, str], tuple[Clause, ...]]
    unproved: frozenset[tuple[str, str]]


NOTHING = Hints({}, frozenset())
"""Hints for a model that the library does not know."""


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of all that a theorem of a model depends on, in hexadecimal."""
    parts = [smtlib.system_text(model.core)]
    parts += [f"{p}: {smtlib.text(premise_formula(p, model))}" for p in Premise]
    for prop in PROPERTIES:
        if not applicable(prop, model):
            parts.append(f"{prop.id}: {smtlib.text(prop.formula(model))}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


_INFERENCE = ("candidates", "induction", "theorems")


@cache
def inference() -> str:
    """Return the SHA-256 of the program that infers invariants and of the worlds it simulates.

    Comments, layout and docstrings do not count.
    """
    found = hashlib.sha256()
    for world in SAMPLES:
        for value in vars(world).values():
            # The order of sets of texts is another in each process.
            items = value.items() if isinstance(value, Mapping) else value
            found.update(repr(sorted(items)).encode())
    for name in _INFERENCE:
        source = resources.files("dmaproof.engine").joinpath(f"{name}.py").read_bytes()
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [n for n in node.body if not _only_words(n)]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()


def _only_words(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def hints(model: Model) -> Hints:
    """Return what the library says of a model: nothing, where that is not one it was made of."""
    try:
        data = _files().get(fingerprint(model))
        return NOTHING if data is None else _parse(data, model)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return NOTHING  # a damaged file, or a system that SMT-LIB cannot name, costs time only


@cache
def _files() -> dict[str, Any]:
    """All files of the library by their fingerprints; unreadable ones are left out."""
    found = {}
    for entry in sorted(resources.files(__name__).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".json"):
            try:
                data = json.loads(entry.read_bytes())
                if data["schema"] == SCHEMA:
                    found[str(data["fingerprint"])] = data
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
    return found


def _parse(data: Any, model: Model) -> Hints:  # noqa: ANN401
    reader = smtlib.Reader(model.core)
    clauses = [clause_of(reader.formula(text)) for text in data["clauses"]]
    theorems = {
        (prop, premise): tuple(clauses[i] for i in numbers)
        for prop, found in data["theorems"].items()
        for premise, numbers in found.items()
    }
    unproved = {(prop, p) for prop, found in data["unproved"].items() for p in found}
    if unproved and data["inference"] != inference():
        unproved = set()
    return Hints(theorems, frozenset(unproved))


def clause_of(formula: Formula) -> Clause:
    """Return a closed universal formula as a clause."""
    matrix = formula
    if isinstance(formula, Quantified) and formula.universal:
        matrix = formula.body
    return Clause(matrix.parts if isinstance(matrix, Or) else (matrix,))


def text_of(clause: Clause) -> str:
    """Write a clause so that `clause_of` gives it back with the same literals."""
    matrix: Formula = Or(clause.literals)
    if clause.variables:
        matrix = Quantified(True, clause.variables, matrix)
    return smtlib.text(matrix)
