"""The study in figures: time per row and engine, and finite model checkers beside proofs for any N.

One run does all::

    python bench/study.py                              # rows, then 4 to 64 devices
    python bench/study.py --sizes 4 8 --seconds 10     # quick
    python bench/study.py --only rows                  # or: --only devices
    python bench/study.py --row R6 --row P46           # some rows
    python bench/study.py --no-library                 # every invariant inferred anew

A proof for any number is found once; Berkeley abc's pdr, Spin and z3's Spacer answer the same
question, bit for bit, for one number at a time. Each case is a design that is safe and one that is
not, so that an engine that misreads the question is noticed: an answer that is not ours is an error
(exit code 1). Ratios say how often our answer, for any number, could have been found in that
time. Engines that are not installed, and questions beyond the time, are said so; once a number is
beyond the time, larger ones are not asked. Engines run one at a time. Their times are of the
processor, children included, so that other work does not count; the limit is on the wall clock.
Seconds of rows are of the wall clock, as `dmaproof study` tells them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from dmaproof.counterexamples.study.runner import Settings, Verdict, study
from dmaproof.counterexamples.study.table import Table as Rows
from dmaproof.counterexamples.study.table import table
from dmaproof.engine.explicit import search
from dmaproof.engine.export import aiger, promela
from dmaproof.engine.export.finite import Finite, finite, grown
from dmaproof.engine.induction import Clock
from dmaproof.engine.known import Known
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.reproof import Reproof
from dmaproof.engine.scenarios import Proved, Run, goal_of
from dmaproof.engine.spacer import ask
from dmaproof.engine.theorems import Prover, Theorem, safe_goal
from dmaproof.engine.worlds import World
from dmaproof.model import design as binds
from dmaproof.model import scenario
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.vfio.build import build
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import find

SIZES = (4, 8, 16, 32, 64)
SECONDS = 20.0
ABC = shutil.which("berkeley-abc") or shutil.which("abc")
SPIN = shutil.which("spin") if shutil.which("gcc") else None
SAFE, UNSAFE = "safe", "unsafe"

T = TypeVar("T")


# -- rows -----------------------------------------------------------------------------------


def rows(console: Console, chosen: Rows, *, library: bool = True) -> bool:
    """Time per row and engine, from an empty cache and then from the cache.

    Returns:
        Whether every verdict is as expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Path(folder) / "cache", Path(folder) / "out", library=library)
        start = time.monotonic()
        cold = study(chosen, settings)
        between = time.monotonic()
        warm = study(chosen, settings)
        end = time.monotonic()
    shown = Table("row", "verdicts", "seconds by engine", "slowest part", box=box.SIMPLE)
    totals: dict[str, float] = {}
    for row, verdicts in _by_row(cold):
        slowest = max(verdicts, key=lambda v: v.answer.seconds)
        spent = _spent(verdicts)
        shown.add_row(row, str(len(verdicts)), _told(spent),
                      f"{slowest.part} ({slowest.answer.seconds:.2f})")
    for engine, seconds in _spent(cold).items():
        totals[engine] = totals.get(engine, 0.0) + seconds
    console.print(shown)
    console.print(f"all rows, each question once: {_told(totals)}")
    good = sum(v.as_expected for v in cold)
    console.print(f"{good} of {len(cold)} verdicts as expected; whole study {between - start:.1f} s"
                  f" without a cache{'' if library else ' and library'}, {end - between:.1f} s with"
                  f" a warm cache, on {os.cpu_count()} processors")
    return all(v.as_expected for v in (*cold, *warm))


def _by_row(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.row, []).append(verdict)
    yield from found.items()


