"""What all table formats share: memory, units, domains, and what the driver does with them.

A *requester id* here is an element of the rule layer; the ids under which its requests may arrive
(its own, and its DMA aliases, which others may use too) are its *wires*. Every format writes what
the driver writes (`model.vtd.programs`), reads its own entries back for `alpha`, and says which
commands flush what it wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dmaproof.counterexamples.bits.memory import Frames, Journal
from dmaproof.counterexamples.bits.places import GUEST, VIRTUAL, Places
from dmaproof.counterexamples.bits.unit import Tables, Unit
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Flush, Step
from dmaproof.model.vtd.registers import Registers

AW = 2
LEVELS = AW + 2
POINTER = 0x000FFFFFFFFFF000

_EVERY_PAGE = (1 << 63) - 1 & ~0xFFF  # device TLB, S=1: every address
_FIRST_DOMAIN, _FIRST_CONTAINER = 2, 0x40

Pasids = tuple[int, ...] | None
"""Elements of the rule layer; None: every PASID."""


@dataclass(frozen=True)
class Domain:
    """A second stage and the domain id of its translations."""

    did: int
    top: int


class Host:
    """One machine's memory, remapping units and domains.

    Attributes:
        places: where the objects of the trace lie.
        tables: the table format.
        memory, frames: the memory, and the frames taken from it.
        units: one remapping unit a PCI segment.
        ats: device TLBs are in use.
        home: the container each group is in, as the kernel's own record.
        context: address of the context entry of each wire.
        first: for each space the top of the first-stage tables that lead to it, and all their
            frames; at guest-physical addresses where *guest*.
    """

    def __init__(
        self,
        places: Places,
        tables: Tables,
        registers_of: Callable[[Tables, int], Registers],
        *,
        ats: bool,
        guest: bool,
    ) -> None:
        self.places, self.tables, self.ats, self.guest = places, tables, ats, guest
        self.memory = Journal()
        self.frames = Frames(self.memory)
        self.units: dict[int, Unit] = {}
        self.home: dict[int, int] = {}
        self.context: dict[Bdf, int] = {}
        self.first: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._roots: dict[int, int] = {}
        self._domains: dict[tuple[str, int], Domain] = {}
        for segment in sorted({wire.domain for wire in places.sharers}):
            root = self.frames.root if not self._roots else self.frames.frame()
            self.frames.name(root, "root table", 16)
            self._roots[segment] = root
            self.units[segment] = Unit(self.memory, registers_of(tables, root), len(self.units))

    def unit(self, wire: Bdf) -> Unit:
        """Return the unit that judges the requests under an id."""
        return self.units[wire.domain]

    def at_root(self, wire: Bdf) -> Frames:
        """Return the frames, with the root table of the wire's unit as the one to build under."""
        self.frames.root = self._roots[wire.domain]
        return self.frames

    def wires(self, rid: int) -> tuple[Bdf, ...]:
        """Return the ids on the wire that a requester id stands for."""
        return self.places.wires[rid]

    # -- domains ----------------------------------------------------------------------------

    def domain_of(self, rid: int) -> Domain:
        """Return the domain of a requester id: its container's, else its group's own."""
        group = self.places.group_of(rid)
        if group in self.home:
            return self.container(self.home[group])
        return self.group(rid)

    def group(self, rid: int) -> Domain:
        """Return the domain that the kernel gave a group at boot; it maps nothing."""
        group = self.places.group_of(rid)
        return self._domain("group", group, _FIRST_DOMAIN + group)

    def container(self, container: int) -> Domain:
        """Return the domain of a container."""
        return self._domain("container", container, _FIRST_CONTAINER + container)

    def _domain(self, kind: str, number: int, did: int) -> Domain:
        if (kind, number) not in self._domains:
            with self.frames.purpose(f"second stage of domain {did:#x}"):
                self._domains[kind, number] = Domain(did, self.frames.frame())
        return self._domains[kind, number]

    def containers(self) -> dict[int, Domain]:
        """Return the containers that have a domain."""
        return {n: d for (kind, n), d in self._domains.items() if kind == "container"}

    def map_in(self, domain: Domain, address: int, page: int) -> None:
        """Map a page into a domain's second stage, if it is not there yet."""
        leaf = self.leaf(domain, address)
        if leaf is None or self.memory[leaf] & POINTER != page:
            with self.frames.purpose(f"second stage of domain {domain.did:#x}"):
                self.frames.second_stage(domain.top, LEVELS, address, page, 3)

    def leaf(self, domain: Domain, address: int) -> int | None:
        """Return the address of the leaf entry of an address, None where a table is missing."""
        table = domain.top
        for level in range(LEVELS, 1, -1):
            entry = self.memory[self.frames.index(table, level, address)]
            if not entry:
                return None
            table = entry & POINTER
        return self.frames.index(table, 1, address)

    # -- first stages -----------------------------------------------------------------------

    def build_spaces(self) -> None:
        """Build the page tables of every process: `VIRTUAL` leads to its space's page."""
        offset = GUEST if self.guest else 0
        for space in self.places.spaces:
            name = self.places.instance.name(v.SPACE, space)
            before = set(self.frames.named)
            with self.frames.purpose(f"first stage of {name}"):
                top = self.frames.frame()
                page = self.places.page(space) + offset
                self.frames.first_stage(top, LEVELS, VIRTUAL, page, 7, offset=offset)
            self.first[space] = top, tuple(sorted(set(self.frames.named) - before))

    def lend(self, domain: Domain, space: int) -> None:
        """Map a guest's page tables and page of a space into its domain's second stage."""
        for frame in (*self.first[space][1], self.places.page(space)):
            self.map_in(domain, frame + GUEST, frame)

    def space_of_top(self, top: int) -> int | None:
        """Return the space whose first stage begins at a host-physical address."""
        return next((s for s, (t, _) in self.first.items() if t == top), None)

    # -- commands ---------------------------------------------------------------------------

    def perform(self, wire: Bdf, steps: Iterable[Step]) -> None:
        """Let the driver of a wire's unit execute a program."""
        self.unit(wire).perform(steps)

    def numbers(self, pasids: Pasids) -> list[int | None]:
        """Return the numbers of PASIDs, None standing for "no PASID"."""
        return [self.places.pasid(p) for p in (self.places.pasids if pasids is None else pasids)]

    def device_tlb(self, wire: Bdf, pasids: Pasids) -> list[Command]:
        """Return the commands that empty a device TLB of some PASIDs."""
        found = []
        for number in self.numbers(pasids):
            if number is None:
                found.append(Command(Op.DEVICE_TLB, sid=wire.rid, address=_EVERY_PAGE, sized=True))
            else:
                found.append(
                    Command(
                        Op.PASID_DEVICE_TLB,
                        sid=wire.rid,
                        pasid=number,
                        address=_EVERY_PAGE,
                        sized=True,
                    )
                )
        return found


