"""Three engines, one answer: every (design, machine, property) of the built-in matrix.

The any-number engine proves, or the explicit search and bounded model checking find a shortest run
of one length; where nothing is found up to a budget, nothing is found by either. Machines are asked
on one fixed instance a row: the first chain of functions (leak edges come first) and, where that is
clean though nothing is proved, the first chain that is not. Alike worlds are searched once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest

from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.bmc import bmc
from dmaproof.engine.case import Case
from dmaproof.engine.driver import Driver, anonymous, target
from dmaproof.engine.explicit import Search, search
from dmaproof.engine.theorems import Theorem
from dmaproof.engine.worlds import World
from dmaproof.model.design import builtin_names, load
from dmaproof.model.logic.sets import holds, replay
from dmaproof.model.logic.terms import Formula
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.vfio.build import build
from dmaproof.properties.base import Premise, Property
from dmaproof.properties.registry import PROPERTIES, applicable


@dataclass(frozen=True)
class Scale:
    """How large an instance is, and how far it is searched.

    Attributes:
        counts: containers, PASIDs (besides none) and spaces.
        states: budget of the explicit search.
        depth: bound of bounded model checking.
        seconds: budget of each engine.
    """

    counts: tuple[int, int, int]
    states: int
    depth: int
    seconds: float


SMALL = Scale((2, 1, 1), 1_200, 7, 30.0)
LARGE = Scale((2, 2, 2), 120_000, 9, 240.0)


@dataclass
class Engines:
    """The engines of one design, with what they have answered."""

    name: str
    scale: Scale
    explicit: dict[World, Search] = field(default_factory=dict)
    bounded: dict[World, Search] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = build(load(self.name))
        self.driver = Driver.of(self.model)
        self.properties = [p for p in PROPERTIES if not applicable(p, self.model)]
        self.targets: dict[str, Formula] = {p.id: target(p, self.model) for p in self.properties}

    def proved(self, prop: Property, case: Case) -> Premise | None:
        """The premise of a theorem that a machine inherits."""
        for premise in prop.premises:
            if case.breaks(premise, self.model) is None and isinstance(
                self.driver.theorem(prop, premise), Theorem
            ):
                return premise
        return None

    def searched(self, world: World) -> Search:
        if world not in self.explicit:
            self.explicit[world] = search(
                self.model.system, world.instance(*self.scale.counts), self.targets,
                max_states=self.scale.states, seconds=self.scale.seconds,
            )
        return self.explicit[world]

    def unrolled(self, world: World) -> Search:
        if world not in self.bounded:
            instance = world.instance(*self.scale.counts)
            found = bmc(self.model.system, instance, self.targets, self.scale.depth,
                        self.scale.seconds)
            for prop, steps in found.traces.items():
                end = replay(self.model.system, instance, steps)[-1]
                assert holds(self.targets[prop], instance, end, {})
            self.bounded[world] = found
        return self.bounded[world]

    def disagreements(self, prop: Property, case: Case) -> Iterator[str]:
        """What is wrong with the answers about one row."""
        premise = self.proved(prop, case)
        worlds = worlds_of(case)
        world = worlds[0]
        if premise is None:
            world = next((w for w in worlds if prop.id in self.searched(w).traces), world)
        explicit, bounded = self.searched(world), self.unrolled(world)
        first, second = explicit.traces.get(prop.id), bounded.traces.get(prop.id)
        if premise is not None:
            if first is not None:
                yield f"proved under {premise}, but the search finds {len(first)} steps"
            if second is not None:
                yield f"proved under {premise}, but BMC finds {len(second)} steps"
        elif first is not None and second is not None:
            if len(first) != len(second):
                yield f"the search finds {len(first)} steps, BMC {len(second)}"
        elif first is not None and len(first) <= bounded.depth:
            yield f"the search finds {len(first)} steps, BMC is clean to {bounded.depth}"
        elif second is not None and (explicit.exhausted or len(second) <= explicit.depth):
            yield f"BMC finds {len(second)} steps, the search is clean to {explicit.depth}"


def worlds_of(case: Case) -> list[World]:
    """The worlds of the chains of a machine, at the most two functions each, edges first."""
    chains = (case.chain(p) for p in case.pairs.values())
    found = (anonymous(case.world(c.functions)) for c in chains if len(c.functions) <= 2)
    return list(dict.fromkeys(found))


@cache
def cases(grouping: str, ats: bool) -> dict[str, Case]:
    return {n: Case(machine(n), grouping, Assumptions.of(), ats=ats) for n in names()}


def compare(name: str, scale: Scale) -> tuple[Engines, int]:
    """Compare the engines on every machine; returns them and the number of rows."""
    engines = Engines(name, scale)
    fabric = engines.model.design.fabric
    wrong, rows = [], 0
    for place, case in cases(fabric.grouping, fabric.ats).items():
        for prop in engines.properties:
            rows += 1
            wrong += [f"{place}, {prop.id}: {x}" for x in engines.disagreements(prop, case)]
    assert not wrong, "\n".join(wrong)
    return engines, rows


@pytest.mark.parametrize("name", [
    n if n in {"bind-2018-group", "sva-2018-core"} else pytest.param(n, marks=pytest.mark.slow)
    for n in builtin_names()
])
def test_engines_agree(name: str) -> None:
    engines, rows = compare(name, SMALL)
    assert rows == len(names()) * len(engines.properties)
    assert any(s.traces for s in engines.bounded.values())
    assert any(s.exhausted or s.depth >= SMALL.depth for s in engines.explicit.values())
    assert all(s.depth >= SMALL.depth or not s.reason for s in engines.bounded.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", builtin_names())
def test_engines_agree_on_larger_instances(name: str, request: pytest.FixtureRequest) -> None:
    if not request.config.option.markexpr:
        pytest.skip("takes up to some minutes a design: ask for it with -m slow")
    compare(name, LARGE)