def _spent(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Seconds by engine; an answer that serves several rows counts once."""
    answers = {id(v.answer): v for v in verdicts}
    found: dict[str, float] = {}
    for verdict in answers.values():
        engine = engine_of(verdict)
        found[engine] = found.get(engine, 0.0) + verdict.answer.seconds
    return dict(sorted(found.items()))


def _told(spent: dict[str, float]) -> str:
    return ", ".join(f"{engine} {seconds:.2f}" for engine, seconds in spent.items())


def engine_of(verdict: Verdict) -> str:
    """The kind of engine that settled a verdict."""
    match verdict.answer.scope:
        case "any":
            return "invariant"
        case "values":
            return "bit-vectors"
        case "shapes":
            return "shapes"
        case "":
            return "none"
    return "search"


# -- our answers ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A claim about a design.

    Attributes:
        name: what is asked.
        grows: of what there are more and more.
        answer: finds our answer and checks it; returns it with the seconds of both.
        question: what is asked of a number of devices.
    """

    name: str
    grows: str
    answer: Callable[[], tuple[str, float, float]]
    question: Callable[[int], tuple[System, Instance, Formula]]


def of_scenario(name: str, claim: str, sort: str) -> Case:
    """A claim of a design of the study, with a number of elements of a sort."""
    found = scenario.load(name).scenario
    goal = goal_of(found.claims[claim])

    def answer() -> tuple[str, float, float]:
        fresh = scenario.parse(scenario.builtin_text(name), name).scenario  # nothing is known of it
        start = time.process_time()
        said, _ = Known(library=False).settle(fresh, fresh.claims[claim])
        middle = time.process_time()
        if isinstance(said, Run):
            return UNSAFE, middle - start, 0.0
        assert isinstance(said, Proved), said
        assert Reproof(fresh.system).holds(said.invariant, goal, Clock.seconds(60))
        return SAFE, middle - start, time.process_time() - middle

    def question(count: int) -> tuple[System, Instance, Formula]:
        world = found.instances[0]
        chosen = next(s for s in world.elements if s.name == sort)
        return found.system, grown(world, found.system, chosen, count), goal

    return Case(f"{name}: {claim}", sort, answer, question)


def of_bind(name: str, prop_id: str, premise: Premise) -> Case:
    """A property of a bind design, with a number of functions in groups of their own."""
    model, prop = build(binds.load(name)), find(prop_id)
    goal, fact = safe_goal(prop, model), premise_formula(premise, model)

    def world(count: int) -> Instance:
        functions = tuple(f"F{i}" for i in range(count))
        return World(functions, {f: f"g{f}" for f in functions}).instance(1, 1, 1)

    def answer() -> tuple[str, float, float]:
        start = time.process_time()
        run = search(model.system, world(2), {"out": not_(goal)}, max_states=4_000)
        if run.traces:
            return UNSAFE, time.process_time() - start, 0.0
        theorem = Prover(model, use_library=False).prove(prop, premise)
        middle = time.process_time()
        assert isinstance(theorem, Theorem), theorem
        assert Reproof(model.core).holds(theorem.invariant, goal, Clock.seconds(60), fact)
        return SAFE, middle - start, time.process_time() - middle

    return Case(f"{name}: {prop_id}", "Function", answer,
                lambda count: (model.system, world(count), goal))


def cases() -> list[tuple[Case, str]]:
    """What is asked, each with what is known of it."""
    return [
        (of_scenario("r27-replace-handshake", "no-mixed-walk", "Entry"), SAFE),
        (of_scenario("r27-replace-in-place", "no-mixed-walk", "Entry"), UNSAFE),
        (of_scenario("teardown-7.0", "unbind-final", "Rid"), SAFE),
        (of_scenario("r02-flush-before-clear", "unbind-final", "Rid"), UNSAFE),
        (of_bind("bind-2018-device", "device-isolation", Premise.NO_EDGES), SAFE),
        (of_bind("bind-2018-container", "device-isolation", Premise.NO_EDGES), UNSAFE),
    ]


# -- others' answers ------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What an engine said of one number.

    Attributes:
        said: ``safe``, ``unsafe`` or why neither.
        seconds: of the processor.
    """

    said: str
    seconds: float


def _external(command: Sequence[str], folder: Path, seconds: float) -> tuple[str | None, float]:
    """Run a program; returns its output (None beyond the time) and its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said: str | None = None
    with suppress(subprocess.TimeoutExpired):
        said = subprocess.run(command, cwd=folder, timeout=max(0.1, seconds), capture_output=True,
                              text=True, check=False).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return said, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def apart(work: Callable[[], T], seconds: float) -> tuple[T | None, float]:
    """Do something in a process of its own; returns the result (None beyond the time) and the time.

    z3 does not look at its own limit everywhere, and Python has none.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def run() -> None:
        start = time.process_time()
        found = work()
        theirs.send((found, time.process_time() - start))

    process = fork.Process(target=run)
    process.start()
    theirs.close()
    found: tuple[Any, float] = (None, seconds)
    try:
        if ours.poll(seconds):
            found = ours.recv()
    except EOFError:  # it died
        pass
    process.kill()
    process.join()
    return found


def by_abc(question: Finite, seconds: float) -> Answer:
    """Berkeley abc's pdr."""
    if ABC is None:
        return Answer("not installed", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "q.aig").write_bytes(aiger.data(question))
        said, used = _external([ABC, "-c", "read_aiger q.aig; pdr"], Path(folder), seconds)
    for words, result in (("Property proved", SAFE), ("was asserted", UNSAFE)):
        if said is not None and words in said:
            return Answer(result, used)
    return Answer(f"> {seconds:g} s", used)


def by_spin(question: Finite, seconds: float) -> Answer:
    """Spin: the model is compiled, and every state visited."""
    if SPIN is None:
        return Answer("not installed", 0.0)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "q.pml").write_text(promela.text(question))
        _, first = _external([SPIN, "-a", "q.pml"], folder, end - time.monotonic())
        compiler = ["gcc", "-w", "-O1", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2048",
                    "-DVECTORSZ=8192", "-o", "pan", "pan.c"]
        compiled, second = _external(compiler, folder, end - time.monotonic())
        if compiled is None or not (folder / "pan").exists():  # gcc may leave a part of it
            return Answer(f"not compiled in {seconds:g} s", first + second)
        said, third = _external(["./pan", "-m1000000"], folder, end - time.monotonic())
    used = first + second + third
    if said is None:
        return Answer(f"> {seconds:g} s", used)
    if "errors: 1" in said:
        return Answer(UNSAFE, used)
    whole = not any(w in said for w in ("out of memory", "not completed", "too small"))
    if "errors: 0" in said and whole:
        return Answer(SAFE, used)
    return Answer("> 2 GiB or too deep", used)


