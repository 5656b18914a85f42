"""Real machines: dumps that others posted, against the groups their kernels made.

The dumps stay where they are; without them these tests are skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.compare import Cause, Comparison, compare
from dmaproof.model.pcie.dmar import read_dmar
from dmaproof.model.pcie.machines import load
from dmaproof.model.pcie.topology import Fact, Machine, PortKind
from dmaproof.model.pcie.undecided import decide

MACHINES = Path(__file__).resolve().parents[3] / "shared" / "data" / "machines"
LSPCI = sorted(MACHINES.glob("L*/lspci.txt"))
REPORTS = sorted(MACHINES.glob("F*/facter.json"))
TABLES = sorted(MACHINES.glob("DMAR*/dmar.dsl"))
needs_data = pytest.mark.skipif(not MACHINES.is_dir(), reason=f"no dumps in {MACHINES}")

FULL = {
    "L182",
    "L184",
    "L185",
    "L186",
    "L189",
    "L191",
    "L193",
    "L196",
    "L198",
    "L199",
    "L203",
    "L208",
    "L211",
    "L212",
}
"""Complete capability lists, tree and groups; the groups of L182 are in a log that is not here."""
WITHOUT_GROUPS = {
    "L176",
    "L177",
    "L178",
    "L180",
    "L182",
    "L187",
    "L192",
    "L194",
    "L195",
    "L205",
    "L206",
    "L209",
    "L213",
}
NEEDS_QUIRKS = {"L185", "L196", "L198", "L203", "L211"}
"""Of the full ones, those whose groups do not come out without the quirks for device ids."""


def name(path: Path) -> str:
    return path.parent.name


@cache
def machine(path: Path) -> Machine:
    return load(str(path))


@cache
def compared(path: Path) -> Comparison:
    return compare(machine(path), machine(path).recorded)


@needs_data
@pytest.mark.parametrize("path", [*LSPCI, *REPORTS], ids=name)
def test_no_group_is_contradicted(path: Path) -> None:
    """Every group agrees, or is undecided because of what the dump hides; nothing is guessed."""
    assert bool(machine(path).recorded) == (name(path) not in WITHOUT_GROUPS)
    for difference in compared(path).differences:
        assert difference.cause is Cause.HIDDEN, difference
        assert difference.reason.startswith("cannot be decided: ")


@needs_data
@pytest.mark.parametrize("path", [p for p in LSPCI if name(p) in FULL], ids=name)
def test_full_dumps_agree_exactly(path: Path) -> None:
    found = compared(path)
    assert not found.differences
    assert len(found.same) == len(set(machine(path).recorded.values()))
    assert not decide(machine(path)).doubts
    # two files end in the middle of their last function, one function was asleep
    unknown = [device.bdf for device in machine(path).devices if device.unknown]
    assert unknown == [machine(path).devices[-1].bdf] * (name(path) in {"L193", "L196", "L211"})


@needs_data
def test_groups_of_the_dump_whose_kernel_log_is_elsewhere() -> None:
    """Of L182 the index keeps counts alone: 29 groups of 42 functions, 4 with several members.

    AMD's tables leave out the host bridge 00:00.0 and the IOMMU itself; these two get no group.
    """
    decision = decide(machine(MACHINES / "L182" / "lspci.txt"))
    assert not decision.doubts
    first, *others = sorted(group.members for group in decision.groups)
    assert [str(member) for member in first] == ["0000:00:00.0", "0000:00:00.2"]
    assert (len(others), sum(map(len, others))) == (29, 42)
    assert sorted(len(members) for members in others if len(members) > 1) == [2, 2, 5, 8]


@needs_data
def test_what_the_quirks_are_good_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ids five of the full dumps differ, without the wide registers another one."""
    differing = set()
    for path in LSPCI:
        found = machine(path)
        if name(path) in FULL and found.recorded:
            bare = Machine("", [replace(d, vendor=0) for d in found.devices])
            if compare(bare, found.recorded).differences:
                differing.add(name(path))
    assert differing == NEEDS_QUIRKS
    monkeypatch.setattr(quirks, "acs_control_offset", lambda *_: 6)
    believed = load(str(MACHINES / "L191" / "lspci.txt"))
    assert compare(believed, believed.recorded).differences


