"""The computed groups against those that a real kernel makes on machines it has never seen.

Every example is one boot (2 s under TCG). Numbers and seed come from the environment:
DMAPROOF_KERNEL_CASES (of each kind) and DMAPROOF_ORACLE_SEED.
"""

from __future__ import annotations

import json
import os
import random as randomness
from dataclasses import replace
from pathlib import Path

import pytest
from cli.support import run
from hypothesis import HealthCheck, Phase, given, seed, settings

from dmaproof.model.pcie import groups as grouping
from dmaproof.model.pcie.dmar import read_dmar
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.kernel_parameters import KernelParameters, apply
from dmaproof.model.pcie.lspci import read_lspci
from dmaproof.model.pcie.machine_json import from_json
from dmaproof.model.pcie.machines import load
from dmaproof.model.pcie.topology import Bdf, Device, Machine

from .kernel import from_machine
from .kernel.boot import BootError, boot
from .kernel.dump import Dump, dump
from .kernel.required import kernel_or_skip
from .kernel.topology import PORT_OF_SWITCH, SRIOV, SWITCH, Part, Topology, topologies

pytestmark = pytest.mark.oracle
REQUIRED = bool(os.environ.get("DMAPROOF_REQUIRE_ORACLES"))
GIVEN = os.environ.get("DMAPROOF_KERNEL_CASES")
FIXED = int(GIVEN or (10 if REQUIRED else 1))
FRESH = int(GIVEN or (5 if REQUIRED else 1))
SEED = int(os.environ.get("DMAPROOF_ORACLE_SEED") or randomness.randrange(1 << 32))


SLOW_ELSEWHERE = (lambda test: test) if REQUIRED else pytest.mark.slow


@pytest.fixture(scope="module")
def kernel():
    return kernel_or_skip()


def examples(number: int):
    """As many boots as asked for, then as many as it takes to find the smallest machine."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def compare(found: Dump) -> None:
    """Every function has the group, the parent and the physical function that we computed."""
    machine = read_lspci(found.lspci(), "booted")
    ours = {frozenset(map(str, group.members)) for group in groups(machine)}
    wrong = [sorted(group) for group in found.partition - ours]
    assert ours == found.partition, f"the kernel's groups that we have not: {wrong}"
    for function, path in found.paths.items():
        above = machine.parent(Bdf.parse(function))
        assert path.split("/")[-2] == (str(above) if above else f"pci{function[:7]}")
        physical = machine.device(Bdf.parse(function)).physfn
        assert (str(physical) if physical else None) == found.physical.get(function)


def run_examples(kernel, number: int, start: int) -> dict[str, int]:
    counts = {"boots": 0, "functions": 0, "groups": 0, "virtual": 0, "bridges": 0}

    @seed(start)
    @examples(number)
    @given(topologies())
    def check(topology):
        found = dump(kernel, topology)
        counts["boots"] += 1
        counts["functions"] += len(found.spaces)
        counts["groups"] += len(found.partition)
        counts["virtual"] += len(found.physical)
        counts["bridges"] += sum(data[0x0E] & 0x7F == 1 for data in found.spaces.values())
        compare(found)

    check()
    return counts


def test_fixed_topologies(kernel, record_property) -> None:
    counts = run_examples(kernel, FIXED, 4)
    record_property("oracle", f"Linux {kernel.release}, fixed seed: {counts}")
    assert counts["boots"] >= FIXED


def test_fresh_topologies(kernel, record_property) -> None:
    record_property("oracle", f"DMAPROOF_ORACLE_SEED={SEED}")
    counts = run_examples(kernel, FRESH, SEED)
    record_property("oracle", f"Linux {kernel.release}: {counts}")
    assert counts["boots"] >= FRESH


def test_virtual_functions_and_second_root_bus(kernel, tmp_path) -> None:
    """What random machines hold rarely: VFs below a switch, a second root bus, bridges in depth."""
    switch = (
        Part(PORT_OF_SWITCH, 0, 0, (Part(SRIOV),)),
        Part(PORT_OF_SWITCH, 1, 0, (Part("edu"), Part(SWITCH, 0, 1, (Part(PORT_OF_SWITCH),)))),
    )
    several = (Part("edu"), Part("nvme,serial=1", 0, 3))
    bridges = (Part("edu", 1), Part("pci-bridge", 2, 0, (Part("pcnet", 1), Part("edu", 1, 3))))
    parts = (
        Part("pcie-root-port,disable-acs=on", 2, 0, (Part(SWITCH, 0, 0, switch),)),
        Part("ioh3420", 3, 0, (Part("pcie-pci-bridge", 0, 0, bridges),)),
        Part("pxb-pcie,bus_nr=128", 10, 0, (Part("ioh3420", 0, 0, several),)),
    )
    found = dump(kernel, Topology(parts, virtual=2))
    assert len(found.physical) == 2
    assert any(function.startswith("0000:80:") for function in found.groups)
    compare(found)
    tree_agrees(found, tmp_path)
    table = read_dmar(found.dmar)
    assert not table.warnings
    assert len(table.units) == 1


def bare(machine: Machine) -> list[Device]:
    """The devices, virtual functions without ids: their configuration spaces say ffff."""
    return [replace(d, vendor=0, device=0) if d.is_virtual else d for d in machine.devices]


def tree_agrees(found: Dump, folder: Path) -> None:
    """The same machine read as a copy of sysfs, with the kernel's groups in it."""
    for name, content in found.tree.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
    links = folder / "sys/bus/pci/devices"
    links.mkdir(parents=True)
    for function, path in found.paths.items():
        (links / function).symlink_to(f"../../..{path.removeprefix('/sys')}")
    machine = load(str(folder / "sys"))
    assert bare(machine) == bare(read_lspci(found.lspci()))
    assert {str(bdf): group for bdf, group in machine.recorded.items()} == found.groups
    compared = run("groups", "--compare", "--assume", "spoof=off", str(folder / "sys"))
    assert compared.exit_code == 0, compared.output


