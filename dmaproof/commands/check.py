"""``dmaproof check``: prove or refute isolation for designs on machines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import (
    assume_option,
    booted,
    json_option,
    kernel_parameter_option,
)

if TYPE_CHECKING:
    from dmaproof.counterexamples.verdict import Verdict
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.properties.base import Property
    from dmaproof.terminal import Screen

_MARKS = {"proved": ("proved", "green"), "refuted": ("refuted", "red"),
          "undecided": ("undecided", "yellow")}


@click.command()
@click.option("--design", "designs", multiple=True, metavar="NAME|FILE",
              help="A built-in design or a TOML file. Repeatable; default: all of 2018.")
@click.option("--machine", "machines", multiple=True, metavar="NAME|FILE|any",
              help="A built-in machine, an lspci -xxxx dump, a machine file, or any."
              " Repeatable; default: all built-in machines.")
@click.option("--property", "properties", multiple=True, metavar="ID",
              help="A property. Repeatable; default: every `always` property.")
@click.option("--grouping", type=click.Choice(("linux", "v3", "components")),
              help="Grouping algorithm  [default: the design's, linux in the built-in ones]")
@assume_option
@kernel_parameter_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for traces and certificates  [with --json: dmaproof-out]")
@json_option
@click.option("--bits", is_flag=True,
              help="Count a run only if it replays on tables, registers and requests of VT-d, too.")
@click.option("--reproducible", is_flag=True, help="Leave out times, so that runs compare equal.")
def check(
    designs: tuple[str, ...],
    machines: tuple[str, ...],
    properties: tuple[str, ...],
    grouping: str | None,
    assume: tuple[str, ...],
    kernel_parameters: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    bits: bool,
    reproducible: bool,
) -> int:
    """Prove or refute isolation for designs on machines.

    Exit code: 0 all proved, 1 something is refuted, 2 bad input, 3 something is undecided.
    """
    from dmaproof.counterexamples.matrix import judged
    from dmaproof.counterexamples.verdict import exit_code
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model import design as design_files
    from dmaproof.terminal import Screen, warn

    assumptions = Assumptions.parse(assume)
    chosen = [design_files.load(n) for n in dict.fromkeys(designs)] or [
        d for d in map(design_files.load, design_files.builtin_names()) if d.year == 2018
    ]
    wanted = _properties(properties)
    found = _machines(machines, kernel_parameters)
    for machine in found:
        for warning in machine.warnings if machine else ():
            warn(f"{machine.name if machine else ''}: {warning}")
    if properties:
        _meaningful(chosen, wanted)
    if as_json and out is None:
        out = Path("dmaproof-out")
    screen = Screen()
    verdicts = _with_progress(
        screen, len(chosen), quiet=as_json,
        run=lambda tick: judged(chosen, found, wanted, assumptions, grouping, out, tick, bits=bits),
    )
    if as_json:
        data = [v.data(reproducible=reproducible) for v in verdicts]
        click.echo(json.dumps({"schema": "dmaproof/verdicts/1", "verdicts": data}, indent=1))
    else:
        _show(screen, verdicts, reproducible=reproducible)
        if not (designs or machines or properties or assume or grouping or kernel_parameters):
            _claims(screen)
    return exit_code(verdicts)


def _claims(screen: Screen) -> None:
    """The claims of the thread of 2018, each asked again and compared with what must come out."""
    from dmaproof.counterexamples.matrix import claims

    found = _with_progress(screen, 2 * (os.cpu_count() or 1), quiet=False, run=claims)
    screen.line("")
    screen.line(("The claims of the thread, asked again", "bold"))
    for claim in found:
        mark = ("as expected", "green") if not claim.wrong else ("NOT AS EXPECTED", "red")
        screen.item(f"{claim.row:3}  {', '.join(claim.names):9}  ", mark, "  ", text=claim.says)
        for problem in claim.wrong:
            screen.item("       ", text=problem, style="red")
    good = sum(not c.wrong for c in found)
    screen.line(f"{good} of {len(found)} claims come out as expected"
                f" ({sum(c.verdicts for c in found)} verdicts); details: docs/verdicts.md")


def _properties(names: tuple[str, ...]) -> list[Property]:
    from dmaproof.properties.base import PropertyKind
    from dmaproof.properties.registry import PROPERTIES, find

    if names:
        return [find(n) for n in dict.fromkeys(names)]
    return [p for p in PROPERTIES if p.kind is PropertyKind.ALWAYS and not p.asked_only]


def _machines(names: tuple[str, ...], parameters: tuple[str, ...]) -> list[Machine | None]:
    from dmaproof.model.errors import InputError
    from dmaproof.model.pcie import machines as files

    if parameters and "any" in names:
        raise InputError("kernel parameters mean nothing to `any` machine", "--kernel-parameter",
                         "they change the ACS bits of named devices", "name a machine")
    found: list[Machine | None] = []
    for name in dict.fromkeys(names or files.names()):
        found.append(None if name == "any" else booted(files.load(name), parameters))
    return found


def _meaningful(designs: list, wanted: list[Property]) -> None:  # type: ignore[type-arg]
    """Raise where a property was asked for that no chosen design gives a meaning."""
    from dmaproof.model.errors import InputError
    from dmaproof.model.vfio.build import build
    from dmaproof.properties.registry import applicable

    for prop in wanted:
        reasons = [applicable(prop, build(d)) for d in designs]
        if all(reasons):
            raise InputError(reasons[0], "--property", "a property of another kind of design",
                             "name another design or another property")


def _with_progress(screen: Screen, total: int, *, quiet: bool, run):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Run with a progress bar on a terminal."""
    if quiet or not screen.console.is_terminal:
        return run(lambda _: None)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("checking"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=screen.console, transient=True) as bar:
        task = bar.add_task("", total=total)
        return run(lambda name: bar.update(task, advance=1, description=name))


