"""Proof obligations over arbitrary memory (z3), and what refutes them.

An obligation is *valid* when the negation of its claim is unsatisfiable; otherwise a model gives a
concrete memory image and request, which the int carrier replays. What is claimed stands in
`obligations_tables` and `obligations_mapping` (tables), `obligations_confinement` (guests) and
`obligations_caches`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dmaproof.model.algebra import (
    Cond,
    Image,
    SymbolicMemory,
    Term,
    Truth,
    Value,
    Word,
    Z3Carrier,
    cond_z3,
    word_z3,
)
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import Outcome, evaluate
from dmaproof.model.vtd.walks import OTHER, Place, place_of


@dataclass(frozen=True)
class Read:
    """One table read of a symbolic evaluation.

    Attributes:
        runs: z3 condition under which the read happens.
        address, value: words.
        fault: condition number that an inaccessible address gives; it names the kind of table.
        stage, level, covered: which entry of which walk it is (`walks.Place`).
    """

    runs: Any
    address: Word
    value: Word
    fault: int
    stage: int
    level: int
    covered: Word


class TracingCarrier(Z3Carrier):
    """The symbolic carrier, noting every table read with the walk it belongs to."""

    def __init__(self, memory: SymbolicMemory) -> None:
        """Start an evaluation on *memory*."""
        super().__init__(memory)
        self.reads: list[Read] = []
        self._place: Place | None = None

    def read(self, address: Word, fault: int) -> Word:
        """Return the quadword at *address* and note the read."""
        value = super().read(address, fault)
        place = self._place or Place(OTHER, fault, 0)
        self.reads.append(Read(cond_z3(self._open), address, value, fault, *place))
        return value

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step*, remembering which walk its reads belong to."""
        outer, self._place = self._place, place_of(step, values) or self._place
        try:
            return super().when(condition, step, *values, otherwise=otherwise)
        finally:
            self._place = outer


@dataclass
class Obligation:
    """One claim under hypotheses.

    Attributes:
        name: what is claimed.
        hypotheses: z3 Booleans that are assumed.
        claim: z3 Boolean that must follow.
        memory: z3 array before the event (for the replay of a counterexample).
        words: named words of the event, to be read from a model.
        reads: table reads, whose addresses make up the concrete image.
        frames: z3 page numbers whose predicates a counterexample tells.
        predicates: named predicates of a page number.
    """

    name: str
    hypotheses: list[Any]
    claim: Any
    memory: Any
    words: dict[str, Word] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    predicates: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Counterexample:
    """A concrete memory and event that break a claim.

    Attributes:
        image: memory before the event.
        words: the event's words by name.
        pages: for each named predicate the page numbers that satisfy it, among those touched.
    """

    image: Image
    words: dict[str, int]
    pages: dict[str, set[int]]


def check(obligation: Obligation, timeout_ms: int = 60_000) -> Counterexample | None:
    """Return None if the obligation is valid, else a counterexample.

    Raises:
        TimeoutError: the solver gave up; nothing is known then.
    """
    import z3

    # A context of its own: otherwise the time depends on what was built before, up to thirtyfold.
    apart = z3.Context()
    solver = z3.SolverFor("QF_AUFBV", ctx=apart)
    solver.set("timeout", timeout_ms)
    solver.add(*(part.translate(apart) for part in obligation.hypotheses))
    solver.add(z3.Not(obligation.claim).translate(apart))
    answer = solver.check()
    if answer == z3.unsat:
        return None
    if answer != z3.sat:
        raise TimeoutError(f"{obligation.name}: {solver.reason_unknown()}")
    return _concrete(obligation, solver.model())


def satisfiable(obligation: Obligation) -> bool:
    """Return whether the hypotheses can hold at all (a guard against vacuous proofs)."""
    import z3

    apart = z3.Context()
    solver = z3.SolverFor("QF_AUFBV", ctx=apart)
    solver.add(*(part.translate(apart) for part in obligation.hypotheses))
    return bool(solver.check() == z3.sat)


def _concrete(obligation: Obligation, model: Any) -> Counterexample:  # noqa: ANN401
    import z3

    def number(term: Any) -> int:  # noqa: ANN401
        return int(model.eval(term.translate(model.ctx), model_completion=True).as_long())

    def holds_in(condition: Any) -> bool:  # noqa: ANN401
        return bool(model.eval(condition.translate(model.ctx), model_completion=True))

    image = Image()
    for read in obligation.reads:
        address = number(word_z3(read.address)) & ~7
        image.words[address] = number(z3.Select(obligation.memory, address))
    words = {}
    for name, value in obligation.words.items():
        if isinstance(value, bool | Truth):
            words[name] = int(holds_in(cond_z3(value)))
        else:
            words[name] = number(word_z3(value))
    pages: dict[str, set[int]] = {name: set() for name in obligation.predicates}
    for frame in obligation.frames:
        for name, holds in obligation.predicates.items():
            if holds_in(holds(frame)):
                pages[name].add(number(frame))
    return Counterexample(image, words, pages)


def symbolic_request(prefix: str, sid: int, pasid: int | None, **fields: Cond) -> Request:
    """Return a request at an arbitrary address that reads or writes, by one requester."""
    import z3

    return Request(
        sid, Term(z3.BitVec(f"{prefix}.address", 64)), Truth(z3.Bool(f"{prefix}.write")),
        pasid or 0, pasid is not None, **fields,
    )


def trace(memory: SymbolicMemory, registers: Registers, request: Request) -> (
    tuple[Outcome, list[Read]]
):
    """Translate symbolically and return the outcome with all table reads."""
    carrier = TracingCarrier(memory)
    outcome = evaluate(carrier, registers, request)
    return outcome, carrier.reads
