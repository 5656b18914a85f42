"""A machine file as QEMU parts, where QEMU can build it.

Debian's QEMU has switch ports without ACS, and root ports that either have all of SV, RR, CR and
UF, which the kernel then switches on, or no ACS capability. Endpoints have no ACS capability.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from dmaproof.model.pcie.device import HOST_BRIDGE_CLASS, Bdf, Device, PortKind
from dmaproof.model.pcie.topology import Machine

from .topology import PORT_OF_SWITCH, SWITCH, Part

_ISOLATED = 0x1D
_OWN_SLOTS = {0x00, 0x1F}  # q35's host bridge and south bridge


class InexpressibleError(Exception):
    """QEMU cannot build the machine; says which function and why."""


Place = tuple[tuple[int, int], ...]
"""Device and function number of a function and of each port above it, from the root bus down.

Bus numbers are the firmware's choice; a place is the same in a machine file and in a guest.
"""


def place(machine: Machine, bdf: Bdf) -> Place:
    """Return where *bdf* sits in the tree of *machine*."""
    chain = [bdf, *machine.ancestors(bdf)]
    return tuple((each.device, each.function) for each in reversed(chain))


def place_of_path(path: str) -> Place:
    """Return where a function sits by its sysfs path (/sys/devices/pciDDDD:BB/...)."""
    names = path.split("/")[4:]
    return tuple((int(name[8:10], 16), int(name[11], 16)) for name in names)


def partition(machine: Machine, groups: Iterable[Iterable[Bdf]]) -> set[frozenset[Place]]:
    """Return *groups* with places for addresses."""
    return {frozenset(place(machine, bdf) for bdf in members) for members in groups}


def own_part(place_: Place) -> bool:
    """Whether a place is one of q35's own functions, which no machine file has."""
    return len(place_) == 1 and place_[0][0] in _OWN_SLOTS


def parts(machine: Machine) -> tuple[Part, ...]:
    """Return the parts that build *machine*.

    Raises:
        InexpressibleError: QEMU has no such function or port, or not there.

    """
    devices = {
        PortKind.ENDPOINT: cycle(("virtio-rng-pci", "megasas-gen2", "pvscsi")),
        PortKind.CONVENTIONAL: cycle(("edu", "pci-testdev")),
    }
    devices[PortKind.RC_INTEGRATED_ENDPOINT] = devices[PortKind.ENDPOINT]

    def build(bdf: Bdf) -> Part:
        device = machine.device(bdf)
        if machine.on_root(device) and device.bdf.device in _OWN_SLOTS:
            raise InexpressibleError(f"{bdf}: q35 has functions of its own there")
        choices = devices.get(device.kind)
        driver = next(choices) if choices else _bridge(machine, device)
        if choices and (device.acs or device.aliases or device.sriov or device.is_virtual):
            raise InexpressibleError(f"{bdf}: no endpoint of QEMU has ACS, quirks or such VFs")
        below = tuple(build(child) for child in machine.children(bdf))
        return Part(driver, bdf.device, bdf.function, below)

    roots = [device for device in machine.devices if machine.on_root(device)]
    if len({device.bdf.segment_bus for device in roots}) > 1:
        raise InexpressibleError("several root buses")
    # A host bridge comes with q35.
    return tuple(build(root.bdf) for root in roots if root.class_code != HOST_BRIDGE_CLASS)


def _bridge(machine: Machine, device: Device) -> str:
    kind, acs = device.kind, device.acs
    if kind is PortKind.ROOT_PORT and acs is None:
        return "pcie-root-port,disable-acs=on"
    if kind is PortKind.ROOT_PORT and acs and acs.control & _ISOLATED == _ISOLATED:
        return "pcie-root-port"
    if kind is PortKind.UPSTREAM and acs is None:
        return SWITCH
    if kind is PortKind.DOWNSTREAM and acs is None:
        return PORT_OF_SWITCH
    if kind is PortKind.PCIE_TO_PCI_BRIDGE and not machine.on_root(device):
        return "pcie-pci-bridge"
    if kind is PortKind.CONVENTIONAL_BRIDGE:
        return "i82801b11-bridge" if machine.on_root(device) else "pci-bridge"
    setting = f"with ACS control {acs.control:#x}" if acs else "without ACS"
    raise InexpressibleError(f"{device.bdf}: QEMU has no {kind} {setting}")
