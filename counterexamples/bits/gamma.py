"""Gamma: what every action of the rule layer does to tables, registers and caches.

Each action of a design has an entry here: what it writes, or, if it is bookkeeping of the kernel
that no bit shows, the reason why it is a stutter. An action without an entry is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dmaproof.counterexamples.bits.guest_table import ExtendedGuest, ScalableGuest
from dmaproof.counterexamples.bits.host import (
    Format,
    Host,
    Pasids,
    ProcessFormat,
    RidFormat,
    TableFormat,
)
from dmaproof.counterexamples.bits.places import Places
from dmaproof.counterexamples.bits.process_table import ExtendedProcess, ScalableProcess
from dmaproof.counterexamples.bits.rid_domain import Legacy, ScalableRid
from dmaproof.counterexamples.bits.unit import Tables, registers
from dmaproof.model.algebra import PAGE
from dmaproof.model.design import Design, Object, Payload, Step
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd.invalidation import Command
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind

Args = Mapping[str, int]
"""Arguments of an action by parameter, as elements."""

STUTTERS: Mapping[str, str] = {
    "bind.enter": "the call has entered; nothing is written before its loop visits a member",
    "bind.return": "the call returns; its members were written one by one",
    "unbind.enter": "the call has entered; its teardown steps follow",
    "unmap.enter": "the call has entered; its teardown steps follow",
    "unmap.return": "the call returns; its steps have been taken",
    "join.return": "the call returns; the members that joined were written one by one",
    "set-iommu": "the container takes a driver: software state alone",
    "device.open": "a file descriptor: software state alone",
    "device.close": "a file descriptor: software state alone",
    "driver.bind": "the kernel's driver takes the function; it only makes calls fail",
    "driver.unbind": "the kernel's driver lets go; it only made calls fail",
}
"""Actions that write nothing in any design, with the reason."""

DEFAULT_TABLES = {
    Payload.MAP: Tables.LEGACY,
    Payload.TABLE: Tables.EXTENDED,
    Payload.PROCESS: Tables.SCALABLE,
}
"""What each kind of call programs when nothing else is asked for."""

FITTING = {
    Payload.MAP: (Tables.LEGACY, Tables.SCALABLE),
    Payload.TABLE: (Tables.EXTENDED, Tables.SCALABLE),
    Payload.PROCESS: (Tables.SCALABLE, Tables.EXTENDED),
}
"""The table formats that can hold what each kind of call hands over, the default first."""


def format_of(host: Host, design: Design) -> Format:
    """Return the way in which a design's tables are laid out.

    Raises:
        InputError: the table format cannot hold what the design's calls hand over.
    """
    payload, tables = design.interface.payload, host.tables
    match payload, tables:
        case Payload.MAP, Tables.LEGACY:
            return Legacy(host)
        case Payload.MAP, Tables.SCALABLE:
            return ScalableRid(host)
        case Payload.TABLE, Tables.EXTENDED:
            return ExtendedGuest(host)
        case Payload.TABLE, Tables.SCALABLE:
            return ScalableGuest(host)
        case Payload.PROCESS, Tables.SCALABLE:
            return ScalableProcess(host, shared=design.interface.table == "iommu")
        case Payload.PROCESS, Tables.EXTENDED:
            return ExtendedProcess(host, shared=design.interface.table == "iommu")
    fitting = " or ".join(FITTING[payload])
    raise InputError(
        f"{tables} tables cannot hold a {payload} bind",
        "--tables",
        "legacy tables know no PASID; extended ones were not used for type1",
        f"give --tables {fitting}",
    )


class Gamma:
    """Executes actions of one design.

    Attributes:
        host: memory, units and domains.
        layout: how the design's tables are laid out.
    """

    def __init__(
        self,
        model: Model,
        places: Places,
        tables: Tables,
        registers_of: Callable[[Tables, int], Registers] = registers,
    ) -> None:
        """Boot the machine: every function that is there has the entries of an idle device.

        Args:
            model: the design.
            places: where the objects of the trace lie.
            tables: the table format.
            registers_of: the registers of a unit, by table format and address of its root table.

        Raises:
            InputError: the table format does not fit the design.
        """
        self.model, self.places = model, places
        payload = model.scheme.payload
        self.host = Host(
            places,
            tables,
            registers_of,
            ats=model.design.fabric.ats,
            guest=payload is Payload.TABLE,
        )
        self.layout = format_of(self.host, model.design)
        if payload is not Payload.MAP:
            self.host.build_spaces()
        self._boot()
        self.host.memory.taken()
        self._actions = self._table()

    def _boot(self) -> None:
        """Write the entries of every id: under its owner first, then of aliases nobody owns."""
        places, known = self.places, self.host.context
        there = {
            wire: any(self._at_boot(places.owner(r)) for r in sharers)
            for wire, sharers in places.sharers.items()
        }
        for part in (slice(0, 1), slice(1, None)):
            for rid in places.rids:
                for wire in places.wires[rid][part]:
                    if wire not in known:
                        self.layout.boot(rid, (wire,), present=there[wire])

    def _at_boot(self, function: int) -> bool:
        present = self.places.instance.facts.get(v.BOOT)
        return not self.model.scheme.hot_add or present is None or (function,) in present

    @property
    def names(self) -> frozenset[str]:
        """The actions that have an entry, stutters among them."""
        return frozenset(self._actions) | STUTTERS.keys()

    def step(self, action: str, args: Args) -> str:
        """Execute one action; return why nothing is written, "" if something may be.

        Raises:
            KeyError: the action has no entry.
        """
        if action in STUTTERS:
            return STUTTERS[action]
        return self._actions[action](args)

    def _table(self) -> dict[str, Callable[[Args], str]]:
        found: dict[str, Callable[[Args], str]] = {
            "set-container": self._set_container,
            "unset-container": self._unset_container,
            "leave.return": self._left,
            "hot-add": self._hot_add,
            "bind.visit": self._visit,
            "join.visit": self._join_visit,
            "bind.fail": self._fail,
            "table.write": self._write,
            "unbind.return": self._unbound,
            "map": self._map,
            "unmap.clear": self._unmap,
            "unbind.clear": self._unbind_clear,
            "leave.clear": self._leave_clear,
        }
        for call in ("unbind", "leave", "unmap"):
            for step in (Step.FLUSH_PASID_CACHE, Step.FLUSH_IOTLB, Step.FLUSH_DEVICE_TLB):
                found[f"{call}.{step}"] = partial(self.flush, call, step)
        for cache, inner in _HELD_IN.items():
            found[f"{cache}.fill"] = partial(self.fill, cache, inner)
            found[f"{cache}.evict"] = partial(self.evict, cache)
        return found

    # -- who is meant -----------------------------------------------------------------------

    def members(self, key: int) -> list[int]:
        """Return the requester ids of a call's object."""
        rids, group = self.places.rids, self.places.group_of
        match self.model.scheme.object:
            case Object.DEVICE:
                return [self.places.rid_of(key)]
            case Object.GROUP:
                return [r for r in rids if group(r) == key]
        return [r for r in rids if self.host.home.get(group(r)) == key]

    def owner(self, rid: int) -> int:
        """Return the owner of the table that serves a requester id, as an element."""
        match self.model.scheme.owner_sort:
            case v.RID:
                return rid
            case v.GROUP:
                return self.places.group_of(rid)
        return self.host.home[self.places.group_of(rid)]

    def _key_owner(self, key: int) -> int | None:
        """Return the owner of the table that is a call's object's own, None if it has none."""
        scheme = self.model.scheme
        if scheme.owner_sort == v.RID:
            return self.places.rid_of(key)
        return key if scheme.owner_sort == scheme.key.sort else None

    def _in_group(self, group: int) -> list[int]:
        return [r for r in self.places.rids if self.places.group_of(r) == group]

    # -- calls ------------------------------------------------------------------------------

    def _set_container(self, args: Args) -> str:
        self.host.home[args["grp"]] = args["c"]
        if not isinstance(self.layout, TableFormat):
            return "the kernel's record; entries are written member by member"
        return "; ".join(
            dict.fromkeys(filter(None, map(self.layout.attach, self._in_group(args["grp"]))))
        )

    def _unset_container(self, args: Args) -> str:
        containers = self.model.containers
        if containers is None or containers.wide:
            return "the call has entered; its teardown steps follow"
        return self._left(args)

    def _left(self, args: Args) -> str:
        del self.host.home[args["grp"]]
        layout, rids = self.layout, self._in_group(args["grp"])
        if isinstance(layout, RidFormat):
            for rid in rids:
                if layout.attached(rid) is None:  # a teardown that clears nothing leaves the old
                    layout.attach(rid, self.host.group(rid))
            return ""
        if isinstance(layout, TableFormat):
            return "; ".join(dict.fromkeys(filter(None, map(layout.attach, rids))))
        return "the kernel's record"

    def _hot_add(self, args: Args) -> str:
        self.layout.appear(self.places.rid_of(args["f"]))
        return ""

    def _visit(self, args: Args) -> str:
        rid = self.places.rid_of(args["h"])
        if isinstance(self.layout, TableFormat):
            self.layout.point(rid, self.owner(rid))
        elif isinstance(self.layout, ProcessFormat):
            self.layout.enter(rid, args["p"], args["s"])
        return ""

    def _join_visit(self, args: Args) -> str:
        if isinstance(self.layout, RidFormat):
            rid = self.places.rid_of(args["h"])
            self.layout.attach(rid, self.host.container(args["c"]))
            return ""
        return self._visit(args)

    def _fail(self, args: Args) -> str:
        if self.model.design.bind.undo:
            return "the call takes back what it did; its teardown steps follow"
        return self._unbound(args)

    def _write(self, args: Args) -> str:
        assert isinstance(self.layout, TableFormat)
        rid = self.places.rid_of(args["f"])
        owner = args["c"] if self.model.scheme.owner_sort == v.CONTAINER else self.owner(rid)
        self.layout.write(owner, self.host.domain_of(rid), args["p"], args["s"])
        return ""

    def _unbound(self, args: Args) -> str:
        owner = self._key_owner(args["k"])
        if not isinstance(self.layout, TableFormat) or owner is None:
            return "the call returns; no table goes with it"
        self.layout.erase(owner)
        return ""

    def _unbind_clear(self, args: Args) -> str:
        for rid in self.members(args["k"]):
            if isinstance(self.layout, TableFormat):
                self.layout.unpoint(rid)
            elif isinstance(self.layout, ProcessFormat):
                self.layout.clear(rid, args["p"], args["s"])
        return ""

    def _leave_clear(self, args: Args) -> str:
        for rid in self._in_group(args["grp"]):
            if isinstance(self.layout, RidFormat):
                self.layout.detach(rid)
            elif isinstance(self.layout, TableFormat):
                self.layout.unpoint(rid)
            elif isinstance(self.layout, ProcessFormat):
                for pasid in {p for p, _ in self.layout.entries(rid)}:
                    self.layout.clear(rid, pasid, None)
        return ""

    def _map(self, args: Args) -> str:
        assert isinstance(self.layout, RidFormat)
        self.layout.map(args["c"], args["s"])
        return ""

    def _unmap(self, args: Args) -> str:
        assert isinstance(self.layout, RidFormat)
        self.layout.unmap(args["k"], args["s"])
        return ""

    # -- flushes and caches -----------------------------------------------------------------

    def flush(self, call: str, step: Step, args: Args) -> str:
        """Queue the commands of one teardown step for the members of a call's object."""
        rids = self._in_group(args["grp"]) if call == "leave" else self.members(args["k"])
        pasids: Pasids = (args["p"],) if call == "unbind" and "p" in args else None
        ask = {
            Step.FLUSH_PASID_CACHE: self.layout.inner,
            Step.FLUSH_IOTLB: self.layout.iotlb,
            Step.FLUSH_DEVICE_TLB: self.layout.device,
        }[step]
        wanted: dict[tuple[int, Command], Bdf] = {}
        for rid in rids:
            for wire, command in ask(rid, pasids):
                wanted.setdefault((wire.domain, command), wire)
        for (_, command), wire in wanted.items():
            self.host.unit(wire).flush([command])
        return "" if wanted else "no member: nothing to flush"

    def fill(self, cache: str, caches: frozenset[str], args: Args) -> str:
        """Let a cache keep what leads a requester id to a space."""
        places, found = self.places, False
        kind = Kind.TRANSLATION if cache == "device-tlb" else Kind.UNTRANSLATED
        page, address = places.page(args["s"]), places.address(args["s"])
        for wire in self.host.wires(args["r"]):
            request = places.request(wire, args["p"], address, kind)
            found |= self.host.unit(wire).fill(request, page, caches)
        return "" if found else "the hardware has nothing that leads there, and fills nothing"

    def evict(self, cache: str, args: Args) -> str:
        """Let a cache lose what leads a requester id to a space."""
        number, page = self.places.pasid(args["p"]), self.places.page(args["s"])
        for wire in self.host.wires(args["r"]):
            unit, sid = self.host.unit(wire), wire.rid
            if cache == "pasid-cache":
                unit.evict("context", partial(_entry_of, sid, None))
                unit.evict("pasid", partial(_entry_of, sid, number or 0))
            else:
                unit.evict(_NAME_OF[cache], partial(_translation_of, sid, number, page))
        return ""


def _entry_of(sid: int, pasid: int | None, tag: Any, value: object) -> bool:  # noqa: ANN401
    return bool(tag.sid == sid and (pasid is None or tag.pasid == pasid))


def _translation_of(
    sid: int,
    pasid: int | None,
    page: int,
    tag: Any,  # noqa: ANN401
    value: tuple[int, ...],
) -> bool:
    mine = (tag.sid, tag.tagged, tag.pasid) == (sid, pasid is not None, pasid or 0)
    return mine and value[0] & ~(PAGE - 1) == page


_HELD_IN = {
    "pasid-cache": frozenset({"context", "pasid"}),
    "iotlb": frozenset({"iotlb"}),
    "device-tlb": frozenset({"device"}),
}
_NAME_OF = {"iotlb": "iotlb", "device-tlb": "device"}
