"""Commands on dumps: what is hidden, what the kernel did, what a DMAR table says; word for word."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pcie.test_dmar import FULL
from pcie.trees import archive, entries, report
from pcie.words import verbose

from dmaproof.model.pcie.device import Acs, Bdf, Device, PortKind
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.topology import Machine

from .support import run

GOLDEN = Path(__file__).parent / "golden" / "dumps"


def grouped(found: Machine) -> Machine:
    plain = [replace(d, label="") for d in found.devices]
    return Machine(found.name, plain, recorded=group_of(groups(found)))


SWITCH = grouped(machine("SW(off,off)"))
AUDIO = Machine(
    "audio",
    [
        Device(bdf=Bdf(0, 0, 31, n), kind=PortKind.RC_INTEGRATED_ENDPOINT, vendor=0x8086,
               device=0xA000 + n, class_code=0x0403)
        for n in (0, 3)
    ],
)  # fmt: skip
OVERRIDDEN = Machine(
    "",
    [replace(d, acs=Acs(0x5F, 0x1D)) if d.kind.has_link_below else d
     for d in machine("SW(nocap,nocap)").devices],
)  # fmt: skip

FILES: dict[str, Callable[[], str | bytes]] = {
    "root.txt": lambda: verbose(SWITCH),
    "user.txt": lambda: verbose(SWITCH, root=False),
    "older.txt": lambda: verbose(AUDIO, groups=dict.fromkeys((d.bdf for d in AUDIO.devices), 4)),
    "patched.txt": lambda: verbose(
        grouped(machine("SW(nocap,nocap)")), groups=group_of(groups(OVERRIDDEN))
    ),
    "facter.json": lambda: report(SWITCH, dict(SWITCH.recorded)),
    "sys.tar": lambda: archive(entries(SWITCH, dict(SWITCH.recorded))),
    "silent.txt": lambda: verbose(Machine("", SWITCH.devices)),
    "log": lambda: "".join(
        f"[ 1.5] pci {bdf}: Adding to iommu group {n}\n" for bdf, n in SWITCH.recorded.items()
    ),
    "dmar.bin": lambda: FULL,
    "dmar.cut": lambda: FULL[:-7],
    "dmar.sum": lambda: FULL[:9] + b"\0" + FULL[10:],
}

CASES: dict[str, tuple[str, ...]] = {
    "groups-root": ("groups", "root.txt"),
    "groups-user": ("groups", "user.txt"),
    "groups-user-json": ("groups", "--json", "user.txt"),
    "compare-leak": ("groups", "--compare", "root.txt"),
    "compare-hidden": ("groups", "--compare", "user.txt"),
    "compare-quirk": ("groups", "--compare", "older.txt"),
    "compare-override": ("groups", "--compare", "patched.txt"),
    "compare-json": ("groups", "--compare", "--json", "older.txt"),
    "compare-nothing": ("groups", "--compare", "silent.txt"),
    "compare-log": ("groups", "--recorded", "log", "silent.txt"),
    "compare-two": ("groups", "--recorded", "log", "silent.txt", "root.txt"),
    "compare-v3": ("groups", "--compare", "--grouping", "v3", "root.txt"),
    "reach-user": ("reach", "user.txt", "03:00.0", "04:00.0"),
    "reach-user-json": ("reach", "user.txt", "03:00.0", "04:00.0", "--json"),
    "show-user": ("machine", "show", "user.txt"),
    "show-facter": ("machine", "show", "facter.json"),
    "show-sysfs": ("machine", "show", "sys.tar"),
    "dmar": ("machine", "dmar", "dmar.bin"),
    "dmar-machine": ("machine", "dmar", "dmar.sum", "root.txt"),
    "dmar-json": ("machine", "dmar", "dmar.bin", "root.txt", "--json"),
    "dmar-cut": ("machine", "dmar", "dmar.cut"),
    "dmar-missing": ("machine", "dmar", "nowhere"),
    "dmar-as-machine": ("machine", "show", "dmar.bin"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("dumps")
    for name, build in FILES.items():
        content = build()
        data = content.encode() if isinstance(content, str) else content
        (found / name).write_bytes(data)
    return found


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    result = run(*CASES[name])
    assert sorted(folder.iterdir()) == before, "a file was written"
    seen = f"$ dmaproof {' '.join(CASES[name])}\n{result.stdout}"
    if result.stderr:
        seen += f"--- standard error\n{result.stderr}"
    seen += f"--- exit code {result.exit_code}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("DMAPROOF_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.glob("*.txt")} == {f"{name}.txt" for name in CASES}


def test_exit_codes_of_several_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input before differences before what is undecided."""
    monkeypatch.chdir(folder)
    assert run("groups", "root.txt").exit_code == 0
    assert run("groups", "root.txt", "user.txt").exit_code == 3
    assert run("groups", "--compare", "user.txt").exit_code == 3
    assert run("groups", "--compare", "user.txt", "older.txt").exit_code == 1
    assert run("groups", "--compare", "older.txt", "nowhere").exit_code == 2


def test_every_kind_of_dump_is_a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("root.txt", "user.txt", "facter.json", "sys.tar"):
        shown = json.loads(run("machine", "show", name, "--json").stdout)
        assert [d["bdf"] for d in shown["devices"]] == [str(d.bdf) for d in SWITCH.devices], name
        assert shown["groups"] == {str(b): n for b, n in SWITCH.recorded.items()}, name
        again = folder.parent / "again.json"
        again.write_text(json.dumps(shown))
        assert run("groups", str(again)).exit_code == (0 if name in {"root.txt", "sys.tar"} else 3)


def test_check_on_a_dump_that_hides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = run(
        "check",
        "--design",
        "bind-2018-device",
        "--machine",
        "user.txt",
        "--property",
        "device-isolation",
        "--property",
        "unbind-final",
        "--reproducible",
    )
    assert result.exit_code == 3
    assert "cannot be decided: these functions hide their capabilities" in result.stdout
    assert "1 proved, 0 refuted, 1 undecided" in result.stdout
