"""Theorems over topologies: what comes out, that it is not vacuous, that mutants are noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import pytest
from pcie.draw import random_drawing

from dmaproof.engine.fabric import confirm as replay
from dmaproof.engine.fabric import decide as deciding
from dmaproof.engine.fabric.conditions import CONDITIONS, holds
from dmaproof.engine.fabric.confirm import MachineQuery, MachineReading, confirm
from dmaproof.engine.fabric.questions import PAIRWISE, QUESTIONS
from dmaproof.engine.fabric.store import Store, code_version
from dmaproof.engine.fabric.theorems import FIRM, ShapeTheorem, theorem, theorems
from dmaproof.engine.fabric.workbench import FAILS, HOLDS, UNKNOWN, Answer, Example, Workbench
from dmaproof.engine.shapes import decide, decide_all
from dmaproof.model.errors import InputError
from dmaproof.model.pcie import groups_v3, routing
from dmaproof.model.pcie.conditions import either
from dmaproof.model.pcie.topology import Acs, PortKind
from dmaproof.model.pcie.trees import local_rules
from dmaproof.model.pcie.trees.drawings import Drawing, Setting
from dmaproof.model.pcie.trees.local_rules import BELOW, BRIDGES
from dmaproof.model.pcie.trees.rules import Reading
from dmaproof.model.pcie.trees.shapes import Shape, shapes

SWITCH = Shape((0, 1, 2, 3, 2, 5))
"""A root port, an upstream port, two downstream ports, a function behind each."""
OF_SHAPES = [t for t in theorems() if t.question != "control-mask"]
PROVED = [t for t in OF_SHAPES if t.expected == "proved"]


@pytest.fixture(scope="module")
def small() -> dict[str, deciding.ShapeVerdict]:
    found: dict[str, deciding.ShapeVerdict] = {}
    claims = [t for t in theorems() if t.least < 5]
    for verdict in decide_all(claims, 4):
        found[verdict.theorem.id] = verdict
    return found


def test_what_comes_out_for_small_shapes(small) -> None:
    wrong = {name: v.result for name, v in small.items() if not v.as_expected}
    assert not wrong
    for name, verdict in small.items():
        claim = theorem(name)
        if claim.question == "control-mask":
            assert "0x0020" in verdict.detail and "none is left" in verdict.detail
        elif claim.expected == "refuted":
            assert verdict.counterexample is not None
            assert len(verdict.counterexample.machine.devices) == claim.least
            assert max(verdict.efforts) == claim.least
        else:
            assert verdict.nodes == 4 and verdict.shapes == 1 + 2 + 4 + 9


def test_names_are_one_of_a_kind_and_say_what_they_mean() -> None:
    assert len({t.id for t in theorems()}) == len(theorems())
    for claim in theorems():
        assert claim.expected in {"proved", "refuted"} and claim.says.endswith(".")
        assert set(claim.assume) == set(FIRM)
        assert set(claim.where) <= set(CONDITIONS)
        assert claim.question in QUESTIONS or claim.question == "control-mask"
    rows = {"T1", "T2", "T3", "T4", "T6", "T8", "T9", "T11", "P10", "P22", "P23", "P26", "P30"}
    rows |= {"P31", "P32", "P33", "P34", "P35", "P36", "P62"}
    assert rows <= {t.row for t in theorems()}
    assert set(QUESTIONS) >= PAIRWISE
    with pytest.raises(InputError, match="no theorem"):
        theorem("P99")


@pytest.mark.parametrize("name", ["T1", "T2", "linux-plain", "v3-egress"])
def test_six_nodes_show_what_five_do_not(name: str) -> None:
    claim = theorem(name)
    example = Workbench(SWITCH).example(claim, 60)
    assert example is not None
    shown = confirm(claim, example)
    assert shown is not None and shown.leaks
    assert [d.kind for d in shown.machine.devices].count(PortKind.DOWNSTREAM) == 2


def test_t1_is_the_machine_of_the_thread() -> None:
    """An isolating root port, a switch without ACS: what QEMU builds, too."""
    example = Workbench(SWITCH).example(theorem("T1"), 60)
    shown = confirm(theorem("T1"), example)
    kinds = [(d.label, d.acs is not None) for d in shown.machine.devices]
    assert kinds == [
        ("RP", True), ("USP", False), ("DSP1", False), ("DSP2", False), ("A", False), ("B", False),
    ]  # fmt: skip
    assert [len(group) for group in shown.groups] == [1, 1, 2, 2]
    assert [[e.channel for e in chain] for *_, chain in shown.leaks] == [["peer-to-peer"]] * 2


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("T9", Shape((0, 1, 2, 2, 2, 3, 4))),
        ("T11", Shape((0, 1, 2, 2, 3, 3, 4))),
        ("v3-inner", Shape((0, 1, 2, 2, 2))),
    ],
)
def test_larger_counterexamples_replay(name: str, shape: Shape) -> None:
    example = Workbench(shape).example(theorem(name), 60)
    assert example is not None
    shown = confirm(theorem(name), example)
    assert shown is not None and shown.leaks


def test_the_new_groups_hold_where_the_old_ones_leak() -> None:
    """P31: on the machines that refute Linux, v3 is closed and contains Linux's groups."""
    pair, beside, mixed = Shape((0, 0)), Shape((0, 1, 0)), Shape((0, 1, 2, 2, 2, 3, 4))
    places = {"T1": SWITCH, "T2": SWITCH, "T3": pair, "T6": beside, "T9": mixed}
    for name, shape in places.items():
        example = Workbench(shape).example(theorem(name), 60)
        assert example is not None
        reading = MachineReading(example, FIRM)
        home, old = reading.home["v3"], reading.home["linux"]
        assert not reading.fabric.crossings(home, FIRM)
        assert reading.fabric.crossings(old, FIRM)
        assert all(home[a] == home[b] for a in old for b in old if old[a] == old[b])