@needs_data
def test_counts() -> None:
    """What the closing table says."""
    causes: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    for path in [*LSPCI, *REPORTS]:
        found = compared(path)
        kinds = {d.cause for d in found.differences}
        verdict = "agree" if not kinds else "+".join(sorted(kinds))
        causes[verdict if machine(path).recorded else "no groups"] += 1
        groups["same"] += len(found.same)
        groups["undecided"] += sum(len(d.kernel) for d in found.differences)
    assert len(LSPCI) == 38 and len(REPORTS) == 31 and len(TABLES) == 144
    assert causes == {"agree": 13, "hidden-capability": 43, "no groups": 13}
    assert groups["same"] + groups["undecided"] == sum(
        len(set(machine(path).recorded.values())) for path in [*LSPCI, *REPORTS]
    )
    assert groups["same"] > 450


@needs_data
def test_known_facts_about_some_dumps() -> None:
    def dump(wanted: str) -> Machine:
        return machine(next(p for p in [*LSPCI, *REPORTS] if name(p) == wanted))

    vmd = dump("L211")
    assert {d.real_dma is not None for d in vmd.devices if d.bdf.domain} == {True}
    cut = dump("L200")
    assert all(Fact.PORT_ABOVE in device.unknown for device in cut.devices)
    wide = dump("L191")
    assert any("wrong place" in text for text in wide.warnings)
    names = dump("L198")
    assert sum(d.vendor == 0x0014 and d.kind is PortKind.ROOT_PORT for d in names.devices) == 12
    leaking = compared(next(p for p in LSPCI if name(p) == "L201")).leaks
    assert {(str(leak.source), str(leak.target)) for leak in leaking} >= {
        ("0000:03:00.0", "0000:04:00.0")
    }
    assert [m for m in map(name, LSPCI) if compared(MACHINES / m / "lspci.txt").leaks] == ["L201"]


# -- DMAR tables -----------------------------------------------------------------------------------


def values(text: str, label: str) -> list[int]:
    return [int(v, 16) for v in re.findall(rf"{label} : ([0-9A-F]+)", text)]


@needs_data
@pytest.mark.parametrize("path", TABLES, ids=name)
def test_tables_are_read_as_iasl_decodes_them(path: Path) -> None:
    text = path.read_text("latin-1")
    found = read_dmar(path.read_bytes(), name(path))
    assert not found.warnings
    # The iasl of these dumps does not know SIDP, and shows nothing of its inside.
    lists = (
        found.units,
        found.reserved,
        found.ats_ports,
        found.affinities,
        found.names,
        found.ats_devices,
        found.properties,
    )
    kinds = Counter(values(text, "Subtable Type"))
    assert kinds == Counter({n: len(entries) for n, entries in enumerate(lists) if entries})
    assert found.address_width == values(text, "Host Address Width")[0] + 1
    assert [unit.registers for unit in found.units] == values(text, "Register Base Address")
    assert [region.limit for region in found.reserved] == values(text, r"End Address \(limit\)")
    scoped = [*found.units, *found.reserved, *found.ats_ports, *found.ats_devices]
    scopes = [scope for entry in scoped for scope in entry.scopes]
    assert Counter(int(scope.kind) for scope in scopes) == Counter(
        values(text, "Device Scope Type")
    )
    paths = re.findall(r"PCI Path : ([0-9A-F]{2}),([0-9A-F]{2})", text)
    steps = Counter((int(a, 16), int(b, 16)) for a, b in paths)
    assert steps == Counter(step for scope in scopes for step in scope.path)
