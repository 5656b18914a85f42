"""``dmaproof trace``: show or replay a trace."""

from __future__ import annotations

import json

import click

from dmaproof.commands.options import json_option


@click.group()
def trace() -> None:
    """Show or replay a trace."""


@trace.command("show")
@click.argument("file", metavar="FILE")
@json_option
def show(file: str, as_json: bool) -> None:
    """Print a trace as numbered sentences."""
    from dmaproof.counterexamples.show import lines
    from dmaproof.counterexamples.trace import load
    from dmaproof.terminal import Screen

    found = load(file)
    if as_json:
        click.echo(found.dump(), nl=False)
        return
    screen = Screen()
    styles = {"head": "bold", "end": "red", "path": "yellow", "note": "dim"}
    for text, role in lines(found):
        screen.line((text, styles.get(role, "")))


@trace.command("replay")
@click.argument("file", metavar="FILE")
@json_option
def replay(file: str, as_json: bool) -> int:
    """Run a trace on the model: exit 0 if it reproduces, 1 if it does not, 2 for a bad file."""
    from dmaproof.counterexamples.trace import load, replayed

    found = load(file)
    problem = replayed(found)
    if as_json:
        data = {"schema": "dmaproof/replay/1", "file": file, "reproduces": not problem,
                "reason": problem}
        click.echo(json.dumps(data))
    elif problem:
        click.echo(f"{file}: does not reproduce: {problem}")
    else:
        steps = len(found.steps)
        click.echo(f"{file}: reproduces: after {steps} steps, {found.violation.says}")
    return 1 if problem else 0
