"""Exports mean what the ground system means: evaluated anew, step by step, and by other engines."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logic.strategies import HELD, LINK, instances, systems

from dmaproof.engine.bmc import bmc
from dmaproof.engine.explicit import search
from dmaproof.engine.export import aiger, btor2, promela
from dmaproof.engine.export.finite import Finite, FiniteStep, finite, grown, holds
from dmaproof.engine.scenarios import goal_of
from dmaproof.engine.spacer import ask, spacer
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, Var, exists, not_
from dmaproof.model.scenario import ClaimKind, builtins, load

BUG, FIXED = "r27-replace-in-place", "r27-replace-handshake"
CLAIM = "no-mixed-walk"


def question_of(name: str, claim: str = CLAIM, world: int = 0) -> tuple[GroundSystem, Finite]:
    scenario = load(name).scenario
    ground = GroundSystem(scenario.system, scenario.instances[world])
    return ground, finite(ground, goal_of(scenario.claims[claim]), f"{name} {claim}")


# -- evaluators of the formats, written from their definitions ------------------------------


class Btor2:
    """A BTOR2 file of bit-vectors, evaluated as its definition says."""

    def __init__(self, text: str) -> None:
        self.nodes: dict[int, list[str]] = {}
        self.states: list[int] = []
        self.init: dict[int, int] = {}
        self.next: dict[int, int] = {}
        self.width: dict[int, int] = {}
        for line in text.splitlines():
            if line.startswith(";"):
                continue
            number, word, *rest = line.split()
            self.nodes[int(number)] = [word, *rest]
            if word == "sort":
                assert rest[0] == "bitvec"
                self.width[int(number)] = int(rest[1])
            elif word == "state":
                self.states.append(int(number))
            elif word == "init":
                self.init[int(rest[1])] = int(rest[2])
            elif word == "next":
                self.next[int(rest[1])] = int(rest[2])
            elif word == "bad":
                self.bad = int(rest[0])

    def value(self, node: int, state: dict[int, int], step: int, known: dict[int, int]) -> int:
        if node in state:
            return state[node]
        if node not in known:
            word, *rest = self.nodes[node]
            mask = (1 << self.width[int(rest[0])]) - 1

            def arg(place: int) -> int:
                return self.value(int(rest[place]), state, step, known)

            match word:
                case "zero" | "one":
                    found = int(word == "one")
                case "constd":
                    found = int(rest[1])
                case "input":
                    found = step & mask
                case "not":
                    found = ~arg(1) & mask
                case "and":
                    found = arg(1) & arg(2)
                case "or":
                    found = arg(1) | arg(2)
                case "eq":
                    found = int(arg(1) == arg(2))
                case "ite":
                    found = arg(2) if arg(1) else arg(3)
                case _:
                    raise AssertionError(word)
            known[node] = found
        return known[node]

    def start(self) -> dict[int, int]:
        return {s: self.value(self.init[s], {}, 0, {}) for s in self.states}

    def after(self, state: dict[int, int], step: int) -> dict[int, int]:
        known: dict[int, int] = {}
        return {s: self.value(self.next[s], state, step, known) for s in self.states}

    def seen(self, state: dict[int, int]) -> tuple[tuple[bool, ...], bool]:
        bits = tuple(bool(state[s]) for s in self.states)
        return bits, bool(self.value(self.bad, state, 0, {}))


class Aiger:
    """An AIGER file, ASCII or binary, evaluated as its definition says."""

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\n")
        kind, *numbers = head.split()
        self.last, self.inputs, count, outputs, ands = map(int, numbers)
        assert outputs == 1
        assert self.last == self.inputs + count + ands
        lines, self.gates = rest.split(b"\n"), {}
        if kind == b"aag":
            inputs = [int(lines.pop(0)) for _ in range(self.inputs)]
            assert inputs == [2 * (i + 1) for i in range(self.inputs)]
            latches = [tuple(map(int, lines.pop(0).split())) for _ in range(count)]
            self.latches = [own for own, _ in latches]
            self.nexts = [then for _, then in latches]
            self.output = int(lines.pop(0))
            for _ in range(ands):
                own, big, small = map(int, lines.pop(0).split())
                self.gates[own] = (big, small)
        else:
            self.latches = [2 * (self.inputs + 1 + i) for i in range(count)]
            self.nexts = [int(lines.pop(0)) for _ in range(count)]
            self.output = int(lines.pop(0))
            body = iter(b"\n".join(lines))
            for i in range(ands):
                own = 2 * (self.inputs + count + 1 + i)
                big = own - self._delta(body)
                self.gates[own] = (big, big - self._delta(body))
        for own, (big, small) in self.gates.items():
            assert own > big >= small

    def _delta(self, body: Any) -> int:
        found, shift = 0, 0
        while True:
            byte = next(body)
            found |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return found
            shift += 7

    def values(self, state: Sequence[bool], step: int) -> dict[int, bool]:
        values = {0: False}
        values |= {2 * (i + 1): bool(step >> i & 1) for i in range(self.inputs)}
        values |= dict(zip(self.latches, state, strict=True))
        for own, (big, small) in self.gates.items():
            values[own] = self.of(values, big) and self.of(values, small)
        return values

    def of(self, values: dict[int, bool], literal: int) -> bool:
        return values[literal & ~1] ^ bool(literal & 1)

    def start(self) -> tuple[bool, ...]:
        return (False,) * len(self.latches)

    def after(self, state: tuple[bool, ...], step: int) -> tuple[bool, ...]:
        values = self.values(state, step)
        return tuple(self.of(values, n) for n in self.nexts)

    def bad(self, state: tuple[bool, ...]) -> bool:
        return self.of(self.values(state, 0), self.output)


def simulate(ground: GroundSystem, question: Finite, numbers: Sequence[int]) -> None:
    """Take steps in the ground system, in BTOR2 and in both kinds of AIGER, and compare."""
    btor = Btor2(btor2.text(question))
    graphs = [Aiger(aiger.data(question)), Aiger(aiger.data(question, ascii_=True))]
    assert graphs[0].gates == graphs[1].gates
    successors = ground.compile_successors()
    state, words, bits = ground.initial, btor.start(), [g.start() for g in graphs]
    for number in [None, *numbers]:
        if number is not None:
            wanted = question.steps[number].action if number < len(question.steps) else -1
            # A step that is refused, or leads where it starts, changes nothing.
            state = dict(successors(state)).get(wanted, state)
            words = btor.after(words, number)
            bits = [g.after(b, number) for g, b in zip(graphs, bits, strict=True)]
        here = question.project(state)
        bad = holds(question.bad, here)
        assert btor.seen(words) == (here, bad)
        for graph, state_bits in zip(graphs, bits, strict=True):
            # A latch of a bit that starts set holds the complement.
            shown = tuple(b ^ i for b, i in zip(state_bits, question.initial, strict=True))
            assert shown == here
            assert graph.bad(state_bits) == bad


GOALS = (not_(exists((Var("ga", HELD.sorts[0]),), HELD(Var("ga", HELD.sorts[0])))),
         not_(exists((Var("ga", LINK.sorts[0]), Var("gb", LINK.sorts[1])),
                     LINK(Var("ga", LINK.sorts[0]), Var("gb", LINK.sorts[1])))))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_systems_step_alike_in_every_format(data: st.DataObject) -> None:
    ground = GroundSystem(data.draw(systems()), data.draw(instances()))
    question = finite(ground, data.draw(st.sampled_from(GOALS)), "random")
    most = 2 * len(question.steps) + 1
    numbers = data.draw(st.lists(st.integers(0, most), max_size=12))
    width = max(1, len(question.steps).bit_length())
    simulate(ground, question, [n & ((1 << width) - 1) for n in numbers])


@pytest.mark.parametrize("name", [BUG, FIXED, "r02-flush-before-clear"])
def test_scenarios_step_alike_in_every_format(name: str) -> None:
    scenario = load(name).scenario
    claim = next(c.id for c in scenario.claims.values() if c.kind is ClaimKind.ALWAYS)
    ground, question = question_of(name, claim)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(4):
        state, numbers = ground.initial, []
        place = {s.action: i for i, s in enumerate(question.steps)}
        for _ in range(25):
            enabled = [(n, s) for n, s in ground.compile_successors()(state) if n in place]
            if not enabled:
                break
            number, state = source.choice(enabled)
            numbers += [place[number], source.randrange(len(question.steps) + 1)]
            follow = dict(ground.compile_successors()(state))
            last = numbers[-1]
            if last < len(question.steps):
                state = follow.get(question.steps[last].action, state)
        simulate(ground, question, numbers)


def test_a_bit_that_starts_set_is_reset_to_its_complement() -> None:
    question = Finite("t", ("a", "b"), (True, False), (), ("not", ("bit", 0)), (0, 1))
    graph = Aiger(aiger.data(question))
    assert not graph.bad(graph.start())
    assert Btor2(btor2.text(question)).seen(Btor2(btor2.text(question)).start())[0] == (True, False)


def test_names_are_told_apart() -> None:
    ground, question = question_of("teardown-7.0", "unbind-final")
    assert len(set(question.bits)) == len(question.bits)
    assert all(n.replace("_", "").isalnum() for n in question.bits)
    assert len(question.bits) <= len(ground.bits)


# -- Spacer ---------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_three_engines_agree_on_random_systems(data: st.DataObject) -> None:
    system: System = data.draw(systems())
    instance: Instance = data.draw(instances())
    goal: Formula = data.draw(st.sampled_from(GOALS))
    explicit = search(system, instance, {"g": not_(goal)}, max_states=5_000, symmetric=False)
    found = spacer(system, instance, goal, 20.0)
    if explicit.exhausted or explicit.traces:
        assert found.result == ("unsafe" if explicit.traces else "safe")
    bounded = bmc(system, instance, {"g": not_(goal)}, 5)
    if bounded.traces:
        assert found.result == "unsafe"


AGREED = [BUG, "r02-flush-before-clear", "r25-zero-then-flush"]


@pytest.mark.parametrize("name", AGREED)
def test_three_engines_agree_on_designs(name: str) -> None:
    agree(name, 15.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in builtins() if n not in AGREED][::4])
def test_three_engines_agree_on_more_designs(name: str) -> None:
    agree(name, 60.0)


def agree(name: str, seconds: float) -> None:
    scenario = load(name).scenario
    asked = 0
    for claim in scenario.claims.values():
        goal, instance = goal_of(claim), scenario.instances[0]
        explicit = search(scenario.system, instance, {"g": not_(goal)}, max_states=20_000,
                          seconds=seconds)
        if not explicit.traces and not explicit.exhausted:
            continue
        found = spacer(scenario.system, instance, goal, seconds)
        if found.result == "unknown":
            continue
        asked += 1
        assert found.result == ("unsafe" if explicit.traces else "safe"), claim.id
        if explicit.traces and len(explicit.traces["g"]) <= 8:
            depth = len(explicit.traces["g"])
            bounded = bmc(scenario.system, instance, {"g": not_(goal)}, depth, seconds)
            assert len(bounded.traces["g"]) == depth
    assert asked, "no question was answered by both"


def test_without_time_spacer_says_so() -> None:
    _, question = question_of("teardown-7.0", "unbind-final")
    assert ask(question, 0.001).result == "unknown"


# -- larger worlds --------------------------------------------------------------------------


def test_a_grown_world_has_copies_of_its_last_element() -> None:
    scenario = load(BUG).scenario
    world = scenario.instances[0]
    entry = next(s for s in world.elements if s.name == "Entry")
    larger = grown(world, scenario.system, entry, 4)
    assert len(larger.elements[entry]) == 4
    assert len(set(larger.elements[entry])) == 4
    goal = goal_of(scenario.claims[CLAIM])
    small = search(scenario.system, world, {"g": not_(goal)}).traces["g"]
    large = search(scenario.system, larger, {"g": not_(goal)}).traces["g"]
    assert len(small) == len(large)
    with pytest.raises(ValueError, match="already"):
        grown(larger, scenario.system, entry, 2)


# -- other engines, where they are installed ------------------------------------------------

ABC = shutil.which("berkeley-abc") or shutil.which("abc")
SPIN, GCC = shutil.which("spin"), shutil.which("gcc")


def asked_of_abc(question: Finite, folder: Path) -> str:
    assert ABC is not None
    (folder / "q.aig").write_bytes(aiger.data(question))
    said = subprocess.run([ABC, "-c", "read_aiger q.aig; pdr"], cwd=folder, timeout=60,
                          capture_output=True, text=True, check=True).stdout
    if "Property proved" in said:
        return "safe"
    assert "was asserted in frame" in said, said
    return "unsafe"


def asked_of_spin(question: Finite, folder: Path) -> str:
    assert SPIN is not None
    (folder / "q.pml").write_text(promela.text(question))
    for command in ([SPIN, "-a", "q.pml"], ["gcc", "-w", "-DSAFETY", "-o", "pan", "pan.c"]):
        subprocess.run(command, cwd=folder, timeout=120, check=True, capture_output=True)
    said = subprocess.run(["./pan", "-m200000"], cwd=folder, timeout=60, capture_output=True,
                          text=True, check=True).stdout
    assert "max search depth too small" not in said
    return "safe" if "errors: 0" in said else "unsafe"


@pytest.mark.oracle
@pytest.mark.skipif(ABC is None, reason="berkeley-abc is not installed")
@pytest.mark.parametrize(("name", "result"), [(BUG, "unsafe"), (FIXED, "safe")])
def test_abc_says_the_same(name: str, result: str, tmp_path: Path) -> None:
    assert asked_of_abc(question_of(name)[1], tmp_path) == result


@pytest.mark.oracle
@pytest.mark.skipif(SPIN is None or GCC is None, reason="spin or gcc is not installed")
@pytest.mark.parametrize(("name", "result"), [(BUG, "unsafe"), (FIXED, "safe")])
def test_spin_says_the_same(name: str, result: str, tmp_path: Path) -> None:
    assert asked_of_spin(question_of(name)[1], tmp_path) == result


@pytest.mark.oracle
@pytest.mark.skipif(ABC is None, reason="berkeley-abc is not installed")
@given(st.data())
@settings(max_examples=12, deadline=None)
def test_abc_agrees_with_the_search_on_random_systems(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    system, instance = data.draw(systems()), data.draw(instances())
    goal = data.draw(st.sampled_from(GOALS))
    question = finite(GroundSystem(system, instance), goal, "random")
    explicit = search(system, instance, {"g": not_(goal)}, max_states=5_000, symmetric=False)
    if question.bits and (explicit.exhausted or explicit.traces):
        folder = tmp_path_factory.mktemp("abc")
        said = asked_of_abc(question, folder)
        assert said == ("unsafe" if explicit.traces else "safe")


@pytest.mark.oracle
@pytest.mark.skipif(SPIN is None or GCC is None, reason="spin or gcc is not installed")
@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_spin_agrees_with_the_search_on_random_systems(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @given(st.data())
    @settings(max_examples=examples, deadline=None, database=None)
    def agree_with_spin(data: st.DataObject) -> None:
        system, instance = data.draw(systems()), data.draw(instances())
        goal = data.draw(st.sampled_from(GOALS))
        ground = GroundSystem(system, instance)
        question = finite(ground, goal, "random")
        explicit = search(system, instance, {"g": not_(goal)}, max_states=5_000, symmetric=False)
        if question.bits and (explicit.exhausted or explicit.traces):
            said = asked_of_spin(question, tmp_path_factory.mktemp("spin"))
            assert said == ("unsafe" if explicit.traces else "safe")

    agree_with_spin()


@pytest.mark.oracle
@pytest.mark.skipif(SPIN is None or GCC is None, reason="spin or gcc is not installed")
@pytest.mark.parametrize(("bad", "result"), [
    (("and", ("not", ("bit", 0)), ("bit", 1)), "unsafe"),
    (("and", ("bit", 0), ("bit", 1)), "safe"),
    (("and", ("not", ("bit", 0)), ("not", ("bit", 1))), "safe"),
])
def test_spin_updates_all_bits_at_once(bad: Any, result: str, tmp_path: Path) -> None:
    swap = FiniteStep("swap", 0, True, ((0, ("bit", 1)), (1, ("bit", 0))))
    question = Finite("swap", ("s_a", "s_b"), (True, False), (swap,), bad, (0, 1))
    assert asked_of_spin(question, tmp_path) == result
    assert ask(question).result == result
