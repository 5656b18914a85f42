"""Writes machines as ``lspci -v`` prints them: the reader backwards, for round trips."""

from __future__ import annotations

from collections.abc import Mapping

from dmaproof.model.pcie.lspci_verbose import _FLAG_BITS, _TYPES
from dmaproof.model.pcie.topology import Bdf, Device, Machine

NAMES = {kind: name for name, kind in _TYPES.items()}


def verbose(
    machine: Machine,
    *,
    root: bool = True,
    values: bool = True,
    groups: Mapping[Bdf, int] | None = None,
) -> str:
    """Write a machine as ``lspci -nnvvv`` does for root or for a user, or as ``-v`` does."""
    return "".join(_record(d, root, values, groups or machine.recorded) for d in machine.devices)


def _record(device: Device, root: bool, values: bool, groups: Mapping[Bdf, int]) -> str:
    what = {0x0604: "PCI bridge", 0x0200: "Ethernet controller"}.get(device.class_code, "Class")
    ids = f"[{device.vendor:04x}:{device.device:04x}]"
    lines = [f"{device.bdf} {what} [{device.class_code:04x}]: Maker Thing {ids} (rev 01)"]
    lines.append("\tSubsystem: Maker Device [1af4:1100]")
    lines.append("\tControl: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- DisINTx-")
    more = "+" if device.kind.is_pcie else "-"
    lines.append(f"\tStatus: Cap{more} 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort-")
    if device.bdf in groups:
        lines.append(f"\tIOMMU group: {groups[device.bdf]}")
    if device.secondary is not None:
        lines.append(
            f"\tBus: primary={device.bdf.bus:02x}, secondary={device.secondary:02x},"
            f" subordinate={device.subordinate:02x}, sec-latency=0"
        )
    if not root:
        lines += ["\tCapabilities: <access denied>"] if device.kind.is_pcie else []
    elif device.kind.is_pcie:
        lines += _capabilities(device, values)
    lines.append("\tKernel driver in use: thing")
    return "\n".join(lines) + "\n\n"


def _capabilities(device: Device, values: bool) -> list[str]:
    slot = " (Slot+)" if device.kind.has_link_below else ""
    lines = [f"\tCapabilities: [40] Express (v2) {NAMES[device.kind]}{slot}, MSI 00"]
    if values:
        lines.append(f"\t\tLnkCap:\tPort #{device.port_number}, Speed 8GT/s, Width x1, ASPM L1")
    lines.append("\tCapabilities: [100 v2] Advanced Error Reporting")
    if device.acs is not None:
        lines.append("\tCapabilities: [140 v1] Access Control Services")
        if values:
            for name, value in (("Cap", device.acs.capability), ("Ctl", device.acs.control)):
                flags = (f"{flag}{'+' if value & bit else '-'}" for flag, bit in _FLAG_BITS.items())
                lines.append(f"\t\tACS{name}:\t{' '.join(flags)}")
    if device.ats:
        lines.append("\tCapabilities: [150 v1] Address Translation Service (ATS)")
    if device.pri:
        lines.append("\tCapabilities: [160 v1] Page Request Interface (PRI)")
    if device.sriov is not None:
        lines += _sriov(device)
    if device.pasid is not None:
        lines.append("\tCapabilities: [170 v1] Process Address Space ID (PASID)")
        flags = (
            f"{n}{'+' if v else '-'}"
            for n, v in (("Exec", device.pasid_execute), ("Priv", device.pasid_privileged))
        )
        if values:
            lines.append(f"\t\tPASIDCap: {' '.join(flags)}, Max PASID Width: {device.pasid:02x}")
    return lines


def _sriov(device: Device) -> list[str]:
    virtual = device.sriov
    assert virtual is not None
    return [
        "\tCapabilities: [180 v1] Single Root I/O Virtualization (SR-IOV)",
        f"\t\tIOVCtl:\tEnable{'+' if virtual.enabled else '-'} Migration- Interrupt- MSE+",
        f"\t\tInitial VFs: {virtual.total}, Total VFs: {virtual.total},"
        f" Number of VFs: {virtual.number}, Function Dependency Link: 00",
        f"\t\tVF offset: {virtual.offset}, stride: {virtual.stride},"
        f" Device ID: {virtual.device:04x}",
    ]
