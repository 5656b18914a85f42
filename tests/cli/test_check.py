"""``check``, ``trace`` and ``certify`` as a user runs them: files, exit codes, JSON."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .support import complaint, run

KEYS = {
    "design", "machine", "property", "kind", "result", "scope", "grouping", "theorem", "premise",
    "assumptions", "vacuous", "reason", "trace", "certificate",
    "group_leak",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    out = tmp_path_factory.mktemp("out")
    result = run("check", "--design", "bind-2018-device", "--design", "sva-2018-core",
                 "--machine", "SWR", "--machine", "SW(off,on)", "--machine", "BR",
                 "--json", "--reproducible", "--out", str(out))
    return out, json.loads(result.stdout), result.exit_code


def verdict(data: dict[str, Any], design: str, machine: str, prop: str) -> dict[str, Any]:
    (found,) = [v for v in data["verdicts"]
                if (v["design"], v["machine"], v["property"]) == (design, machine, prop)]
    return found


def test_json_has_the_promised_keys(checked: tuple[Path, dict[str, Any], int]) -> None:
    _, data, code = checked
    assert code == 1
    assert data["schema"] == "dmaproof/verdicts/1"
    assert all(set(v) == KEYS for v in data["verdicts"])
    assert {v["result"] for v in data["verdicts"]} == {"proved", "refuted"}


def test_the_dispute_of_2018(checked: tuple[Path, dict[str, Any], int]) -> None:
    _, data, _ = checked
    broken = verdict(data, "bind-2018-device", "SWR", "device-isolation")
    assert (broken["result"], broken["assumptions"]) == ("refuted", {"deputy": "on"})
    kept = verdict(data, "bind-2018-device", "SWR", "group-isolation")
    assert (kept["result"], kept["scope"], kept["premise"]) == ("proved", "any", "closed_grouping")
    empty = verdict(data, "bind-2018-device", "BR", "device-isolation")
    assert (empty["result"], empty["vacuous"]) == ("proved", True)
    assert empty["reason"] == "The design refuses every bind on this machine."


def test_a_verdict_says_how_the_groups_of_its_machine_leak(
    checked: tuple[Path, dict[str, Any], int]
) -> None:
    _, data, _ = checked
    for found in data["verdicts"]:
        leak = found["group_leak"]
        assert (leak is not None) is (found["machine"] == "SW(off,on)")
        if leak is None:
            continue
        assert (leak["from"], leak["to"]) == ("A", "B")
        assert leak["groups"] == [2, 4]
        assert leak["assumptions"] == {"deputy": "on"}
        (edge,) = leak["path"]
        assert edge["leak"] == "L1"
        hops = ["0000:03:00.0", "0000:02:00.0", "0000:02:01.0", "0000:04:00.0"]
        assert edge["hops"] == hops
        words = " ".join(leak["says"])
        assert all(words.index(a) < words.rindex(b) for a, b in pairwise(hops))
        assert "RR off" in words


def test_the_leak_is_told_once_and_then_referred_to() -> None:
    asked = ("check", "--design", "bind-2018-device", "--machine", "SW(off,on)", "--reproducible")
    text = run(*asked, "--property", "unbind-final", "--property", "group-isolation").stdout
    assert text.count("linux groups leak: A of group 2 acts as B of group 4") == 2
    assert text.count("sends a request for a BAR") == 1
    assert text.count("as above") == 1
    closed = run(*asked, "--property", "unbind-final", "--grouping", "components").stdout
    assert "groups leak" not in closed
    quiet = run(*asked, "--property", "unbind-final", "--assume", "deputy=off", "--assume",
                "spoof=off").stdout
    assert "groups leak" not in quiet, "nothing acts as a function of another group"


def test_every_trace_replays(checked: tuple[Path, dict[str, Any], int]) -> None:
    _, data, _ = checked
    traces = [v["trace"] for v in data["verdicts"] if v["result"] == "refuted"]
    assert traces
    for path in traces:
        result = run("trace", "replay", path)
        assert result.exit_code == 0, result.output
        shown = run("trace", "show", path)
        assert shown.exit_code == 0
        assert "  1. " in shown.output


def test_every_proof_has_a_certificate(checked: tuple[Path, dict[str, Any], int]) -> None:
    pytest.importorskip("cvc5")
    _, data, _ = checked
    folders = {v["certificate"] for v in data["verdicts"] if v["result"] == "proved"}
    assert None not in folders
    folder = next(f for f in sorted(folders) if "group-isolation" in f)
    result = run("certify", folder)
    assert result.exit_code == 0, result.output
    assert "accepted" in result.output


def test_a_folder_of_certificates_is_asked_whole(
    checked: tuple[Path, dict[str, Any], int], tmp_path: Path
) -> None:
    pytest.importorskip("cvc5")
    _, data, _ = checked
    folders = sorted({v["certificate"] for v in data["verdicts"] if v["result"] == "proved"})
    for folder in folders[:2]:
        shutil.copytree(folder, tmp_path / "certificates" / Path(folder).name)
    for given in (tmp_path, tmp_path / "certificates"):
        result = run("certify", str(given))
        assert result.exit_code == 0, result.output
        assert result.output.splitlines()[-1] == "2 certificates: 2 accepted"
    (tmp_path / "certificates" / Path(folders[0]).name / "safety.smt2").unlink()
    result = run("certify", str(tmp_path))
    assert result.exit_code == 2
    assert "2 certificates: 1 refused, 1 accepted" in result.output


def _trace(checked: tuple[Path, dict[str, Any], int], where: Path) -> tuple[Path, dict[str, Any]]:
    _, data, _ = checked
    source = verdict(data, "bind-2018-device", "SWR", "device-isolation")["trace"]
    copy = where / "trace.json"
    shutil.copy(source, copy)
    return copy, json.loads(copy.read_text())


@pytest.mark.parametrize("change", ["drop a step", "swap steps", "other effect", "safe facts"])
def test_a_trace_that_does_not_hold_is_not_reproduced(
    checked: tuple[Path, dict[str, Any], int], tmp_path: Path, change: str
) -> None:
    path, data = _trace(checked, tmp_path)
    match change:
        case "drop a step":
            del data["steps"][3]
        case "swap steps":
            data["steps"][0], data["steps"][3] = data["steps"][3], data["steps"][0]
        case "other effect":
            data["steps"][0]["changed"] = {}
        case "safe facts":
            data["facts"]["relations"]["infl"] = [["A", "A"], ["B", "B"]]
            data["facts"]["relations"]["emits"] = [["A", "rid(A)"], ["B", "rid(B)"]]
    path.write_text(json.dumps(data))
    result = run("trace", "replay", str(path))
    assert result.exit_code == 1, result.output
    assert "does not reproduce" in result.output


FACTS = {"unknown element", "bad design", "two groups of A"}
"""Damage that only a replay notices: the file itself is well formed."""


@pytest.mark.parametrize(
    "damage", ["cut", "binary", "empty", "list", "unknown element", "bad design", "two groups of A"]
)
def test_a_damaged_trace_is_bad_input(
    checked: tuple[Path, dict[str, Any], int], tmp_path: Path, damage: str
) -> None:
    path, data = _trace(checked, tmp_path)
    match damage:
        case "cut":
            path.write_text(path.read_text()[:400])
        case "binary":
            path.write_bytes(bytes(range(256)))
        case "empty":
            path.write_text("")
        case "list":
            path.write_text("[1, 2]")
        case "unknown element":
            data["facts"]["relations"]["p2p"] = [["A", "Z"]]
            path.write_text(json.dumps(data))
        case "bad design":
            data["design"]["interface"]["object"] = "planet"
            path.write_text(json.dumps(data))
        case "two groups of A":
            data["facts"]["functions"]["rgroup"] = []
            path.write_text(json.dumps(data))
    for command in ("replay", "show") if damage not in FACTS else ("replay",):
        complaint(run("trace", command, str(path)))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--design", "no-such"), "no-such"),
        (("--machine", "no-such"), "no-such"),
        (("--property", "no-such"), "no-such"),
        (("--assume", "no-such=on"), "no-such"),
        (("--assume", "spoof=maybe"), "maybe"),
        (("--assume", "spoof"), "NAME=VALUE"),
        (("--design", "sva-2018-core", "--property", "container-isolation"), "containers"),
    ],
)
def test_bad_arguments(args: tuple[str, ...], word: str) -> None:
    assert word in complaint(run("check", *args))


def test_runs_are_reproducible(tmp_path: Path) -> None:
    args = ("check", "--design", "sva-2018-core", "--machine", "SW(off,on)", "--machine", "S",
            "--json", "--reproducible", "--out", str(tmp_path / "out"))
    first, second = run(*args), run(*args)
    assert first.stdout == second.stdout


def test_an_assumption_that_the_machine_contradicts_decides_nothing() -> None:
    result = run("check", "--design", "bind-2018-group", "--machine", "SW(off,off)",
                 "--property", "group-isolation", "--assume", "closed_grouping=on")
    assert result.exit_code == 3
    assert "contradicts" in result.output


def test_a_can_property_is_proved_by_a_run_and_refuted_by_a_theorem(tmp_path: Path) -> None:
    result = run("check", "--design", "bind-2018-group", "--design", "sva-2018-core",
                 "--machine", "MF(off)", "--property", "can-p2p-and-pasid", "--json",
                 "--out", str(tmp_path))
    first, second = json.loads(result.stdout)["verdicts"]
    assert (first["result"], first["scope"]) == ("proved", "machine")
    assert run("trace", "replay", first["trace"]).exit_code == 0
    assert (second["result"], second["scope"]) == ("refuted", "any")
    assert second["certificate"]


def test_certify_refuses_what_is_no_certificate(tmp_path: Path) -> None:
    complaint(run("certify", str(tmp_path)))
