"""A remapping unit under replay: registers, queue, caches, and what was done to them.

Hardware does nothing of its own accord here: a cache is filled or evicted exactly when the trace
says so, through the events of `model.vtd.caches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Protocol

from dmaproof.counterexamples.bits.memory import QUEUES, Journal, Kept, Queued
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
_DT, _PT, _ECS, _NEST, _PRS = 1 << 2, 1 << 6, 1 << 24, 1 << 26, 1 << 29
_SRS, _PSS = 1 << 31, 19 << 35
_PASID, _SMTS, _SSTS, _FSTS, _SMPWC = 1 << 40, 1 << 43, 1 << 46, 1 << 47, 1 << 48
_ECAP = {
    Tables.LEGACY: _DT | _PT,
    Tables.EXTENDED: _DT | _PT | _ECS | _NEST | _PRS | _PASID | _SRS,
    Tables.SCALABLE: _DT | _PT | _NEST | _SRS | _PSS | _PASID | _SMTS | _SSTS | _FSTS | _SMPWC,
}
_TTM = {Tables.LEGACY: 0, Tables.SCALABLE: 1, Tables.EXTENDED: 2}


def registers(tables: Tables, root: int, cap: int = 0, ecap: int = 0) -> Registers:
    """Return the registers of a unit with the features a mode needs, and its root table.

    Args:
        tables: the table format.
        root: address of the root table.
        cap: bits that are set in CAP besides.
        ecap: bits that are set in ECAP besides.
    """
    return Registers(CAP | cap, _ECAP[tables] | ecap, root | _TTM[tables] << 10, haw=HAW)


class NotExecuted(Exception):
    """The unit did not execute what it was given."""


class Listener(Protocol):
    """Follows what a unit is given, such as another implementation of it."""

    def before(self, unit: Unit) -> None:
        """Descriptors are about to be queued; all writes so far come before them."""

    def after(self, unit: Unit, status: int, serial: int) -> None:
        """They have been processed: the wait wrote *serial* to the address *status*."""


class Unit:
    """A remapping unit and its queue; what happens to it is noted in the memory's journal.

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
        self.listener: Listener | None = None

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
            self.memory.log.append(Queued(address, encode(command), command))
            tail = (tail + self.queue.step) % self.queue.size
        if self.listener is not None:
            self.listener.before(self)
        self.queue.submit(*batch)
        if self.queue.error or self.memory[self._status] & 0xFFFFFFFF != self._serial:
            raise NotExecuted(f"the invalidation queue stopped at {self.queue.head:#x}")
        if self.listener is not None:
            self.listener.after(self, self._status, self._serial)

    def submit(self, command: Command) -> None:
        """Queue a command without a wait: it stays pending until it is carried out."""
        address = (self.queue.iqa & ~(PAGE - 1)) + self.queue.tail
        self.memory.log.append(Queued(address, encode(command), command, waited=False))
        self.queue.submit(command)

    def carry_out(self, command: Command) -> None:
        """Let hardware carry out a command that is pending, as often as it is."""
        self.queue.pending = [c for c in self.queue.pending if c != command]
        self.hardware.invalidate(command)

    def refused(self, words: tuple[int, int]) -> None:
        """Queue a descriptor that no unit takes; the driver puts a wait in its place and goes on.

        So the driver gets past an error of the queue (drivers/iommu/intel/dmar.c qi_check_fault).

        Raises:
            NotExecuted: the unit took it.
        """
        base = (self.queue.iqa & ~(PAGE - 1)) + self.queue.tail
        for offset, word in enumerate((*words, *(0,) * (self.queue.step // 8 - 2))):
            self.memory[base + 8 * offset] = word
        self.queue.ring((self.queue.tail + self.queue.step) % self.queue.size)
        if not self.queue.error:
            raise NotExecuted(f"the unit took the descriptor {words[0]:#x}")
        self.queue.error, self.queue.tail = False, self.queue.head
        self.flush(())

    # -- caches -----------------------------------------------------------------------------

    def fill(
        self,
        request: Request,
        page: int,
        caches: frozenset[str],
        fits: Callable[[Held], bool] | None = None,
    ) -> bool:
        """Let some caches keep what leads a request to a page; False: nothing leads there.

        Args:
            request: the request.
            page: host-physical address of the page.
            caches: names of the caches.
            fits: which entries are meant, among those that these caches would keep (None: all).
        """
        found = False
        for way in list(self.hardware.ways(request)):
            if way.legal.hpa is None or way.legal.hpa & ~(PAGE - 1) != page:
                continue
            kept = [(c, h) for c, h in way.entries if c in caches and (fits is None or fits(h))]
            found |= bool(kept) or fits is None
            for cache, held in kept:
                self.keep(cache, held)
        return found

    def keep(self, cache: str, held: Held) -> None:
        """Let a cache take in an entry that hardware may hold."""
        if held not in getattr(self.hardware.caches, cache):
            self.hardware.keep(((cache, held),))
            self.memory.log.append(Kept(cache, held))

    def evict(self, cache: str, leaves: Callable[[Any, Any], bool]) -> None:
        """Drop the entries of a cache that *leaves* says of their tag and value."""
        part: set[Held] = getattr(self.hardware.caches, cache)
        gone = {held for held in part if leaves(held.tag, held.value)}
        part -= gone
        self.memory.log += [Kept(cache, held, taken=False) for held in sorted(gone, key=repr)]
