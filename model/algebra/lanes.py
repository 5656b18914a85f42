"""The bulk carrier: numpy lanes on `FlatPages`. numpy is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from dmaproof.model.algebra.carrier import Carrier, Cond, Value, Word
from dmaproof.model.algebra.concrete import Image

_DENSE_LIMIT: Final = 1 << 28  # bytes of RAM up to which the image is one flat array


class FlatPages:
    """Concrete memory for many lanes: pages of 512 quadwords, one after the other.

    A memory of up to 256 MiB is one flat array (untouched pages cost no real memory); a larger one
    keeps only the pages that hold something, in ascending order, after one page of zeros.

    Args:
        image: the concrete memory; later changes to it are not seen.
        lanes: number of requests that are translated together.

    """

    def __init__(self, image: Image, lanes: int) -> None:
        import numpy as np

        self.ram = image.ram
        self.lanes = lanes
        self.read_only = image.read_only
        self._frames: Any = None
        inside = {a: v for a, v in image.words.items() if a < image.ram}
        if image.ram <= _DENSE_LIMIT:
            self._words = np.zeros(image.ram >> 3, dtype=np.uint64)
            slot_of = None
        else:
            frames = sorted({address >> 12 for address in inside})
            self._frames = np.array(frames, dtype=np.uint64)
            self._words = np.zeros((len(frames) + 1) << 9, dtype=np.uint64)
            slot_of = {frame: slot + 1 for slot, frame in enumerate(frames)}
        for address, value in inside.items():
            index = address >> 3
            if slot_of is not None:
                index = slot_of[address >> 12] << 9 | index & 511
            self._words[index] = value

    def batch(self, lanes: int) -> FlatPages:
        """Return the same memory for another number of lanes (the pages are shared)."""
        other = FlatPages.__new__(FlatPages)
        other.__dict__.update(self.__dict__)
        other.lanes = lanes
        return other

    def word(self, address: Word) -> Word:
        """Return the quadwords at *address* (every lane inside the memory)."""
        if self._frames is None:
            return self._words[address >> 3]
        import numpy as np

        frame = address >> 12
        slot = np.searchsorted(self._frames, frame)
        known = slot < len(self._frames)
        known &= self._frames[np.where(known, slot, 0)] == frame if len(self._frames) else known
        return self._words[np.where(known, slot + 1, 0) << 9 | ((address >> 3) & 511).astype(int)]

    def carrier(self) -> NumpyCarrier:
        """Start one evaluation of `lanes` requests."""
        return NumpyCarrier(self)


class NumpyCarrier(Carrier):
    """Bulk evaluation: every lane runs to the end; a failed lane computes on without effect."""

    def __init__(self, memory: FlatPages) -> None:
        import numpy as np

        self._np = np
        self._memory = memory
        self.ram = memory.ram
        self._count = memory.lanes
        self._lanes: Any = None  # numbers of the lanes of this step; None: all
        self.fault = np.zeros(memory.lanes, dtype=np.uint64)
        self.suppressed = np.zeros(memory.lanes, dtype=bool)
        self.updates = []

    def _hits(self, condition: Cond) -> Value:
        """Return the numbers of the lanes where *condition* holds and nothing failed yet."""
        if condition is True:
            lanes = self._np.arange(self._count) if self._lanes is None else self._lanes
        else:
            lanes = self._np.flatnonzero(condition)
            if self._lanes is not None:
                lanes = self._lanes[lanes]
        return lanes[self.fault[lanes] == 0]

    def read(self, address: Word, fault: int) -> Word:
        """Return the quadword at *address*, or block with *fault*."""
        outside = address >= self.ram
        if isinstance(outside, bool):
            if outside:
                self.fail(True, fault)
                return 0
            return int(self._memory.word(self._np.uint64(address)))
        if outside.any():
            self.fail(outside, fault)
            address = self._np.where(outside, self._np.uint64(0), address)
        return self._memory.word(address)

    def select(self, condition: Cond, yes: Word, no: Word) -> Word:
        """Return *yes* where *condition* holds, else *no*."""
        if isinstance(condition, bool):
            return yes if condition else no
        np = self._np
        if isinstance(yes, bool) and isinstance(no, bool):
            return condition if yes and not no else np.where(condition, yes, no)
        if isinstance(yes, int) and not isinstance(yes, bool):
            yes = np.uint64(yes)
        if isinstance(no, int) and not isinstance(no, bool):
            no = np.uint64(no)
        return np.where(condition, yes, no)

    def fail(self, condition: Cond, fault: int) -> None:
        """Block the request where *condition* holds."""
        if condition is False or (condition is not True and not condition.any()):
            return
        self.fault[self._hits(condition)] = fault

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step* where *condition* holds."""
        if isinstance(condition, bool):
            return step(self, *values) if condition else otherwise
        hits = self._np.count_nonzero(condition)
        if hits == 0:
            return otherwise
        if hits == len(condition):
            return step(self, *values)
        rows = self._np.flatnonzero(condition)
        outer, count = self._lanes, self._count
        self._lanes = rows if outer is None else outer[rows]
        self._count = len(rows)
        result = step(self, *(self._pack(v, rows) for v in values))
        self._lanes, self._count = outer, count
        return tuple(
            self._spread(new, old, rows) for new, old in zip(result, otherwise, strict=True)
        )

    def _pack(self, value: Value, rows: Value) -> Value:
        """Return *value* for the lanes *rows* only, through tuples and objects with `lanes`."""
        if isinstance(value, self._np.ndarray):
            return value[rows]
        if isinstance(value, tuple):
            parts = [self._pack(part, rows) for part in value]
            return value._make(parts) if hasattr(value, "_make") else tuple(parts)
        return value.lanes(rows) if hasattr(value, "lanes") else value

    def _spread(self, new: Value, old: Value, rows: Value) -> Value:
        np = self._np
        if not isinstance(new, np.ndarray) and not isinstance(old, np.ndarray) and new == old:
            return old
        kind = bool if isinstance(old, bool) else getattr(old, "dtype", np.uint64)
        merged = np.array(np.broadcast_to(old, self._count), dtype=kind)
        merged[rows] = new
        return merged

    def suppress(self, condition: Cond) -> None:
        """Note FPD where *condition* holds."""
        if condition is False or (condition is not True and not condition.any()):
            return
        self.suppressed[self._hits(condition)] = True

    def update(self, condition: Cond, address: Word, bits: Word) -> None:
        """Note a flag update where *condition* holds."""
        if condition is False or (condition is not True and not condition.any()):
            return
        np = self._np
        rows = np.flatnonzero(condition) if condition is not True else np.arange(self._count)
        lanes = rows if self._lanes is None else self._lanes[rows]
        alive = self.fault[lanes] == 0
        rows, lanes = rows[alive], lanes[alive]
        pick = [v[rows] if isinstance(v, np.ndarray) else np.full(len(rows), v, dtype=np.uint64)
                for v in (address, bits)]
        self.updates.append((lanes, *pick))

    def unwritable(self, address: Word) -> Cond:
        """Return whether memory at *address* refuses writes."""
        pages = self._memory.read_only
        if not pages:
            return False
        found = self._np.isin(address >> 12, self._np.array(sorted(pages), dtype=self._np.uint64))
        return found if found.ndim else bool(found)

    def run(
        self, step: Callable[..., tuple[Any, ...]], *values: Value, blocked: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return ``step(self, *values)``."""
        return step(self, *values)

    def lookup(self, table: Sequence[int], index: Word) -> Word:
        """Return ``table[index]``."""
        return self._np.array(table, dtype=self._np.uint64)[index]
