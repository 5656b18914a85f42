"""Proof obligations over arbitrary memory (z3), and what refutes them.

An obligation is *valid* when the negation of its claim is unsatisfiable; otherwise a model gives a
concrete memory image and request, which the int carrier replays. What is claimed stands in
`obligations_tables` and `obligations_mapping` (tables), `obligations_confinement` (guests) and
`obligations_caches`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import process_time
from typing import Any, Final

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

_EFFORT: Final = 6_000_000  # z3's resource units of a first try: two seconds or so
_TRIES: Final = 2  # seeds that are tried before the limit is doubled


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


class NamedMemory(SymbolicMemory):
    """Arbitrary memory in which every value that is read gets a name.

    Terms stay shallow so, however many reads led to an address: proofs that compare walks take
    seconds instead of minutes.

    Attributes:
        named: by name, the z3 fact of what the value is; hypotheses of any claim about it.
    """

    def __init__(self, ram: int = 1 << 52, name: str = "memory") -> None:
        """Make an arbitrary memory."""
        super().__init__(ram=ram, name=name)
        self.named: dict[str, Any] = {}
        self._written: tuple[tuple[Word, Word], ...] = ()

    def content(self, where: Any) -> Any:  # noqa: ANN401
        """Return the quadword at a z3 address."""
        import z3

        found = self.array[where]
        for address, value in self._written:
            found = z3.If(where == word_z3(address), word_z3(value), found)
        return found

    def word(self, address: Word) -> Term:
        """Return the name of the quadword at *address*."""
        import z3

        value = self.content(word_z3(address))
        # Named after what it is, so that two evaluations agree where they read the same.
        name = f"read.{hashlib.sha256(value.sexpr().encode()).hexdigest()[:16]}"
        self.named[name] = z3.BitVec(name, 64) == value
        return Term(z3.BitVec(name, 64))

    def store(self, address: Word, value: Word) -> NamedMemory:
        """Return the memory after a write; it shares its names with this one."""
        after = NamedMemory(self.ram)
        after.array, after.named = self.array, self.named
        after._written = (*self._written, (address, value))
        return after


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
        steps: z3 Booleans that help to prove the claim, each with those before it. What does not
            follow from the hypotheses is left out, so they never change the answer.
        logic: SMT-LIB's name of the theories; QF_BV where there is neither memory nor function.
    """

    name: str
    hypotheses: list[Any]
    claim: Any
    memory: Any
    words: dict[str, Word] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    predicates: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    steps: list[Any] = field(default_factory=list)
    logic: str = "QF_AUFBV"


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


def check(
    obligation: Obligation, timeout_ms: int = 60_000, *, seed: int = 0
) -> Counterexample | None:
    """Return None if the obligation is valid, else a counterexample.

    Args:
        obligation: what is claimed.
        timeout_ms: processor time of this process, in milliseconds.
        seed: the first of z3's random seeds that are tried.

    Raises:
        TimeoutError: the solver gave up; nothing is known then.
    """
    import z3

    query = _Query(obligation, timeout_ms, seed)
    query.learn(obligation.steps)
    answer, solver = query.ask(z3.Not(obligation.claim))
    if answer == z3.unsat:
        return None
    if answer != z3.sat:
        raise TimeoutError(f"{obligation.name}: no answer in {timeout_ms} ms of processor time")
    return _concrete(obligation, solver.model())


def satisfiable(obligation: Obligation, timeout_ms: int = 60_000) -> bool:
    """Return whether the hypotheses can hold at all (a guard against vacuous proofs)."""
    import z3

    answer, _ = _Query(obligation, timeout_ms, 0).ask()
    return bool(answer == z3.sat)


class _Query:
    """The hypotheses of one obligation, asked with several seeds.

    How long z3 takes is a matter of luck: a proof of half a second may take minutes under another
    seed, or after other proofs. So it is asked again and again from the start, under new seeds and
    slowly growing limits. The limits are z3's own count of its steps, which does not depend on how
    busy the machine is, and the end is told by processor time.
    """

    def __init__(self, obligation: Obligation, timeout_ms: int, seed: int) -> None:
        import z3

        # A context of its own: otherwise the time depends on what was built before.
        self._apart = z3.Context()
        self._facts = [part.translate(self._apart) for part in obligation.hypotheses]
        self._logic = obligation.logic
        self._seed = seed
        self._end = process_time() + timeout_ms / 1000

    def _limit(self, solver: Any, effort: int, seed: int) -> None:  # noqa: ANN401
        """Limit the next answer; z3's clock is the wall's, so on a busy machine it has to wait."""
        left = max(1, int(4000 * (self._end - process_time())))
        solver.set(random_seed=seed, rlimit=effort, timeout=left)

    def learn(self, steps: Iterable[Any]) -> None:
        """Take those *steps* for facts that follow, in order, from the facts so far."""
        import z3

        solver = z3.SimpleSolver(ctx=self._apart)
        solver.add(*self._facts)
        for step in steps:
            claim = step.translate(self._apart)
            self._limit(solver, _EFFORT, self._seed)
            if solver.check(z3.Not(claim)) == z3.unsat:
                solver.add(claim)
                self._facts.append(claim)

    def ask(self, *more: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """Return z3's answer about the facts and *more*, and the solver; unknown: time is up."""
        import z3

        answer, solver, tries = z3.unknown, None, 0
        while answer == z3.unknown and process_time() < self._end:
            solver = z3.SolverFor(self._logic, ctx=self._apart)
            self._limit(solver, _EFFORT << tries // _TRIES, self._seed + tries)
            solver.add(*self._facts, *(part.translate(self._apart) for part in more))
            answer = solver.check()
            tries += 1
        return answer, solver


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
