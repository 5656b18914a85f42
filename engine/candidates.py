"""Candidate clauses for inductive invariants.

A literal is a relation (or a stretch of a teardown program: "past the clear step") applied to the
variables of a *frame*; a candidate is a disjunction of few literals that no simulated state
violates and no shorter candidate implies. Truth of a literal in all simulated states is one big
integer, a bit a state, so a clause is tested for all states at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from dmaproof.model.design import Payload
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import (
    And,
    Eq,
    Formula,
    Kind,
    Not,
    Or,
    Rel,
    Sort,
    Term,
    Truth,
    Var,
    and_,
    exists,
    forall,
    free_vars,
    not_,
    or_,
    relations,
)
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vfio.container import JOINING

_F, _H = Var("F", v.FUNCTION), Var("H", v.FUNCTION)
_R = Var("R", v.RID)
_G = Var("G", v.GROUP)
_C, _D = Var("C", v.CONTAINER), Var("D", v.CONTAINER)
_P = Var("P", v.PASID)
_S = Var("S", v.SPACE)


@dataclass(frozen=True)
class Frame:
    """What literals of one family of clauses may speak of.

    Attributes:
        terms: the terms of each sort.
        links: clauses have the negation of one of these as a literal (None: need not).
    """

    terms: dict[Sort, tuple[Term, ...]]
    links: tuple[Formula, ...] = ()


@dataclass(frozen=True)
class Clause:
    """A candidate: a disjunction of literals, universally closed."""

    literals: tuple[Formula, ...]

    @property
    def matrix(self) -> Formula:
        """The disjunction."""
        return or_(*self.literals)

    @property
    def variables(self) -> tuple[Var, ...]:
        """Its variables, in a fixed order."""
        return tuple(sorted(free_vars(self.matrix), key=lambda x: x.name))

    @property
    def closed(self) -> Formula:
        """The clause with its quantifiers."""
        return forall(self.variables, self.matrix)

    def __str__(self) -> str:
        return " or ".join(map(str, self.literals))


def base_frames() -> list[Frame]:
    """Families of clauses about software and caches; they hold on every machine."""
    common: dict[Sort, tuple[Term, ...]] = {v.CONTAINER: (_C,), v.PASID: (_P,), v.SPACE: (_S,)}
    by_function: dict[Sort, tuple[Term, ...]] = {
        **common, v.FUNCTION: (_F,), v.RID: (v.rid(_F),), v.GROUP: (v.group(_F),)
    }
    by_rid: dict[Sort, tuple[Term, ...]] = {**common, v.RID: (_R,), v.GROUP: (v.RGROUP(_R),)}
    by_group: dict[Sort, tuple[Term, ...]] = {**common, v.GROUP: (_G,)}
    return [
        Frame(by_function),
        Frame(by_function, (v.IN(v.group(_F), _C),)),
        Frame(by_rid),
        Frame(by_group),
        Frame({v.GROUP: (_G,), v.CONTAINER: (_C, _D)}),  # a group is in one container
    ]


def narrow_frames(model: Model) -> list[Frame]:
    """Further families for premises that leave few functions or groups to a bind."""
    slots: dict[Sort, tuple[Term, ...]] = {
        v.RID: (v.rid(_F), v.rid(_H)), v.CONTAINER: (_C,), v.GROUP: (v.group(_F),)
    }
    found = []
    eligible = model.scheme.eligible(_F)
    if not isinstance(eligible, Truth):
        by_rid: dict[Sort, tuple[Term, ...]] = {v.RID: (_R,), v.PASID: (_P,), v.SPACE: (_S,)}
        found.append(Frame(by_rid, (eligible,)))
    if model.containers is not None and model.containers.wide:
        inside = v.IN(v.group(_F), _C)
        found.append(Frame(slots, (and_(inside, v.IN(v.group(_H), _C)),)))
        if isinstance(eligible, And):  # the one member that a call of its container serves
            member: dict[Sort, tuple[Term, ...]] = {
                v.FUNCTION: (_F,), v.RID: (v.rid(_F),), v.GROUP: (v.group(_F),),
                v.CONTAINER: (_C,), v.PASID: (_P,), v.SPACE: (_S,),
            }
            found.append(Frame(member, (eligible,)))
    return found


def link_frame() -> Frame:
    """Clauses about what a function can reach: they rest on a premise about the machine."""
    terms: dict[Sort, tuple[Term, ...]] = {
        v.RID: (_R,), v.PASID: (_P,), v.SPACE: (_S,)
    }
    return Frame(terms, (v.touches(_F, _R),))


def exclusive(model: Model) -> list[Clause]:
    """A call stands at one stage at a time."""
    found = []
    for life in lives(model):
        xs = tuple(Var(f"X{i}", s) for i, s in enumerate(life[0].sorts))
        for i, stage in enumerate(life[:-1]):
            later = or_(*(r(*xs) for r in life[i + 1 :]))
            found.append(Clause((not_(stage(*xs)), not_(later))))
    return found


def lives(model: Model) -> list[list[Rel]]:
    """The stages that each kind of call passes, in their order."""
    found: list[list[Rel]] = []
    binder, containers = model.binder, model.containers
    if binder is not None:
        found.append([binder.binding, binder.bound, *binder.teardown.stages])
    if model.mapper is not None:
        found.append(model.mapper.unmap.stages)
    if containers is not None and containers.wide:
        found.append([*([JOINING] if containers.replays else []), *containers.leave.stages])
    return found


def stretches(model: Model) -> list[tuple[Rel, ...]]:
    """The lives of calls, from each of their stages on: "has entered", "past the clear step"."""
    found = [tuple(life[i:]) for life in lives(model) for i in range(len(life))]
    if model.binder is not None:  # "a call is running" is not a stretch: bound lies in between
        found.append((model.binder.binding, *model.binder.teardown.stages))
    return found


def _instances_of(symbols: Sequence[tuple[Rel, ...]], frame: Frame) -> list[Formula]:
    found = []
    for rels in symbols:
        choices = [frame.terms.get(s, ()) for s in rels[0].sorts]
        found += [or_(*(r(*args) for r in rels)) for args in product(*choices)]
    return found


def literals(model: Model, system: System, frame: Frame) -> list[Formula]:
    """The atoms of a frame: mutable relations, stretches of programs, equalities of its terms."""
    long = stretches(model)
    staged = {r for life in long for r in life} - _alone(model)
    plain = [(r,) for r in system.rels if r.kind is not Kind.STATIC and r not in staged]
    found = _instances_of([*plain, *(x for x in long if set(x) <= set(system.rels))], frame)
    if _F in frame.terms.get(v.FUNCTION, ()):
        found += _conjuncts(model.scheme.eligible(_F))
        if model.design.guards.singleton_container or (
            model.design.guards.singleton and model.scheme.hot_add
        ):
            found.append(model.scheme.single(v.group(_F)))
    if _R in frame.terms.get(v.RID, ()) and frame.links:
        return [*found, Eq(_R, v.rid(_F)), Eq(v.RGROUP(_R), v.group(_F))]
    if model.scheme.payload is Payload.MAP:
        found.append(Eq(_P, v.NO_PASID))
    if v.IN in system.rels:
        if _D in frame.terms.get(v.CONTAINER, ()):
            return [v.IN(_G, _C), v.IN(_G, _D), Eq(_C, _D)]
        found += [exists((v.C1,), v.IN(g, v.C1)) for g in frame.terms.get(v.GROUP, ())]
    return found


@dataclass
class Samples:
    """Simulated states of one instance."""

    ground: GroundSystem
    states: list[int]

    def truth(self, formula: Formula, env: dict[Var, int]) -> int:
        """In which states a formula holds: bit i is state i."""
        source = self.ground.ground(formula, env)
        if isinstance(source, bool):
            return (1 << len(self.states)) - 1 if source else 0
        return self._columns(source)

    def _columns(self, ground: object) -> int:
        assert isinstance(ground, tuple)
        word, *parts = ground
        if word == "bit":
            return self.columns[parts[0]]
        full = (1 << len(self.states)) - 1
        if word == "not":
            return full & ~self._of(parts[0])
        result = full if word == "and" else 0
        for part in parts:
            result = result & self._of(part) if word == "and" else result | self._of(part)
        return result

    def _of(self, ground: object) -> int:
        if isinstance(ground, bool):
            return (1 << len(self.states)) - 1 if ground else 0
        return self._columns(ground)

    def __post_init__(self) -> None:
        self.columns = [0] * len(self.ground.bits)
        for number, state in enumerate(self.states):
            mark, rest = 1 << number, state
            while rest:
                low = rest & -rest
                self.columns[low.bit_length() - 1] |= mark
                rest ^= low


def simulate(
    system: System, instance: Instance, runs: int, length: int, seed: int = 1
) -> Samples:
    """Random runs: each state's successors are chosen evenly among kinds of action."""
    ground = GroundSystem(system, instance)
    successors = ground.compile_successors()
    rng = random.Random(seed)
    seen: dict[int, None] = {ground.initial: None}
    for _ in range(runs):
        state = ground.initial
        for _ in range(length):
            choices = successors(state)
            if not choices:
                break
            kinds: dict[str, list[int]] = {}
            for number, after in choices:
                kinds.setdefault(ground.actions[number].name, []).append(after)
            state = rng.choice(kinds[rng.choice(sorted(kinds))])
            seen[state] = None
    return Samples(ground, list(seen))


