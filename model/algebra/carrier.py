"""The interface of all carriers, and what the values of `model.vtd` may do.

Arithmetic is fixed-width, in three carriers: Python int, z3 bit-vector, numpy lanes.
All of `model/vtd` is written once, against the operators that the three kinds of value share:

* a **word** is an unsigned 64-bit value: a Python int, a `Term` (z3) or a uint64 array (one element
  a lane). ``&``, ``|``, ``^``, ``+``, ``<<``, ``>>`` (logical) and the unsigned comparisons work on
  every mix of them and Python ints. A sum or shift must not leave 64 bits: the int carrier does not
  wrap.
* a **condition** is a bool, a `Truth` (z3) or a bool array. ``&``, ``|`` combine, ``^ True``
  negates.

What needs more than an operator is a method of the carrier: reading memory, guarded choice, the
guarded step `when`, and `fail`, which blocks the request unless it is blocked already. Code written
against a carrier never branches on a word or condition; only on Python constants (register values,
the kind of a request).

A new carrier subclasses `Carrier`, gives the methods that raise NotImplementedError, and is
added to `tests/vtd/test_carriers.py`, where hypothesis compares it with the others. z3 and numpy
are imported only when their carrier is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

# No static type describes all three carriers' values.
Word = Any  # int, Term or uint64 array
Cond = Any  # bool, Truth or bool array
Value = Any  # a word, a condition, or whatever a step takes and gives

MASK64: Final = (1 << 64) - 1
PAGE: Final = 0x1000


class Blocked(Exception):
    """The int carrier leaves the evaluation at the first failed check."""

    def __init__(self, fault: int) -> None:
        super().__init__(fault)
        self.fault = fault


class Carrier:
    """State of one evaluation: the fault (if any), fault suppression and the flags to write.

    Attributes:
        fault: word; 0 while no check failed, else the number of the first condition that did.
        suppressed: condition; a met entry asks that faults are not recorded (FPD).
        updates: accessed/dirty updates in order: (condition, address, bits to set); the numpy
            carrier gives lane numbers instead of the condition.
        ram: size of the memory in bytes.
        caching: the evaluation may use and fill translation caches (`model.vtd.caches`).

    """

    caching = False
    fault: Word
    suppressed: Cond
    updates: list[tuple[Any, Word, Word]]
    ram: int
    direct = False
    """Whether `when` does nothing but call the step where a condition is a literal True."""

    def read(self, address: Word, fault: int) -> Word:
        """Return the quadword at the 8-aligned *address*; block with *fault* outside memory."""
        raise NotImplementedError

    def words(self, address: Word, count: int, fault: int) -> tuple[Word, ...]:
        """Return the *count* quadwords from *address* on; block with *fault* outside memory."""
        return tuple(self.read(address + 8 * n, fault) for n in range(count))

    def select(self, condition: Cond, yes: Word, no: Word) -> Word:
        """Return *yes* where *condition* holds, else *no*; both are evaluated."""
        raise NotImplementedError

    def fail(self, condition: Cond, fault: int) -> None:
        """Block the request with *fault* where *condition* holds and nothing failed before."""
        raise NotImplementedError

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Word,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Return ``step(self, *values)`` where *condition* holds, else *otherwise*.

        Whatever the step reads, fails, suppresses or updates counts only there. The int carrier
        skips the step, z3 skips it only for a literal false, numpy runs it on the lanes that need
        it: so a step must get every word it uses through *values*, never by closure. A value may
        be a word, a condition, a tuple of values, an object with ``lanes(rows)``, or a constant.
        """
        raise NotImplementedError

    def suppress(self, condition: Cond) -> None:
        """Note that faults from here on are not to be recorded where *condition* holds (FPD)."""
        raise NotImplementedError

    def update(self, condition: Cond, address: Word, bits: Word) -> None:
        """Note that hardware sets *bits* in the quadword at *address* where *condition* holds."""
        raise NotImplementedError

    def unwritable(self, address: Word) -> Cond:
        """Return whether memory at *address* refuses writes; false where none does."""
        return False

    def run(
        self, step: Callable[..., tuple[Any, ...]], *values: Value, blocked: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return ``step(self, *values)``, or *blocked* if the carrier stops at a check."""
        raise NotImplementedError

    def lookup(self, table: Sequence[int], index: Word) -> Word:
        """Return ``table[index]``; *index* must lie inside the table."""
        raise NotImplementedError

    # Hooks of a carrier with ``caching = True``; without caches nothing calls them.

    def context(self, load: Callable[..., Value], registers: Value, sid: Word) -> Value:
        """Return the context entry of *sid*: a cached one, or what *load* fetches."""
        raise NotImplementedError

    def pasid_entry(
        self, load: Callable[..., Value], registers: Value, low: Word, sid: Word, pasid: Word
    ) -> Value:
        """Return the PASID entry of (*sid*, *pasid*): a cached one, or what *load* fetches."""
        raise NotImplementedError

    def extended_pasid_entry(
        self, load: Callable[..., Value], registers: Value, context: Value, sid: Word, pasid: Word
    ) -> Value:
        """Return the rev 2.x PASID entry of (*sid*, *pasid*): cached, or what *load* fetches."""
        raise NotImplementedError

    def explore(self, walk: Callable[..., Value], *values: Value) -> Value:
        """Return one of the results that ``walk(self, *values)`` can have."""
        raise NotImplementedError

    def resume_second(
        self, levels: Word, address: Word, state: tuple[Any, ...]
    ) -> tuple[Word, tuple[Any, ...]]:
        """Return where a second-stage walk starts: (levels left, state)."""
        raise NotImplementedError

    def note_second(self, level: int, address: Word, state: tuple[Any, ...]) -> None:
        """Note the state after the second-stage entry at *level*."""
        raise NotImplementedError

    def resume_first(
        self, levels: Word, address: Word, state: tuple[Any, ...], locate: Callable[..., Value]
    ) -> tuple[Word, tuple[Any, ...], Callable[..., Value]]:
        """Return where a first-stage walk starts: (levels left, state, how entries are located)."""
        raise NotImplementedError

    def note_first(
        self, level: int, address: Word, state: tuple[Any, ...], locate: Callable[..., Value]
    ) -> Callable[..., Value]:
        """Note the state after the first-stage entry at *level*; return how to locate the next."""
        raise NotImplementedError
