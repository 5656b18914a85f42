"""What the rules of routing, ACS and grouping decide at one node, for every state of that node.

The rules are Python functions over a concrete machine. Each looks at a few facts around one node
only. Here they are asked once for every combination of those facts, on the smallest machine that
shows it, and the answers are kept as tables. A tree whose facts are symbols is then decided by the
very rules that decide a real machine. That no rule looks at more is tested on random machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum
from functools import cache
from itertools import product
from typing import Any

from dmaproof.model.pcie import groups_v3
from dmaproof.model.pcie.acs import PASID_ACS_FLAGS, REQ_ACS_FLAGS, pci_acs_enabled
from dmaproof.model.pcie.groups import bridge_alias
from dmaproof.model.pcie.groups_v3 import Isolation
from dmaproof.model.pcie.routing import (
    ADDRESS_ROUTER,
    Literals,
    MachineAcs,
    Rung,
    RungKind,
    Tlp,
    opens,
)
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Bdf, Device, Machine, PortKind

Table = Mapping[tuple[Any, ...], Any]
"""Answers by facts; the facts of each table are told where it is made."""

CONVENTIONAL = (PortKind.CONVENTIONAL, PortKind.CONVENTIONAL_BRIDGE, PortKind.PCI_TO_PCIE_BRIDGE)
LINK = (PortKind.ENDPOINT, PortKind.UPSTREAM, PortKind.PCIE_TO_PCI_BRIDGE)

BELOW: dict[PortKind | None, tuple[PortKind, ...]] = {
    None: (
        PortKind.RC_INTEGRATED_ENDPOINT,
        PortKind.ROOT_PORT,
        PortKind.CONVENTIONAL,
        PortKind.CONVENTIONAL_BRIDGE,
        PortKind.PCIE_TO_PCI_BRIDGE,
    ),
    PortKind.ROOT_PORT: LINK,
    PortKind.UPSTREAM: (PortKind.DOWNSTREAM, PortKind.ENDPOINT, PortKind.PCIE_TO_PCI_BRIDGE),
    PortKind.DOWNSTREAM: LINK,
    PortKind.PCI_TO_PCIE_BRIDGE: LINK,
    PortKind.PCIE_TO_PCI_BRIDGE: CONVENTIONAL,
    PortKind.CONVENTIONAL_BRIDGE: CONVENTIONAL,
}
"""What can sit on the bus behind each kind of bridge (None: on a root bus)."""

KINDS: tuple[PortKind, ...] = tuple(
    dict.fromkeys(kind for kinds in BELOW.values() for kind in kinds)
)
BRIDGES: tuple[PortKind, ...] = tuple(kind for kind in KINDS if kind in BELOW)
FUNCTIONS: tuple[PortKind, ...] = tuple(kind for kind in KINDS if kind not in BELOW)
ONE_SLOT = frozenset({PortKind.ROOT_PORT, PortKind.DOWNSTREAM, PortKind.PCI_TO_PCIE_BRIDGE})
"""Bridges with a PCIe link below: it ends in one device, number 0."""


class Registers(Enum):
    """ACS registers of a function, as far as a test of some flags can tell them apart."""

    NONE = None
    SET = Acs(0x5F | groups_v3.ENHANCED, 0xFFFF & ~ACS_BITS["EC"])
    CLEAR = Acs(0x5F | groups_v3.ENHANCED, 0)
    OWN_ONLY = Acs(0x5F | groups_v3.ENHANCED, groups_v3.USP_MT_RR)
    """All clear but the bit that keeps requests from the upstream port's own memory."""


PLAIN = (Registers.NONE, Registers.SET, Registers.CLEAR)


class Place(StrEnum):
    """Where a request's target lies, seen from a node the request climbs through."""

    BELOW = "at or below the node"
    SAME_DEVICE = "at or below another function of the same device"
    SAME_BUS = "at or below another device of the bus"
    ELSEWHERE = "elsewhere"


