"""Promela, for Spin: one process that takes any step whose guard holds."""

from __future__ import annotations

from dmaproof.engine.export.finite import Finite
from dmaproof.model.logic.ground import Ground


def text(question: Finite) -> str:
    """Return the question as Promela; an assertion fails when what must never hold does."""
    lines = [f"/* {question.title.replace('*/', '* /')} */"]
    for name, value in zip(question.bits, question.initial, strict=True):
        lines.append(f"bit {name} = {int(value)};")
    most = max((_computed(s.updates) for s in question.steps), default=0)
    lines += ["", "active proctype steps() {"]
    if most:
        lines.append(f"  bit t[{most}];")
    lines += ["end:", "  do", f"  :: atomic {{ ({_source(question.bad, question.bits)})"
              " -> assert(false) }"]
    for step in question.steps:
        guard = _source(step.guard, question.bits)
        lines.append(f"  :: d_step {{ ({guard}) -> /* {step.name.replace('*/', '* /')} */")
        lines += [f"       {line}" for line in _assigned(step.updates, question.bits)]
        lines.append("     }")
    lines += ["  od", "}"]
    return "\n".join(lines) + "\n"


def _computed(updates: tuple[tuple[int, Ground], ...]) -> int:
    return sum(not isinstance(value, bool) for _, value in updates)


def _assigned(updates: tuple[tuple[int, Ground], ...], names: tuple[str, ...]) -> list[str]:
    """All at once: what depends on the state before is computed before anything changes."""
    first: list[str] = []
    then: list[str] = []
    last: list[str] = []
    for bit, value in updates:
        if isinstance(value, bool):
            then.append(f"{names[bit]} = {int(value)};")
        else:
            place = len(first)
            first.append(f"t[{place}] = ({_source(value, names)});")
            then.append(f"{names[bit]} = t[{place}];")
            last.append(f"t[{place}] = 0;")  # or states would differ in what is forgotten
    return [*first, *then, *last]


def _source(ground: Ground, names: tuple[str, ...]) -> str:
    if isinstance(ground, bool):
        return "true" if ground else "false"
    word, *parts = ground
    if word == "bit":
        return names[parts[0]]
    if word == "not":
        return f"!({_source(parts[0], names)})"
    joint = " && " if word == "and" else " || "
    return joint.join(f"({_source(p, names)})" for p in parts)
