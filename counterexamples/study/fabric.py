"""Rows about all fabrics up to a size: the theorems of `engine.shapes`, decided together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dmaproof.counterexamples.verdict import Result
from dmaproof.engine.cache import Cache, key_of, program
from dmaproof.engine.shapes import ShapeVerdict, decide_all, theorem
from dmaproof.model.pcie.machine_json import to_json

NODES = 4
"""Shapes up to this size are asked by the study; ``dmaproof fabric --nodes 8`` asks more."""


@dataclass(frozen=True)
class Shapes:
    """What a theorem came to.

    Attributes:
        result: ``proved``, ``refuted`` or ``undecided``.
        reason: one sentence.
        machine: the smallest machine that refutes it, as text ("" where there is none).
        assumptions: literals of the fabric that it was asked under.
        origin: ``engines`` or ``cache``.
    """

    result: Result
    reason: str
    machine: str
    assumptions: dict[str, str]
    origin: str


def decided(names: Sequence[str], cache: Cache, seconds: float) -> Iterator[tuple[str, Shapes]]:
    """Decide theorems on every shape up to `NODES` nodes; many at the price of few.

    Args:
        names: of theorems.
        cache: answers of earlier runs.
        seconds: time for one query.

    Raises:
        InputError: there is no theorem of a name.
    """
    open_: list[str] = []
    for name in names:
        kept = _kept(cache.get(_key(name)), name)
        if kept is None:
            open_.append(name)
        else:
            yield name, kept
    for verdict in decide_all([theorem(n) for n in open_], NODES, seconds=seconds):
        name = verdict.theorem.id
        machine = verdict.counterexample.machine if verdict.counterexample else None
        text = to_json(machine) if machine is not None else ""
        if verdict.result in ("proved", "refuted"):
            cache.put(_key(name), {
                "result": verdict.result, "reason": _reason(verdict), "machine": text,
            })
        result = _result(verdict.result)
        yield name, Shapes(result, _reason(verdict), text, _literals(name), "engines")


def _result(text: str) -> Result:
    """One of the three results; whatever else an engine or a file says is undecided."""
    if text == "proved":
        return "proved"
    return "refuted" if text == "refuted" else "undecided"


def _key(name: str) -> str:
    meaning = json.dumps(theorem(name).meaning, sort_keys=True)
    return key_of(["fabric", str(NODES), name, meaning, program("model", "engine")])


def _kept(kept: Any, name: str) -> Shapes | None:  # noqa: ANN401
    if not isinstance(kept, dict):
        return None
    try:
        return Shapes(_result(kept["result"]), str(kept["reason"]), str(kept["machine"]),
                      _literals(name), "cache")
    except KeyError:
        return None


def _literals(name: str) -> dict[str, str]:
    return {k: "on" if on else "off" for k, on in theorem(name).assumptions.items()}


def _reason(verdict: ShapeVerdict) -> str:
    if verdict.result == "proved":
        return f"{verdict.theorem.says} [every shape up to {verdict.nodes} nodes]"
    return verdict.detail or verdict.reason or f"not so: {verdict.theorem.says}"