# -- the queries say what the machines say ---------------------------------------------------------


def pinned(bench: Workbench, drawing: Drawing) -> list:
    """Terms that hold exactly for *drawing*."""
    symbols, wanted = bench.symbols.tree, drawing.tree()
    terms = []

    def pin(term, value: bool) -> None:
        terms.append(term == value if not isinstance(term, bool) else bench._term(term == value))

    for node, facts in symbols.node.items():
        known = wanted.node[node]
        for kind, term in facts.kind.items():
            pin(term, kind in known.kind)
        for name in (
            "capability",
            "enhanced",
            "multifunction",
            "virtual",
            "own_memory",
            "ghost",
            "pasid",
        ):
            pin(getattr(facts, name), getattr(known, name))
        for name in ("can", "on", "memory"):
            for bit, term in getattr(facts, name).items():
                pin(term, getattr(known, name)[bit])
    for name in ("same_device", "same_bus", "alias", "same_ghost", "vector"):
        for pair, term in getattr(symbols, name).items():
            pin(term, getattr(wanted, name)[pair])
    return terms


CHECKED = [t for t in OF_SHAPES if t.question not in {"order", "ordered-closed"}]


def agree(drawing: Drawing, claims: list[ShapeTheorem]) -> None:
    """The query with all symbols given is satisfiable exactly if the machine violates the claim."""
    bench = Workbench(drawing.shape)
    bench._solver.push()
    bench._solver.add(pinned(bench, drawing))
    assert str(bench._solver.check()) == "sat", "a drawing that the axioms refuse"
    for claim in claims:
        bench._pose(claim)
        result = str(bench._solver.check())
        bench._solver.pop()
        reading = MachineReading(Example(drawing), claim.assume)
        met = all(holds(name, reading) is True for name in claim.where)
        violated = QUESTIONS[claim.question](MachineQuery(reading), claim.grouping) is True
        assert result == ("sat" if met and violated else "unsat"), claim.id


def test_queries_agree_with_machines() -> None:
    random = Random(7)
    every = [shape for size in range(1, 6) for shape in shapes(size)]
    for _ in range(12):
        drawing = random_drawing(random.choice(every), random, rare=random.choice([0.0, 0.2]))
        agree(drawing, random.sample(CHECKED, 10))


def simple_drawings(size: int):
    """Every machine of a size with plain registers: none, all on, all off."""
    states = (None, Acs(0x5F, 0x1D), Acs(0x5F, 0))
    for shape in shapes(size):
        for kinds in product(*(BELOW_ALL for _ in shape.nodes)):
            above = (None, *kinds)
            if any(kinds[n - 1] not in BELOW.get(above[shape.parent(n)], ()) for n in shape.nodes):
                continue
            if any(shape.children(n) and kinds[n - 1] not in BRIDGES for n in shape.nodes):
                continue
            yield from _settings(shape, kinds, states)


BELOW_ALL = tuple(dict.fromkeys(kind for kinds in BELOW.values() for kind in kinds))


