"""``dmaproof diff`` and ``gate``: exit codes, reports, files, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import BaseModel
from sarif_pydantic import Sarif

from dmaproof.counterexamples.gate.reports import FINGERPRINT

from .support import complaint, run

BUG, FIXED = "r25-zero-then-flush", "r25-clear-flush-zero"
QUICK = ("--machine", "SWR")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "kept"))


def test_a_fix_passes_and_its_loss_does_not() -> None:
    passed = run("gate", BUG, FIXED)
    assert passed.exit_code == 0
    assert "the new design is strengthened" in passed.stdout
    failed = run("gate", FIXED, BUG)
    assert failed.exit_code == 1
    assert "no-mixed-walk: weakened (proved -> refuted)" in failed.stdout
    assert "A run that violates no-mixed-walk" in failed.stdout


def test_diff_shows_what_gate_leaves_out() -> None:
    assert "A run that violates" not in run("gate", BUG, FIXED).stdout
    assert "A run that violates" in run("diff", BUG, FIXED).stdout


def test_json_holds_the_traces_and_they_replay(tmp_path: Path) -> None:
    result = run("diff", FIXED, BUG, "--json", "--out", str(tmp_path / "out"))
    data = json.loads(result.stdout)
    assert (data["schema"], data["relation"]) == ("dmaproof/diff/1", "weakened")
    assert data["changes"][0]["traces"][0]["trace"]["schema"] == "dmaproof/run/1"
    (path,) = (tmp_path / "out").iterdir()
    assert run("trace", "replay", str(path)).exit_code == 0


def test_bind_designs_are_compared_on_the_machines_named() -> None:
    result = run("gate", "bind-2018-device", "bind-2018-group", *QUICK, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert {c["machine"] for c in data["changes"]} == {"SWR"}
    weaker = [c for c in data["changes"] if c["relation"] == "weakened"]
    assert [(c["property"], c["assumptions"]) for c in weaker] == [
        ("device-isolation", {"deputy": "off", "spoof": "off"})]


def test_a_machine_from_a_file_joins_the_built_in_ones(tmp_path: Path) -> None:
    shown = run("machine", "show", "SWR", "--json").stdout
    file = tmp_path / "mine.json"
    file.write_text(shown)
    result = run("diff", "linux-7.0", "linux-7.0", "--machine", str(file), "--machine", "SS",
                 "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 0
    assert len({c["machine"] for c in data["changes"]}) == 2


# -- reports --------------------------------------------------------------------------------


def reports(folder: Path, *args: str) -> tuple[ElementTree.Element, dict[str, Any]]:
    junit, sarif = folder / "deep" / "gate.xml", folder / "gate.sarif"
    run("gate", *args, "--junit", str(junit), "--sarif", str(sarif))
    return ElementTree.fromstring(junit.read_text()), json.loads(sarif.read_text())


def unknown(model: object) -> list[str]:
    """Properties that the model of SARIF 2.1.0 does not have, anywhere in a log."""
    found = []
    if isinstance(model, BaseModel):
        found += list(model.model_extra or {})
        for name in type(model).model_fields:
            found += unknown(getattr(model, name))
    elif isinstance(model, list | tuple):
        for item in model:
            found += unknown(item)
    return found


def valid(log: dict[str, Any]) -> Sarif:
    found = Sarif.model_validate(log)
    assert [n for n in unknown(found) if n not in ("$schema", "columnKind")] == []
    (tool,) = [r.tool for r in found.runs]
    rules = [r.id for r in tool.driver.rules or []]
    assert len(set(rules)) == len(rules)
    for result in found.runs[0].results or []:
        assert result.rule_id == rules[result.rule_index or 0]
        assert result.message.text
        assert result.locations
    return found


def test_a_weakened_claim_is_a_failure_with_its_run(tmp_path: Path) -> None:
    junit, log = reports(tmp_path, FIXED, BUG)
    (suite,) = junit.iter("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    (failure,) = junit.iter("failure")
    assert "Present" in (failure.text or "")
    (result,) = valid(log).runs[0].results or []
    assert (result.rule_id, result.level) == ("no-mixed-walk", "error")
    steps = log["runs"][0]["results"][0]["codeFlows"][0]["threadFlows"][0]["locations"]
    assert len(steps) > 5


def test_a_fix_leaves_nothing_to_look_at(tmp_path: Path) -> None:
    junit, log = reports(tmp_path, BUG, FIXED)
    assert not list(junit.iter("failure"))
    assert valid(log).runs[0].results == []


def test_newly_allowed_calls_are_notes(tmp_path: Path) -> None:
    _, log = reports(tmp_path, "linux-7.0", "linux-7.0-no-acs-test", *QUICK)
    found = valid(log).runs[0].results or []
    notes = [r for r in found if r.level == "note"]
    assert [r.rule_id for r in notes] == ["newly-allowed"]
    assert "acs-path-rr-uf" in str(notes[0].message.text)


def _prints(log: dict[str, Any]) -> set[str]:
    return {r["partialFingerprints"][FINGERPRINT] for r in log["runs"][0]["results"]}


def test_fingerprints_name_the_finding_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, one = reports(tmp_path / "a", "linux-7.0", "linux-7.0-no-acs-test", *QUICK)
    _, again = reports(tmp_path / "b", "linux-7.0", "linux-7.0-no-acs-test", *QUICK)
    _, other = reports(tmp_path / "b", "linux-7.0", "linux-7.0-no-acs-test", "--machine", "MF(off)")
    assert _prints(one) == _prints(again)
    assert len(_prints(one)) == len(one["runs"][0]["results"])
    assert _prints(one) != _prints(other)


def test_the_file_of_the_new_design_is_where_a_finding_is(tmp_path: Path) -> None:
    file = tmp_path / "my design.toml"
    text = run("design", "show", BUG).stdout.replace(f'"{BUG}"', '"mine"')
    file.write_text(text)
    _, log = reports(tmp_path, FIXED, str(file))
    place = valid(log).runs[0].results[0].locations[0]  # type: ignore[index]
    assert place.physical_location is not None
    assert place.physical_location.artifact_location is not None
    assert str(place.physical_location.artifact_location.uri) == file.as_uri()


# -- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [
    ("r25-zero-then-flush", "bind-2018-device"),
    ("r25-zero-then-flush", "teardown-7.0"),
    ("r25-zero-then-flush", "nowhere"),
    ("nowhere.toml", "bind-2018-device"),
    ("r25-zero-then-flush", "r25-clear-flush-zero", "--machine", "SS"),
    ("r25-zero-then-flush", "r25-clear-flush-zero", "--assume", "deputy=off"),
    ("bind-2018-device", "bind-2018-group", "--assume", "magic=on"),
    ("bind-2018-device", "bind-2018-group", "--machine", "nowhere"),
])
def test_bad_input_is_told_and_nothing_is_decided(args: tuple[str, ...]) -> None:
    for command in ("diff", "gate"):
        result = run(command, *args)
        complaint(result)
        assert result.stdout == ""


def test_a_broken_design_file_is_told_by_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('schema = "dmaproof/design/2"\nfamily = "nowhere"\nname = "x"\ntitle = "x"\n'
                    "year = 2026\n")
    assert "families:" in complaint(run("gate", BUG, str(file)))
    file.write_text("[interface\n")
    assert "TOML" in complaint(run("gate", BUG, str(file)))


def test_a_report_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    complaint(run("gate", BUG, FIXED, "--sarif", str(file / "below.sarif")))
