"""The driver of bind designs with its searches kept between runs.

A run that a search found is a candidate whoever found it: it is replayed on the machine before it
counts. That a search found none leads to *undecided* at worst, never to a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dmaproof.engine.cache import Cache, key_of, program
from dmaproof.engine.driver import COUNTS, FIRST, THOROUGH, Driver, target
from dmaproof.engine.explicit import Search
from dmaproof.engine.known import world_text
from dmaproof.engine.theorems import NotProved, Theorem
from dmaproof.engine.worlds import World
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import Step
from dmaproof.model.logic.terms import Formula
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise, Property


@dataclass
class CachedDriver(Driver):
    """A driver that asks the cache before it searches.

    Attributes:
        cache: answers of earlier runs.
        noted: the theorems that were used, by name, each with its model.
    """

    cache: Cache = field(default_factory=lambda: Cache(None))
    noted: dict[str, tuple[Theorem, Model]] = field(default_factory=dict)

    @cached_property
    def _system(self) -> str:
        return smtlib.system_text(self.model.system)

    def theorem(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        """A property under a premise, proved at most once, and noted by its name."""
        found = super().theorem(prop, premise)
        if isinstance(found, Theorem):
            self.noted[found.name] = (found, self.model)
        return found

    def _look_at(self, world: World, prop: Property) -> Search:
        goals = {prop.id: target(prop, self.model)}
        return self._once(world, FIRST, goals, lambda: super(CachedDriver, self)._look_at(
            world, prop
        ))

    def _search_of(self, world: World) -> Search:
        return self._once(world, THOROUGH, self._targets(), lambda: (
            super(CachedDriver, self)._search_of(world)
        ))

    def _once(
        self, world: World, budget: int, targets: Mapping[str, Formula], ask: Callable[[], Search]
    ) -> Search:
        key = key_of([
            program("model", "properties", "engine"), self._system,
            world_text(world.instance(*COUNTS)), str(budget),
            *(f"{n}: {smtlib.text(f)}" for n, f in targets.items()),
        ])
        kept = self._kept(key)
        if kept is not None:
            return kept
        found = ask()
        self.cache.put(key, {
            "traces": {n: [[s.action, *s.args] for s in t] for n, t in found.traces.items()},
            "depth": found.depth, "exhausted": found.exhausted, "reason": found.reason,
        })
        return found

    def _kept(self, key: str) -> Search | None:
        data = self.cache.get(key)
        if data is None:
            return None
        try:
            traces = {
                str(n): [Step(str(name), tuple(map(int, args))) for name, *args in steps]
                for n, steps in data["traces"].items()
            }
            return Search(traces, 0, int(data["depth"]), bool(data["exhausted"]),
                          str(data["reason"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
