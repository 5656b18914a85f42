"""Virtual functions: whose they are and which ids they have, whatever kind of dump shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, acs_quirk, pci_acs_enabled
from dmaproof.model.pcie.configspace import encode
from dmaproof.model.pcie.lspci import read_lspci, write_lspci
from dmaproof.model.pcie.machine_json import from_json, to_json
from dmaproof.model.pcie.sysfs import read_tar
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind, Sriov
from dmaproof.model.pcie.undecided import decide
from pcie.trees import archive, entries
from pcie.words import verbose

PORT = Device(
    bdf=Bdf.parse("00:01.0"),
    kind=PortKind.ROOT_PORT,
    vendor=0x1B36,
    device=0x000C,
    class_code=0x0604,
    header_type=1,
    acs=Acs(0x5F, 0x1D),
    secondary=1,
    subordinate=1,
)
PF = Device(
    bdf=Bdf.parse("01:00.0"),
    vendor=0x14E4,
    device=0x1760,
    class_code=0x0200,
    multifunction=True,
    sriov=Sriov(True, 2, 2, 2, 1, device=0x1806),
)
MATE = Device(bdf=Bdf.parse("01:00.1"), vendor=0x14E4, device=0x9999, class_code=0x0200)
"""A function beside it that does not isolate: no ACS capability, and no quirk knows it."""
VFS = [
    Device(bdf=Bdf.parse(f"01:00.{number}"), vendor=0xFFFF, device=0xFFFF, class_code=0x0200)
    for number in (2, 3)
]
NIC = [PORT, PF, MATE, *VFS]
VF = VFS[0].bdf


def ids(machine: Machine, bdf: Bdf = VF) -> tuple[int, int]:
    found = machine.device(bdf)
    return found.vendor, found.device


def test_bytes() -> None:
    """The kernel takes the vendor of the physical function and VF Device ID (iov.c)."""
    found = read_lspci(write_lspci(NIC))
    assert ids(found) == (0x14E4, 0x1806)
    assert found.device(VF).physfn == PF.bdf
    assert not found.device(VF).unknown
    assert not found.warnings
    assert found.device(PF.bdf).sriov == PF.sriov


def test_words_show_vf_device_id() -> None:
    text = verbose(Machine("nic", NIC))
    ones = text.replace("[14e4:1806]", "[ffff:ffff]")
    assert ones != text
    for form in (text, ones):
        assert ids(read_lspci(form)) == (0x14E4, 0x1806)
    without = ones.replace(", Device ID: 1806", "")
    found = read_lspci(without)
    assert ids(found) == (0x14E4, 0xFFFF)
    assert Fact.IDS in found.device(VF).unknown


def test_an_archive_and_a_machine_file() -> None:
    machine = Machine("nic", NIC)
    assert ids(read_tar(archive(entries(machine, {})), "nic")) == (0x14E4, 0x1806)
    again = from_json(to_json(machine))
    assert again.devices == machine.devices
    assert ids(again) == (0x14E4, 0x1806)


def test_a_quirk_of_the_vendor_reaches_virtual_functions() -> None:
    """Integrated endpoints of Intel, whatever their id: the virtual ones, too."""
    kind = PortKind.RC_INTEGRATED_ENDPOINT
    physical = replace(
        PF, bdf=Bdf.parse("00:02.0"), kind=kind, vendor=0x8086, device=0x4940, sriov=None
    )
    physical = replace(physical, sriov=Sriov(True, 1, 1, 1, 1, device=0x4941))
    virtual = replace(VFS[0], bdf=Bdf.parse("00:02.1"), kind=kind)
    found = read_lspci(write_lspci([physical, virtual]))
    assert ids(found, virtual.bdf) == (0x8086, 0x4941)
    quirk = acs_quirk(found, found.device(virtual.bdf))
    assert quirk is not None
    assert "Intel" in quirk.reason


def test_a_quirk_of_ids_reaches_virtual_functions() -> None:
    """Wangxun: what the driver does not list lacks isolation, even a virtual function."""
    physical = replace(PF, vendor=0x8088, device=0x1001, sriov=replace(PF.sriov, device=0x1000))
    found = read_lspci(write_lspci([PORT, physical, MATE, *VFS]))
    assert not pci_acs_enabled(found, found.device(VF), REQ_ACS_FLAGS)
    listed = replace(physical, sriov=replace(PF.sriov, device=0x0101))
    found = read_lspci(write_lspci([PORT, listed, MATE, *VFS]))
    assert pci_acs_enabled(found, found.device(VF), REQ_ACS_FLAGS)


def test_without_its_physical_function_it_stays_open() -> None:
    found = read_lspci(write_lspci([PORT, MATE, *VFS]))
    assert found.device(VF).unknown == {Fact.IDS, Fact.PHYSFN}
    doubt = decide(found).doubt_about(VF)
    assert doubt is not None
    assert VF in doubt.hiding
    assert "of which function" in doubt.reason
    assert any("virtual functions" in warning for warning in found.warnings)
    assert decide(from_json(to_json(found))) == decide(found)


def test_ids_in_words_do_not_say_whose_it_is() -> None:
    """`lspci -nnvxxxx` of some functions only: ids from the kernel, ones from the function."""
    virtual = replace(VFS[0], vendor=0x14E4, device=0x1806)
    head = verbose(Machine("nic", [virtual])).strip()
    lines = write_lspci([VFS[0]]).splitlines()[1:]
    found = read_lspci(write_lspci([PORT, MATE]) + "\n" + head + "\n" + "\n".join(lines) + "\n")
    assert ids(found) == (0x14E4, 0x1806)
    assert found.device(VF).unknown == {Fact.PHYSFN}
    assert decide(found).doubt_about(VF) is not None


def test_sriov_without_values_leaves_open_who_is_virtual() -> None:
    """`lspci -v` as root names the capability alone."""
    virtual = [replace(vf, vendor=0x14E4, device=0x1806) for vf in VFS]
    machine = Machine("nic", [PORT, PF, MATE, *virtual])
    alone = {group.members for group in decide(machine).groups}
    assert (VF,) in alone
    text = verbose(machine)
    cut = "".join(
        line + "\n" for line in text.splitlines() if "IOVCtl" not in line and "VF" not in line
    )
    found = read_lspci(cut)
    assert Fact.PHYSFN in found.device(VF).unknown
    assert Fact.PHYSFN not in found.device(PF.bdf).unknown
    assert decide(found).doubt_about(VF) is not None


def test_a_function_that_is_asleep_is_no_virtual_function() -> None:
    asleep = b"\xff" * 64
    lines = [f"{offset:02x}: {asleep[:16].hex(' ')}" for offset in range(0, 64, 16)]
    found = read_lspci(write_lspci([PORT, MATE]) + "\n01:00.2 (config space)\n" + "\n".join(lines))
    assert found.device(VF).unknown == {Fact.IDS, Fact.KIND, Fact.ACS, Fact.CAPABILITIES}


def test_a_machine_file_may_leave_the_device_id_out() -> None:
    """Ids that are given stay; those that are not come from the physical function."""
    physical = replace(PF, sriov=replace(PF.sriov, device=0))
    given = replace(VFS[0], vendor=0x14E4, device=0x1806)
    machine = Machine("nic", [PORT, physical, given, VFS[1]])
    assert ids(machine) == (0x14E4, 0x1806)
    assert ids(machine, VFS[1].bdf) == (0x14E4, 0xFFFF)
    assert Fact.IDS in machine.device(VFS[1].bdf).unknown


@pytest.mark.parametrize("device", [PF, *VFS], ids=lambda d: str(d.bdf))
def test_encoding_keeps_vf_device_id(device: Device) -> None:
    data = encode(device)
    assert (b"\x06\x18" in data) is (device is PF)


def test_a_virtual_function_is_pcie_even_if_its_list_ends_too_soon() -> None:
    """Intel QuickAssist (quirk_intel_qat_vf_cap): bytes show no PCI Express capability."""
    short = replace(VFS[0], kind=PortKind.CONVENTIONAL)
    found = read_lspci(write_lspci([PORT, PF, MATE, short]))
    assert found.device(VF).kind is PortKind.ENDPOINT
    alone = read_lspci(write_lspci([PORT, MATE, short]))
    assert alone.device(VF).kind is PortKind.CONVENTIONAL
