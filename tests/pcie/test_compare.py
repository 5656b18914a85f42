"""Computed groups beside the kernel's: every difference has the reason that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.compare import Cause, Comparison, compare
from dmaproof.model.pcie.groups import LinuxGrouping, group_of, groups
from dmaproof.model.pcie.lspci import write_lspci
from dmaproof.model.pcie.machine_json import to_json
from dmaproof.model.pcie.machines import load, machine
from dmaproof.model.pcie.recorded import recorded_groups
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind
from pcie.strategies import machines
from pcie.test_undecided import dumps
from pcie.trees import archive, entries


def numbers(found: Machine) -> dict[Bdf, int]:
    return group_of(groups(found))


def split(found: Machine, *labels: str) -> dict[Bdf, int]:
    """The computed groups, but each function named gets one of its own."""
    recorded = numbers(found)
    for label in labels:
        recorded[found.by_label(label).bdf] = max(recorded.values()) + 1
    return recorded


def only(found: Comparison) -> Cause:
    (cause,) = {difference.cause for difference in found.differences}
    for difference in found.differences:
        assert difference.reason and difference.kernel and difference.computed
    return cause


@given(machines())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_computed_agrees_with_itself(drawn: Machine) -> None:
    found = compare(drawn, numbers(drawn))
    assert not found.differences and not found.uncovered
    assert len(found.same) == len(groups(drawn))


@given(dumps())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_truth_never_contradicts_a_dump_of_it(drawn) -> None:
    truth, shown = drawn
    found = compare(shown, numbers(truth))
    assert not found.contradicted
    assert found.undecided == any(d.cause is Cause.HIDDEN for d in found.differences)


def test_hidden_capability() -> None:
    known = machine("SW(off,on)")
    shown = Machine(
        "shown",
        [
            replace(d, acs=None, unknown=frozenset({Fact.ACS})) if d.is_bridge else d
            for d in known.devices
        ],
    )
    assert only(compare(shown, numbers(known))) is Cause.HIDDEN
    apart = Machine(
        "SS",
        [
            replace(d, acs=None, unknown=frozenset({Fact.ACS})) if d.is_bridge else d
            for d in machine("SS").devices
        ],
    )
    assert only(compare(apart, numbers(machine("SS")))) is Cause.HIDDEN
    # no setting of the hidden bits joins functions below different ports
    crossed = {d.bdf: 0 if d.is_bridge else 1 for d in apart.devices}
    assert only(compare(apart, crossed)) is Cause.UNKNOWN


RCIEP = PortKind.RC_INTEGRATED_ENDPOINT


def integrated(vendor: int = 0x8086) -> Machine:
    return Machine(
        "audio",
        [
            Device(
                bdf=Bdf(0, 0, 31, n),
                kind=RCIEP,
                vendor=vendor,
                device=0xA000 + n,
                class_code=0x0403,
                label="AB"[n],
            )
            for n in (0, 1)
        ],
    )


def test_a_quirk_that_the_kernel_did_not_know_yet() -> None:
    found = integrated()
    assert len(groups(found)) == 2
    older = dict.fromkeys(numbers(found), 0)
    comparison = compare(found, older)
    assert only(comparison) is Cause.QUIRK
    assert "since Linux 5.8" in comparison.differences[0].reason
    assert "0000:00:1f.0" in comparison.differences[0].reason


def test_an_override_patch() -> None:
    """Groups that are finer than ACS allows, as the patch makes them."""
    ports = machine("SW(nocap,nocap)")
    downstream = Machine(
        "", [replace(d, acs=Acs(0x5F, 0x1D)) if d.kind.has_link_below else d for d in ports.devices]
    )
    found = compare(ports, numbers(downstream))
    assert only(found) is Cause.OVERRIDE
    assert "pcie_acs_override=downstream," in found.differences[0].reason
    assert found.leaks
    functions = machine("MF(nocap)")
    found = compare(functions, split(functions, "A.1"))
    assert only(found) is Cause.OVERRIDE
    assert "pcie_acs_override=multifunction," in found.differences[0].reason


def test_the_patch_believes_a_capability_that_is_there() -> None:
    """It pretends only where there is none; ports with ACS off stay together."""
    ports = machine("SWR")
    found = compare(ports, split(ports, "A", "B"))
    assert only(found) is Cause.UNKNOWN


def test_functions_found_late() -> None:
    """Below a port that leaks: found first, a function starts a group of its own."""
    found = machine("SW(off,off)")
    order = tuple(sorted(found.enumeration, reverse=True))
    late = group_of(LinuxGrouping(found, order).run())
    assert numbers(found) != late
    assert only(compare(found, late)) is Cause.ORDER


def test_something_was_removed_meanwhile() -> None:
    found = machine("SS")
    joined = numbers(found)
    joined[found.by_label("B").bdf] = joined[found.by_label("A").bdf]
    spread = {bdf: number * 2 for bdf, number in joined.items()}
    comparison = compare(found, spread)
    assert only(comparison) is Cause.REMOVAL
    assert "gaps (1, 3" in comparison.differences[0].reason
    dense = {bdf: sorted(set(joined.values())).index(n) for bdf, n in joined.items()}
    assert only(compare(found, dense)) is Cause.UNKNOWN


def test_the_kernels_groups_leak() -> None:
    """T1: a switch whose ports do not isolate, in groups of their own."""
    found = machine("SW(off,off)")
    comparison = compare(found, numbers(found))
    assert not comparison.differences
    ways = {
        (found.device(leak.source).label, found.device(leak.target).label): leak
        for leak in comparison.leaks
    }
    assert set(ways) == {("A", "B"), ("B", "A")}
    assert [found.device(hop).label for hop in ways["A", "B"].path] == ["A", "DSP1", "DSP2", "B"]
    assert "RR off" in ways["A", "B"].reason
    assert not compare(machine("SW(on,on)"), numbers(machine("SW(on,on)"))).leaks
    disputed = machine("SS")
    assert not compare(disputed, numbers(disputed)).leaks


def test_a_bridge_that_no_iommu_covers() -> None:
    """Its functions find no group at the bridge, and each starts one."""
    found = machine("BR")
    order = tuple(bdf for bdf in found.enumeration if found.device(bdf).label in {"A", "B"})
    apart = group_of(LinuxGrouping(found, order).run())
    assert len(set(apart.values())) == 2
    assert only(compare(found, apart)) is Cause.COVERAGE


def test_functions_that_no_iommu_covers() -> None:
    found = machine("SS")
    recorded = {bdf: n for bdf, n in numbers(found).items() if found.device(bdf).label != "B"}
    comparison = compare(found, recorded)
    assert comparison.uncovered == (found.by_label("B").bdf,)
    assert not comparison.differences


@given(machines(), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_recording_can_be_compared(drawn: Machine, data) -> None:
    """Whatever the numbers, each kernel group is counted once: as the same or in a difference."""
    ids = st.integers(0, 3)
    recorded: Mapping[Bdf, int] = {
        d.bdf: data.draw(ids) for d in drawn.devices if data.draw(st.booleans())
    }
    found = compare(drawn, recorded)
    blocks = [*found.same, *(block for d in found.differences for block in d.kernel)]
    assert sorted(bdf for block in blocks for bdf in block) == sorted(recorded)


RECORDED = sorted((Path(__file__).parent / "data").glob("*/*.groups.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_kernels_agree(path: Path) -> None:
    dump = load(str(path).replace(".groups.json", ".lspci-xxxx.txt"))
    found = compare(dump, recorded_groups(str(path)))
    assert not found.differences and not found.uncovered and found.same


# -- where the kernel's groups come from -----------------------------------------------------------


def test_recordings(tmp_path: Path) -> None:
    found = Machine("SS", [replace(d, label="") for d in machine("SS").devices])
    wanted = numbers(found)
    texts = {
        "groups.json": json.dumps(
            {"kernel": "6.18", "groups": {str(b): n for b, n in wanted.items()}}
        ),
        "machine.json": to_json(Machine("SS", found.devices, recorded=wanted)),
        "dmesg": "".join(f"[1.0] pci {b}: Adding to iommu group {n}\n" for b, n in wanted.items()),
        "find": "".join(f"/sys/kernel/iommu_groups/{n}/devices/{b}\n" for b, n in wanted.items()),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert recorded_groups(str(tmp_path / name)) == wanted, name
    (tmp_path / "sys.tar").write_bytes(archive(entries(found, wanted)))
    assert recorded_groups(str(tmp_path / "sys.tar")) == wanted


def test_recordings_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "f"
    for text, what in (
        (write_lspci(machine("SS").devices), "no kernel groups"),
        ('{"groups": {"0000:00:01.0": -1}}', "no group number"),
        ('{"groups": {"somewhere": 1}}', "no PCI address"),
        ('{"groups": {}}', "schema"),
        ("{", "not JSON"),
        ("hello\n", "no PCI function"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=what):
            recorded_groups(str(file))
    with pytest.raises(InputError, match="no file"):
        recorded_groups(str(tmp_path / "missing"))
