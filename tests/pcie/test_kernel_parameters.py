"""Kernel parameters that change ACS control bits, against kernels that were booted with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.kernel_parameters import REDIRECT, KernelParameters, Selector, apply
from dmaproof.model.pcie.lspci import read_lspci
from dmaproof.model.pcie.machines import load
from dmaproof.model.pcie.topology import Acs, Bdf, Machine

from .strategies import machines

OWN = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "kernel-groups"
DEFAULT = 0x1D  # what a kernel without parameters switches on


def without_parameters(machine: Machine) -> Machine:
    """The machine as the same kernel leaves it when nobody asks for anything."""
    devices = [
        replace(d, acs=replace(d.acs, control=d.acs.capability & DEFAULT)) if d.acs else d
        for d in machine.devices
    ]
    return Machine(machine.name, devices)


def recordings() -> list[Path]:
    root = SHARED if SHARED.is_dir() else OWN
    return sorted(root.glob("acs-*/*.groups.json"))


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.name.split(".")[0])
def test_as_the_kernel_did(path: Path) -> None:
    """From the kernel's defaults and the parameters come the recorded bits, and the groups."""
    recorded = json.loads(path.read_text())
    dump = path.with_name(path.name.replace(".groups.json", ".lspci-xxxx.txt"))
    booted = read_lspci(dump.read_text(), str(dump))
    version = tuple(int(part) for part in recorded["kernel"].split(".")[:2])
    parameters = KernelParameters.parse([recorded.get("kernel_parameters", "")])
    computed = apply(without_parameters(booted), parameters, kernel=version)
    for device in booted.devices:
        assert computed.device(device.bdf).acs == device.acs, device.bdf
    kernel: dict[int, set[str]] = {}
    for bdf, group in recorded["groups"].items():
        kernel.setdefault(group, set()).add(bdf)
    ours = {frozenset(str(member) for member in group.members) for group in groups(computed)}
    assert ours == {frozenset(members) for members in kernel.values()}


def test_own_recordings_cover_what_matters() -> None:
    texts = [json.loads(p.read_text())["kernel_parameters"] for p in OWN.glob("acs-*/*.json")]
    assert any("disable_acs_redir" in text for text in texts)
    assert any("config_acs" in text and ";" in text for text in texts)


def controls(machine: Machine) -> dict[str, int]:
    return {device.label: device.acs.control for device in machine.ports if device.acs}


def after(text: str, machine: str = "SW(on,on)", **options) -> dict[str, int]:
    return controls(apply(load(machine), KernelParameters.parse([text]), **options))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"RP": 0x1D, "DSP1": 0x1D, "DSP2": 0x1D}),
        # Bits that are x take the firmware's value, not the kernel's.
        ("pci=config_acs=0@0000:02:00.0", {"RP": 0x1D, "DSP1": 0, "DSP2": 0x1D}),
        ("pci=config_acs=x11x1@02:00.0", {"RP": 0x1D, "DSP1": 0x0D, "DSP2": 0x1D}),
        ("pci=config_acs=11101@00:01.0/00.0/01.0", {"RP": 0x1D, "DSP1": 0x1D, "DSP2": 0x1D}),
        ("pci=config_acs=10100@00:01.0/00.0/01.0", {"RP": 0x1D, "DSP1": 0x1D, "DSP2": 0x14}),
        # The first that matches counts; TB and DT are there to be set.
        (
            "pci=config_acs=1xxxx1x@pci:1b36:000c;0000000@02:00.0",
            {"RP": 0x42, "DSP1": 0x42, "DSP2": 0x42},
        ),
        # EC is not implemented by these ports.
        ("pci=config_acs=1111111@02:00.0", {"RP": 0x1D, "DSP1": 0x5F, "DSP2": 0x1D}),
        ("pci=disable_acs_redir=pci:0:c", {"RP": 0, "DSP1": 0, "DSP2": 0}),
        # config_acs replaces what disable_acs_redir did.
        (
            "pci=disable_acs_redir=02:00.0;02:01.0,config_acs=1@02:01.0",
            {"RP": 0x1D, "DSP1": 0, "DSP2": 1},
        ),
        ("pci=config_acs=1@02:00.0 pci=config_acs=1@02:01.0", {"RP": 29, "DSP1": 29, "DSP2": 1}),
    ],
)
def test_bits(text: str, expected: dict[str, int]) -> None:
    assert after(text) == expected


