"""A remapping unit under replay: registers, queue, caches, and what was done to them.

Hardware does nothing of its own accord here: a cache is filled or evicted exactly when the trace
says so, through the events of `model.vtd.caches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dmaproof.counterexamples.bits.memory import QUEUES, Journal
from dmaproof.model.algebra import PAGE
from dmaproof.model.vtd.caches import Hardware, Held
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Flush, Step, Write
from dmaproof.model.vtd.queue import Queue, encode
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Request

HAW = 48
_DW = 1 << 11
_STATUS = 0x2000  # behind the queue


class Tables(StrEnum):
    """Which table formats a replay uses."""

    LEGACY = "legacy"
    EXTENDED = "extended"
    SCALABLE = "scalable"


# ND 2 (8-bit domain ids), 4 and 5 levels, MGAW 48, large pages, MAMV 18.
CAP = 2 | 0b110 << 8 | 47 << 16 | 3 << 34 | 18 << 48
_DT, _PT, _ECS, _NEST, _SRS, _PSS = 1 << 2, 1 << 6, 1 << 24, 1 << 26, 1 << 31, 19 << 35
_PASID, _SMTS, _SSTS, _FSTS, _SMPWC = 1 << 40, 1 << 43, 1 << 46, 1 << 47, 1 << 48
_ECAP = {
    Tables.LEGACY: _DT | _PT,
    Tables.EXTENDED: _DT | _PT | _ECS | _NEST | _PASID | _SRS,
    Tables.SCALABLE: _DT | _PT | _NEST | _SRS | _PSS | _PASID | _SMTS | _SSTS | _FSTS | _SMPWC,
}
_TTM = {Tables.LEGACY: 0, Tables.SCALABLE: 1, Tables.EXTENDED: 2}


def registers(tables: Tables, root: int) -> Registers:
    """Return the registers of a unit with the features a mode needs, and its root table."""
    return Registers(CAP, _ECAP[tables], root | _TTM[tables] << 10, haw=HAW)


class NotExecuted(Exception):
    """The unit did not execute what it was given."""


@dataclass(frozen=True)
class Queued:
    """One descriptor that the unit processed.

    Attributes:
        address: where it lay in the queue.
        words: its lower two quadwords.
        command: what it asks for.
    """

    address: int
    words: tuple[int, int]
    command: Command


@dataclass(frozen=True)
class Kept:
    """One entry that a cache took in or lost."""

    cache: str
    held: Held
    taken: bool = True


class Unit:
    """A remapping unit, its queue, and notes of what it processed.

    Args:
        memory: the memory of the machine.
        registers: of this unit.
        number: of the unit; each has a queue of its own.
    """

    def __init__(self, memory: Journal, registers: Registers, number: int = 0) -> None:
        self.memory = memory
        self.hardware = Hardware(memory, registers, ())
        base = QUEUES + number * 4 * PAGE
        wide = registers.mode is Mode.SCALABLE
        self.queue = Queue(self.hardware, base | (_DW if wide else 0))
        self._status = base + _STATUS
        self._serial = 0
        self.queued: list[Queued] = []
        self.kept: list[Kept] = []

    def perform(self, steps: Iterable[Step]) -> None:
        """Execute the steps of a driver's program; flushes go through the queue."""
        for step in steps:
            match step:
                case Write(address, words) if len(words) == 2:
                    self.hardware.write_pair(address, *words)
                case Write(address, words):
                    self.hardware.write(address, *words)
                case Flush(commands):
                    self.flush(commands)
                case Barrier():
                    pass

    def flush(self, commands: Iterable[Command]) -> None:
        """Queue commands and one wait, and see the wait's status arrive.

        Raises:
            NotExecuted: the queue stopped, or the status did not arrive.
        """
        self._serial += 1
        wait = Command(Op.WAIT, status_address=self._status, status_data=self._serial)
        batch = (*commands, wait)
        tail = self.queue.tail
        for command in batch:
            address = (self.queue.iqa & ~(PAGE - 1)) + tail
            self.queued.append(Queued(address, encode(command), command))
            tail = (tail + self.queue.step) % self.queue.size
        self.queue.submit(*batch)
        if self.queue.error or self.memory[self._status] & 0xFFFFFFFF != self._serial:
            raise NotExecuted(f"the invalidation queue stopped at {self.queue.head:#x}")

    # -- caches -----------------------------------------------------------------------------

    def fill(self, request: Request, page: int, caches: frozenset[str]) -> bool:
        """Let some caches keep what leads a request to a page; False: nothing leads there."""
        found = False
        for way in list(self.hardware.ways(request)):
            if way.legal.hpa is None or way.legal.hpa & ~(PAGE - 1) != page:
                continue
            found = True
            for cache, held in way.entries:
                if cache in caches and held not in getattr(self.hardware.caches, cache):
                    self.hardware.keep(((cache, held),))
                    self.kept.append(Kept(cache, held))
        return found

    def evict(self, cache: str, leaves: Callable[[Any, Any], bool]) -> None:
        """Drop the entries of a cache that *leaves* says of their tag and value."""
        part: set[Held] = getattr(self.hardware.caches, cache)
        gone = {held for held in part if leaves(held.tag, held.value)}
        part -= gone
        self.kept += [Kept(cache, held, taken=False) for held in sorted(gone, key=repr)]

    def taken(self) -> tuple[list[Queued], list[Kept]]:
        """Return the notes so far and forget them."""
        found = self.queued, self.kept
        self.queued, self.kept = [], []
        return found
