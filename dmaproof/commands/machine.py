"""``dmaproof machine``: list and show machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmaproof.commands.machine_dmar import dmar
from dmaproof.commands.options import assume_option, grouping_option, json_option

if TYPE_CHECKING:
    from dmaproof.drawing import Picture, Row, Words
    from dmaproof.terminal import Piece, Screen


@click.group()
def machine() -> None:
    """List the built-in machines, show any machine as a tree, or the units of a DMAR table."""


machine.add_command(dmar)


@machine.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the built-in machines.

    SW(x,y) and MF(a) take the ACS setting of each port or function: on, off, rruf (RR and UF only)
    or nocap (no ACS capability).
    """
    from dmaproof.model.pcie.groups import groups
    from dmaproof.model.pcie.machines import load, names
    from dmaproof.terminal import Screen

    rows = []
    for name in names():
        found = load(name)
        sizes = [len(group.members) for group in groups(found)]
        rows.append((name, len(found.functions), len(found.ports), len(sizes), max(sizes)))
    if as_json:
        keys = ("name", "functions", "ports", "groups", "largest_group")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        click.echo(json.dumps({"schema": "dmaproof/machines/1", "machines": listed}, indent=1))
        return
    screen = Screen()
    wide = max(len(name) for name in names())
    screen.line((f"{'machine':{wide}}  functions  ports  groups  largest group", "bold"))
    for name, functions, ports, count, largest in rows:
        numbers = f"  {functions:9}  {ports:5}  {count:6}  {largest:13}"
        screen.line((f"{name:{wide}}", "cyan"), numbers)


@machine.command()
@click.argument("name", metavar="NAME|FILE")
@grouping_option
@assume_option
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Draw the machine as SVG too.")
@click.option("--dot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write it as a graph for Graphviz too.")
@json_option
def show(
    name: str, grouping: str, assume: tuple[str, ...], svg: Path | None, dot: Path | None,
    as_json: bool,
) -> None:
    """Print a machine as a tree: type, buses, ACS bits on (+) and off (-), capabilities.

    At the end of a line stand the IOMMU group and, for functions, the fabric component: what leak
    channels connect. A component that is larger than its group is marked, as that group leaks;
    `dmaproof reach NAME` tells how.

    What a dump hides counts as isolating here, and a group that depends on it has a question mark.

    With --json, print the machine file, which every command reads back.
    """
    from dmaproof.drawing import picture
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.pcie.machines import load, to_json
    from dmaproof.terminal import Screen, warn

    assumptions = Assumptions.parse(assume)
    found = load(name)
    for warning in found.warnings:
        warn(f"{found.name}: {warning}")
    drawn = None if as_json and not (svg or dot) else picture(found, grouping, assumptions)
    if drawn is not None:
        _write_files(drawn, svg, dot)
    if as_json or drawn is None:
        click.echo(to_json(found), nl=False)
        return
    screen = Screen()
    screen.line((found.name, "bold"), f": {len(found.functions)} functions,"
                f" {len(found.ports)} ports, groups by {grouping}")
    _tree(screen, drawn)
    for path in (svg, dot):
        if path is not None:
            screen.line(f"written: {path}")


def _write_files(drawn: Picture, svg_file: Path | None, dot_file: Path | None) -> None:
    """Write the drawings that were asked for.

    Raises:
        InputError: a file cannot be written.

    """
    from dmaproof.dot import dot
    from dmaproof.model.errors import InputError
    from dmaproof.svg import svg

    for path, draw in ((svg_file, svg), (dot_file, dot)):
        if path is None:
            continue
        try:
            path.write_text(draw(drawn), "utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write: {error.strerror or error}",
                str(path),
                "no such folder, or no permission",
                "name a file in a folder that you can write to",
            ) from error


def _tree(screen: Screen, drawn: Picture) -> None:
    tee, last, bar = ("├─ ", "└─ ", "│  ") if screen.fancy else ("|- ", "`- ", "|  ")
    for row in drawn.rows:
        left = "".join(bar if goes_on else "   " for goes_on in row.lines[:-1])
        pieces: list[Piece] = [(left + (tee if row.lines[-1] else last), "dim")]
        pieces.extend(_describe(drawn, row))
        pieces.append((f"  group {row.group_text}", "magenta"))
        if row.component is not None:
            leaks = row.component in drawn.leaking
            pieces.append((f"  component {row.component}", "bold red" if leaks else "cyan"))
            pieces.append((" larger than the group" if leaks else "", "red"))
        screen.line(*pieces)


def _describe(drawn: Picture, row: Row) -> list[Piece]:
    from dmaproof.drawing import acs_words, buses, capabilities

    device = row.device
    pieces: list[Piece] = [str(device.bdf)]
    if device.label:
        pieces.append((f" {device.label}", "bold green"))
    pieces.append((f"  {device.kind_name}", "dim"))
    if buses(device):
        pieces.append(f" to {buses(device)}")
    pieces.append("  ")
    pieces.extend(_acs(acs_words(drawn.machine, device)))
    words = capabilities(device)
    pieces.append(f"  {words}" if words else "")
    return pieces


def _acs(words: Words) -> list[Piece]:
    """Return ACS letters in colour, with + and - for screens without."""
    from dmaproof.drawing import Tone

    styles = {Tone.ON: "green", Tone.OFF: "red", Tone.IDLE: "dim", Tone.DOUBT: "yellow"}
    if len(words) == 1:
        return [(words[0][0], styles.get(words[0][1], "dim"))]
    marks = {Tone.ON: "+", Tone.OFF: "-", Tone.IDLE: "-"}
    return ["ACS", *((f" {text}{marks[tone]}", styles[tone]) for text, tone in words[1:])]
