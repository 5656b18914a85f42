"""What users see, word for word. DMAPROOF_GOLDEN=1 writes the files anew; read the difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .support import run

GOLDEN = Path(__file__).parent / "golden"

CASES: dict[str, tuple[str, ...]] = {
    "groups-two": ("groups", "SW(off,on)", "nowhere", "BR"),
    "groups-components": ("groups", "--grouping", "components", "SW(off,on)"),
    "groups-json": ("groups", "--json", "SW(off,off)", "nowhere", "AL2"),
    "reach-swr": ("reach", "SWR", "A", "B"),
    "reach-swr-json": ("reach", "SWR", "A", "B", "--json"),
    "reach-swg": ("reach", "SWG", "A", "B"),
    "reach-not-closed": ("reach", "SW(off,off)", "A", "B", "--assume", "spoof=off"),
    "reach-stopped": ("reach", "SW(on,on)", "03:00.0", "0000:04:00.0"),
    "reach-stopped-json": ("reach", "MF(on)", "A.0", "A.1", "--json"),
    "reach-assumption": ("reach", "MF(off)", "A.0", "A.1", "--assume", "deputy=off"),
    "reach-alias": ("reach", "AL2", "A", "B"),
    "reach-bridge": ("reach", "BR", "A", "B"),
    "reach-no-capability": ("reach", "MF(nocap)", "A.0", "A.1"),
    "reach-self": ("reach", "SS", "A", "A"),
    "reach-summary": ("reach", "SW(off,on)"),
    "reach-summary-json": ("reach", "T3", "--json"),
    "reach-coarse": ("reach", "SWG", "--assume", "spoof=off"),
    "reach-virtual": ("reach", "VF", "PF", "VF1"),
    "reach-one-name": ("reach", "SS", "A"),
    "reach-port": ("reach", "SS", "A", "RP2"),
    "reach-unknown-assumption": ("reach", "SS", "A", "B", "--assume", "magic=on"),
    "fabric-list": ("fabric", "--list"),
    "fabric-loopback": ("fabric", "--theorem", "P32-loopback", "--reproducible"),
    "fabric-two": ("fabric", "--theorem", "P62", "--theorem", "P26", "--nodes", "2",
                   "--reproducible"),
    "fabric-unknown": ("fabric", "--theorem", "P99"),
    "machine-list": ("machine", "list"),
    "machine-sw": ("machine", "show", "SW(off,nocap)"),
    "machine-vf": ("machine", "show", "VF"),
    "machine-al2-json": ("machine", "show", "AL2", "--json"),
    "machine-unknown": ("machine", "show", "SW(on)"),
    "explain-one": ("explain", "pcie.acs.flags-enabled"),
    "explain-unknown": ("explain", "pcie.acs.flag-enabled"),
    "explain-nothing": ("explain",),
    "unknown-command": ("grups",),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    result = run(*CASES[name])
    seen = f"$ dmaproof {' '.join(CASES[name])}\n{result.stdout}"
    if result.stderr:
        seen += f"--- standard error\n{result.stderr}"
    seen += f"--- exit code {result.exit_code}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("DMAPROOF_GOLDEN"):
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


def test_no_golden_file_is_left_over() -> None:
    mine = {f"{name}.txt" for name in CASES}
    assert {path.name for path in GOLDEN.glob("*.txt")} == mine
