"""``dmaproof study`` and the runs it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmaproof.counterexamples import runs
from dmaproof.engine.known import Known
from dmaproof.engine.scenarios import Run
from dmaproof.model.scenario import load

from .support import complaint, run


@pytest.fixture(scope="module")
def violation() -> runs.RunTrace:
    design = load("r27-replace-in-place")
    claim = design.scenario.claims["no-mixed-walk"]
    found, _ = Known().settle(design.scenario, claim)
    assert isinstance(found, Run)
    trace = runs.confirm(design, claim, found, "violated")
    assert isinstance(trace, runs.RunTrace)
    return trace


def test_the_trace_command_takes_runs(violation: runs.RunTrace, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    runs.write(violation, path)
    assert "A run that violates no-mixed-walk" in run("trace", "show", str(path)).stdout
    assert run("trace", "replay", str(path)).exit_code == 0
    shown = run("trace", "show", "--json", str(path)).stdout
    assert json.loads(shown) == json.loads(violation.dump())
    path.write_text(violation.dump().replace("low chunk of new", "low chunk of old"))
    assert run("trace", "replay", str(path)).exit_code == 1


def test_damaged_files_are_bad_input(violation: runs.RunTrace, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    text = violation.dump()
    for damaged in (text[: len(text) // 2], text.replace('"claim"', '"clam"'), "[]", ""):
        path.write_text(damaged)
        complaint(run("trace", "replay", str(path)))


# -- the command ----------------------------------------------------------------------------

FEW = ("--row", "R25", "--row", "P5", "--row", "R16")


def study(folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    result = run("study", "--json", "--out", str(folder / "out"), "--cache", str(folder / "cache"),
                 *args)
    assert not result.stderr
    return result.exit_code, json.loads(result.stdout)


def essence(data: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(r["row"], r["part"], r["expected"], r["found"], r["scope"]) for r in data["rows"]]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    code, data = study(folder, *FEW)
    assert code == 0
    return folder, data


def test_rows_come_out_as_expected(answered: tuple[Path, dict[str, Any]]) -> None:
    _, data = answered
    assert data["schema"] == "dmaproof/study/1"
    found = {(r["row"], r["part"]): r for r in data["rows"]}
    assert found["P5", "device isolation"]["found"] == "refuted"
    assert found["P5", "container isolation"]["scope"] == "any"
    assert found["R25", "flushed, then zeroed"]["found"] == "proved"
    assert {r["scope"] for r in data["rows"] if r["kind"] == "lemma"} == {"values"}
    assert all(r["as_expected"] and r["expected"] == r["found"] for r in data["rows"])
    assert all(r["seconds"] >= 0 for r in data["rows"])


def test_every_verdict_has_its_evidence(answered: tuple[Path, dict[str, Any]]) -> None:
    _, data = answered
    for row in data["rows"]:
        if row["kind"] == "lemma":
            continue
        if row["scope"] == "any":
            assert run("certify", row["certificate"]).exit_code == 0, row
        else:
            assert run("trace", "replay", row["trace"]).exit_code == 0, row


def test_kept_answers_are_the_same_answers(answered: tuple[Path, dict[str, Any]]) -> None:
    folder, data = answered
    code, again = study(folder, *FEW, "--jobs", "1")
    assert code == 0
    assert essence(again) == essence(data)


@pytest.mark.slow
def test_however_it_is_asked_the_answers_are_the_same(
    answered: tuple[Path, dict[str, Any]]
) -> None:
    folder, data = answered
    for args in (("--no-library",), ("--no-cache", "--jobs", "3")):
        code, again = study(folder, *FEW, *args)
        assert code == 0
        assert essence(again) == essence(data)


def test_without_time_nothing_is_decided(tmp_path: Path) -> None:
    code, data = study(tmp_path, "--row", "R25", "--no-cache", "--no-library", "--seconds", "0.1")
    found = {r["part"]: r["found"] for r in data["rows"]}
    assert found["flushed, then zeroed"] == "undecided"
    assert code == 3


def test_what_comes_out_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmaproof.counterexamples.study import table as module

    rows = module.table()
    wrong = tuple(
        r.model_copy(update={"expected": "proved"}) if r.id == "R25" else r for r in rows.rows
    )
    monkeypatch.setattr(module, "table", lambda: module.Table(wrong, ()))
    result = run("study", "--row", "R25", "--out", str(tmp_path / "o"), "--no-cache")
    assert result.exit_code == 1
    assert "NOT AS EXPECTED (proved)" in result.stdout


def test_bad_rows_and_folders_are_bad_input(tmp_path: Path) -> None:
    assert "P47" in complaint(run("study", "--row", "P-47"))
    file = tmp_path / "file"
    file.write_text("")
    complaint(run("study", "--row", "P47", "--out", str(file / "below")))
    assert run("study", "--row", "P47", "--out", str(file)).exit_code == 2
    assert run("study", "--jobs", "0").exit_code == 2
    assert run("study", "--seconds", "nan").exit_code == 2


def test_a_full_disk_costs_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "traces").write_text("in the way")
    code, data = study(tmp_path, "--row", "R25")
    assert code == 0
    row = next(r for r in data["rows"] if r["found"] == "refuted")
    assert row["trace"] is None
    assert "not written" in row["reason"]


def test_rows_are_listed() -> None:
    assert "P47" in run("study", "--list").stdout
    listed = json.loads(run("study", "--list", "--json", "--row", "P5").stdout)
    assert [r["row"] for r in listed["rows"]] == ["P5"]
