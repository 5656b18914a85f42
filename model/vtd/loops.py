"""Finds table images in which a walk comes back to a table it has already used.

Hardware does not mind: a walk has as many steps as there are levels, whatever the entries point to
(VT-d 3.6, 3.7), and the engine answers as hardware would. In a recorded or hand-made image it is
nearly always a mistake, so who reads an image is told. Concrete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dmaproof.model.algebra import Image, IntCarrier, Value
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import evaluate
from dmaproof.model.vtd.walks import SECOND, place_of

_TABLES: Final = {"RT": "root table", "CT": "context table", "PD": "PASID directory"}


def possible(image: Image, registers: Registers) -> bool:
    """Return whether a walk could use one table twice, judged by the pointers alone.

    False is certain. Under a second stage addresses in entries are not those of the tables, so
    where nesting exists the answer is True.
    """
    if registers.nest:
        return True
    frames = {address >> 12 for address in image.words}
    targets: dict[int, set[int]] = {frame: set() for frame in frames}
    for address, word in image.words.items():
        target = (word & registers.address) >> 12
        if target in frames:
            targets[address >> 12].add(target)
    # Leaves of the graph go first; what is left points in circles.
    sources: dict[int, list[int]] = {frame: [] for frame in frames}
    for frame, found in targets.items():
        for target in found:
            sources[target].append(frame)
    left = {frame: len(found) for frame, found in targets.items()}
    ends = [frame for frame, count in left.items() if not count]
    while ends:
        for frame in sources[ends.pop()]:
            left[frame] -= 1
            if not left[frame]:
                ends.append(frame)
    return any(left.values())


class _Watching(IntCarrier):
    """The concrete carrier; notes the tables of the walk under way and the first one met twice."""

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self.loop = ""
        self.above: dict[int, str] = {}  # frames of root, context, directory and PASID tables
        self.walks: dict[int, dict[int, int]] = {}  # stage -> frame -> level
        self.place: tuple[int, int] | None = None

    def read(self, address: int, fault: int) -> int:
        """Return the quadword at *address*, or block with *fault*."""
        frame = address >> 12
        if self.place is None:
            now = f"as {_TABLES.get(f.condition(fault).name[1:3], 'PASID table')}"
            self._note(frame, now, self.above.setdefault(frame, now))
        else:
            stage, level = self.place
            walk = self.walks.setdefault(stage, {})
            # The second stage is walked anew for every first-stage table.
            if stage == SECOND and walk and level >= min(walk.values()):
                walk.clear()
            now = f"at level {level}"
            before = f"at level {walk.setdefault(frame, level)}"
            self._note(frame, now, before)
            self._note(frame, now, self.above.get(frame, now))
        return super().read(address, fault)

    def _note(self, frame: int, now: str, before: str) -> None:
        if now != before and not self.loop:
            self.loop = f"the table at {frame << 12:#x} is used {before} and again {now}"

    def when(
        self,
        condition: bool,
        step: Callable[..., tuple[Any, ...]],
        *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step* where *condition* holds, remembering which entry it processes."""
        if not condition:
            return otherwise
        place = place_of(step, values)
        if place is None:
            return step(self, *values)
        outer, self.place = self.place, (place.stage, place.level)
        try:
            return step(self, *values)
        finally:
            self.place = outer


def find(image: Image, registers: Registers, request: Request) -> str:
    """Return which table the walk of a concrete request meets twice, or an empty text."""
    carrier = _Watching(image)
    evaluate(carrier, registers, request)
    return carrier.loop