def by_spacer(question: Finite, seconds: float) -> Answer:
    """z3's Spacer."""
    found, used = apart(lambda: ask(question, seconds), seconds)
    if found is None or found.result == "unknown":
        return Answer(f"> {seconds:g} s", used)
    return Answer(found.result, used)


ENGINES: dict[str, Callable[[Finite, float], Answer]] = {
    "abc pdr": by_abc, "Spin": by_spin, "Spacer": by_spacer,
}


# -- beside each other ----------------------------------------------------------------------


def devices(
    console: Console, sizes: Sequence[int], seconds: float,
    chosen: Sequence[tuple[Case, str]] | None = None,
) -> bool:
    """The same questions for a number at a time, beside our answer for any number.

    Returns:
        Whether all answers agree.
    """
    agree = True
    console.print(f"at most {seconds:g} s of the wall clock a question and engine; -: not asked, as"
                  " a smaller number was beyond the time")
    for case, known in cases() if chosen is None else chosen:
        said, found, checked = case.answer()
        ours = f"any number {said} in {found:.2f} s, verified in {checked:.2f} s" if said == SAFE \
            else f"{said} by a run found in {found:.2f} s"
        console.print(f"[bold]{case.name}[/bold], by {case.grows}: {ours}")
        if said != known:
            console.print(f"  [red]error: it is known to be {known}[/red]")
            agree = False
        agree &= _compared(console, case, known, max(found, 1e-3), sizes, seconds)
    return agree


def _compared(
    console: Console, case: Case, known: str, found: float, sizes: Sequence[int], seconds: float
) -> bool:
    """A table of one case, a row for each number of devices."""
    shown = Table("N", "bits", "steps", "written", *ENGINES, box=box.SIMPLE)
    solved: dict[str, list[tuple[int, float]]] = {name: [] for name in ENGINES}
    left = dict(ENGINES)
    wrong = []
    for size in sizes:
        if not left:
            break
        question, written = apart(lambda n=size: question_of(case, n), 3 * seconds)  # type: ignore[misc]
        if question is None:
            shown.add_row(str(size), "", "", f"> {3 * seconds:g} s", *("" for _ in ENGINES))
            break
        cells = []
        for name in ENGINES:
            if name not in left:
                cells.append("-")
                continue
            answer = left[name](question, seconds)
            cells.append(_cell(answer, known, found))
            if answer.said == known:
                solved[name].append((size, answer.seconds))
                continue
            del left[name]
            if answer.said in (SAFE, UNSAFE):
                wrong.append(f"{name} says {answer.said} of {size}, but it is known to be {known}")
        shown.add_row(str(size), str(len(question.bits)), str(len(question.steps)),
                      f"{written:.2f} s", *cells)
    console.print(shown)
    for name, points in solved.items():
        if len(points) > 1:
            console.print(f"  {name}: seconds grow as N^{exponent(points):.1f}"
                          f" from {points[0][0]} to {points[-1][0]}")
    for text in wrong:
        console.print(f"  [red]error: {text}[/red]")
    console.print()
    return not wrong


def question_of(case: Case, size: int) -> Finite:
    """The question about a number of devices, the same for every engine."""
    system, instance, goal = case.question(size)
    return finite(GroundSystem(system, instance), goal, case.name)


def _cell(answer: Answer, known: str, found: float) -> str:
    if answer.said != known:
        return answer.said
    ratio = answer.seconds / found
    return f"{answer.seconds:.2f} s = {ratio:,.0f} x" if ratio >= 10 else \
        f"{answer.seconds:.2f} s = {ratio:.2g} x"


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """The slope of a straight line through the logarithms."""
    xs = [math.log(n) for n, _ in points]
    ys = [math.log(max(t, 1e-3)) for _, t in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def main() -> int:
    """Read the options and measure.

    Returns:
        0; 1 when an answer is not the known one.
    """
    parser = argparse.ArgumentParser(description="the study in figures")
    parser.add_argument("--only", choices=("rows", "devices"))
    parser.add_argument("--row", action="append", help="of `dmaproof study`; default: all")
    parser.add_argument("--no-library", action="store_true", help="infer every invariant anew")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="devices")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one question")
    options = parser.parse_args()
    console = Console(highlight=False)
    good = True
    if options.only != "devices":
        chosen = table().only(options.row) if options.row else table()
        good &= rows(console, chosen, library=not options.no_library)
    if options.only != "rows":
        good &= devices(console, sorted(set(options.sizes)), options.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