def candidates(
    model: Model,
    system: System,
    samples: Sequence[Samples],
    frames: Sequence[Frame],
    size: int = 3,
) -> list[Clause]:
    """Shortest clauses of up to *size* literals (links apart) that no sample violates."""
    found: dict[frozenset[Formula], Clause] = {}
    for frame in frames:
        for clause in _frame_clauses(model, system, samples, frame, size):
            found.setdefault(frozenset(clause.literals), clause)
    return list(found.values())


def _frame_clauses(
    model: Model, system: System, samples: Sequence[Samples], frame: Frame, size: int
) -> Iterator[Clause]:
    if any(not relations(x) <= set(system.rels) for x in frame.links):
        return
    atoms = literals(model, system, frame)
    pool = [x for a in atoms for x in (a, not_(a))]
    variables = sorted({x for a in [*atoms, *frame.links] for x in free_vars(a)},
                       key=lambda x: x.name)
    table = [_truths(p, variables, samples) for p in pool]
    for link in [None] if not frame.links else [not_(x) for x in frame.links]:
        base = _truths(link, variables, samples) if link is not None else None
        yield from _search(pool, table, link, base, samples, variables, size)


def _truths(
    formula: Formula, variables: Sequence[Var], samples: Sequence[Samples]
) -> list[int]:
    """Truth of a formula for each instance and each value of *variables*, as big integers."""
    found = []
    own = [x for x in variables if x in free_vars(formula)]
    for sample in samples:
        instance = sample.ground.instance
        cache: dict[tuple[int, ...], int] = {}
        for choice in instance.tuples(x.sort for x in variables):
            env = dict(zip(variables, choice, strict=True))
            key = tuple(env[x] for x in own)
            if key not in cache:
                cache[key] = sample.truth(formula, env)
            found.append(cache[key])
    return found


