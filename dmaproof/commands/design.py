"""``dmaproof design``: list, show and validate designs."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import click

from dmaproof.commands.options import json_option


@click.group()
def design() -> None:
    """List, show and validate bind designs."""


@design.command("list")
@json_option
def list_designs(as_json: bool) -> None:
    """List the built-in designs by year."""
    from dmaproof.model.design import builtin_names, load
    from dmaproof.terminal import Screen

    known = [load(name) for name in builtin_names()]
    if as_json:
        rows = [
            {
                "name": d.name, "title": d.title, "year": d.year, "source": d.source,
                "kind": d.interface.kind, "object": str(d.interface.object),
                "payload": str(d.interface.payload),
            }
            for d in known
        ]
        click.echo(json.dumps({"schema": "dmaproof/designs/1", "designs": rows}, indent=1))
        return
    screen = Screen()
    wide = max(len(d.name) for d in known)
    for year, designs in groupby(known, key=lambda d: d.year):
        screen.line((str(year), "bold"))
        for d in designs:
            screen.item("  ", (f"{d.name:{wide}}", "cyan"), "  ", text=d.title)


@design.command()
@click.argument("name", metavar="NAME|FILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a design: a built-in one to copy and edit, or a file once it has been validated."""
    from dmaproof.model.design import builtin_names, builtin_text, load

    found = load(name)
    if as_json:
        click.echo(found.model_dump_json(by_alias=True, indent=1))
    elif name in builtin_names():
        click.echo(builtin_text(name), nl=False)
    else:
        text = Path(name).read_text("utf-8")
        click.echo(text, nl=not text.endswith("\n"))
