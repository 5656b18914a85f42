"""A run of a scenario on the bits as numbered sentences, and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.replay import RunReplay
from dmaproof.counterexamples.bits.show import cited, events, request_data, step_data
from dmaproof.counterexamples.runs import RunTrace
from dmaproof.counterexamples.show import Line

SCHEMA: Final = "dmaproof/run-bits/1"


def lines(trace: RunTrace, replay: RunReplay) -> Iterator[Line]:
    """Yield the lines of a replay, each with its role (see `counterexamples.show`)."""
    name = trace.design.get("name", "?")
    tables = f", on {replay.bits.board.tables} tables" if replay.bits else ""
    yield f"{trace.claim} of {name}{tables}", "head"
    if replay.bits is not None:
        yield from ((text, "note") for text in _units(replay.bits.board))
    for number, done in enumerate(replay.steps, 1):
        yield f"{number:3}. {done.says}", "step"
        if replay.bits is not None:
            yield from ((f"       {text}", "note") for text in events(replay.bits.board, done))
    if replay.result == "undecided":
        yield f"  undecided: {replay.reason}", "end"
        return
    yield f"  => {trace.end.says}", "end"
    if replay.result == "nothing":
        yield f"     {replay.reason}", "note"
    for text in replay.end.says:
        yield f"     {text}", "path"
    for issued in replay.end.requests:
        yield from ((f"     {text}", "note") for text in cited(issued))


def _units(board: Board) -> Iterator[str]:
    for number, unit in enumerate(board.units):
        r = unit.hardware.registers
        yield f"IOMMU {number}: CAP {r.cap:#x}, ECAP {r.ecap:#x}, RTADDR {r.rtaddr:#x}"


def data(file: str, trace: RunTrace, replay: RunReplay) -> dict[str, Any]:
    """Return a replay as JSON data (``dmaproof/run-bits/1``)."""
    found: dict[str, Any] = {
        "schema": SCHEMA, "file": file, "claim": trace.claim,
        "design": trace.design.get("name", "?"), "family": trace.design.get("family", "?"),
        "result": replay.result, "reason": replay.reason,
    }
    if replay.bits is None:
        return found
    board = replay.bits.board
    found["tables"] = str(board.tables)
    found["units"] = [
        {"unit": number, "cap": hex(r.cap), "ecap": hex(r.ecap), "rtaddr": hex(r.rtaddr)}
        for number, unit in enumerate(board.units) for r in (unit.hardware.registers,)
    ]
    found["steps"] = [step_data(board, done) for done in replay.steps]
    found["end"] = {"says": replay.end.says,
                    "requests": [request_data(issued) for issued in replay.end.requests]}
    return found
