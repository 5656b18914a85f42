"""Where the objects of a rule-layer trace lie: requester ids, PASIDs, pages, addresses."""

from __future__ import annotations

import json
from functools import cached_property

from dmaproof.counterexamples.bits.memory import SPACES
from dmaproof.counterexamples.trace import Trace
from dmaproof.model.algebra import PAGE
from dmaproof.model.design import Payload
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance
from dmaproof.model.pcie.channels import Fabric
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.groups import dma_aliases
from dmaproof.model.pcie.machine_json import from_json
from dmaproof.model.pcie.machines import load
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd.requests import Kind, Request

VIRTUAL = 0x7F5A_1234_5000
"""Where every process (or guest process) has the page that its space stands for."""

IOVA = 0x4000_0000
"""Where the first space is mapped in an RID domain; the others follow, a page each."""

GUEST = 0x8000_0000
"""Guest-physical minus host-physical address of everything that a guest owns."""

OFFSET = 0x128
"""Byte of the page that the final request is for."""


def machine_of(trace: Trace, given: str | None = None) -> Machine:
    """Return the machine of a trace: the one given, the part it carries, or the one it names.

    Raises:
        InputError: a bad machine, or the trace carries none and names none that can be found.
    """
    if given is not None:
        return load(given)
    if trace.topology is not None:
        return from_json(json.dumps(trace.topology), "the trace's topology")
    try:
        return load(trace.machine)
    except InputError:
        raise InputError(
            f"the trace carries no topology, and its machine {trace.machine[:80]!r} is not here",
            "topology",
            "a trace of an older version, of a machine that was read from a file",
            "name the machine's file with --machine, or write the trace anew",
        ) from None


_ROOM = {v.PASID: 32, v.SPACE: 32, v.GROUP: 60, v.CONTAINER: 60, v.FUNCTION: 500}
"""How many elements fit the layout: 8-bit domain ids, one page a PASID table, a few pages."""


def _check_size(instance: Instance) -> None:
    for sort, room in _ROOM.items():
        count = len(instance.domain(sort))
        if count > room:
            raise InputError(
                f"{count} elements of sort {sort}; the replay on the bits has room for {room}",
                "facts",
                "edited by hand: traces are made for the few objects that take part",
                "write the trace anew",
            )


class Places:
    """Numbers and addresses of the objects of one instance.

    Attributes:
        machine: the machine, or the part of it that matters.
        fabric: its leak channels.
    """

    def __init__(self, model: Model, instance: Instance, machine: Machine) -> None:
        """Find the functions of an instance on a machine.

        Raises:
            InputError: a function of the instance is not on the machine, or there is no room for
                the instance.
        """
        _check_size(instance)
        self.model, self.instance, self.machine = model, instance, machine
        self.fabric = Fabric(machine)
        self.functions = tuple(
            self.machine.by_label(name).bdf for name in instance.elements[v.FUNCTION]
        )
        self._owner = {r: f for (f,), r in instance.functions[v.RID_OF].items()}
        self._no_pasid = instance.functions[v.NO_PASID.fn][()]

    # -- requester ids ----------------------------------------------------------------------

    @property
    def rids(self) -> range:
        """The requester ids of the rule layer."""
        return self.instance.domain(v.RID)

    def owner(self, rid: int) -> int:
        """Return the function that a requester id belongs to.

        Raises:
            InputError: it belongs to none.
        """
        if rid not in self._owner:
            name = self.instance.name(v.RID, rid)
            raise InputError(
                f"{name!r} belongs to no function of the trace",
                "facts",
                "edited by hand",
                "write the trace anew",
            )
        return self._owner[rid]

    def rid_of(self, function: int) -> int:
        """Return the requester id of a function, as an element."""
        return self.instance.functions[v.RID_OF][(function,)]

    def group_of(self, rid: int) -> int:
        """Return the group of a requester id, as an element."""
        return self.instance.functions[v.RGROUP][(rid,)]

    @cached_property
    def wires(self) -> dict[int, tuple[Bdf, ...]]:
        """What each requester id is on the wire: its function's own id, then its DMA aliases.

        The kernel sets a function up under all of them, even where an alias is the own id of
        another function (drivers/iommu/intel/iommu.c domain_context_mapping).
        """
        return {r: self.fabric.requester_ids(self.functions[self.owner(r)]) for r in self.rids}

    @cached_property
    def sharers(self) -> dict[Bdf, tuple[int, ...]]:
        """The requester ids that each id on the wire stands for."""
        found: dict[Bdf, tuple[int, ...]] = {}
        for rid, wires in self.wires.items():
            for wire in wires:
                found[wire] = (*found.get(wire, ()), rid)
        return found

    def arrivals(self, function: int) -> tuple[Bdf, ...]:
        """Return the ids under which a function's requests arrive when it does not pose."""
        bdf = self.functions[function]
        aliases = list(dma_aliases(self.machine, bdf))
        above = set(self.machine.ancestors(bdf))
        rewritten = [alias for device, alias in aliases if device in above]
        if rewritten:  # the topmost bridge has the last word
            return (rewritten[-1],)
        return tuple(dict.fromkeys(alias for _, alias in aliases))

    # -- PASIDs, spaces, addresses ----------------------------------------------------------

    @property
    def pasids(self) -> range:
        """The PASIDs of the rule layer, "no PASID" among them."""
        return self.instance.domain(v.PASID)

    @property
    def spaces(self) -> range:
        """The spaces of the rule layer."""
        return self.instance.domain(v.SPACE)

    def pasid(self, element: int) -> int | None:
        """Return the 20-bit number of a PASID, None for "no PASID"."""
        if element == self._no_pasid:
            return None
        return element + 1 if element < self._no_pasid else element

    def pasid_element(self, number: int | None) -> int | None:
        """Return the element that has a number, None if none has."""
        return next((p for p in self.pasids if self.pasid(p) == number), None)

    def page(self, space: int) -> int:
        """Return the host-physical address of a space's page."""
        return SPACES + PAGE * space

    def space_at(self, hpa: int) -> int | None:
        """Return the space whose page holds an address, None if none does."""
        number = (hpa - SPACES) // PAGE
        return number if number in self.spaces else None

    def address(self, space: int) -> int:
        """Return the address at which a requester finds a space, if it does."""
        if self.model.scheme.payload is Payload.MAP:
            return IOVA + PAGE * space
        return VIRTUAL

    @cached_property
    def addresses(self) -> tuple[int, ...]:
        """Every address at which some space may be found."""
        return tuple(dict.fromkeys(self.address(s) for s in self.spaces))

    def request(
        self,
        wire: Bdf,
        pasid: int,
        address: int,
        kind: Kind = Kind.UNTRANSLATED,
        *,
        write: bool = False,
    ) -> Request:
        """Return a request under an id of the wire with a PASID (an element of the rule layer)."""
        number = self.pasid(pasid)
        return Request(
            wire.rid,
            address,
            write=write,
            pasid=number or 0,
            with_pasid=number is not None,
            kind=kind,
        )
