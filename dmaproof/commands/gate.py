"""``dmaproof gate``: let a change of a design pass, or say what it weakens."""

from __future__ import annotations

import json
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
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write a JUnit report.")
@click.option("--sarif", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write a SARIF 2.1.0 log.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the traces.")
@json_option
def gate(
    old: str, new: str, machines: tuple[str, ...], assume: tuple[str, ...], grouping: str | None,
    seconds: float, junit: Path | None, sarif: Path | None, out: Path | None, as_json: bool,
) -> int:
    """Let a change of a design pass, or say what it weakens.

    OLD and NEW are as for `dmaproof diff`.

    Exit code: 0 same or strengthened, 1 weakened or incomparable, 2 bad input, 3 undecided.
    """
    from dmaproof.counterexamples.gate import reports

    for path in (junit, sarif):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    comparison = pair(old, new, machines, assume, grouping, seconds, quiet=as_json)
    if junit is not None:
        junit.write_text(reports.junit(comparison), "utf-8")
    if sarif is not None:
        file = new if Path(new).is_file() and new != comparison.new else ""
        text = json.dumps(reports.sarif(comparison, file), indent=1) + "\n"
        sarif.write_text(text, "utf-8")
    return reported(comparison, out, as_json=as_json, brief=True)
