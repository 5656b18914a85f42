"""Damaged dumps through the command line: an answer or a complaint, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.support import complaint, run

from dmaproof.model.pcie import contents
from pcie import fuzz
from pcie.fuzz import Case, Late, attempt, case, limited, many_buses, ring_of_buses

CASES = int(os.environ.get("DMAPROOF_FUZZ_CASES", "60"))


@pytest.mark.parametrize("tens", range(-(-CASES // 10)))
def test_damaged_dumps(tens: int, tmp_path: Path) -> None:
    codes = set()
    for number in range(10 * tens, 10 * tens + 10):
        folder = tmp_path / str(number)
        folder.mkdir()
        codes.update(attempt(case(number), folder, number))
    assert 2 in codes or 0 in codes


def test_a_case_follows_from_its_number() -> None:
    assert case(7) == case(7)
    assert len({case(number).data for number in range(40)}) == 40
    assert {case(number).kind for number in range(60)} >= {"lspci", "words", "tar", "json", "dmar"}


@pytest.mark.parametrize("kind", sorted(fuzz.SPECIALS.keys() - fuzz.LARGE))
def test_files_that_are_hard_on_readers(kind: str, tmp_path: Path) -> None:
    assert attempt(Case(kind, fuzz.SPECIALS[kind]()), tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(fuzz.LARGE))
def test_65536_bridges_and_a_gigabyte_of_blanks(kind: str, tmp_path: Path) -> None:
    assert set(attempt(Case(kind, fuzz.SPECIALS[kind]()), tmp_path, 1)) == {2}


@pytest.mark.parametrize("text", [many_buses(3000), ring_of_buses()], ids=["many", "ring"])
def test_buses_that_form_no_tree(text: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.txt"
    file.write_text(text)
    for command in ("groups", "reach"):
        assert "bus numbers form a cycle" in complaint(run(command, str(file)))


def test_the_bounds_are_enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fuzzer would report, it does."""
    with pytest.raises(Late), limited(1):
        while True:
            pass
    monkeypatch.setattr("pcie.fuzz.CODES", {1})
    with pytest.raises(AssertionError):
        attempt(Case("words", b"nothing"), tmp_path)
    assert contents.MAX_UNPACKED <= 1 << 30
