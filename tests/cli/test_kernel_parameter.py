"""`--kernel-parameter` of groups, reach and check."""

from __future__ import annotations

import json

from .support import complaint, run

REDIRECT_OFF = "pci=disable_acs_redir=02:00.0;02:01.0"
OVERRIDE = "pcie_acs_override=downstream"


def members(*args: str) -> list[list[str]]:
    found = json.loads(run("groups", "--json", *args).stdout)
    return sorted(group["members"] for group in found["groups"])


def test_groups_as_after_a_boot() -> None:
    """SW(on,on) booted with redirection off is SW(off,off)."""
    assert members("SW(on,on)", "--kernel-parameter", REDIRECT_OFF) == members("SW(off,off)")
    both = ("--kernel-parameter", "pci=config_acs=x0xxx@02:00.0;11101@pci:1b36:c")
    assert members("SW(off,off)", *both) == members("SW(off,on)")


def test_reach_and_check_as_after_a_boot() -> None:
    ask = ("reach", "--json", "--assume", "spoof=off")
    assert not json.loads(run(*ask, "SW(on,on)", "A", "B").stdout)["acts"]
    changed = run(*ask, "SW(on,on)", "A", "B", "--kernel-parameter", REDIRECT_OFF)
    answer = json.loads(changed.stdout)
    assert answer["acts"]
    assert answer["machine"] == f"SW(on,on) with {REDIRECT_OFF}"
    verdict = ("check", "--design", "bind-2018-device", "--property", "device-isolation")
    verdict += ("--assume", "spoof=off", "--machine", "SW(on,on)")
    assert run(*verdict).exit_code == 0
    refuted = run(*verdict, "--kernel-parameter", REDIRECT_OFF)
    assert refuted.exit_code == 1
    assert f"SW(on,on) with {REDIRECT_OFF}" in refuted.stdout


def test_override_voids_claims() -> None:
    """P63: groups are shown with a warning, ways and proofs are refused."""
    shown = run("groups", "SW(off,off)", "--kernel-parameter", OVERRIDE)
    assert shown.exit_code == 0
    assert "the kernel's own would be smaller and would leak" in " ".join(shown.stderr.split())
    refused = complaint(run("reach", "SW(off,off)", "A", "B", "--kernel-parameter", OVERRIDE))
    assert "makes every claim of isolation void" in refused
    refused = complaint(run("check", "--machine", "S", "--kernel-parameter", OVERRIDE))
    assert "makes every claim of isolation void" in refused


def test_what_has_no_effect_is_said() -> None:
    shown = run("groups", "SS", "--kernel-parameter", "pci=config_acs=1@09:00.0")
    assert "changes no ACS bit of this machine" in shown.stderr
    for bad in ("quiet", "pci=config_acs=2@00:01.0", "pci=nomsi"):
        complaint(run("groups", "SS", "--kernel-parameter", bad))
    assert "mean nothing to `any` machine" in complaint(
        run("check", "--machine", "any", "--kernel-parameter", REDIRECT_OFF)
    )
