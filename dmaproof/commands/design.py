"""``dmaproof design``: list, show and validate designs, of binds and of the study."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import json_option

if TYPE_CHECKING:
    from dmaproof.model.design import Design
    from dmaproof.model.scenario import StudyDesign


@click.group()
def design() -> None:
    """List, show and validate bind designs."""


@design.command("list")
@json_option
def list_designs(as_json: bool) -> None:
    """List the built-in designs by year."""
    from dmaproof.model import design as binds
    from dmaproof.model import scenario
    from dmaproof.terminal import Screen

    known: list[Design | StudyDesign] = [
        *map(binds.load, binds.builtin_names()), *scenario.builtins().values()
    ]
    known.sort(key=lambda d: d.year)  # stable: bind designs come first in their year
    if as_json:
        rows = [_row(d) for d in known]
        click.echo(json.dumps({"schema": "dmaproof/designs/1", "designs": rows}, indent=1))
        return
    screen = Screen()
    wide = max(len(d.name) for d in known)
    for year, designs in groupby(known, key=lambda d: d.year):
        screen.line((str(year), "bold"))
        for d in designs:
            screen.item("  ", (f"{d.name:{wide}}", "cyan"), "  ", text=d.title)


def _row(found: Design | StudyDesign) -> dict[str, Any]:
    from dmaproof.model.design import Design

    row = {"name": found.name, "title": found.title, "year": found.year, "source": found.source}
    if isinstance(found, Design):
        face = found.interface
        return row | {"kind": face.kind, "object": str(face.object), "payload": str(face.payload)}
    return row | {"kind": "study", "family": found.family}


@design.command()
@click.argument("name", metavar="NAME|FILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a design: a built-in one to copy and edit, or a file once it has been validated."""
    from dmaproof.commands.pairs import load_any
    from dmaproof.model import design as binds
    from dmaproof.model import scenario

    found = load_any(name)
    if as_json:
        click.echo(found.model_dump_json(by_alias=True, indent=1))
    elif name in scenario.builtins():
        click.echo(scenario.builtin_text(name), nl=False)
    elif name in binds.builtin_names():
        click.echo(binds.builtin_text(name), nl=False)
    else:
        text = Path(name).read_text("utf-8")
        click.echo(text, nl=not text.endswith("\n"))
