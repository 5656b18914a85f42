"""Deciding theorems: every shape of every size, in parallel, smallest first."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from dmaproof.engine.fabric.confirm import Counterexample, confirm
from dmaproof.engine.fabric.questions import PAIRWISE
from dmaproof.engine.fabric.store import Store
from dmaproof.engine.fabric.theorems import ShapeTheorem
from dmaproof.engine.fabric.workbench import FAILS, HOLDS, UNKNOWN, Answer, Workbench
from dmaproof.model.pcie.groups_v3 import control_mask
from dmaproof.model.pcie.quirks import EC
from dmaproof.model.pcie.trees.shapes import Shape, pairs, shapes

Progress = Callable[[int, int, str], None]
"""Told after each shape: shapes done, shapes in all, what is being asked."""

EXAMPLE_SECONDS = 120.0
_INLINE = 60
"""Fewer shapes than this are not worth a second process."""


@dataclass
class Effort:
    """What was asked at one size.

    Attributes:
        shapes: shapes asked.
        seconds: processor time of the queries, all workers together.

    """

    shapes: int = 0
    seconds: float = 0.0


@dataclass
class ShapeVerdict:
    """What came out.

    Attributes:
        theorem: the claim.
        result: "proved" (on every shape asked), "refuted" (replayed) or "undecided".
        nodes: every shape up to this size was asked.
        reach: shapes of two functions and what is beside them were asked up to this size.
        efforts: per size, what was asked.
        counterexample: the machine of a refutation.
        detail: what a refutation without machine shows.
        reason: why it is undecided.

    """

    theorem: ShapeTheorem
    result: str = ""
    nodes: int = 0
    reach: int = 0
    efforts: dict[int, Effort] = field(default_factory=dict)
    counterexample: Counterexample | None = None
    detail: str = ""
    reason: str = ""

    @property
    def shapes(self) -> int:
        """Shapes asked."""
        return sum(effort.shapes for effort in self.efforts.values())

    @property
    def seconds(self) -> float:
        """Processor time of the queries."""
        return sum(effort.seconds for effort in self.efforts.values())

    @property
    def as_expected(self) -> bool:
        """Whether the result is the one recorded with the theorem."""
        return self.result == self.theorem.expected


Asked = tuple[Shape, tuple[ShapeTheorem, ...], float, str | None]
"""A shape, the theorems to ask, seconds for each, the folder of the store."""
Told = tuple[Shape, dict[str, Answer]]


def ask(task: Asked) -> Told:
    """Ask theorems on one shape; runs in a worker. What the store knows is not asked again."""
    shape, claims, seconds, folder = task
    store = _store(folder) if folder is not None else None
    bench: Workbench | None = None
    answers: dict[str, Answer] = {}
    for claim in claims:
        known = store.load(claim, shape) if store else None
        if known is not None:
            answers[claim.id] = Answer(*known)
            continue
        bench = bench or Workbench(shape)
        answers[claim.id] = answer = bench.ask(claim, seconds)
        if store and answer.result != UNKNOWN:
            store.save(claim, shape, answer.result, answer.seconds)
    return shape, answers


@cache
def _store(folder: str) -> Store:
    return Store(Path(folder))


@dataclass
class Run:
    """One run over the sizes.

    Attributes:
        claims: the theorems.
        nodes: every shape up to this size.
        reach: beyond that, `pairs` up to this size.
        workers: processes.
        seconds: time for one query.
        store: folder of answers, None to keep none.
        progress: told after every shape.

    """

    claims: Sequence[ShapeTheorem]
    nodes: int
    reach: int
    workers: int
    seconds: float
    store: Path | None
    progress: Progress

    def verdicts(self) -> list[ShapeVerdict]:
        """Decide all claims."""
        found = {claim.id: ShapeVerdict(claim) for claim in self.claims}
        open_ = dict(found)
        for claim in self.claims:
            if claim.question == "control-mask":
                _registers(found[claim.id])
                del open_[claim.id]
        sizes = [(size, self._wanted(size)) for size in range(1, self._last() + 1)]
        self._total = sum(len(wanted) for _, wanted in sizes)
        self._done = 0
        with _pool(self.workers if self._total > _INLINE else 1) as run:
            for size, wanted in sizes:
                asked = tuple(name for name, v in open_.items() if self._asks(v.theorem, size))
                self._size(size, wanted, asked, found, run)
                for name in asked:
                    verdict = found[name]
                    if size <= self._limit(verdict.theorem):
                        verdict.nodes = size
                    verdict.reach = size
                    if verdict.result:
                        del open_[name]
        for verdict in open_.values():
            verdict.result = "proved"
        return [found[claim.id] for claim in self.claims]

    def _limit(self, claim: ShapeTheorem) -> int:
        """A smallest counterexample is looked for where it should be, even beyond `nodes`."""
        return max(self.nodes, claim.least if claim.expected == "refuted" else 1)

    def _last(self) -> int:
        limits = [self._limit(c) for c in self.claims if c.question != "control-mask"]
        return max([*limits, self.reach if limits else 0], default=0)

    def _asks(self, claim: ShapeTheorem, size: int) -> bool:
        pairwise = claim.question in PAIRWISE and claim.expected == "proved"
        return size <= max(self._limit(claim), self.reach if pairwise else 0)

    def _wanted(self, size: int) -> tuple[Shape, ...]:
        limits = [self._limit(c) for c in self.claims if c.question != "control-mask"]
        return shapes(size) if size <= max(limits) else tuple(pairs(size))

    def _size(
        self,
        size: int,
        wanted: tuple[Shape, ...],
        asked: tuple[str, ...],
        found: dict[str, ShapeVerdict],
        run: Callable[[list[Asked]], Iterator[Told]],
    ) -> None:
        folder = str(self.store) if self.store is not None else None
        few = (
            set(pairs(size)) if any(size > self._limit(found[n].theorem) for n in asked) else set()
        )
        tasks: list[Asked] = []
        for shape in wanted:
            claims = tuple(
                found[name].theorem
                for name in asked
                if size <= self._limit(found[name].theorem) or shape in few
            )
            if claims:
                tasks.append((shape, claims, self.seconds, folder))
        self._done += len(wanted) - len(tasks)
        failing: dict[str, list[Shape]] = {}
        for shape, answers in run(tasks):
            self._done += 1
            self.progress(self._done, self._total, f"shapes of {size}")
            for name, answer in answers.items():
                effort = found[name].efforts.setdefault(size, Effort())
                effort.shapes += 1
                effort.seconds += answer.seconds
                if answer.result == FAILS:
                    failing.setdefault(name, []).append(shape)
                elif answer.result != HOLDS:
                    found[name].result = "undecided"
                    found[name].reason = f"z3 on shape {shape}: {answer.reason or 'no answer'}"
        place = {shape: index for index, shape in enumerate(wanted)}
        for name, where in failing.items():
            _refute(found[name], min(where, key=place.__getitem__))


def _refute(verdict: ShapeVerdict, shape: Shape) -> None:
    """Turn a shape on which a query is satisfiable into a machine that replays."""
    example = Workbench(shape).example(verdict.theorem, EXAMPLE_SECONDS)
    shown = confirm(verdict.theorem, example) if example is not None else None
    if shown is None:
        verdict.result = "undecided"
        what = "no machine was made" if example is None else "its machine does not replay"
        verdict.reason = f"replay-failed: z3 refutes shape {shape}, but {what}"
        return
    verdict.result, verdict.reason, verdict.counterexample = "refuted", "", shown


def _registers(verdict: ShapeVerdict) -> None:
    """P62, decided by trying every 16-bit register."""
    start = time.process_time()
    lost = [c for c in range(1 << 16) if c & EC and not control_mask(c) & EC]
    verdict.efforts[0] = Effort(0, time.process_time() - start)
    verdict.result = "refuted" if lost else "proved"
    if lost:
        kept = all(control_mask(c, keep_egress=True) & EC for c in lost)
        verdict.detail = (
            f"capability {lost[0]:#06x} has EC, its mask {control_mask(lost[0]):#06x} has not "
            f"({len(lost)} of 65536 registers); "
            + ("with EC kept, as its comment says, none is left" if kept else "")
        )


@contextmanager
def _pool(workers: int) -> Iterator[Callable[[list[Asked]], Iterator[Told]]]:
    """Give a function that answers tasks as they get done."""
    if workers < 2:
        yield lambda tasks: (ask(task) for task in tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_quiet)

    def run(tasks: list[Asked]) -> Iterator[Told]:
        try:
            futures = {pool.submit(ask, task): task for task in tasks}
        except BrokenProcessPool:
            yield from map(_lost, tasks)
            return
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield _lost(futures[future])

    try:
        yield run
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _quiet() -> None:
    """Leave an interrupt to the process that the user sees."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _lost(task: Asked) -> Told:
    shape, claims, *_ = task
    return shape, {claim.id: Answer(UNKNOWN, 0.0, "a worker process died") for claim in claims}