def _show(screen: Screen, verdicts: list[Verdict], *, reproducible: bool) -> None:
    if len({v.machine for v in verdicts}) == 1 or len(verdicts) <= 24:
        _list(screen, verdicts)
    else:
        _matrix(screen, verdicts)
    count = {r: sum(v.result == r for v in verdicts) for r in _MARKS}
    total = ", ".join(f"{n} {r}" for r, n in count.items())
    seconds = "" if reproducible else f" ({sum(v.seconds for v in verdicts):.1f} s of work)"
    screen.line(f"{len(verdicts)} verdicts: {total}{seconds}")


def _list(screen: Screen, verdicts: list[Verdict]) -> None:
    """Every verdict with its reason, and each refutation's run."""
    from dmaproof.counterexamples.show import lines

    styles = {"head": "bold", "end": "red", "path": "yellow", "note": "dim"}
    told: set[str] = set()
    for verdict in verdicts:
        word, style = _MARKS[verdict.result]
        scope = f"({verdict.scope})" if verdict.result != "refuted" else ""
        head = f"{verdict.design} / {verdict.machine} / {verdict.property}: "
        screen.line((head, "bold"), (word, style), f" {scope}" if scope else "")
        screen.item("  ", text=verdict.reason)
        basis = []
        if verdict.theorem:
            basis.append(f"theorem {verdict.theorem}")
        if verdict.premise not in ("", "none"):
            basis.append(f"premise {verdict.premise}")
        basis += [f"{n}={v}" for n, v in verdict.assumptions.items()]
        if verdict.vacuous:
            basis.append("vacuous")
        if basis:
            screen.item("  rests on ", text=", ".join(basis), style="dim")
        _leak(screen, verdict, told)
        if verdict.evidence is not None:
            for text, role in list(lines(verdict.evidence))[1:]:
                screen.line((text, styles.get(role, "")))
        screen.line("")


def _leak(screen: Screen, verdict: Verdict, told: set[str]) -> None:
    """Say that the groups of the machine leak, with the way the first time."""
    leak = verdict.group_leak
    if leak is None:
        return
    fact = f"{verdict.grouping} groups leak: {leak.sentence()}"
    key = f"{verdict.machine}: {fact}"
    if key in told:
        screen.item("  ", text=f"{fact}, as above", style="yellow")
        return
    told.add(key)
    screen.item("  ", text=fact, style="yellow")
    for number, step in enumerate(leak.says, 1):
        screen.item(f"    {number}. ", text=step, style="yellow")


_SHORT = {
    "device-isolation": "dev", "group-isolation": "grp", "container-isolation": "cont",
    "container-separation": "sep", "unbind-final": "unbind", "no-misroute": "route",
    "uniform": "unif", "failed-call-changes-nothing": "fail", "levels-coincide": "levels",
    "can-bind": "bind", "can-p2p-and-pasid": "p2p",
}


def _matrix(screen: Screen, verdicts: list[Verdict]) -> None:
    """One table: designs and machines down, properties across."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = {"proved": ("✓", "green"), "refuted": ("✗", "red"), "undecided": ("?", "yellow")}
    if not screen.fancy:
        cells = {"proved": ("y", "green"), "refuted": ("N", "red"), "undecided": ("?", "yellow")}
    columns = list(dict.fromkeys(v.property for v in verdicts))
    table = Table(box=box.SIMPLE_HEAD if screen.fancy else box.ASCII2, pad_edge=False,
                  padding=(0, 0, 0, 1))
    table.add_column("design, machine", no_wrap=True)
    for name in columns:
        table.add_column(_SHORT.get(name, name), justify="center", no_wrap=True)
    rows: dict[tuple[str, str], dict[str, Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault((verdict.design, verdict.machine), {})[verdict.property] = verdict
    last = ""
    for (design, machine), row in rows.items():
        marks = [Text(*_cell(row.get(c), cells)) for c in columns]
        if design != last:
            if last:
                table.add_section()
            table.add_row(Text(design, "bold"))
        table.add_row(f"  {machine}", *marks)
        last = design
    screen.console.print(table)
    good, bad = cells["proved"][0], cells["refuted"][0]
    screen.line(f"{good} proved   {bad} refuted, with a replayed trace   ? undecided"
                "   - proved, but every bind is refused")
    names = [f"{short} {name}" for name, short in _SHORT.items() if name in columns]
    screen.item("", text="; ".join(names), style="dim")
    leaking = dict.fromkeys(v.machine for v in verdicts if v.group_leak)
    if leaking:
        where = f"{', '.join(leaking)}: dmaproof reach MACHINE tells how"
        screen.item("groups leak on ", text=where, style="yellow")
    screen.line("Reasons and runs: dmaproof check --design D --machine M")


def _cell(verdict: Verdict | None, cells: dict[str, tuple[str, str]]) -> tuple[str, str]:
    if verdict is None:
        return ("", "")
    if verdict.vacuous and verdict.result == "proved":
        return ("-", "dim")
    return cells[verdict.result]
