"""Writes docs/guards.md: ``python -m dmaproof.counterexamples.study.guards_text``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dmaproof.counterexamples.study import bind_guards, guards
from dmaproof.model.scenario import builtin

_HEAD = """\
# Guards

Written by `python -m dmaproof.counterexamples.study.guards_text` from what
`python -m dmaproof.counterexamples.study.guards` (families) and `...bind_guards` (bind designs)
found; both keep what still stands. `tests/study/test_guards.py` keeps the list complete and true.

Each guard was taken out of its action. **Needed**: then a claim that a row says holds is refuted by
a run of so many steps, which is kept and replayed. (Of a row about an errno: the call is made as
the claim says, and does not return that errno.) **Redundant**, with a proof that z3 verifies for
every design that has the guard:

- *implied*: wherever a run leads and the action's other guards hold, this one holds, or the step
  changes nothing (the eviction of what no cache holds);
- *proved*: every claim of a row that holds of the design also holds without the guard;
- *nothing*: rows say of the design only what can happen, and more runs refute no run.

Where inference finds no invariant, one that was written by hand (`guards_by_hand.py`) is offered to
it; z3 verifies it like any other.

A guard that is redundant for the rows is not one that the kernel could do without: it may keep
something that no row speaks of.
"""


_TABLE = ["", "| action | guard | needed by, or why not | run |", "|---|---|---|---|"]


def text() -> str:
    """The document."""
    left = guards.unfinished()
    lines = [_HEAD]
    for family in guards.families():
        known = [f for f in guards.kept(family) if f.place not in left.get(family, ())]
        lines += [f"## {family}", *_TABLE, *map(_row, known), ""]
    lines += ["## Bind designs", *_TABLE, *_binds(), ""]
    lines += ["## Not found out", "", *_open(left)]
    return "\n".join(lines) + "\n"


def _open(left: Mapping[str, Sequence[guards.Place]]) -> Iterator[str]:
    """What is neither: a gap of the study, or of the time that was given to it."""
    for family, found in left.items():
        names = ", ".join(f"`{p.action}` {p.guard}" for p in found)
        yield f"- {family}, {len(found)}: {names}"
    binds = bind_guards.unfinished()
    if binds:
        names = ", ".join(f"`{action}` {guard}" for action, guard in binds)
        yield f"- bind designs, {len(binds)}: {names}"
    if not left and not binds:
        yield "Nothing."


def _row(found: guards.Finding) -> str:
    head = f"| `{found.place.action}` | {found.place.guard} "
    if found.flip is not None:
        shown = found.flip
        rows = ", ".join(guards.rows_of(shown.design, shown.claim))
        return f"{head}| `{shown.design}` ({shown.claim}): {rows} | {len(shown.steps)} |"
    return f"{head}| redundant: {_reasons(found)} | |"


def _reasons(found: guards.Finding) -> str:
    reasons: dict[str, list[str]] = {}
    for why in found.needless:
        reasons.setdefault(why.how, []).append(why.design)
    every = [d for names in reasons.values() for d in names]
    if len(reasons) == 1 and len(every) > 1:
        return f"{next(iter(reasons))}, all {len(every)} designs"
    parts = [f"{how} ({', '.join(f'`{builtin(n).name}`' for n in names)})"
             for how, names in reasons.items()]
    return "; ".join(parts)


def _binds() -> Iterator[str]:
    left = bind_guards.unfinished()
    for found in bind_guards.kept():
        if (found.action, found.guard) in left:
            continue
        head = f"| `{found.action}` | {found.guard} "
        if found.flip is not None:
            shown = found.flip
            claim, run = " under ".join(shown.claim), str(len(shown.steps))
            if shown.claim[0] == "errno":
                claim, run = f"errno of {shown.claim[1]}", ""
            yield f"{head}| `{shown.design}` ({claim}) | {run} |"
            continue
        names = ", ".join(f"`{n}`" for n, _ in found.needless)
        yield f"{head}| redundant: proved ({names}) | |"


if __name__ == "__main__":
    (Path(__file__).resolve().parents[2] / "docs" / "guards.md").write_text(text(), "utf-8")