def test_disable_acs_redir(kernel) -> None:
    """Boot with and without: from the one dump and the parameter come the other's registers."""
    parts = (
        Part("pcie-root-port", 2, 0, (Part("edu"),)),
        Part("pcie-root-port", 3, 0, (Part("edu"),)),
        Part("pcie-root-port", 3, 1, (Part("nvme,serial=1"),)),
        Part("ioh3420", 4, 0, (Part("edu"), Part("pvscsi", 0, 1))),
    )
    text = "pci=disable_acs_redir=00:03.0;00:03.1;pci:8086:3420"
    plain, changed = (dump(kernel, Topology(parts, given)) for given in ((), (text,)))
    assert plain.partition != changed.partition
    version = tuple(int(part) for part in kernel.release.split(".")[:2])
    before = read_lspci(plain.lspci())
    after = apply(before, KernelParameters.parse([text]), kernel=version)
    booted = read_lspci(changed.lspci())
    assert [d.acs for d in after.devices] == [d.acs for d in booted.devices]
    assert {frozenset(map(str, g.members)) for g in groups(after)} == changed.partition


EXPRESSIBLE = ["BR"]  # SW(nocap,nocap) has a test of its own


def kernel_on(kernel, machine) -> tuple[Dump, set[frozenset[from_machine.Place]]]:
    """Boot a machine file's machine; return the kernel's groups without q35's own functions."""
    found = dump(kernel, Topology(from_machine.parts(machine)))
    spots = [
        {from_machine.place_of_path(found.paths[f]) for f in group} for group in found.partition
    ]
    kept = (frozenset(p for p in group if not from_machine.own_part(p)) for group in spots)
    return found, {group for group in kept if group}


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_machine_files_boot(kernel, name) -> None:
    """A machine file is built by QEMU and gets from the kernel the groups we compute for it."""
    machine = load(name)
    _, booted = kernel_on(kernel, machine)
    ours = from_machine.partition(machine, (group.members for group in groups(machine)))
    assert booted == ours


