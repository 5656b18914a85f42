"""The driver: theorem first, then a run; nothing is asked twice, nothing unknown is an answer."""

from __future__ import annotations

import pytest

from dmaproof.engine import driver as driver_module
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.driver import Driver, anonymous, target
from dmaproof.engine.finding import Candidate, Proof, Unknown
from dmaproof.engine.theorems import NotProved, Prover, Theorem
from dmaproof.engine.worlds import World
from dmaproof.model.design import load
from dmaproof.model.logic.sets import holds, replay
from dmaproof.model.pcie.machines import machine
from dmaproof.model.vfio.build import build
from dmaproof.properties.base import Premise, Property
from dmaproof.properties.registry import find


def case_of(name: str, **assume: str) -> Case:
    return Case(machine(name), "linux", Assumptions.of(assume), ats=False)


class Counting(Prover):
    """A prover that knows nothing and remembers what it was asked."""

    def __init__(self, design: str, hot: bool = False) -> None:
        super().__init__(build(load(design), hot))
        self.asked: list[tuple[str, Premise]] = []

    def known(self, prop: Property, premise: Premise) -> Theorem | None:
        return None

    def prove(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        self.asked.append((prop.id, premise))
        return NotProved("it was not tried", False)


@pytest.mark.parametrize(
    ("design", "name", "prop", "premise"),
    [
        ("bind-2018-device", "SS", "device-isolation", Premise.CLOSED_GROUPING),
        ("sva-2018-core", "SWR", "device-isolation", Premise.NOTHING_BINDABLE),
        ("bind-2018-device", "BR", "can-bind", Premise.NOTHING_BINDABLE),
        ("bind-2018-device", "SW(off,off)", "unbind-final", Premise.NONE),
    ],
)
def test_a_machine_inherits_a_theorem(
    design: str, name: str, prop: str, premise: Premise
) -> None:
    found = Driver.of(build(load(design))).decide(find(prop), case_of(name))
    assert isinstance(found, Proof)
    if premise is not Premise.CLOSED_GROUPING:
        assert found.premise is premise
    assert found.theorem.property == prop


@pytest.mark.parametrize(
    ("name", "prop", "hot"),
    [("SWR", "device-isolation", False), ("SS", "can-bind", False), ("SWR", "can-bind", True)],
)
def test_a_candidate_replays(name: str, prop: str, hot: bool) -> None:
    model = build(load("bind-2018-device"), hot)
    found = Driver(model, Counting("bind-2018-device", hot)).decide(find(prop), case_of(name))
    assert isinstance(found, Candidate)
    instance = anonymous(found.world).instance(*found.counts)
    end = replay(model.system, instance, found.steps)[-1]
    assert holds(target(find(prop), model), instance, end, {})
    assert bool(found.world.absent) == (hot and len(found.chain.functions) > 1)


def test_nothing_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    prover = Counting("sva-2018-core")
    driver = Driver(prover.model, prover)
    searches: list[object] = []
    search = driver_module.search

    def counted(*args: object, **options: object) -> object:
        searches.append(args[1])
        return search(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(driver_module, "search", counted)
    first = driver.decide(find("device-isolation"), case_of("SS"))
    asked, explored = list(prover.asked), len(searches)
    # SS and SW(on,on) differ in names only.
    second = driver.decide(find("device-isolation"), case_of("SW(on,on)"))
    assert len(set(asked)) == len(asked)
    assert (prover.asked, len(searches)) == (asked, explored)
    assert first == second


def test_no_theorem_and_no_run_is_unknown() -> None:
    prover = Counting("sva-2018-core")
    found = Driver(prover.model, prover).decide(find("device-isolation"), case_of("SS"))
    assert isinstance(found, Unknown)
    assert "it was not tried" in found.reason
    assert "the search found no run" in found.reason
    assert found.depth is not None


def test_a_machine_that_meets_no_premise_says_so() -> None:
    prover = Counting("sva-2018-core")
    found = Driver(prover.model, prover).decide(find("can-bind"), case_of("SS"))
    assert isinstance(found, Candidate)
    assert prover.asked == []


def test_vacuous_machines() -> None:
    driver = Driver.of(build(load("sva-2018-core")))
    assert driver.vacuous(case_of("SWR"))
    assert not driver.vacuous(case_of("SS"))


def test_alike_worlds_are_one() -> None:
    one = World(("X", "Y"), {"X": "q", "Y": "r"}, emits=frozenset({("X", "Y")}),
                ported=frozenset("r"), incapable=frozenset("X"), absent=frozenset("Y"))
    two = World(("b", "a"), {"b": "z", "a": "y"}, emits=frozenset({("b", "a")}),
                ported=frozenset("y"), incapable=frozenset("b"), absent=frozenset("a"))
    assert anonymous(one) == anonymous(two) == anonymous(anonymous(one))
    other = World(("a", "b"), {"b": "z", "a": "y"}, emits=frozenset({("b", "a")}),
                  ported=frozenset("y"), incapable=frozenset("b"), absent=frozenset("a"))
    assert anonymous(other) != anonymous(one)
