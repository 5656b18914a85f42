"""``dmaproof diff``: what a change of a design strengthens, weakens, refuses and allows."""

from __future__ import annotations

from pathlib import Path

import click

from dmaproof.commands.options import assume_option, json_option
from dmaproof.commands.pairs import machine_option, pair, reported


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@machine_option
@assume_option
@click.option("--grouping", type=click.Choice(("linux", "v3", "components")),
              help="Grouping algorithm  [default: each design's]")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=20.0, show_default=True,
              help="Time for one claim of one design of the study.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the traces.")
@json_option
def diff(
    old: str, new: str, machines: tuple[str, ...], assume: tuple[str, ...], grouping: str | None,
    seconds: float, out: Path | None, as_json: bool,
) -> int:
    """Compare two designs, property by property and call by call.

    OLD and NEW are built-in designs or TOML files: two bind designs, which are compared on
    machines, or two designs of one family of the study, whose claims hold anywhere.

    Exit code: 0 same or strengthened, 1 weakened or incomparable, 2 bad input, 3 undecided.
    """
    comparison = pair(old, new, machines, assume, grouping, seconds, quiet=as_json)
    return reported(comparison, out, as_json=as_json, brief=False)