def flushes(commands: Iterable[Command]) -> list[Step]:
    """Return commands as a program: one wait after each, as the driver queues them."""
    return [Flush((command,)) for command in commands]


class Format(ABC):
    """One way of laying out the tables of one kind of call.

    Attributes:
        host: what lies below.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    @abstractmethod
    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Write the entries of a requester id under some ids, as they are at boot."""

    def appear(self, rid: int) -> None:
        """Make the entries of a function that was plugged in valid."""
        for wire in self.host.wires(rid):
            where = self.host.context[wire]
            if not self.host.memory[where] & 1:
                self.host.unit(wire).hardware.write(where, self.host.memory[where] | 1)

    @abstractmethod
    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the words in which a visit of the call's loop shows."""

    @abstractmethod
    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Return the commands that empty the context and PASID caches, with the wire of each."""

    @abstractmethod
    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Return the commands that empty the IOTLB, with the wire of each."""

    def device(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Return the commands that empty device TLBs, with the wire of each."""
        host = self.host
        return [(w, c) for w in host.wires(rid) for c in host.device_tlb(w, pasids)]

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return quadwords of memory."""
        return tuple(self.host.memory[address + 8 * n] for n in range(count))


class RidFormat(Format):
    """Requests without PASID through a container's second stage: type1."""

    @abstractmethod
    def attach(self, rid: int, domain: Domain) -> None:
        """Let a requester id use a domain, and no other."""

    @abstractmethod
    def detach(self, rid: int) -> None:
        """Clear what lets a requester id use its domain."""

    @abstractmethod
    def attached(self, rid: int) -> Domain | None:
        """Return the domain that the entries of a requester id name (first wire)."""

    def device(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Return the commands that empty device TLBs of what was asked for without PASID."""
        plain = tuple(p for p in self.host.places.pasids if self.host.places.pasid(p) is None)
        return super().device(rid, plain)

    def map(self, container: int, space: int) -> None:
        """Map a space into a container's domain."""
        places = self.host.places
        self.host.map_in(self.host.container(container), places.address(space), places.page(space))

    def unmap(self, container: int, space: int) -> None:
        """Clear the leaf that maps a space."""
        leaf = self.host.leaf(self.host.container(container), self.host.places.address(space))
        if leaf is not None:
            self.host.memory[leaf] = 0

    def mapped(self, container: int) -> set[int]:
        """Return the spaces that a container's domain maps."""
        host, found = self.host, set()
        domain = host.containers().get(container)
        for space in host.places.spaces if domain else ():
            assert domain is not None
            leaf = host.leaf(domain, host.places.address(space))
            if (
                leaf is not None
                and host.memory[leaf] & 3
                and (host.memory[leaf] & POINTER == host.places.page(space))
            ):
                found.add(space)
        return found


class TableFormat(Format):
    """A PASID table that the caller owns and fills."""

    def attach(self, rid: int) -> str:
        """Move a requester id to the domain its group is in now; say why if nothing is written."""
        return ""

    @abstractmethod
    def point(self, rid: int, owner: int) -> None:
        """Let the PASID table of an owner translate a requester id's requests with PASID."""

    @abstractmethod
    def unpoint(self, rid: int) -> None:
        """Take the PASID table away again."""

    @abstractmethod
    def pointed(self, rid: int) -> bool:
        """Whether the entries of a requester id name a caller's PASID table (first wire)."""

    @abstractmethod
    def write(self, owner: int, domain: Domain, pasid: int, space: int) -> None:
        """Write an entry of an owner's table."""

    @abstractmethod
    def erase(self, owner: int) -> None:
        """Zero an owner's table: its memory is given back."""

    @abstractmethod
    def content(self, owner: int) -> set[tuple[int, int]]:
        """Return the (PASID, space) of an owner's table, as elements."""


class ProcessFormat(Format):
    """One address space under one PASID, in a PASID table of the host's."""

    @abstractmethod
    def enter(self, rid: int, pasid: int, space: int) -> None:
        """Write the PASID entry that leads to a process's page tables."""

    @abstractmethod
    def clear(self, rid: int, pasid: int, space: int | None) -> None:
        """Clear a PASID entry, if it leads to that space (None: whichever)."""

    @abstractmethod
    def entries(self, rid: int) -> set[tuple[int, int]]:
        """Return the (PASID, space) of a requester id's table, as elements."""
