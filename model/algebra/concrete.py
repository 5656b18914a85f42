"""The concrete carrier: Python ints on an `Image`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from dmaproof.model.algebra.carrier import MASK64, Blocked, Carrier, Value


class IntCarrier(Carrier):
    """Concrete evaluation on an `Image`; stops at the first failed check."""

    direct = True

    def __init_subclass__(cls) -> None:
        """Take short cuts only past what a subclass has not changed."""
        super().__init_subclass__()
        cls.direct = cls.when is IntCarrier.when
        if cls.read is not IntCarrier.read:
            cls.words = Carrier.words  # type: ignore[method-assign]

    def __init__(self, image: Image) -> None:
        self.fault = 0
        self.suppressed = False
        self.updates = []
        self._words = image.words
        self._read_only = image.read_only
        self.ram = image.ram

    def read(self, address: int, fault: int) -> int:
        """Return the quadword at *address*, or block with *fault*."""
        if address >= self.ram:
            raise Blocked(fault)
        return self._words.get(address, 0)

    def words(self, address: int, count: int, fault: int) -> tuple[int, ...]:
        """Return the *count* quadwords from *address* on, or block with *fault*."""
        end = address + 8 * count
        if end > self.ram:
            return super().words(address, count, fault)
        return tuple(map(self._words.get, range(address, end, 8), repeat(0)))

    def select(self, condition: bool, yes: int, no: int) -> int:
        """Return *yes* where *condition* holds, else *no*."""
        return yes if condition else no

    def fail(self, condition: bool, fault: int) -> None:
        """Block the request where *condition* holds."""
        if condition:
            raise Blocked(fault)

    def when(
        self, condition: bool, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step* where *condition* holds."""
        return step(self, *values) if condition else otherwise

    def suppress(self, condition: bool) -> None:
        """Note FPD where *condition* holds."""
        if condition:
            self.suppressed = True

    def update(self, condition: bool, address: int, bits: int) -> None:
        """Note a flag update where *condition* holds."""
        if condition:
            self.updates.append((True, address, bits))

    def unwritable(self, address: int) -> bool:
        """Return whether memory at *address* refuses writes."""
        return address >> 12 in self._read_only

    def run(
        self, step: Callable[..., tuple[Any, ...]], *values: Value, blocked: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return ``step(self, *values)``."""
        try:
            return step(self, *values)
        except Blocked as stop:
            self.fault = stop.fault
            return blocked

    def lookup(self, table: Sequence[int], index: int) -> int:
        """Return ``table[index]``."""
        return table[index]


class Image:
    """Concrete memory: quadwords by address, absent ones zero.

    Args:
        words: 8-aligned byte address -> quadword.
        ram: size of the memory in bytes; an access at or above it is an error ("not accessible").
        read_only: numbers of the pages in which hardware fails to set accessed and dirty flags.

    """

    __slots__ = ("ram", "read_only", "words")

    def __init__(
        self, words: Mapping[int, int] | None = None, ram: int = 1 << 52,
        read_only: Iterable[int] = (),
    ) -> None:
        self.words: dict[int, int] = dict(words or {})
        self.ram = ram
        self.read_only = frozenset(read_only)

    def carrier(self) -> IntCarrier:
        """Start one concrete evaluation."""
        return IntCarrier(self)

    def __getitem__(self, address: int) -> int:
        return self.words.get(address, 0)

    def __setitem__(self, address: int, value: int) -> None:
        if address % 8 or not 0 <= value <= MASK64:
            raise ValueError(f"not an aligned quadword: [{address:#x}] = {value:#x}")
        self.words[address] = value

    def copy(self) -> Image:
        """Return an independent copy."""
        return Image(self.words, self.ram, self.read_only)
