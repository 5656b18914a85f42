"""SR-IOV virtual functions: whose they are, and the ids the kernel gives them.

A virtual function answers FFFFh where others have their vendor and device id. The kernel takes
the one from the physical function and the other from that function's SR-IOV capability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.device import NO_ID, Bdf, Device, Fact, PortKind
from dmaproof.model.rules import rule


def physical_functions(devices: Iterable[Device]) -> dict[Bdf, Device]:
    """Return the physical function of each address that an SR-IOV capability announces."""
    found: dict[Bdf, Device] = {}
    for device in devices:
        if device.sriov is not None:
            for rid in device.sriov.rids(device.bdf.rid):
                found[Bdf.from_rid(rid, device.bdf.domain)] = device
    return found


def mark_virtual(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Name the physical function of each virtual function, and give it the kernel's ids.

    Where that is not known, `Fact.PHYSFN` stays or is added, so that what depends on it is open.
    """
    owner = physical_functions(devices)
    quiet = _unread(devices)
    return tuple(_virtual(device, owner, quiet) for device in devices)


def _unread(devices: Iterable[Device]) -> dict[tuple[int, int], int]:
    """Return the buses on which SR-IOV capabilities without values are, with the lowest id."""
    found: dict[tuple[int, int], int] = {}
    for device in devices:
        if device.sriov is not None and Fact.CAPABILITIES in device.unknown:
            bus = device.bdf.segment_bus
            found[bus] = min(device.bdf.rid, found.get(bus, device.bdf.rid))
    return found


@rule(
    "pcie.virtual-function.ids",
    "drivers/pci/iov.c pci_iov_add_virtfn",
    "vendor of the physical function; device id from VF Device ID of its SR-IOV capability",
)
def _virtual(
    device: Device, owner: Mapping[Bdf, Device], quiet: Mapping[tuple[int, int], int]
) -> Device:
    physical = owner.get(device.bdf)
    if physical is None or physical.sriov is None or device.is_bridge:
        return _perhaps_virtual(device, quiet)
    number = physical.sriov.device
    # Some end their capability list too soon (drivers/pci/quirks.c quirk_intel_qat_vf_cap).
    listed = device.kind.is_pcie or Fact.KIND in device.unknown
    kind = device.kind if listed else PortKind.ENDPOINT
    unknown = device.unknown - {Fact.PHYSFN}
    told = device.vendor not in {0, NO_ID} and Fact.IDS not in unknown
    if Fact.IDS in physical.unknown or (told and not number):
        # Names in place of ids, or a machine file that leaves VF Device ID out.
        return replace(device, physfn=physical.bdf, kind=kind, unknown=unknown)
    if number or not physical.vendor:
        unknown -= {Fact.IDS}
    elif device.device == NO_ID:
        unknown |= {Fact.IDS}
    device = replace(
        device,
        physfn=physical.bdf,
        kind=kind,
        vendor=physical.vendor,
        device=number or device.device,
        unknown=unknown,
    )
    return replace(device, aliases=device.aliases | quirks.quirk_aliases(device))


def _perhaps_virtual(device: Device, quiet: Mapping[tuple[int, int], int]) -> Device:
    lowest = quiet.get(device.bdf.segment_bus)
    follows = lowest is not None and device.bdf.rid > lowest and device.sriov is None
    marks = {Fact.PHYSFN} if follows and not device.is_bridge else set()
    if device.vendor == NO_ID and Fact.KIND not in device.unknown and not device.is_bridge:
        marks |= {Fact.PHYSFN, Fact.IDS}
    return device if marks <= device.unknown else replace(device, unknown=device.unknown | marks)
