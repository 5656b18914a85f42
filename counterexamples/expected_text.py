"""Writes docs/verdicts.md from the table: ``python -m dmaproof.counterexamples.expected_text``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from dmaproof.counterexamples.expected import (
    ArgumentCheck,
    Check,
    ErrnoCheck,
    RoutingCheck,
    Row,
    VerdictCheck,
    rows,
    table,
)

HEAD = """\
# Verdicts that must come out

Written by `python -m dmaproof.counterexamples.expected_text` from
`counterexamples/expected.toml`, which also drives the tests (`tests/test_expected.py`). Words are
those of [semantics.md](semantics.md). Scope `any`: any number of everything, any run. Scope
`machine`: the machine, instance or machines named. "With" lists assumptions that differ from their
defaults, "rests on" those that the verdict names.
"""


def markdown() -> str:
    """Return the page."""
    lines = [HEAD]
    lines += ["| row | claim | says | verdict |", "|---|---|---|---|"]
    for row in rows():
        verdicts = "; ".join(dict.fromkeys(_short(c) for c in row.check))
        lines.append(f"| [{row.id}](#row-{row.id}) | {', '.join(row.claims)} | {row.says}"
                     f" | {verdicts} |")
    lines.append("")
    for row in rows():
        lines += _section(row)
    lines += ["## Changes of designs", "", "| change | what it replaces |", "|---|---|"]
    for name, sections in table().change.items():
        parts = [f"`{s}.{k}` = `{v}`" for s, items in sections.items() for k, v in items.items()]
        lines.append(f"| {name} | {', '.join(parts)} |")
    return "\n".join(lines) + "\n"


def _short(check: Check) -> str:
    if isinstance(check, VerdictCheck):
        return f"{', '.join(check.properties)} {check.result}"
    return check.result


def _section(row: Row) -> list[str]:
    lines = [f"## Row {row.id}", "", f"**{', '.join(row.claims)}.** {row.says}"]
    if row.note:
        lines += ["", f"*Note.* {row.note}"]
    lines += ["", "| design | machine | asked | expected | scope | how it is shown |",
              "|---|---|---|---|---|---|"]
    for check in row.check:
        design, machine, asked = _question(check)
        scope = check.scope or "machine"
        lines.append(f"| {design} | {machine} | {asked} | {check.result} | {scope}"
                     f" | {'; '.join(_shown(check))} |")
    return [*lines, ""]


def _question(check: Check) -> tuple[str, str, str]:
    match check:
        case VerdictCheck():
            designs = ", ".join(check.designs)
            if check.changes:
                designs += f", each with {', '.join(check.changes)}"
            machines = ", ".join(check.machines)
            if check.meeting is not None:
                machines = f"each built-in machine that meets {check.meeting}"
            if check.assume:
                machines += f" with {_literals(check.assume)}"
            return designs, machines, ", ".join(check.properties)
        case ArgumentCheck():
            parts = [f"no outcome depends on `{n}`" for n in check.ignored]
            parts += [f"`{n}` decides an outcome" for n in check.deciding]
            return "`VFIO_IOMMU_BIND` of 2018", "any", "; ".join(parts)
        case RoutingCheck():
            return f"a router that reads the {check.router}", "every built-in machine", \
                "the PASID prefix changes no decision"
        case ErrnoCheck():
            return ", ".join(check.designs), "any", ", ".join(check.refusals)


def _shown(check: Check) -> Iterator[str]:
    match check:
        case VerdictCheck():
            can = any(p.startswith("can-") for p in check.properties)
            theorem = (check.result == "proved") != can
            yield "theorem, with certificate" if theorem else "run, replayed"
            if check.premise is not None:
                yield f"premise {check.premise}"
            if check.channels:
                yield f"channel {', '.join(check.channels)}"
            if check.channels == ():
                yield "no leak channel: the software alone"
            if check.steps:
                yield f"takes {', '.join(check.steps)}"
            if check.never_bound:
                yield "nothing was ever bound for the guilty function"
            if check.literals:
                yield f"rests on {_literals(check.literals)}"
        case ArgumentCheck():
            yield "z3, for all values; witnesses answered by the concrete rules"
        case RoutingCheck():
            yield "every node, target and ACS setting tried"
        case ErrnoCheck():
            if check.scope == "any":
                yield "z3, for all states (arguments: all values)"
            else:
                yield "exhaustive search"
            yield "a state or call that meets the condition, replayed"


def _literals(values: dict[str, str]) -> str:
    return ", ".join(f"{n}={v}" for n, v in values.items())


if __name__ == "__main__":
    sys.stdout.write(markdown())
