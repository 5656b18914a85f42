"""Memory whose writes are noted, and frames that know what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dmaproof.model.algebra import PAGE, Image
from dmaproof.model.errors import InputError
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.caches import Held
from dmaproof.model.vtd.invalidation import Command

RAM = 64 << 20
TABLES = 0x0100_0000
SPACES = 0x0200_0000
QUEUES = 0x0300_0000


@dataclass(frozen=True)
class Written:
    """One quadword that changed hands.

    Attributes:
        address: byte address, 8-aligned.
        old, new: the quadword before and after.
    """

    address: int
    old: int
    new: int


@dataclass(frozen=True)
class Queued:
    """One descriptor in the invalidation queue.

    Attributes:
        address: where it lay.
        words: its lower two quadwords.
        command: what it asks for.
        waited: a wait was queued behind it, and has completed.
    """

    address: int
    words: tuple[int, int]
    command: Command
    waited: bool = True


@dataclass(frozen=True)
class Kept:
    """One entry that a cache took in or lost."""

    cache: str
    held: Held
    taken: bool = True


Event = Written | Queued | Kept
"""What can happen to a machine, in the order in which it happened."""


class Journal(Image):
    """Concrete memory that notes every write, and what else it is told, in *log*."""

    __slots__ = ("log",)

    def __init__(self) -> None:
        super().__init__(ram=RAM)
        self.log: list[Event] = []

    def __setitem__(self, address: int, value: int) -> None:
        old = self[address]
        super().__setitem__(address, value)
        self.log.append(Written(address, old, value))

    def taken(self) -> tuple[Event, ...]:
        """Return what was noted so far and forget it."""
        found, self.log = tuple(self.log), []
        return found


@dataclass(frozen=True)
class Frame:
    """What a frame is for: its name, and the size of its entries in bytes (0: no table)."""

    name: str
    size: int = 8


class Frames(Builder):
    """Builds tables in frames that carry names.

    Args:
        memory: where the tables lie.
    """

    def __init__(self, memory: Journal) -> None:
        self.named: dict[int, Frame] = {}
        self._purpose = Frame("root table", 16)
        super().__init__(memory, base=TABLES)

    @contextmanager
    def purpose(self, name: str, size: int = 8) -> Iterator[None]:
        """Give every frame that is taken inside this name and size of entries."""
        before, self._purpose = self._purpose, Frame(name, size)
        try:
            yield
        finally:
            self._purpose = before

    def frame(self, count: int = 1) -> int:
        """Take *count* free frames and return the address of the first.

        Raises:
            InputError: the tables would run into the pages of the spaces.
        """
        base = super().frame(count)
        if base + count * PAGE > SPACES:
            raise InputError(
                "the tables of the trace need more than 16 MiB",
                "facts",
                "a trace of a thousand functions or more, edited by hand",
                "write the trace anew: it is made for the functions that take part",
            )
        for number in range(count):
            self.named[base + number * PAGE] = self._purpose
        return base

    def name(self, base: int, name: str, size: int) -> None:
        """Name a frame that was taken already."""
        self.named[base & ~(PAGE - 1)] = Frame(name, size)

    def where(self, address: int) -> str:
        """Say what lies at an address, such as ``context table of bus 03, entry 0, quadword 1``."""
        frame = self.named.get(address & ~(PAGE - 1))
        if frame is None:
            return ""
        offset = address & (PAGE - 1)
        if not frame.size:
            return frame.name
        text = f"{frame.name}, entry {offset // frame.size:#x}"
        if frame.size > 8:
            text += f", quadword {offset % frame.size // 8}"
        return text
