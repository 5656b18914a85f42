"""``dmaproof trace``: show or replay a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import json_option

if TYPE_CHECKING:
    from dmaproof.counterexamples.runs import RunTrace
    from dmaproof.counterexamples.trace import Trace


@click.group()
def trace() -> None:
    """Show or replay a trace."""


class _Opened:
    """A trace of a bind design (``dmaproof/trace/1``) or a run of a scenario (``dmaproof/run/1``).

    Attributes:
        trace: what the file holds.
        says: how it ends.
        lines: it in sentences, each with its role.
        replayed: replays it; "" if it reproduces, else why not.
    """

    trace: RunTrace | Trace
    says: str
    lines: Callable[[], Iterator[tuple[str, str]]]
    replayed: Callable[[], str]

    def __init__(self, file: str) -> None:
        """Read a file.

        Raises:
            InputError: it is neither.
        """
        from dmaproof.counterexamples import runs, show
        from dmaproof.counterexamples import trace as traces

        data = traces.read(file)
        if isinstance(data, dict) and data.get("schema") == runs.SCHEMA:
            run = self.trace = runs.parse(data, file)
            self.says = run.end.says
            self.lines, self.replayed = partial(runs.lines, run), partial(runs.replayed, run)
        else:
            old = self.trace = traces.parse(data, file)
            self.says = old.violation.says
            self.lines, self.replayed = partial(show.lines, old), partial(traces.replayed, old)


@trace.command("show")
@click.argument("file", metavar="FILE")
@json_option
def show(file: str, as_json: bool) -> None:
    """Print a trace as numbered sentences."""
    from dmaproof.terminal import Screen

    found = _Opened(file)
    if as_json:
        click.echo(found.trace.dump(), nl=False)
        return
    screen = Screen()
    styles = {"head": "bold", "end": "red", "path": "yellow", "note": "dim"}
    for text, role in found.lines():
        screen.line((text, styles.get(role, "")))


@trace.command("replay")
@click.argument("file", metavar="FILE")
@json_option
def replay(file: str, as_json: bool) -> int:
    """Run a trace on the model: exit 0 if it reproduces, 1 if it does not, 2 for a bad file."""
    found = _Opened(file)
    problem = found.replayed()
    if as_json:
        data = {"schema": "dmaproof/replay/1", "file": file, "reproduces": not problem,
                "reason": problem}
        click.echo(json.dumps(data))
    elif problem:
        click.echo(f"{file}: does not reproduce: {problem}")
    else:
        steps = len(found.trace.steps)
        click.echo(f"{file}: reproduces: after {steps} steps, {found.says}")
    return 1 if problem else 0
