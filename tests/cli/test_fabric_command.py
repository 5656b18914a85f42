"""``dmaproof fabric``: options, exit codes, the machine file, JSON, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmaproof.engine.fabric.workbench import UNKNOWN, Answer, Workbench
from dmaproof.model.pcie.machine_json import from_json

from .support import complaint, run

SMALL = ("--nodes", "3", "--workers", "1", "--reproducible")
FIRM = ("--assume", "spoof=off", "--assume", "mf_loopback=off", "--assume", "rp_loopback=off")
WHERE = ("--where", "quiet-sriov", "--where", "no-shared-ghost")


def test_json_has_everything() -> None:
    result = run(
        "fabric", "--theorem", "T3", "--theorem", "P10", "--theorem", "P62", "--json", *SMALL
    )
    assert result.exit_code == 0
    body = json.loads(result.stdout)
    assert body["schema"] == "dmaproof/fabric/1"
    t3, p10, p62 = body["theorems"]
    assert (t3["result"], t3["expected"], t3["nodes"]) == ("refuted", "refuted", 2)
    assert (p10["result"], p10["nodes"], p10["shapes"]) == ("proved", 3, 7)
    assert p10["sizes"] == {"1": {"shapes": 1}, "2": {"shapes": 2}, "3": {"shapes": 4}}
    assert p10["counterexample"] is None and "prefix" not in p10["assume"]
    assert p62["result"] == "refuted" and "0x0020" in p62["detail"]
    shown = t3["counterexample"]
    machine = from_json(json.dumps(shown["machine"]))
    assert [len(group) for group in shown["groups"]] == [1, 1]
    (leak,) = shown["leaks"]
    assert {leak["from"], leak["to"]} == {str(device.bdf) for device in machine.devices}
    assert leak["path"][0]["channel"] == "peer-to-peer"
    assert (
        run("fabric", "--theorem", "T3", "--json", *SMALL).stdout
        == run("fabric", "--theorem", "T3", "--json", *SMALL).stdout
    )


def test_the_machine_file_is_one_that_other_commands_read(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    result = run("fabric", "--theorem", "T6", "--machine-out", str(path), *SMALL)
    assert result.exit_code == 0 and path.exists()
    assert run("groups", str(path)).exit_code == 0
    crossing = run("reach", str(path), "A", "B", "--json")
    assert crossing.exit_code == 0
    checked = run("check", "--design", "bind-2018-device", "--machine", str(path), "--json",
                  "--property", "device-isolation", "--out", str(tmp_path / "out"))  # fmt: skip
    assert checked.exit_code in {0, 1, 3} and json.loads(checked.stdout)["verdicts"]


def test_without_a_refutation_there_is_no_machine(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    result = run("fabric", "--theorem", "P26", "--machine-out", str(path), *SMALL)
    assert result.exit_code == 0 and not path.exists()
    assert "was not written" in result.stderr


def test_a_claim_of_ones_own() -> None:
    proved = run("fabric", "--grouping", "v3", *FIRM, *WHERE, *SMALL)
    assert proved.exit_code == 0 and "proved" in proved.stdout
    refuted = run("fabric", "--grouping", "v3", *WHERE, *SMALL)
    assert refuted.exit_code == 1 and "mf_loopback=on" in refuted.stdout
    linux = run("fabric", "--grouping", "linux", *FIRM, *WHERE, *SMALL)
    assert linux.exit_code == 1 and "linux group 1" in linux.stdout


def test_an_unexpected_result_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workbench, "ask", lambda self, claim, s: Answer("holds", 0.0))
    result = run("fabric", "--theorem", "T3", *SMALL)
    assert result.exit_code == 1 and "EXPECTED refuted" in result.stdout


def test_no_answer_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workbench, "ask", lambda self, claim, s: Answer(UNKNOWN, 0.0, "timeout"))
    result = run("fabric", "--theorem", "P10", "--theorem", "P26", *SMALL)
    assert result.exit_code == 3 and "z3 on shape (): timeout" in result.stdout


def test_the_store_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("fabric", "--theorem", "P26", "--store", str(tmp_path / "new" / "store"), *SMALL)
    first = run(*arguments)
    monkeypatch.setattr(
        Workbench, "ask", lambda self, claim, s: Answer(UNKNOWN, 0.0, "asked again")
    )
    assert run(*arguments).stdout == first.stdout
    assert "asked again" in run(*arguments[:-5], "--nodes", "4").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--theorem", "T12"), "no theorem is called 'T12'"),
        (("--grouping", "v3", "--where", "magic"), "no condition is called 'magic'"),
        (("--grouping", "v3", "--assume", "magic=on"), "no assumption is called 'magic'"),
        (("--assume", "spoof=on"), "are for a claim of your own"),
        (("--grouping", "v3", "--theorem", "T1"), "exclude each other"),
        (("--theorem", "T3", "--machine-out", "nowhere/machine.json"), "there is no folder"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], says: str) -> None:
    assert says in complaint(run("fabric", *arguments))


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x", "utf-8")
    below = str(tmp_path / "store" / "below")
    assert "cannot write" in complaint(run("fabric", "--theorem", "T3", "--store", below, *SMALL))


def test_sizes_have_limits() -> None:
    assert run("fabric", "--nodes", "11").exit_code == 2
    assert run("fabric", "--nodes", "0").exit_code == 2