def device(kind: PortKind, where: Bdf, acs: Acs | None = None, **more: Any) -> Device:  # noqa: ANN401
    """Return a device of *kind* that no quirk knows."""
    bridge = kind in BRIDGES
    return Device(
        bdf=where,
        kind=kind,
        acs=acs,
        header_type=1 if bridge else 0,
        class_code=0x0604 if bridge else 0x0200,
        **more,
    )


_PARENT, _NODE, _TWIN, _MATE = Bdf(0, 0, 1, 0), Bdf(0, 1, 0, 0), Bdf(0, 1, 0, 1), Bdf(0, 1, 1, 0)
_DEEP, _FAR = Bdf(0, 2, 0, 0), Bdf(0, 0, 31, 0)


def _scene(kind: PortKind, above: PortKind | None, place: Place) -> tuple[Machine, Bdf, Bdf] | None:
    """Return a machine, the node and a target at *place*; None: there is no such place."""
    shift = -1 if above is None else 0

    def at(bdf: Bdf) -> Bdf:
        return Bdf(0, bdf.bus + shift, bdf.device, bdf.function)

    parts = [device(PortKind.RC_INTEGRATED_ENDPOINT, _FAR)]
    if above is not None:
        parts.append(device(above, _PARENT, secondary=1, subordinate=2))
    behind = 2 + shift if kind in BRIDGES else None
    parts.append(device(kind, at(_NODE), secondary=behind, subordinate=behind))
    function = PortKind.ENDPOINT
    target = {Place.SAME_DEVICE: at(_TWIN), Place.SAME_BUS: at(_MATE), Place.ELSEWHERE: _FAR}
    if place is Place.ELSEWHERE and above is None:
        return None  # everything is on or below the root bus
    if place is Place.BELOW and kind not in BRIDGES:
        return None
    target[Place.BELOW] = at(_DEEP)
    if place is not Place.ELSEWHERE:
        parts.append(device(function, target[place]))
    return Machine("scene", parts), at(_NODE), target[place]


@cache
def rungs() -> Table:
    """Where a request may leave its way up: (kind, kind above, place) to kinds of rungs."""
    found = {}
    for above, kinds in BELOW.items():
        for kind, place in product(kinds, Place):
            scene = _scene(kind, above, place)
            if scene is None:
                continue
            machine, node, target = scene
            met = ADDRESS_ROUTER.rungs(machine, node, Tlp(Bdf(0, 255, 0, 0)), target)
            assert all(rung.at == node for rung in met)
            found[kind, above, place] = tuple(rung.kind for rung in met)
    return found


def bit_of(kind: RungKind) -> str:
    """Return the letter of the ACS bit that closes a rung, "" if none does."""
    return Rung(kind, _NODE).bit


class _Answers:
    """ACS settings that answer as told."""

    def __init__(self, present: bool, in_force: bool) -> None:
        self._present, self._in_force = present, in_force

    def present(self, at: Bdf) -> bool:
        return self._present

    def in_force(self, at: Bdf, bit: str, target: Bdf | None) -> bool:
        return self._in_force


@cache
def opened_by() -> Mapping[RungKind, tuple[tuple[bool, bool, Literals], ...]]:
    """When a rung is open: per kind, (ACS present, bit in force, assumptions needed)."""
    found: dict[RungKind, list[tuple[bool, bool, Literals]]] = {kind: [] for kind in RungKind}
    for kind, present, in_force in product(RungKind, (False, True), (False, True)):
        needs = opens(_Answers(present, in_force), Rung(kind, _NODE), _MATE)
        if needs is not None:
            found[kind].append((present, in_force, needs))
    return {kind: tuple(rows) for kind, rows in found.items()}


@cache
def in_force(bit: str) -> Table:
    """Whether a port enforces *bit*: (present, can, on, can EC, EC on, vector bit)."""
    flag, egress = ACS_BITS[bit], ACS_BITS["EC"]
    found = {}
    for present, can, on, can_ec, on_ec, vector in product((False, True), repeat=6):
        acs = Acs(flag * can | egress * can_ec, flag * on | egress * on_ec, int(vector) << 7)
        port = device(PortKind.DOWNSTREAM, _NODE, acs if present else None)
        peer = device(PortKind.DOWNSTREAM, _MATE, port_number=7)
        switch = device(PortKind.UPSTREAM, _PARENT, secondary=1, subordinate=1)
        machine = Machine("scene", [switch, port, peer])
        answer = MachineAcs(machine).in_force(_NODE, bit, _MATE)
        found[present, can, on, can_ec, on_ec, vector] = answer
    return found