def decide_all(
    claims: Iterable[ShapeTheorem],
    nodes: int,
    *,
    reach: int = 0,
    workers: int = 1,
    seconds: float = 300.0,
    store: Path | None = None,
    progress: Progress = lambda done, total, what: None,
) -> list[ShapeVerdict]:
    """Decide *claims* on every shape up to *nodes* nodes.

    Args:
        claims: the theorems.
        nodes: size; a claim that is expected to be refuted is asked up to where its smallest
            counterexample should be, if that is more.
        reach: beyond *nodes*, ask theorems about two functions on the shapes that these can depend
            on, up to this size.
        workers: processes; few shapes are asked in this one.
        seconds: time for one query; then it is undecided.
        store: folder in which answers are kept and found again.
        progress: called after each shape.

    Raises:
        InputError: the folder cannot be written.

    """
    if store is not None:
        Store(store)
    return Run(tuple(claims), nodes, reach, workers, seconds, store, progress).verdicts()


def decide(
    claim: ShapeTheorem,
    nodes: int,
    workers: int = 1,
    progress: Progress = lambda done, total, what: None,
    store: Path | None = None,
    *,
    reach: int = 0,
    seconds: float = 300.0,
) -> ShapeVerdict:
    """Decide one theorem: `decide_all` with *claim* alone."""
    (verdict,) = decide_all(
        [claim],
        nodes,
        reach=reach,
        workers=workers,
        seconds=seconds,
        store=store,
        progress=progress,
    )
    return verdict
