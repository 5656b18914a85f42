"""Traces as numbered sentences in the kernel's words."""

from __future__ import annotations

from collections.abc import Iterator

from dmaproof.counterexamples.trace import Trace
from dmaproof.properties.base import PropertyKind
from dmaproof.properties.registry import find

Line = tuple[str, str]
"""Text and its role: head, step, change, end, path or note."""


def lines(trace: Trace) -> Iterator[Line]:
    """Yield the lines of a trace."""
    prop = find(trace.property)
    witness = prop.kind is PropertyKind.CAN
    word = "A run that shows" if witness else "A run that violates"
    design = trace.design.get("name", "?")
    yield f"{word} {trace.property} of {design} on {trace.machine}", "head"
    yield f"grouping {trace.grouping}; {_groups(trace)}", "note"
    for number, step in enumerate(trace.steps, 1):
        yield f"{number:3}. {step.says}", "step"
    end = trace.violation
    yield f"  => {end.says}", "end"
    if end.held_by:
        yield f"     The request hits {end.held_by}.", "note"
    for place, hop in enumerate(end.path, 1):
        cut = f" (cut by {', '.join(hop.cuts)})" if hop.cuts else " (no ACS bit cuts it)"
        yield f"     channel {place}: {hop.channel} from {hop.source} to {hop.target}{cut}", "path"
        yield f"       {hop.reason}", "path"
    yield f"     {'holds' if witness else 'false'}: {end.conjunct}", "note"
    if trace.assumptions:
        literals = ", ".join(f"{n}={v}" for n, v in trace.assumptions.items())
        yield f"     rests on: {literals}", "note"


def _groups(trace: Trace) -> str:
    owner = {rid: f for f, rid in trace.facts.functions.get("rid", [])}
    groups: dict[str, list[str]] = {}
    for rid, group in trace.facts.functions.get("rgroup", []):
        groups.setdefault(group, []).append(owner.get(rid, rid))
    return ", ".join(f"{g} has {' and '.join(m)}" for g, m in groups.items())


def text(trace: Trace) -> str:
    """The trace as plain text."""
    return "\n".join(line for line, _ in lines(trace)) + "\n"
