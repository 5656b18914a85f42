"""Traces found by a search for one property, and runs that are written out step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import permutations

from dmaproof.counterexamples.bits.alpha import Alpha
from dmaproof.counterexamples.bits.gamma import Gamma
from dmaproof.counterexamples.bits.places import Places
from dmaproof.counterexamples.bits.unit import Tables, registers
from dmaproof.counterexamples.confirm import confirm
from dmaproof.counterexamples.trace import Trace
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case, Chain
from dmaproof.engine.driver import target
from dmaproof.engine.explicit import search
from dmaproof.engine.finding import Candidate
from dmaproof.model.design import Design, load
from dmaproof.model.logic.sets import apply, failing_guard, initial_state
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.registry import find

COUNTS = (2, 1, 1)


def design(name: str, **sections: Mapping[str, object]) -> Design:
    """A built-in design with keys replaced, section by section."""
    data = load(name).model_dump(by_alias=True, mode="json")
    for section, keys in sections.items():
        data[section] = {**data[section], **keys}
    return Design.model_validate(data)


@cache
def trace(name: str, where: str, prop: str, **assume: str) -> Trace:
    """The trace of a built-in design on a built-in machine."""
    return found(load(name), machine(where), prop, **assume)


def found(what: Design, where: Machine, prop: str, **assume: str) -> Trace:
    """Search a run on each pair of functions in turn; the first that is confirmed."""
    assumptions = Assumptions.of(assume)
    model = build(what, not assumptions.effective("static_fabric"))
    case = Case(where, "linux", assumptions, ats=what.fabric.ats)
    for chain in _chains(case):
        absent = frozenset({chain.functions[0]} if model.scheme.hot_add else ())
        world = case.world(chain.functions, absent)
        wanted = find(prop)
        result = search(model.system, world.instance(*COUNTS), {prop: target(wanted, model)},
                        max_states=60_000, seconds=20)
        if prop in result.traces:
            steps = tuple(result.traces[prop])
            confirmed = confirm(Candidate(chain, world, COUNTS, steps), wanted, model, case)
            assert isinstance(confirmed, Trace), confirmed
            return confirmed
    raise AssertionError(f"no run to {prop} of {what.name} on {where.name}")


def _chains(case: Case) -> Iterator[Chain]:
    functions = [d.bdf for d in case.functions]
    pairs = sorted(permutations(functions, 2), key=lambda pair: not case.acts(*pair))
    yield from map(case.chain, pairs)
    yield from (case.chain((f,)) for f in functions)


class Run:
    """A run of rules and bits side by side, one action after the other.

    Attributes:
        differences: what bits and rules disagree about now.
    """

    def __init__(
        self, what: Design, where: Machine, tables: Tables, counts=COUNTS, functions=None,
        hot_add: bool = False, absent: frozenset = frozenset(), registers=registers,
    ) -> None:
        self.model: Model = build(what, hot_add)
        values = {"static_fabric": "off"} if hot_add else {}
        case = Case(where, "linux", Assumptions.of(values), ats=what.fabric.ats)
        chosen = functions or [d.bdf for d in where.functions]
        self.instance = case.world(chosen, absent).instance(*counts)
        places = Places(self.model, self.instance, where)
        self.gamma = Gamma(self.model, places, tables, registers)
        self.alpha = Alpha(self.gamma)
        self.state = initial_state(self.model.system, self.instance)
        assert not self.differences

    @property
    def differences(self) -> list[str]:
        return list(self.alpha.differences())

    def take(self, name: str, *args: str) -> str:
        """Take one action, by the names of its elements; return why it writes nothing."""
        act = self.model.system.action(name)
        numbers = tuple(
            self.instance.elements[p.sort].index(a) for p, a in zip(act.params, args, strict=True)
        )
        return self.step(name, numbers)

    def step(self, name: str, numbers: tuple[int, ...]) -> str:
        act = self.model.system.action(name)
        refused = failing_guard(act, numbers, self.instance, self.state)
        assert refused is None, (name, refused.name)
        self.state = apply(act, numbers, self.instance, self.state)
        note = self.gamma.step(name, dict(zip((p.name for p in act.params), numbers, strict=True)))
        self.alpha.step(act, numbers)
        return note

    def script(self, lines: Iterable[str]) -> list[str]:
        """Take actions written as ``name: arg, arg``; return the first differences met."""
        for line in lines:
            name, _, rest = line.partition(":")
            args = [a.strip() for a in rest.split(",")] if rest else []
            self.take(name.strip(), *args)
            problems = self.differences
            if problems:
                return [f"{line}: {problem}" for problem in problems]
        return []