def test_firmware_value_shows_where_nothing_was_asked() -> None:
    assert after("pci=config_acs=0xxxx@02:00.0", firmware=0x1F)["DSP1"] == 0x0F
    assert after("pci=disable_acs_redir=02:00.0", firmware=0x1D)["DSP1"] == 0x1D & ~REDIRECT


def test_kernels_before_config_acs() -> None:
    text = "pci=config_acs=0@02:00.0,disable_acs_redir=02:01.0"
    assert after(text, kernel=(6, 1)) == {"RP": 0x1D, "DSP1": 0x1D, "DSP2": 0x11}
    with pytest.raises(InputError, match=r"Linux 6\.12 sets other ACS bits"):
        after(text, kernel=(6, 12))


def test_ports_with_wide_registers_only_lose_redirection() -> None:
    """Sunrise Point: the kernel's own function for them clears the bits whatever was asked."""
    machine = load("S")
    port = replace(machine.device(Bdf.parse("00:01.0")), vendor=0x8086, device=0xA110)
    machine = Machine("spt", [port, *(d for d in machine.devices if d.bdf != port.bdf)])
    parameters = KernelParameters.parse(["pci=config_acs=1111111@00:01.0"])
    assert controls(apply(machine, parameters)) == {"RP": 0x1D & ~REDIRECT}


def test_selector_by_subsystem() -> None:
    machine = load("S")
    function = machine.by_label("A")
    assert Selector.parse("pci:1b36:10", "").matches(machine, function)
    assert not Selector.parse("pci:1b36:10:1:0", "").matches(machine, function)
    marked = replace(function, subsystem=0x1_0002)
    assert Selector.parse("pci:0:0:1:2", "").matches(machine, marked)
    assert not Selector.parse("01:00.0/00.0", "").matches(machine, function)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nomodeset", "not known to change ACS"),
        ("pci=noacpi", "'pci=noacpi' is not known"),
        ("pci=config_acs=", "not known to change ACS"),
        ("pci=config_acs=101", "does not start with bits"),
        ("pci=config_acs=2@00:01.0", "does not start with bits"),
        ("pci=config_acs=11111111@00:01.0", "does not start with bits"),
        ("pci=config_acs=1@00:01.0;02:00.0", "'02:00.0' does not start with bits"),
        ("pci=disable_acs_redir=switch", "names no device"),
        ("pci=disable_acs_redir=00:01.0/1", "names no device"),
        ("pci=disable_acs_redir=pci:8086", "names no device"),
        ("pci=disable_acs_redir=00:7f.0", "no PCI address"),
    ],
)
def test_bad_parameters(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        KernelParameters.parse([text])


def test_override_voids_every_claim() -> None:
    """P63: the patch changes what the kernel believes, not what devices reach."""
    parameters = KernelParameters.parse(["pcie_acs_override=downstream,multifunction"])
    assert parameters.override == "downstream,multifunction"
    assert apply(load("SW(off,off)"), parameters) == load("SW(off,off)")
    with pytest.raises(InputError, match="makes every claim of isolation void"):
        parameters.refuse_override()
    KernelParameters().refuse_override()


@given(machines(), st.integers(0, 0x7F), st.integers(0, 0x7F))
def test_only_asked_devices_change(machine: Machine, mask: int, value: int) -> None:
    bits = "".join("x" if not mask >> n & 1 else str(value >> n & 1) for n in reversed(range(7)))
    chosen = machine.devices[len(machine.devices) // 2]
    parameters = KernelParameters.parse([f"pci=config_acs={bits}@{chosen.bdf}"])
    changed = apply(machine, parameters, firmware=0x55)
    for before, now in zip(machine.devices, changed.devices, strict=True):
        if before.bdf != chosen.bdf or before.acs is None:
            assert now == before
            continue
        asked = 0x55 & ~mask | value & mask
        assert now.acs == Acs(
            before.acs.capability, asked & before.acs.capability, before.acs.egress
        )
    assert apply(changed, parameters, firmware=0x55) == changed
