"""Whole answers kept between runs: only for the same question, program, settings and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmaproof.counterexamples.study import memo as memos
from dmaproof.counterexamples.study import runner
from dmaproof.counterexamples.study.answers import Answer, undecided
from dmaproof.counterexamples.study.memo import Memo
from dmaproof.counterexamples.study.runner import Settings, study
from dmaproof.counterexamples.study.table import table
from dmaproof.engine.cache import Cache

QUESTION = ("matrix", "bind-2018-device", (6, 0))
ROWS = ["P46", "C26"]


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(Cache(tmp_path / "cache"), ("out",))


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    trace, certificate = tmp_path / "trace.json", tmp_path / "certificate"
    trace.write_text("a run")
    certificate.mkdir()
    (certificate / "safety.smt2").write_text("(check-sat)")
    return Answer(
        QUESTION, "refuted", "machine", "because", {"machine": "SWR"}, {"deputy": "on"},
        seconds=3.0, trace=str(trace), certificate=str(certificate), wrong=("a complaint",),
    )


def test_an_answer_comes_back_as_it_was(memo: Memo, answer: Answer) -> None:
    memo.put(QUESTION, [answer, answer])
    kept = replace(answer, origin="cache", seconds=0.0)
    assert memo.get(QUESTION) == [kept, kept]


def test_another_question_setting_or_program_has_no_answer(
    memo: Memo, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo.put(QUESTION, [answer])
    assert memo.get(("matrix", "bind-2018-device", (6, 1))) is None
    assert Memo(memo.cache, ("elsewhere",)).get(QUESTION) is None
    monkeypatch.setattr(memos, "package", lambda: "changed")
    assert memo.get(QUESTION) is None


def test_what_is_undecided_is_not_kept(memo: Memo, answer: Answer) -> None:
    memo.put(QUESTION, [answer, undecided(QUESTION, "time ran out")])
    memo.put(QUESTION, [])
    assert memo.get(QUESTION) is None


@pytest.mark.parametrize("name", ["trace.json", "certificate/safety.smt2"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("another")])
def test_an_answer_counts_while_its_files_are_there(
    memo: Memo, answer: Answer, tmp_path: Path, name: str, change
) -> None:
    memo.put(QUESTION, [answer])
    change(tmp_path / name)
    assert memo.get(QUESTION) is None


def test_an_entry_of_another_form_is_none(memo: Memo) -> None:
    for entry in ([{}], [{"answer": {}, "files": []}], "text", [3]):
        memo.cache.put(memo._key(QUESTION), entry)
        assert memo.get(QUESTION) is None


def test_the_package_counts_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> str:
        memos.package.cache_clear()
        return memos.package()

    before = fresh()
    room = tmp_path / "room"
    (room / "rows").mkdir(parents=True)
    monkeypatch.setattr(memos.resources, "files", lambda _: room)
    seen = {before, fresh()}
    for name in ("rules.py", "rows/some.toml", "library.json"):
        (room / name).write_text("one")
        seen.add(fresh())
        (room / name).write_text("two")
        seen.add(fresh())
    monkeypatch.setattr(memos.metadata, "version", lambda _: "another")
    seen.add(fresh())
    assert len(seen) == 9
    monkeypatch.undo()
    assert fresh() == before


def test_a_run_asks_only_what_was_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path / "cache", tmp_path / "out", workers=1)
    first = study(table().only(ROWS), settings)
    assert all(v.as_expected for v in first)
    asked = []

    def nobody(make, arguments, jobs, workers):
        asked.extend(job for job, _ in jobs)
        return iter(())

    monkeypatch.setattr(runner, "spread", nobody)
    again = study(table().only(ROWS), settings)
    assert asked == []
    assert [(v.row, v.part, v.answer.found, v.answer.reason) for v in again] == [
        (v.row, v.part, v.answer.found, v.answer.reason) for v in first
    ]
    assert {v.answer.origin for v in again} == {"cache"}
    path = next(Path(v.answer.trace) for v in first if v.row == "P46" and v.answer.trace)
    path.write_text("{}")
    broken = study(table().only(ROWS), settings)
    assert [job.name for job in asked] == [
        v.answer.about["design"] for v in first if v.answer.trace == str(path)
    ]
    assert any(v.answer.found == "undecided" for v in broken)  # nobody was there to answer it