def _functions(states: tuple[Registers, ...]) -> Iterator[tuple[tuple[Any, ...], Device]]:
    for kind, multifunction, registers in product(KINDS, (False, True), states):
        yield (
            (kind, multifunction, registers),
            device(kind, _NODE, registers.value, multifunction=multifunction),
        )


def _alone(found: Device) -> tuple[Machine, Device]:
    machine = Machine("scene", [found])
    return machine, machine.devices[0]


@cache
def acs_enabled(flags: int = REQ_ACS_FLAGS) -> Table:
    """What Linux believes of a function: (kind, multifunction, registers) to enabled."""
    return {key: pci_acs_enabled(*_alone(found), flags) for key, found in _functions(PLAIN)}


class BridgeId(StrEnum):
    """Under which requester id a bridge sends on what comes from below."""

    KEPT = "the sender's"
    OWN = "its own"
    BEHIND = "one of the bus behind it"


@cache
def bridge_id() -> Table:
    """Under which requester id a node sends on what comes from below: (kind,) to `BridgeId`."""
    found = {}
    for kind in KINDS:
        alias = None
        if kind in BRIDGES:
            alias = bridge_alias(*_alone(device(kind, _NODE, secondary=2, subordinate=2)))
        own = BridgeId.OWN if alias == _NODE else BridgeId.BEHIND
        found[kind,] = BridgeId.KEPT if alias is None else own
    return found


@cache
def v3_bridge() -> Table:
    """How far the bus behind a bridge isolates: (kind, registers, own memory) to `Isolation`."""
    found: dict[tuple[Any, ...], Isolation | None] = {}
    for kind, registers, memory in product(BRIDGES, PLAIN, (False, True)):
        bridge = device(kind, _NODE, registers.value, own_memory=memory)
        found[kind, registers, memory] = groups_v3.bridge_isolation(*_alone(bridge))
    return found


@cache
def v3_switch_member() -> Table:
    """How a device spoils the switch it is on: (kind, aliases, registers) to `Isolation`."""
    found: dict[tuple[Any, ...], Isolation | None] = {}
    for kind, aliases, registers in product(KINDS, (False, True), Registers):
        others = frozenset({_MATE}) if aliases else frozenset()
        member = device(kind, _NODE, registers.value, aliases=others)
        found[kind, aliases, registers] = groups_v3.switch_member(*_alone(member))
    return found


@cache
def v3_lax() -> Table:
    """Whether a function may reach others of its device: (kind, multifunction, registers)."""
    return {key: groups_v3.may_loop_back(*_alone(found)) for key, found in _functions(PLAIN)}


@cache
def v3_share() -> Table:
    """Whether two functions share a group: (same slot, virtual, multifunction, lax of each)."""
    found = {}
    physical = {False: None, True: _PARENT}
    for slot, *facts in product((False, True), repeat=7):
        virtual, multifunction, lax = facts[:2], facts[2:4], facts[4:]
        pair = [
            device(
                # A root port is lax by its registers alone, with or without siblings.
                PortKind.ROOT_PORT,
                where,
                Registers.CLEAR.value if lax[index] else None,
                multifunction=multifunction[index],
                physfn=physical[virtual[index]],
            )
            for index, where in enumerate((_NODE, _TWIN if slot else _MATE))
        ]
        machine = Machine("scene", [device(PortKind.ENDPOINT, _FAR)])
        found[slot, *facts] = groups_v3.functions_share(machine, pair[0], pair[1])
    return found


PASID_FLAGS = PASID_ACS_FLAGS
"""RR and UF, as `acs.pasid_path_ok` asks them."""
