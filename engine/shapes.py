"""Theorems over all topologies: the public face of `engine.fabric`.

``theorems()`` lists them, ``decide(theorem, nodes, workers, progress, store)`` decides one, and
``decide_all`` decides many at the price of few: the rules are written down once a shape.
"""

from __future__ import annotations

from dmaproof.engine.fabric.confirm import Counterexample
from dmaproof.engine.fabric.decide import Effort, ShapeVerdict, decide, decide_all
from dmaproof.engine.fabric.theorems import ShapeTheorem, theorem, theorems

__all__ = [
    "Counterexample",
    "Effort",
    "ShapeTheorem",
    "ShapeVerdict",
    "decide",
    "decide_all",
    "theorem",
    "theorems",
]
