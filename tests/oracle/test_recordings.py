"""A thousand recordings of QEMU 10.2: the engine agrees, every exception is a named deviation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dmaproof.model.vtd.translate import translate
from dmaproof.model.vtd.vectors import outcomes, parse, read_lines

from .deviations import DEVIATIONS, predict

DATA = Path(__file__).parent / "data" / "qemu-10.2.jsonl.gz"
PAGES = range(0x2000000, 0x2040000)
RAM = 64 << 20


@pytest.fixture(scope="module")
def recordings():
    shared: dict = {}
    lines = list(read_lines(DATA))
    assert len(lines) == 1000
    return [(json.loads(t)["out"], parse(t, n, shared)) for n, t in enumerate(lines, 1)]


def same(out, hpa, blocked, code):
    """Whether (hpa, blocked, recorded code) is what was recorded."""
    if "hpa" in out:
        if out["hpa"] is None:
            return hpa is None or hpa not in PAGES
        return out["hpa"] == hpa
    if out["fault"] is None:
        return (blocked and code is None) or (hpa is not None and hpa >= RAM)
    return blocked and code == out["fault"]


def test_every_recording_is_predicted(recordings):
    """Address, block and fault code are exactly those of the engine with the named deviations."""
    wrong = []
    for out, vector in recordings:
        p = predict(vector.image, vector.registers, vector.request, "10.2")
        assert p.used <= DEVIATIONS.keys()
        assert all("10.2" in DEVIATIONS[name].versions for name in p.used)
        if not same(out, p.hpa, p.blocked, p.code):
            wrong.append((vector.line, out, p))
    assert wrong == []


def test_the_specification_decides_where_no_deviation_matters(recordings):
    """Without a deviation the plain engine gives what was recorded; the share is not trivial."""
    counts: Counter[str] = Counter()
    for out, vector in recordings:
        plain = translate(vector.image, vector.registers, vector.request)
        hpa = None if plain.fault or plain.interrupt else plain.hpa
        blocked = bool(plain.fault)
        agrees = same(out, hpa, blocked, plain.code if plain.recorded else None)
        used = predict(vector.image, vector.registers, vector.request, "10.2").used
        assert agrees or used, f"line {vector.line}: {out} against {plain}"
        counts["agrees" if agrees else "deviates"] += 1
    assert counts["agrees"] >= 190


def test_outcomes_of_the_reader_match_the_engine(recordings):
    """The reader's outcomes (bulk where it can) are those of one request at a time."""
    results = list(outcomes(read_lines(DATA)))
    assert [r.error for r in results] == [None] * 1000
    for result, (_, vector) in zip(results, recordings, strict=True):
        plain = translate(vector.image, vector.registers, vector.request)
        if plain.fault:
            assert result.outcome["condition"] == plain.condition.name
            assert result.outcome["fault"] == plain.condition.code
            assert result.outcome["recorded"] == plain.recorded
        elif plain.interrupt:
            assert result.outcome == {"interrupt": True}
        else:
            assert result.outcome == {"hpa": plain.hpa}
