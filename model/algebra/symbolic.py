"""The symbolic carrier: z3 bit-vectors on a `SymbolicMemory`. z3 is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dmaproof.model.algebra.carrier import MASK64, Carrier, Cond, Value, Word
from dmaproof.model.algebra.concrete import Image


class Truth:
    """A z3 Boolean that folds Python constants."""

    __slots__ = ("z",)

    def __init__(self, z: Value) -> None:
        self.z = z

    def __and__(self, other: Truth | bool) -> Truth | bool:
        if isinstance(other, Truth):
            import z3

            return Truth(z3.And(self.z, other.z))
        return self if other else False

    def __or__(self, other: Truth | bool) -> Truth | bool:
        if isinstance(other, Truth):
            import z3

            return Truth(z3.Or(self.z, other.z))
        return True if other else self

    def __xor__(self, other: Truth | bool) -> Truth:
        import z3

        if isinstance(other, Truth):
            return Truth(z3.Xor(self.z, other.z))
        return Truth(z3.Not(self.z)) if other else self

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __bool__(self) -> bool:
        raise TypeError("branch on a symbolic condition: use Carrier.select or Carrier.when")


class Term:
    """A 64-bit z3 bit-vector with unsigned meaning; ``>>`` is logical."""

    __slots__ = ("z",)

    def __init__(self, z: Value) -> None:
        self.z = z

    def __and__(self, other: Term | int) -> Term | int:
        if isinstance(other, int):
            if other & MASK64 == 0:
                return 0
            return self if other & MASK64 == MASK64 else Term(self.z & other)
        return Term(self.z & other.z)

    def __or__(self, other: Term | int) -> Term:
        if isinstance(other, int):
            return self if other == 0 else Term(self.z | other)
        return Term(self.z | other.z)

    def __xor__(self, other: Term | int) -> Term:
        return Term(self.z ^ _raw(other))

    def __add__(self, other: Term | int) -> Term:
        return self if isinstance(other, int) and other == 0 else Term(self.z + _raw(other))

    def __lshift__(self, other: Term | int) -> Term:
        return Term(self.z << _raw(other))

    def __rshift__(self, other: Term | int) -> Term:
        import z3

        return Term(z3.LShR(self.z, _raw(other)))

    def __rlshift__(self, other: int) -> Term:
        import z3

        return Term(z3.BitVecVal(other, 64) << self.z)

    def __rrshift__(self, other: int) -> Term:
        import z3

        return Term(z3.LShR(z3.BitVecVal(other, 64), self.z))

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__
    __radd__ = __add__

    def __eq__(self, other: object) -> Truth:  # type: ignore[override]
        return Truth(self.z == _raw(other))

    def __ne__(self, other: object) -> Truth:  # type: ignore[override]
        return Truth(self.z != _raw(other))

    def __lt__(self, other: Term | int) -> Truth:
        import z3

        return Truth(z3.ULT(self.z, _raw(other)))

    def __le__(self, other: Term | int) -> Truth:
        import z3

        return Truth(z3.ULE(self.z, _raw(other)))

    def __gt__(self, other: Term | int) -> Truth:
        import z3

        return Truth(z3.UGT(self.z, _raw(other)))

    def __ge__(self, other: Term | int) -> Truth:
        import z3

        return Truth(z3.UGE(self.z, _raw(other)))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("branch on a symbolic word: use Carrier.select or Carrier.when")


def _raw(value: Value) -> Value:
    return value.z if isinstance(value, Term) else value


def word_z3(value: Word) -> Value:
    """Return *value* (a `Term` or an int) as a z3 bit-vector of 64 bits."""
    import z3

    return value.z if isinstance(value, Term) else z3.BitVecVal(value, 64)


def cond_z3(condition: Cond) -> Value:
    """Return *condition* (a `Truth` or a bool) as a z3 Boolean."""
    import z3

    return condition.z if isinstance(condition, Truth) else z3.BoolVal(bool(condition))


class Z3Carrier(Carrier):
    """Symbolic evaluation: every path at once, merged by ``ite``."""

    def __init__(self, memory: SymbolicMemory) -> None:
        self.fault = 0
        self.suppressed = False
        self.updates = []
        self._memory = memory
        self.ram = memory.ram
        self._open: Cond = True  # this step runs, and nothing failed before

    def read(self, address: Word, fault: int) -> Word:
        """Return the quadword at *address*, or block with *fault*."""
        self.fail(address >= self.ram, fault)
        return self._memory.word(address)

    def select(self, condition: Cond, yes: Word, no: Word) -> Word:
        """Return *yes* where *condition* holds, else *no*."""
        import z3

        if isinstance(condition, bool):
            return yes if condition else no
        if yes is no or (isinstance(yes, int) and isinstance(no, int) and yes == no):
            return yes
        if isinstance(yes, (bool, Truth)) and isinstance(no, (bool, Truth)):
            return Truth(z3.If(condition.z, cond_z3(yes), cond_z3(no)))
        return Term(z3.If(condition.z, word_z3(yes), word_z3(no)))

    def fail(self, condition: Cond, fault: int) -> None:
        """Block the request where *condition* holds."""
        hit = self._open & condition
        self.fault = self.select(hit, fault, self.fault)
        self._open = self._open & (condition ^ True)

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step* where *condition* holds."""
        if isinstance(condition, bool):
            return step(self, *values) if condition else otherwise
        before = self._open
        self._open = before & condition
        result = step(self, *values)
        # Open after the step: untaken and open before, or taken and still open.
        self._open = (before & (condition ^ True)) | self._open
        return tuple(
            self.select(condition, new, old) for new, old in zip(result, otherwise, strict=True)
        )

    def suppress(self, condition: Cond) -> None:
        """Note FPD where *condition* holds."""
        self.suppressed = self.suppressed | (self._open & condition)

    def update(self, condition: Cond, address: Word, bits: Word) -> None:
        """Note a flag update where *condition* holds."""
        self.updates.append((self._open & condition, address, bits))

    def unwritable(self, address: Word) -> Cond:
        """Return whether memory at *address* refuses writes."""
        refused: Cond = False
        for page in sorted(self._memory.read_only):
            refused = refused | (address >> 12 == page)
        return refused

    def run(
        self, step: Callable[..., tuple[Any, ...]], *values: Value, blocked: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return ``step(self, *values)``."""
        return step(self, *values)

    def lookup(self, table: Sequence[int], index: Word) -> Word:
        """Return ``table[index]``."""
        if isinstance(index, int):
            return table[index]
        chosen: Word = 0
        for number, value in enumerate(table):
            chosen = self.select(index == number, value, chosen)
        return chosen


class SymbolicMemory:
    """Memory as a z3 array from byte address to quadword.

    Args:
        array: z3 array (64 bit -> 64 bit); None: a fresh, arbitrary memory called *name*.
        ram: size in bytes (a Python int); reads at or above it are errors.
        name: name of the fresh array.
        read_only: numbers of the pages in which hardware fails to set flags.

    """

    def __init__(
        self, array: Value = None, ram: int = 1 << 52, name: str = "memory",
        read_only: frozenset[int] = frozenset(),
    ) -> None:
        import z3

        self.ram = ram
        self.read_only = read_only
        word = z3.BitVecSort(64)
        self.array = z3.Array(name, word, word) if array is None else array

    @classmethod
    def of(cls, image: Image) -> SymbolicMemory:
        """Return the symbolic form of a concrete image."""
        import z3

        array = z3.K(z3.BitVecSort(64), z3.BitVecVal(0, 64))
        for address, value in image.words.items():
            array = z3.Store(array, z3.BitVecVal(address, 64), z3.BitVecVal(value, 64))
        return cls(array, image.ram, read_only=image.read_only)

    def word(self, address: Word) -> Term:
        """Return the quadword at *address*, whether or not it lies inside the memory."""
        return Term(self.array[word_z3(address)])

    def store(self, address: Word, value: Word) -> SymbolicMemory:
        """Return the memory after *value* was written at *address*."""
        import z3

        array = z3.Store(self.array, word_z3(address), word_z3(value))
        return SymbolicMemory(array, self.ram, read_only=self.read_only)

    def carrier(self) -> Z3Carrier:
        """Start one symbolic evaluation."""
        return Z3Carrier(self)