def _settings(shape: Shape, kinds, states):
    slots = [
        (0,) if shape.parent(n) and kinds[shape.parent(n) - 1] in local_rules.ONE_SLOT else (0, n)
        for n in shape.nodes
    ]
    registers = [states if kind.is_pcie else (None,) for kind in kinds]
    for slot, acs in product(product(*slots), product(*registers)):
        found = [Setting(kind=k, slot=s, acs=a) for k, s, a in zip(kinds, slot, acs, strict=True)]
        yield Drawing(shape, tuple(found))


@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_brute_force_finds_no_more_and_no_less(size: int) -> None:
    """All machines with plain registers, one by one, by the code for real machines."""
    claims = [theorem(name) for name in ("linux-closed", "P10-honest", "P10-loopback", "P32", "T5")]
    violated: dict[str, bool] = {claim.id: False for claim in claims}
    count = 0
    for drawing in simple_drawings(size):
        count += 1
        for claim in claims:
            reading = MachineReading(Example(drawing), claim.assume)
            met = all(holds(name, reading) is True for name in claim.where)
            if met and QUESTIONS[claim.question](MachineQuery(reading), claim.grouping) is True:
                violated[claim.id] = True
    assert count > 10
    for claim in claims:
        answers = {Workbench(shape).ask(claim, 60).result for shape in shapes(size)}
        assert violated[claim.id] == (FAILS in answers), claim.id


