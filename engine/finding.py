"""What an engine finds. Only `counterexamples.confirm` turns a candidate into a refutation."""

from __future__ import annotations

from dataclasses import dataclass

from dmaproof.engine.case import Chain
from dmaproof.engine.theorems import Theorem
from dmaproof.engine.worlds import World
from dmaproof.model.logic.sets import Step
from dmaproof.properties.base import Premise


@dataclass(frozen=True)
class Proof:
    """The property holds: a theorem whose premise the machine meets."""

    theorem: Theorem
    premise: Premise


@dataclass(frozen=True)
class Candidate:
    """A run that ends where the property is false (for a `can` property: where it is true).

    Attributes:
        chain: the functions of the machine that the run is about.
        world: their facts; the run's elements are those of `world.instance(...)`.
        counts: numbers of containers, PASIDs and spaces of that instance.
    """

    chain: Chain
    world: World
    counts: tuple[int, int, int]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Unknown:
    """Neither proved nor refuted; says how far the engines came."""

    reason: str
    depth: int | None = None


Finding = Proof | Candidate | Unknown