def test_kernel_makes_leaking_groups(kernel, tmp_path) -> None:
    """T1: a kernel booted on the very machine file puts peers that reach each other apart."""
    file = tmp_path / "t1.json"
    file.write_text(run("machine", "show", "--json", "SW(nocap,nocap)").stdout)
    leaking(kernel, file)


@SLOW_ELSEWHERE
def test_smallest_refutation_boots(kernel, tmp_path) -> None:
    """The smallest machine that refutes Linux's grouping is accepted by all, and leaks for real."""
    file = tmp_path / "smallest.json"
    theorem = ("--theorem", "linux-plain", "--nodes", "6", "--workers", "1")
    written = run("fabric", *theorem, "--machine-out", str(file))
    assert written.exit_code == 0, "refuted, as expected"
    assert run("groups", str(file)).exit_code == 0
    isolation = ("--design", "bind-2018-device", "--property", "device-isolation")
    refuted = run("check", *isolation, "--machine", str(file), "--assume", "spoof=off")
    assert refuted.exit_code == 1
    leaking(kernel, file)


def leaking(kernel, file: Path) -> None:
    """Boot a file's machine: the kernel puts A and B apart, and one acts as the other."""
    machine = from_json(file.read_text(), str(file))
    first, second = (machine.by_label(label).bdf for label in "AB")
    found, booted = kernel_on(kernel, machine)
    assert booted == from_machine.partition(machine, (g.members for g in groups(machine)))
    spots = {from_machine.place(machine, bdf): bdf for bdf in (first, second)}
    apart = [group for group in booted if spots.keys() & group]
    assert len(apart) == 2, "the kernel put both in one group"
    assert all(len(group) == 2 for group in apart), "each with the port above it"
    # The file as given, and the machine as the booted guest's own dump shows it.
    dumped = file.with_name("booted.txt")
    dumped.write_text(found.lspci())
    addresses = {from_machine.place_of_path(path): bdf for bdf, path in found.paths.items()}
    for place, (here, there) in (
        (file, (str(first), str(second))),
        (dumped, tuple(addresses[spot] for spot in spots)),
    ):
        answer = json.loads(run("reach", "--json", str(place), here, there).stdout)
        assert answer["acts"]
        assert answer["groups"][0] != answer["groups"][1]
        assert answer["path"][0]["channel"] == "peer-to-peer"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("SW(on,off)", "downstream-port with ACS"), ("MF(on)", "endpoint"), ("VF", "VFs")],
)
def test_machines_qemu_cannot_build(name, reason) -> None:
    with pytest.raises(from_machine.InexpressibleError, match=reason):
        from_machine.parts(load(name))


@pytest.mark.slow
def test_a_wrong_rule_is_found_and_shrunk(kernel, monkeypatch) -> None:
    """Ports without ACS capability taken for isolating: the smallest machine that shows it."""
    genuine = grouping.pci_acs_enabled

    def believes(machine, device, flags):
        port_without = device.kind.has_link_below and device.acs is None
        return port_without or genuine(machine, device, flags)

    monkeypatch.setattr(grouping, "pci_acs_enabled", believes)
    smallest: list[Topology] = []

    @seed(1)
    @examples(20)
    @given(topologies(budget=6).map(lambda topology: replace(topology, parameters=())))
    def check(topology):
        try:
            compare(dump(kernel, topology))
        except AssertionError:
            smallest.append(topology)
            raise

    with pytest.raises(AssertionError, match="we have not"):
        check()
    assert smallest[-1].size <= 2


def test_a_failed_boot_tells_what_was_seen(kernel) -> None:
    with pytest.raises(BootError, match="not a valid device model"):
        boot(kernel, ["-device", "no-such-device"], "")


@pytest.mark.slow
def test_a_guest_that_hangs_is_ended(kernel) -> None:
    with pytest.raises(BootError, match=r"(?s)within 8 s.*still here"):
        boot(kernel, [], "echo still here > /dev/console; sleep 60\n", timeout=8)