# -- not vacuous -----------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", PROVED, ids=lambda claim: claim.id)
def test_proofs_are_about_something(claim: ShapeTheorem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the conditions of a proof hold, there are leaks, PASIDs, aliases, singletons ..."""
    monkeypatch.setitem(
        QUESTIONS, "something", lambda query, grouping: PREMISES[claim.question](query.reading)
    )
    asked = replace(claim, question="something")
    benches = (
        Workbench(shape) for shape in (Shape((0, 0)), Shape((0, 1, 1)), SWITCH, Shape((0, 1, 1, 0)))
    )
    assert any(bench.ask(asked, 60).result == FAILS for bench in benches)


PREMISES = {
    "closed": lambda r: either(*(r.leak(a, b) for a, b in r.pairs)),
    "closed-virtual": lambda r: either(*(r.tree.node[n].virtual for n in r.shape.leaves)),
    "linux-inside-v3": lambda r: either(*(condition for *_, condition in r.linux)),
    "order": lambda r: either(*(condition for *_, condition in r.v3)),
    "singleton-out": lambda r: either(
        *(r.path_enabled(n) for n in r.shape.leaves if len(r.shape.way_up(n)) > 1)
    ),
    "pasid-path": lambda r: either(
        *(r.pasid_allowed(n) for n in r.shape.leaves if len(r.shape.way_up(n)) > 1)
    ),
    "pasid-refused": lambda r: either(
        *(r.pasid_allowed(n) for n in r.shape.leaves if len(r.shape.way_up(n)) > 1)
    ),
    "pasid-mate": lambda r: either(*(r.tree.node[n].pasid for n in r.shape.leaves)),
    "alias-in-group": lambda r: either(*(r.shares_id(a, b) for a, b in r.pairs)),
}


# -- mutants ---------------------------------------------------------------------------------------


@pytest.fixture
def fresh_tables():
    """Tables are kept; a mutant needs new ones, and so does what comes after it."""
    tables = [f for f in vars(local_rules).values() if hasattr(f, "cache_clear")]
    for table in tables:
        table.cache_clear()
    yield
    for table in tables:
        table.cache_clear()


MUTANTS = {
    "a switch always isolates": (groups_v3, "switch_member", lambda machine, device: None, SWITCH),
    "functions never share": (
        groups_v3, "functions_share", lambda machine, a, b: False, Shape((0, 0)),
    ),
    "every bridge isolates": (
        groups_v3,
        "bridge_isolation",
        lambda machine, bridge: groups_v3.Isolation.ISOLATED,
        Shape((0, 1, 1)),
    ),
    "nothing is lax": (groups_v3, "may_loop_back", lambda machine, device: False, Shape((0, 0))),
    "a capability does not settle loopback": (
        routing, "opens", lambda acs, rung, target: frozenset(), Shape((0, 0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_rules_refutes_the_proposal(
    name: str, monkeypatch: pytest.MonkeyPatch, fresh_tables: None
) -> None:
    module, attribute, mutant, shape = MUTANTS[name]
    assert Workbench(shape).ask(theorem("P10-honest"), 60).result == HOLDS
    for table in (f for f in vars(local_rules).values() if hasattr(f, "cache_clear")):
        table.cache_clear()
    monkeypatch.setattr(module, attribute, mutant)
    monkeypatch.setattr(local_rules, attribute, mutant, raising=False)
    assert Workbench(shape).ask(theorem("P10-honest"), 60).result == FAILS


NEEDED = [
    ("P10-honest", "no-egress-control", SWITCH),
    ("P10-honest", "quiet-sriov", Shape((0, 0))),
    ("P10-honest", "no-shared-ghost", Shape((0, 0))),
    ("P10-honest", "no-virtual-in-switch", Shape((0, 1, 2, 2, 2))),
    ("P10", "sv-on", Shape((0, 0, 1, 2))),
    ("P10", "no-function-beside-bridge", Shape((0, 1, 2, 1))),
    ("P10", "switches-of-ports", Shape((0, 1, 2, 1, 4))),
    ("P22", "no-aliases", Shape((0, 0))),
    ("P22", "no-function-beside-bridge", Shape((0, 1, 2, 1))),
    ("P23", "no-virtual", Shape((0, 0))),
    ("P23", "switches-of-ports", Shape((0, 1, 2, 2))),
    ("P26", "no-egress-control", Shape((0, 1))),
    ("P31", "capability", Shape((0, 0))),
    ("P31", "true-multifunction", Shape((0, 1, 2))),
    ("P36", "no-shared-ghost", Shape((0, 0))),
]


@pytest.mark.parametrize(("name", "condition", "shape"), NEEDED)
def test_every_condition_of_a_proof_is_needed(name: str, condition: str, shape: Shape) -> None:
    claim = theorem(name)
    bench = Workbench(shape)
    assert condition in claim.where
    assert bench.ask(claim, 60).result == HOLDS
    rest = replace(claim, where=tuple(c for c in claim.where if c != condition))
    assert bench.ask(rest, 60).result == FAILS
    example = bench.example(rest, 60)
    assert example is not None and confirm(rest, example) is not None


def test_all_conditions_of_proofs_are_among_those_tried() -> None:
    tried = {(name, condition) for name, condition, _ in NEEDED}
    closed = {"P32", "P35"}  # as P10-honest
    same = {("P10", condition) for condition in theorem("P10-honest").where}
    same |= {("P22", c) for c in ("no-egress-control", "no-virtual", "switches-of-ports")}
    same |= {("P23", "no-egress-control")}
    missing = (
        {
            (claim.id, condition)
            for claim in PROVED
            if claim.id not in closed
            for condition in claim.where
        }
        - tried
        - same
    )
    assert not missing


@pytest.mark.parametrize("shape", [s for size in (1, 2, 3) for s in shapes(size)], ids=str)
def test_cvc5_agrees_with_the_proofs(shape: Shape) -> None:
    pytest.importorskip("cvc5")
    from dmaproof.engine import second_solver

    bench = Workbench(shape)
    for claim in PROVED[::3] if shape.size > 2 else PROVED:
        reply = second_solver.ask(bench.script(claim), claim.id, 60)
        assert reply.answer == "unsat", claim.id


def test_the_order_of_asking_does_not_matter() -> None:
    shape = Shape((0, 1, 1))
    claims = OF_SHAPES[::2]
    forth, back = Workbench(shape), Workbench(shape)
    first = {claim.id: forth.ask(claim, 60).result for claim in claims}
    second = {claim.id: back.ask(claim, 60).result for claim in reversed(claims)}
    assert first == second
    assert first == {claim.id: Workbench(shape).ask(claim, 60).result for claim in claims}


# -- no false verdict ------------------------------------------------------------------------------


def test_no_answer_is_undecided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Workbench, "ask", lambda self, claim, s: Answer(UNKNOWN, 0.1, "timeout"))
    verdict = decide(theorem("P10"), 3, store=tmp_path)
    assert (verdict.result, verdict.nodes) == ("undecided", 1)
    assert "timeout" in verdict.reason
    assert not list(tmp_path.rglob("*.json"))


def test_what_does_not_replay_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "confirm", lambda claim, example: None)
    verdict = decide(theorem("T3"), 2)
    assert verdict.result == "undecided" and verdict.reason.startswith("replay-failed")


def test_a_worker_that_dies_decides_nothing() -> None:
    shape = Shape((0, 0))
    told = deciding._lost((shape, (theorem("P10"),), 1.0, None))
    assert told == (shape, {"P10": Answer(UNKNOWN, 0.0, "a worker process died")})


def test_the_replay_uses_nothing_of_the_symbolic_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong table makes z3 refute; the machine then does not."""
    example = Workbench(Shape((0, 0))).example(theorem("T3"), 60)
    assert example is not None
    monkeypatch.setattr(replay.Fabric, "p2p", lambda self, assume: self.identity(assume))
    assert confirm(theorem("T3"), example) is None


# -- the store -------------------------------------------------------------------------------------


def test_answers_are_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    claims = [theorem("P10-honest"), theorem("P26")]
    before = decide_all(claims, 3, store=tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 2 * 7

    def fail(self, claim, seconds):
        raise AssertionError("asked again")

    monkeypatch.setattr(Workbench, "ask", fail)
    after = decide_all(claims, 3, store=tmp_path)
    assert [(v.result, v.shapes) for v in after] == [(v.result, v.shapes) for v in before]
    monkeypatch.undo()
    # A damaged or strange record is asked again, and written anew.
    files[0].write_text("{", "utf-8")
    record = json.loads(files[1].read_text("utf-8"))
    files[1].write_text(json.dumps({**record, "result": "unknown"}), "utf-8")
    files[2].write_text(json.dumps({**record, "shape": [0] * 9}), "utf-8")
    asked = []
    real = Workbench.ask
    monkeypatch.setattr(Workbench, "ask", lambda s, c, t: asked.append(c.id) or real(s, c, t))
    again = decide_all(claims, 3, store=tmp_path)
    assert [v.result for v in again] == ["proved", "proved"] and len(asked) == 3
    assert json.loads(files[0].read_text("utf-8"))["result"] == "holds"


def test_the_key_is_the_meaning(tmp_path: Path) -> None:
    store, shape, claim = Store(tmp_path), Shape((0,)), theorem("P10")
    store.save(claim, shape, "holds", 0.5)
    assert store.load(claim, shape) == ("holds", 0.5)
    assert store.load(replace(claim, id="other", says="The same."), shape) == ("holds", 0.5)
    for other in (
        replace(claim, where=claim.where[1:]),
        replace(claim, assume={**claim.assume, "rc_p2p": True}),
        replace(claim, grouping="linux"),
        replace(claim, question="order"),
    ):
        assert store.load(other, shape) is None
    assert store.load(claim, Shape((0, 0))) is None
    assert len(code_version()) == 64


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(InputError, match="cannot write"):
        Store(tmp_path / "file" / "below")


KILLED = """
from pathlib import Path
from dmaproof.engine.shapes import decide_all, theorems
if __name__ == "__main__":
    proved = [t for t in theorems() if t.expected == "proved"]
    decide_all(proved, 6, workers=2, store=Path({folder!r}))
"""


@pytest.mark.slow
def test_a_killed_run_is_taken_up(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    folder = tmp_path / "answers"
    script.write_text(KILLED.format(folder=str(folder)), "utf-8")
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    while len(list(folder.rglob("*.json"))) < 60:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    assert all(json.loads(path.read_text("utf-8"))["result"] == "holds" for path in kept)
    verdicts = decide_all(PROVED, 6, workers=2, store=folder)
    assert {v.result for v in verdicts} == {"proved"}
    assert {v.shapes for v in verdicts} == {84}
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


@pytest.mark.slow
def test_all_theorems_on_all_shapes_of_eight_nodes() -> None:
    start = time.monotonic()
    verdicts = decide_all(theorems(), 8, reach=12, workers=2)
    spent = time.monotonic() - start
    assert {v.theorem.id: v.result for v in verdicts if not v.as_expected} == {}
    for verdict in verdicts:
        if verdict.counterexample is not None:
            assert len(verdict.counterexample.machine.devices) == verdict.theorem.least
        elif verdict.theorem.question != "control-mask":
            counts = {size: effort.shapes for size, effort in verdict.efforts.items()}
            assert [counts[n] for n in range(1, 9)] == [1, 2, 4, 9, 20, 48, 115, 286]
    assert spent < 1200


def test_the_page_tells_what_comes_out() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "fabric.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [row(claim) for claim in theorems()]
    assert all(f"({claim.id})" in page or claim.id in page for claim in theorems())


def row(claim: ShapeTheorem) -> str:
    nodes = f"{claim.least} nodes" if claim.least > 1 else "1 node"
    smallest = nodes if claim.expected == "refuted" and claim.least else ""
    return f"| `{claim.id}` | {claim.expected} | {smallest} | {claim.says} |"


def test_readings_take_any_mapping_of_assumptions() -> None:
    drawing = Drawing(Shape((0,)), (Setting(PortKind.RC_INTEGRATED_ENDPOINT),))
    assert Reading(drawing.tree(), FIRM).v3 == ()
