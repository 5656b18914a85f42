"""``dmaproof study``: decide every row of the study and compare with what is expected."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import json_option

if TYPE_CHECKING:
    from dmaproof.counterexamples.study.runner import Settings, Verdict
    from dmaproof.counterexamples.study.table import Table
    from dmaproof.terminal import Screen

DETAILED = 24
"""Up to so many verdicts are shown with their reasons."""

_STYLES = {"proved": "green", "refuted": "red", "undecided": "yellow"}
_SCOPES = {
    "any": "any number, any run", "values": "all values", "shapes": "all shapes up to a size",
    "machine": "this machine", "instance": "a run",
}


@click.command()
@click.option("--row", "rows", multiple=True, metavar="ID",
              help="A row, such as P48, C10, R2, U1, or the number of a row of docs/verdicts.md."
              " Repeatable; default: all.")
@click.option("--list", "listing", is_flag=True, help="Name the rows and stop.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              default=Path("dmaproof-out"), show_default=True,
              help="Folder for traces and certificates.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Folder of kept answers  [default: dmaproof in the user's cache folder]")
@click.option("--no-cache", is_flag=True, help="Keep no answers, and use none that were kept.")
@click.option("--no-library", is_flag=True,
              help="Find every invariant anew; the package's known ones are not looked at.")
@click.option("--bits", is_flag=True,
              help="A run counts only if it also replays on VT-d tables, queues and caches.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Worker processes  [default: one a CPU]")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=60.0, show_default=True,
              help="Time for one question; what takes longer is undecided.")
@json_option
def study(
    rows: tuple[str, ...],
    listing: bool,
    out: Path,
    cache: Path | None,
    no_cache: bool,
    no_library: bool,
    bits: bool,
    jobs: int | None,
    seconds: float,
    as_json: bool,
) -> int:
    """Decide every row of the study and compare with what is expected.

    Exit code: 0 all as expected, 1 something differs, 2 bad input, 3 something is undecided.
    """
    from dmaproof.engine.cache import default_folder
    from dmaproof.terminal import Screen

    if math.isnan(seconds):  # passes every comparison of a range
        raise click.BadParameter("is not a number", param_hint="--seconds")
    screen = Screen()
    if listing:
        _list(screen, _chosen(rows), as_json=as_json)
        return 0
    _writable(out)
    kept = None if no_cache else (cache or default_folder())
    from dmaproof.counterexamples.study.runner import SCHEMA, Settings, exit_code

    settings = Settings(kept, out, seconds, jobs or 0, not no_library, bits)
    verdicts = _with_progress(screen, _chosen(rows), settings, quiet=as_json)
    if as_json:
        data = {"schema": SCHEMA, "rows": [v.data() for v in verdicts]}
        click.echo(json.dumps(data, indent=1))
    else:
        _show(screen, verdicts)
    return exit_code(verdicts)


def _chosen(rows: tuple[str, ...]) -> Table:
    from dmaproof.counterexamples.study.table import table

    return table().only(rows) if rows else table()


def _writable(out: Path) -> None:
    """Raise before the work, not after it, where nothing can be written."""
    from dmaproof.model.errors import InputError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", str(out),
                         "a file of that name, or no permission",
                         "name another folder with --out") from None


def _list(screen: Screen, table: Table, *, as_json: bool) -> None:
    says: dict[str, str] = {}
    for row in table.rows:
        says.setdefault(row.id, row.says)
    for entry in table.matrix:
        for identifier in entry.ids:
            says.setdefault(identifier, entry.says)
    if as_json:
        data = [{"row": i, "says": says[i]} for i in table.ids]
        click.echo(json.dumps({"schema": "dmaproof/study-rows/1", "rows": data}, indent=1))
        return
    for identifier in table.ids:
        screen.item((f"{identifier:7}", "bold"), text=says[identifier])


def _with_progress(
    screen: Screen, table: Table, settings: Settings, *, quiet: bool
) -> list[Verdict]:
    """Run with a live line on a terminal: how far, which questions run."""
    from dmaproof.counterexamples.study.runner import Progress as State
    from dmaproof.counterexamples.study.runner import study as decide

    if quiet or not screen.console.is_terminal:
        return decide(table, settings)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("study"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen.console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(state: State) -> None:
            names = ", ".join(dict.fromkeys(state.running))
            bar.update(task, total=state.total, completed=state.done,
                       description=f"{state.answers} answers; {names}")

        return decide(table, settings, tell)


def _show(screen: Screen, verdicts: Sequence[Verdict]) -> None:
    last = ""
    for verdict in verdicts:
        if verdict.row != last:
            screen.line((verdict.row, "bold"), f"  {verdict.says}")
            last = verdict.row
        _line(screen, verdict)
        if len(verdicts) <= DETAILED:
            _details(screen, verdict)
    good = sum(v.as_expected for v in verdicts)
    rows = len({v.row for v in verdicts})
    count = {r: sum(v.answer.found == r for v in verdicts) for r in _STYLES}
    screen.line(f"{good} of {len(verdicts)} verdicts of {rows} rows are as expected: "
                + ", ".join(f"{n} {r}" for r, n in count.items()))


def _line(screen: Screen, verdict: Verdict) -> None:
    answer = verdict.answer
    mark = ("  as expected", "dim") if verdict.as_expected else (
        f"  NOT AS EXPECTED ({verdict.expected})", "red bold")
    scope = _SCOPES.get(answer.scope, answer.scope)
    kept = f", {answer.origin}" if answer.origin != "engines" else ""
    screen.line(
        f"    {verdict.part:48} ", (f"{answer.found:9}", _STYLES[answer.found]), mark,
        (f"  {scope}; {answer.seconds:.2f} s{kept}", "dim"),
    )
    if not verdict.as_expected:
        for text in (answer.reason, *answer.wrong):
            screen.item("        ", text=text, style="red")


def _details(screen: Screen, verdict: Verdict) -> None:
    answer = verdict.answer
    if verdict.as_expected:
        screen.item("        ", text=answer.reason)
    basis = [f"{n}={v}" for n, v in answer.assumptions.items()]
    if answer.premise not in ("", "none"):
        basis.insert(0, f"premise {answer.premise}")
    if answer.by_hand:
        basis.append(f"{answer.by_hand} clauses of the invariant written by hand")
    if basis:
        screen.item("        rests on ", text=", ".join(basis), style="dim")
    if answer.bits:
        screen.item("        on the bits: ", text=answer.bits, style="dim")
    for kind, path in (("trace", answer.trace), ("certificate", answer.certificate)):
        if path:
            screen.line((f"        {kind} {path}", "dim"))
