"""``dmaproof translate``: outcomes of translation vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import json_option
from dmaproof.model.errors import InputError

if TYPE_CHECKING:
    from dmaproof.model.vtd.vectors import Result
    from dmaproof.terminal import Piece

NAMED = 50
"""Unusable lines in a row that are each named; of more than these only their number is told."""


@click.command()
@click.argument("file", metavar="VECTORS")
@json_option
def translate(file: str, as_json: bool) -> int:
    """Print what a VT-d unit does with each request in VECTORS.

    VECTORS is a file of JSON lines, plain or gzip, or - for standard input. A line gives registers
    (cap, ecap, rtaddr), memory (mem: address to quadword) and a request (req: sid, pasid, addr,
    write). No translation is cached: every request is walked from the root table on.

    With --json, one object a line: {"hpa": N}, {"interrupt": true}, {"fault": code, "condition",
    "recorded", "rule"} or {"error", "where"}. A line that cannot be used does not keep the others
    from being answered; the exit code is then 2. `dmaproof explain RULE` prints a rule.
    """
    from dmaproof.model.vtd.vectors import outcomes, read_lines, read_stream

    if file == "-":
        name = "standard input"
        lines = read_stream(sys.stdin.buffer if sys.stdin else BytesIO(), name)
    else:
        name = str(Path(file))
        lines = read_lines(Path(file))
    complaints = _Complaints(name)
    show: Callable[[Result], None] = _json_line
    if not as_json:
        show = _Lines()
    count = {"landed": 0, "blocked": 0, "interrupt requests": 0, "unusable": 0}
    for result in outcomes(lines):
        of_line = result.error is None or result.error.where != name
        complaints.take(result)
        if of_line:  # else something is wrong with the file as a whole
            show(result)
            count[_kind(result)] += 1
    complaints.end()
    total = sum(count.values())
    if not complaints.any and not total:
        raise InputError(
            "there is no vector in it",
            name,
            "an empty file, or one of blank lines",
            "give one JSON object a line",
        )
    if total and not as_json:
        _summary(total, count)
    return 2 if complaints.any else 0


def _kind(result: Result) -> str:
    if result.outcome is None:
        return "unusable"
    if "interrupt" in result.outcome:
        return "interrupt requests"
    return "blocked" if "fault" in result.outcome else "landed"


def _json_line(result: Result) -> None:
    found = result.outcome
    if found is None:
        assert result.error is not None
        found = {"error": result.error.what, "where": result.error.where}
    sys.stdout.write(json.dumps(found) + "\n")


class _Lines:
    """Writes an outcome as a sentence: styled on a terminal, and fast elsewhere."""

    def __init__(self) -> None:
        from dmaproof.terminal import Screen

        self.screen = Screen()

    def __call__(self, result: Result) -> None:
        if result.outcome is None:
            return
        pieces = [(f"line {result.line}: ", "dim"), *_words(result.outcome)]
        if self.screen.console.is_terminal:
            self.screen.line(*pieces)
        else:
            sys.stdout.write("".join(p if isinstance(p, str) else p[0] for p in pieces) + "\n")


def _words(outcome: dict[str, Any]) -> Iterator[Piece]:
    from dmaproof.model.vtd import faults

    if "fault" in outcome:
        meaning = faults.condition(faults.number_of(outcome["condition"])).meaning
        yield "blocked", "red"
        yield f": {meaning} ({outcome['condition']}"
        if outcome["fault"] is not None:
            yield f", fault {outcome['fault']:02x}h"
        elif outcome.get("unconfirmed"):
            yield ", fault code of rev 2.x not confirmed"
        yield f"), {'recorded' if outcome['recorded'] else 'not recorded'}"
        yield f"; rule {outcome['rule']}", "dim"
    elif "interrupt" in outcome:
        yield "an interrupt request, not translated"
    elif outcome["hpa"] is None:
        yield "translated without any right"
    else:
        yield "lands", "green"
        yield f" at {outcome['hpa']:#x}"
        if "read" in outcome:
            rights = [name for name in ("read", "write") if outcome[name]]
            yield f" with the right to {' and '.join(rights)}"


class _Complaints:
    """Names each unusable line; very many in a row end in one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.any = False
        self.row = 0
        self.last = 0

    def take(self, result: Result) -> None:
        if result.error is None:
            self.end()
            return
        self.any = True
        self.row += 1
        self.last = result.line
        if self.row <= NAMED:
            self._say(result.error)

    def end(self) -> None:
        more, self.row = self.row - NAMED, 0
        if more > 0:
            self._say(
                InputError(
                    f"{more} more lines in a row cannot be used",
                    f"lines up to {self.last}",
                    "a file in another format",
                    "see the messages before this one; --json has one object for each line",
                )
            )

    def _say(self, error: InputError) -> None:
        from dmaproof.cli import complain

        sys.stdout.flush()
        where = error.where if error.where == self.name else f"{self.name}: {error.where}"
        complain(str(replace(error, where=where)))


def _summary(total: int, count: dict[str, int]) -> None:
    parts = ", ".join(f"{number} {kind}" for kind, number in count.items() if number)
    sys.stdout.write(f"{total} {'vector' if total == 1 else 'vectors'}: {parts}\n")