def _search(
    pool: Sequence[Formula],
    table: Sequence[list[int]],
    link: Formula | None,
    base: list[int] | None,
    samples: Sequence[Samples],
    variables: Sequence[Var],
    size: int,
) -> Iterator[Clause]:
    full = []
    for sample in samples:
        count = len(list(sample.ground.instance.tuples(x.sort for x in variables)))
        full += [(1 << len(sample.states)) - 1] * count
    rows = range(len(full))
    # Only what is still false matters: work with the complement of each literal.
    false_of = [[full[i] & ~t[i] for i in rows] for t in table]
    start = [full[i] & ~base[i] for i in rows] if base else list(full)
    linked = free_vars(link) if link is not None else frozenset()
    stronger = _stronger(pool)
    holding: set[frozenset[int]] = set()
    level: list[tuple[tuple[int, ...], list[int]]] = [((), start)]
    for depth in range(1, size + 1):
        following = []
        for chosen, rest in level:
            first = chosen[-1] + 1 if chosen else 0
            for i in range(first, len(pool)):
                if (i ^ 1) in chosen:
                    continue
                ids = frozenset((*chosen, i))
                if _implied(ids, holding, stronger):
                    continue
                left = [a & b for a, b in zip(rest, false_of[i], strict=True)]
                if any(left):
                    if left != rest and depth < size:
                        following.append(((*chosen, i), left))
                    continue
                holding.add(ids)
                parts = [pool[j] for j in sorted(ids)]
                if not _tautology(parts) and _useful(parts, linked):
                    yield Clause(tuple([link, *parts] if link is not None else parts))
        level = following


def _stronger(pool: Sequence[Formula]) -> list[tuple[int, ...]]:
    """For each literal, the other literals that imply it (stretches of programs nest)."""
    parts = [set(_disjuncts(p.body if isinstance(p, Not) else p)) for p in pool]
    found = []
    for i, mine in enumerate(pool):
        negative = isinstance(mine, Not)
        found.append(tuple(
            j for j, other in enumerate(pool)
            if j != i and isinstance(other, Not) == negative
            and (parts[j] > parts[i] if negative else parts[j] < parts[i])
        ))
    return found


def _implied(
    ids: frozenset[int], holding: set[frozenset[int]], stronger: Sequence[tuple[int, ...]]
) -> bool:
    """Whether a clause that holds already implies the one of *ids*."""
    options = [(i, *stronger[i]) for i in sorted(ids)]
    for n in range(1, len(ids) + 1):
        for some in combinations(options, n):
            if any(frozenset(choice) in holding for choice in product(*some)):
                return True
    return False


def _useful(parts: Sequence[Formula], linked: frozenset[Var]) -> bool:
    """Whether literals hang together, and need the link if there is one."""
    groups = [set(free_vars(p)) for p in parts]
    if linked:
        if not linked <= set().union(*groups):
            return False  # a shorter clause without the link says as much
        groups.append(set(linked))
    reached, rest = groups[0], groups[1:]
    while rest:
        near = [g for g in rest if g & reached]
        if not near:
            return False
        for g in near:
            reached |= g
            rest.remove(g)
    return True


def _tautology(parts: Sequence[Formula]) -> bool:
    """Whether one literal is the negation of (a part of) another."""
    positive = {d for p in parts if not isinstance(p, Not) for d in _disjuncts(p)}
    return any(set(_disjuncts(p.body)) <= positive for p in parts if isinstance(p, Not))


def _alone(model: Model) -> set[Rel]:
    """Stages that matter by themselves, and not only as part of a stretch."""
    return set() if model.binder is None else {model.binder.binding, model.binder.bound}


def _conjuncts(formula: Formula) -> tuple[Formula, ...]:
    if isinstance(formula, And):
        return formula.parts
    return () if isinstance(formula, Truth) else (formula,)


def _disjuncts(formula: Formula) -> tuple[Formula, ...]:
    return formula.parts if isinstance(formula, Or) else (formula,)
