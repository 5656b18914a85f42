"""Picks and combines the engines: a known theorem, a short run, inference, a thorough search.

Inference takes seconds, a first look for a run a fraction of one, so the look comes before it.
A machine inherits a theorem when its facts meet the theorem's premise. Where it does not, the run
is searched on the functions at the ends of the offending edges, which is enough for a machine of
any size because a run on a part of a machine is a run on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from dmaproof.engine.case import Case, Chain
from dmaproof.engine.explicit import Explorer, Search, search
from dmaproof.engine.finding import Candidate, Finding, Proof, Unknown
from dmaproof.engine.prover import LazyProver
from dmaproof.engine.theorems import NotProved, Prover, Theorem
from dmaproof.engine.vacuity import Vacuity, Witnesses, check_vacuity
from dmaproof.engine.worlds import World
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise, Property, PropertyKind
from dmaproof.properties.registry import PROPERTIES, applicable

COUNTS = (2, 1, 1)
"""Containers, PASIDs (besides none) and spaces of a search; a violation needs no more."""

FIRST, THOROUGH = 4_000, 60_000
"""States a world: a first look everywhere, then a thorough one."""

SEARCH_SECONDS = 20.0

MOST_EXPLORERS = 32
"""Worlds of which the states visited so far are kept for the next property."""


@dataclass
class Driver:
    """Decides properties of one design; keeps theorems and searches for the next machine.

    Attributes:
        model: the design's transition system.
        prover: its any-number engine.
    """

    model: Model
    prover: Prover
    _theorems: dict[tuple[str, Premise], Theorem | NotProved] = field(default_factory=dict)
    _explorers: dict[World, Explorer] = field(default_factory=dict)
    _looks: dict[tuple[World, str], Search] = field(default_factory=dict)
    _searches: dict[World, Search] = field(default_factory=dict)
    _vacuity: dict[Premise, Vacuity] = field(default_factory=dict)

    @cached_property
    def _witnesses(self) -> Witnesses:
        return Witnesses(self.model)

    @classmethod
    def of(cls, model: Model) -> Driver:
        """A driver with a fresh prover."""
        return cls(model, LazyProver(model))

    def theorem(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        """A property under a premise, proved at most once."""
        key = (prop.id, premise)
        if key not in self._theorems:
            found = self.prover.prove(prop, premise)
            empty = self._empty(premise) if isinstance(found, Theorem) else ""
            self._theorems[key] = NotProved(empty, False) if empty else found
        return self._theorems[key]

    def _empty(self, premise: Premise) -> str:
        """Why a theorem under a premise would be about nothing; "" if it is about something."""
        if premise not in self._vacuity:
            self._vacuity[premise] = check_vacuity(self.model, premise, self._witnesses)
        return self._vacuity[premise].reason

    def vacuous(self, case: Case) -> bool:
        """Whether the design refuses every bind on a machine."""
        return case.breaks(Premise.NOTHING_BINDABLE, self.model) is None

    def decide(self, prop: Property, case: Case) -> Finding:
        """Prove or refute a property on a machine."""
        premises = [p for p in self._ordered(prop, case) if case.breaks(p, self.model) is None]
        for premise in premises:
            if self.prover.known(prop, premise) is not None:
                proof = self._proof(prop, premise)
                if proof is not None:
                    return proof
        run, depth = self._search(prop, case, self._look)
        if run is not None:
            return run
        reasons = []
        for premise in premises:
            proof = self._proof(prop, premise)
            if proof is not None:
                return proof
            found = self.theorem(prop, premise)
            assert isinstance(found, NotProved)
            reasons.append(f"under {premise}: {found.reason}")
        run, depth = self._search(prop, case, self._explore)
        if run is not None:
            return run
        reason = "; ".join(reasons) or "no theorem has a premise that the machine meets"
        return Unknown(f"{reason}; the search found no run", depth)

    def _proof(self, prop: Property, premise: Premise) -> Proof | None:
        found = self.theorem(prop, premise)
        return Proof(found, premise) if isinstance(found, Theorem) else None

    def _ordered(self, prop: Property, case: Case) -> list[Premise]:
        """Premises in the order in which they are tried: that no bind is possible says most."""
        first = Premise.NOTHING_BINDABLE
        if first in prop.premises and self.vacuous(case):
            return [first, *(p for p in prop.premises if p is not first)]
        return list(prop.premises)

    def _search(
        self, prop: Property, case: Case, how: Callable[[World, Property], Search]
    ) -> tuple[Candidate | None, int | None]:
        """A run, or how deep none was found."""
        depth: int | None = None
        for chain in self._chains(prop, case):
            world = case.world(chain.functions, self._absent(chain))
            result = how(anonymous(world), prop)
            if prop.id in result.traces:
                steps = tuple(result.traces[prop.id])
                return Candidate(chain, world, COUNTS, steps), None
            depth = result.depth if depth is None else min(depth, result.depth)
        return None, depth

    def _absent(self, chain: Chain) -> frozenset[Bdf]:
        """With hot-add, the function that acts is plugged in later."""
        if not self.model.scheme.hot_add or len(chain.functions) < 2:
            return frozenset()
        return frozenset({chain.functions[0]})

    def _chains(self, prop: Property, case: Case) -> list[Chain]:
        """Where to look, likeliest first: the pair that breaks the premise, then every kind."""
        pairs = list(case.pairs.values())
        for premise in prop.premises:
            broken = case.breaks(premise, self.model)
            if broken is not None:
                pairs.insert(0, broken)
        chains = [case.chain(p) for p in dict.fromkeys(pairs)]
        return [chain for chain in dict.fromkeys(chains) if case.certain(chain)]

    def _look(self, world: World, prop: Property) -> Search:
        """A first look for a run that settles a property."""
        key = (world, prop.id)
        if key not in self._looks:
            self._looks[key] = self._look_at(world, prop)
        return self._looks[key]

    def _look_at(self, world: World, prop: Property) -> Search:
        if world not in self._explorers:
            if len(self._explorers) >= MOST_EXPLORERS:
                del self._explorers[next(iter(self._explorers))]
            self._explorers[world] = Explorer(self.model.system, world.instance(*COUNTS))
        goals = {prop.id: target(prop, self.model)}
        return self._explorers[world].look(goals, max_states=FIRST, seconds=SEARCH_SECONDS)

    def _explore(self, world: World, prop: Property) -> Search:
        """A thorough search for runs that settle any property, once a world."""
        if world not in self._searches:
            self._searches[world] = self._search_of(world)
        return self._searches[world]

    def _search_of(self, world: World) -> Search:
        return search(self.model.system, world.instance(*COUNTS), self._targets(),
                      max_states=THOROUGH, seconds=SEARCH_SECONDS)

    def _targets(self) -> dict[str, Formula]:
        """What a run may lead to: a violation, or for a `can` property its witness."""
        targets = {}
        for prop in PROPERTIES:
            if applicable(prop, self.model):
                continue
            proved = self._theorems.get((prop.id, Premise.NONE))
            if prop.kind is PropertyKind.ALWAYS and isinstance(proved, Theorem):
                continue
            targets[prop.id] = target(prop, self.model)
        return targets


def target(prop: Property, model: Model) -> Formula:
    """What a run that settles a property ends in."""
    formula = prop.formula(model)
    return formula if prop.kind is PropertyKind.CAN else not_(formula)


def anonymous(world: World) -> World:
    """The world with its functions and groups numbered, so that alike worlds are equal."""
    names = {f: f"F{i}" for i, f in enumerate(world.functions)}
    groups = {g: f"G{i}" for i, g in enumerate(dict.fromkeys(world.groups[f] for f in names))}

    def both(pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        return frozenset((names[a], names[b]) for a, b in pairs)

    def one(some: frozenset[str]) -> frozenset[str]:
        return frozenset(names[a] for a in some)

    return World(
        tuple(names.values()), {names[f]: groups[g] for f, g in world.groups.items()},
        both(world.influence), both(world.emits), both(world.p2p),
        frozenset(groups[g] for g in world.ported), one(world.incapable), one(world.bad_path),
        one(world.raw), one(world.absent),
    )
