"""The benchmark of the study runs, and an engine that answers otherwise does not pass unseen."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from dmaproof.counterexamples.study.table import table

SIZES = (2, 3)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "bench" / "study.py"
    spec = importlib.util.spec_from_file_location("bench_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_study"] = module
    spec.loader.exec_module(module)
    return module


def told(work: Callable[[Console], bool]) -> tuple[bool, str]:
    out = io.StringIO()
    return work(Console(file=out, width=200, highlight=False)), out.getvalue()


def some(bench: ModuleType) -> list[tuple[Any, str]]:
    """A case that is safe and one that is not, small; our answer is given."""
    return [
        (replace(case, answer=lambda known=known: (known, 1.0, 0.1)), known)
        for case, known in bench.cases() if case.name.startswith("bind-2018")
    ]


@pytest.mark.slow
def test_engines_are_asked_the_same_and_agree(bench: ModuleType) -> None:
    chosen = some(bench)
    assert {known for _, known in chosen} == {bench.SAFE, bench.UNSAFE}
    good, text = told(lambda c: bench.devices(c, SIZES, 8.0, chosen))
    assert good, text
    assert "error" not in text
    assert "any number safe" in text
    assert "abc pdr: seconds grow as" in text or "not installed" in text


def test_an_engine_that_answers_otherwise_is_an_error(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lie in (bench.SAFE, bench.UNSAFE):
        monkeypatch.setattr(bench, "ENGINES", {
            "honest": bench.by_spacer,
            "liar": lambda question, seconds, lie=lie: bench.Answer(lie, 0.1),
        })
        good, text = told(lambda c: bench.devices(c, SIZES[:1], 20.0, some(bench)))
        assert not good
        assert f"error: liar says {lie} of 2" in text
        assert "error: honest" not in text


def test_our_answer_is_held_against_what_is_known(bench: ModuleType) -> None:
    case, _ = bench.cases()[-1]
    good, text = told(lambda c: bench.devices(c, (), 1.0, [(case, bench.SAFE)]))
    assert not good
    assert "known to be safe" in text


def test_time_that_is_too_short_is_said_and_nothing_else(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ENGINES", {"slow": lambda q, s: bench.by_spacer(q, 0.001)})
    good, text = told(lambda c: bench.devices(c, SIZES, 20.0, some(bench)[:1]))
    assert good, text
    assert "> 0.001 s" in text
    assert "  3  " not in text, "a larger number is asked in vain"


@pytest.mark.slow  # infers every invariant
def test_our_answers_are_those_that_are_known(bench: ModuleType) -> None:
    good, text = told(lambda c: bench.devices(c, (), 1.0))
    assert good, text


def test_rows_are_told_by_engine(bench: ModuleType) -> None:
    good, text = told(lambda c: bench.rows(c, table().only(["R16"])))
    assert good, text
    assert "bit-vectors" in text
    assert "2 of 2 verdicts as expected" in text


def test_the_exponent_of_a_power_is_the_power(bench: ModuleType) -> None:
    assert bench.exponent([(n, float(n) ** 1.5) for n in (4, 8, 16)]) == pytest.approx(1.5)
