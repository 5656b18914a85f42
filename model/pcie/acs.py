"""The kernel's questions about Access Control Services.

Each function answers as Linux (up to 7.0) does. The answers drive grouping and the PASID enable
test; what the hardware does with a TLP is `routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.quirks import EC, ISOLATED, RR, UF
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind
from dmaproof.model.rules import rule

REQ_ACS_FLAGS = ISOLATED
"""SV, RR, CR and UF: what `pci_device_group` asks of every port on the path."""

PASID_ACS_FLAGS = RR | UF
"""RR and UF: what `pci_enable_pasid` asks of every port on the path."""

_NEVER = {
    PortKind.PCI_TO_PCIE_BRIDGE,
    PortKind.PCIE_TO_PCI_BRIDGE,
    PortKind.RC_EVENT_COLLECTOR,
}
_IF_MULTIFUNCTION = {
    PortKind.ENDPOINT,
    PortKind.UPSTREAM,
    PortKind.LEGACY_ENDPOINT,
    PortKind.RC_INTEGRATED_ENDPOINT,
}


@rule(
    "pcie.acs.flags-enabled",
    "drivers/pci/pci.c pci_acs_flags_enabled",
    "a bit the hardware does not implement counts as on, except EC; the rest must be set",
)
def pci_acs_flags_enabled(acs: Acs | None, flags: int) -> bool:
    """Whether *flags* are in force by the registers *acs* (None: no capability, so no)."""
    if acs is None:
        return False
    asked = flags & (acs.capability | EC)
    return acs.control & asked == asked


def acs_quirk(machine: Machine, device: Device) -> quirks.AcsQuirk | None:
    """Return the ACS quirk that applies to *device* in *machine*, None without one."""
    if device.vendor == 0:
        return None
    amd_iommu = quirks.AMD in machine.iommu_vendors
    return quirks.acs_quirk(device, on_root=machine.on_root(device), amd_iommu=amd_iommu)


@rule(
    "pcie.acs.enabled",
    "drivers/pci/pci.c pci_acs_enabled",
    "quirks first; bridges never isolate; ports by their registers; single functions always do",
)
def pci_acs_enabled(
    machine: Machine,
    device: Device,
    flags: int,
    flags_enabled: Callable[[Acs | None, int], bool] = pci_acs_flags_enabled,
) -> bool:
    """Whether the kernel believes that *device* enforces *flags*.

    Args:
        machine: the topology.
        device: the function asked about.
        flags: ACS control bits.
        flags_enabled: what the registers alone say; proposals differ.

    """
    quirk = acs_quirk(machine, device)
    if quirk is not None:
        return quirk.satisfied(flags)
    if not device.kind.is_pcie or device.kind in _NEVER:
        return False
    if device.kind.has_link_below:
        return flags_enabled(device.acs, flags)
    if device.kind in _IF_MULTIFUNCTION and device.multifunction:
        return flags_enabled(device.acs, flags)
    return True


def why_not(machine: Machine, device: Device, flags: int) -> str:
    """Say in words what keeps *device* from enforcing *flags*."""
    quirk = acs_quirk(machine, device)
    if quirk is not None:
        return f"{device.bdf} lacks isolation although it is a known device ({quirk.reason})"
    if not device.kind.is_pcie:
        return f"{device.bdf} is conventional PCI, which has no ACS"
    if device.kind in _NEVER:
        return f"{device.bdf} is a {device.kind}, which never isolates"
    if device.acs is None:
        return f"{device.bdf} has no ACS capability"
    missing = flags & device.acs.capability & ~device.acs.control
    return f"{device.bdf} has ACS bits {device.acs.letters(missing)} off"


def upstream_path(machine: Machine, bdf: Bdf) -> Iterator[Device]:
    """Yield *bdf* and every bridge above it up to the root bus."""
    yield machine.device(bdf)
    for port in machine.ancestors(bdf):
        yield machine.device(port)


@rule(
    "pcie.acs.path-enabled",
    "drivers/pci/pci.c pci_acs_path_enabled",
    "the device and every bridge above it up to the root must enforce the bits",
)
def pci_acs_path_enabled(machine: Machine, bdf: Bdf, flags: int) -> bool:
    """Whether the kernel believes that the whole path from *bdf* up enforces *flags*."""
    return first_gap(machine, bdf, flags) is None


def first_gap(machine: Machine, bdf: Bdf, flags: int) -> Device | None:
    """Return the first device from *bdf* up that does not enforce *flags*, None without one."""
    for device in upstream_path(machine, bdf):
        if not pci_acs_enabled(machine, device, flags):
            return device
    return None


@rule(
    "pcie.pasid.path",
    "drivers/pci/ats.c pci_enable_pasid",
    "PASID is refused unless RR and UF are enforced on the whole path",
)
def pasid_path_ok(machine: Machine, bdf: Bdf) -> bool:
    """Whether `pci_enable_pasid` would accept the path of *bdf*; a VF is its PF's affair."""
    start = machine.device(bdf).physfn or bdf
    return pci_acs_path_enabled(machine, start, PASID_ACS_FLAGS)
