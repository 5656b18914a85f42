"""The computed groups against those of real kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.groups import dma_aliases, group_of, groups
from dmaproof.model.pcie.lspci import read_lspci
from dmaproof.model.pcie.topology import Bdf, Machine

OWN = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "kernel-groups"
# Switch ports without ACS, several devices below: groups that are not closed (T1, T2).
OPEN = {"kernel-6.1/0011", "kernel-6.1/0024", "kernel-6.18/0102"} | {
    "kernel-6.18/0117",
    "kernel-6.18/0119",
}


def recordings(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.groups.json"))


def load(path: Path) -> tuple[Machine, dict]:
    dump = path.with_name(path.name.replace(".groups.json", ".lspci-xxxx.txt"))
    return read_lspci(dump.read_text(), str(dump)), json.loads(path.read_text())


def compare(path: Path) -> None:
    machine, recorded = load(path)
    kernel: dict[int, set[str]] = {}
    for bdf, group in recorded["groups"].items():
        kernel.setdefault(group, set()).add(bdf)
    computed = groups(machine)
    ours = {frozenset(str(member) for member in group.members) for group in computed}
    assert ours == {frozenset(members) for members in kernel.values()}
    assert all(len(group.why) == len(group.members) for group in computed)
    for bdf, sysfs in recorded["paths"].items():
        above = machine.parent(Bdf.parse(bdf))
        parent = sysfs.split("/")[-2]
        assert parent == (str(above) if above else f"pci{bdf[:7]}"), bdf
        physical = machine.device(Bdf.parse(bdf)).physfn
        if "physical_functions" in recorded:
            assert recorded["physical_functions"].get(bdf) == (str(physical) if physical else None)


@pytest.mark.parametrize("path", recordings(OWN), ids=lambda path: path.name)
def test_kernel_partition(path: Path) -> None:
    compare(path)


def test_recordings_with_virtual_functions_and_aliases() -> None:
    """Two machines have virtual functions; in one, bridges lend their id to what is behind."""
    owners = {}
    for path in recordings(OWN):
        machine, _ = load(path)
        found = {str(d.bdf): str(d.physfn) for d in machine.devices if d.is_virtual}
        if found:
            owners[path.name.split(".")[0]] = found
    assert {name: len(found) for name, found in owners.items()} == {
        "virtual-functions": 3,
        "virtual-functions-below-open-switch": 2,
    }
    machine, _ = load(OWN / "oracle-6.1" / "bridge-alias.groups.json")
    lent = {
        str(device.bdf): [str(alias) for _, alias in dma_aliases(machine, device.bdf)][1:]
        for device in machine.functions
        if not machine.on_root(device)
    }
    quirky, recorded = load(OWN / "oracle-6.1" / "quirk-alias.groups.json")
    assert [str(alias) for alias in quirky.device(Bdf.parse("00:02.0")).aliases] == ["0000:00:02.1"]
    assert recorded["groups"]["0000:00:02.0"] == recorded["groups"]["0000:00:02.1"]
    assert recorded["groups"]["0000:00:04.0"] != recorded["groups"]["0000:00:04.1"]
    # Of a PCIe-to-PCI bridge: its secondary bus, devfn 0. Of others: the bridge's own id.
    assert lent["0000:03:01.0"] == ["0000:02:02.0", "0000:02:00.0"]
    assert lent["0000:04:01.0"] == ["0000:00:03.0"]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recordings in {SHARED}")
@pytest.mark.parametrize("path", recordings(SHARED), ids=lambda path: path.name)
def test_kernel_partition_of_every_recording(path: Path) -> None:
    compare(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recordings in {SHARED}")
def test_which_kernel_groups_leak() -> None:
    """Five recordings have groups that peer-to-peer leaves, without any assumption."""
    found = set()
    for path in recordings(SHARED):
        machine, _ = load(path)
        home = group_of(groups(machine))
        hard = {**PERMISSIVE, "spoof": False, "mf_loopback": False}
        leaks = Fabric(machine).crossings(home, hard)
        if leaks and path.parent.name.startswith("kernel"):
            found.add(f"{path.parent.name}/{path.name.split('.')[0]}")
    assert found == OPEN
