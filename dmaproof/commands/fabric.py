"""``dmaproof fabric``: theorems about groups and leaks over all topologies up to a size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import json_option
from dmaproof.model.errors import InputError

if TYPE_CHECKING:
    from dmaproof.engine.shapes import Counterexample, ShapeTheorem, ShapeVerdict
    from dmaproof.terminal import Screen

LARGEST = 10
"""Beyond, there are more shapes than anyone would wait for."""
LARGEST_REACH = 20
STYLES = {"proved": "green", "refuted": "red", "undecided": "yellow"}


@click.command()
@click.option(
    "--theorem",
    "names",
    multiple=True,
    metavar="ID",
    help="A theorem. Repeatable; default: all. See --list.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, LARGEST),
    default=5,
    show_default=True,
    help="Every shape with up to this many ports and functions.",
)
@click.option(
    "--reach",
    type=click.IntRange(1, LARGEST_REACH),
    metavar="NODES",
    help="Beyond --nodes, the shapes that a leak between two functions can depend on, up"
    " to this size.",
)
@click.option(
    "--grouping",
    type=click.Choice(("linux", "v3")),
    help="Ask one claim of your own instead: every leak stays inside one group.",
)
@click.option(
    "--assume",
    metavar="NAME=VALUE",
    multiple=True,
    help="With --grouping: an assumption, as for check. Repeatable.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    multiple=True,
    help="With --grouping: a condition on machines. Repeatable; see --list.",
)
@click.option("--workers", type=click.IntRange(1, 256), help="Processes  [default: one a core]")
@click.option(
    "--timeout",
    type=click.FloatRange(0.001),
    default=60.0,
    show_default=True,
    help="Seconds for one query; then the theorem is undecided.",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep answers here, and take up what is there: a run can be interrupted.",
)
@click.option(
    "--machine-out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the machine of the first refutation, for check, reach and groups"
    "  [of all theorems: linux-plain]",
)
@json_option
@click.option("--reproducible", is_flag=True, help="Leave out times, so that runs compare equal.")
@click.option("--list", "listing", is_flag=True, help="List theorems and conditions.")
def fabric(
    names: tuple[str, ...],
    nodes: int,
    reach: int | None,
    grouping: str | None,
    assume: tuple[str, ...],
    where: tuple[str, ...],
    workers: int | None,
    timeout: float,
    store: Path | None,
    machine_out: Path | None,
    as_json: bool,
    reproducible: bool,
    listing: bool,
) -> int:
    """Prove or refute claims about IOMMU groups over all topologies up to a size.

    A shape is a tree of ports and functions below a root complex. Kinds, devices and their
    functions, ACS, aliases and virtual functions are left open: one query answers for all machines
    of a shape. A proof holds for every shape asked; a refutation comes with the smallest machine
    that shows it, and was replayed there.

    Exit code: 0 every result is as recorded (with --grouping: proved), 1 one is not (with
    --grouping: refuted), 2 bad input, 3 something is undecided.
    """
    from dmaproof.engine.shapes import decide_all
    from dmaproof.terminal import Screen

    claims = _claims(names, grouping, assume, where)
    screen = Screen()
    if listing:
        _list(screen)
        return 0
    if machine_out is not None and not machine_out.absolute().parent.is_dir():
        raise InputError(
            f"there is no folder {machine_out.absolute().parent}",
            str(machine_out),
            "a typing error",
            "make the folder, or name another file",
        )

    def run(tick: Callable[[int, int, str], None]) -> list[ShapeVerdict]:
        return decide_all(
            claims,
            nodes,
            reach=reach or 0,
            workers=workers or os.cpu_count() or 1,
            seconds=timeout,
            store=store,
            progress=tick,
        )

    verdicts = _with_progress(screen, quiet=as_json, run=run)
    if machine_out is not None:
        _write(machine_out, verdicts, every=not (names or grouping))
    if as_json:
        data = [_data(verdict, reproducible=reproducible) for verdict in verdicts]
        click.echo(json.dumps({"schema": "dmaproof/fabric/1", "theorems": data}, indent=1))
    else:
        _show(screen, verdicts, nodes, reproducible=reproducible, one=len(verdicts) == 1)
    return _exit_code(verdicts)


def _claims(
    names: tuple[str, ...], grouping: str | None, assume: tuple[str, ...], where: tuple[str, ...]
) -> list[ShapeTheorem]:
    from dmaproof.engine.shapes import theorem, theorems

    if grouping is None:
        if assume or where:
            raise InputError(
                "--assume and --where are for a claim of your own",
                "fabric",
                "--grouping was forgotten",
                "add --grouping linux or --grouping v3",
            )
        return [theorem(name) for name in dict.fromkeys(names)] or list(theorems())
    if names:
        raise InputError(
            "--theorem and --grouping exclude each other",
            "fabric",
            "a theorem has its own grouping",
            "leave one of them out",
        )
    return [_own(grouping, assume, where)]


def _own(grouping: str, assume: tuple[str, ...], where: tuple[str, ...]) -> ShapeTheorem:
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.engine.fabric.conditions import CONDITIONS
    from dmaproof.engine.shapes import ShapeTheorem

    for name in where:
        if name not in CONDITIONS:
            raise InputError(
                f"no condition is called {name[:60]!r}",
                "--where",
                "a typing error",
                f"use one of: {', '.join(CONDITIONS)}",
            )
    fabric_assumptions = {**Assumptions.parse(assume).fabric(), "prefix": True}
    says = f"Every leak stays inside one group of {grouping}."
    return ShapeTheorem(
        "asked", "", says, "closed", grouping, "", fabric_assumptions, tuple(dict.fromkeys(where))
    )


def _with_progress(
    screen: Screen, *, quiet: bool, run: Callable[[Callable[[int, int, str], None]], Any]
) -> Any:  # noqa: ANN401
    """Run with a progress bar on a terminal."""
    if quiet or not screen.console.is_terminal:
        return run(lambda done, total, what: None)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen.console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tick(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        return run(tick)


def _exit_code(verdicts: list[ShapeVerdict]) -> int:
    def wrong(verdict: ShapeVerdict) -> bool:
        decided = verdict.result != "undecided"
        return decided and verdict.result != (verdict.theorem.expected or "proved")

    if any(wrong(verdict) for verdict in verdicts):
        return 1
    return 3 if any(verdict.result == "undecided" for verdict in verdicts) else 0


def _write(path: Path, verdicts: list[ShapeVerdict], *, every: bool) -> None:
    from dmaproof.model.pcie.machine_json import to_json
    from dmaproof.terminal import warn

    wanted = (v for v in verdicts if not every or v.theorem.id == "linux-plain")
    shown = [verdict for verdict in wanted if verdict.counterexample is not None]
    if not shown or shown[0].counterexample is None:
        warn(f"no refutation shows a machine, so {path} was not written")
        return
    path.write_text(to_json(shown[0].counterexample.machine), "utf-8")
    if shown[0].counterexample.order:
        warn(f"{path} shows its leak in another order of probing than bus order")


# -- what is printed -------------------------------------------------------------------------------


def _list(screen: Screen) -> None:
    from dmaproof.engine.fabric.conditions import CONDITIONS
    from dmaproof.engine.shapes import theorems

    claims = theorems()
    wide = max(len(claim.id) for claim in claims)
    screen.line(("Theorems", "bold"))
    for claim in claims:
        head = (f"  {claim.id:{wide}}  ", (f"{claim.expected:9}  ", STYLES[claim.expected]))
        screen.item(*head, text=claim.says)
    screen.line("")
    screen.line(("Conditions on machines (--where)", "bold"))
    wide = max(map(len, CONDITIONS))
    for name, condition in CONDITIONS.items():
        screen.item(f"  {name:{wide}}  ", text=condition.says)


def _show(
    screen: Screen, verdicts: list[ShapeVerdict], nodes: int, *, reproducible: bool, one: bool
) -> None:
    wide = max(len(verdict.theorem.id) for verdict in verdicts)
    for verdict in verdicts:
        _line(screen, verdict, wide)
        if one:
            _details(screen, verdict, reproducible=reproducible)
    if one:
        return
    good = sum(verdict.as_expected for verdict in verdicts)
    most = max((verdict.shapes for verdict in verdicts), default=0)
    seconds = sum(verdict.seconds for verdict in verdicts)
    spent = "" if reproducible else f", {seconds:.1f} s of queries"
    screen.line(
        f"{good} of {len(verdicts)} as recorded; every shape up to {nodes} nodes"
        f" ({most} shapes at most){spent}; details: --theorem ID, docs/fabric.md"
    )


def _line(screen: Screen, verdict: ShapeVerdict, wide: int) -> None:
    claim = verdict.theorem
    head: list[Any] = [f"{claim.id:{wide}}  ", (f"{verdict.result:9}  ", STYLES[verdict.result])]
    if claim.expected and not verdict.as_expected:
        head.append((f"EXPECTED {claim.expected}  ", "bold red"))
    screen.item(*head, text=f"{claim.says} [{_scope(verdict)}]")
    if verdict.reason:
        screen.item(" " * wide + "  ", text=verdict.reason, style="yellow")


def _scope(verdict: ShapeVerdict) -> str:
    if verdict.detail:
        return verdict.detail
    if verdict.counterexample is not None:
        size = len(verdict.counterexample.machine.devices)
        return f"smallest machine: {size} node{'s' if size > 1 else ''}"
    if verdict.reach > verdict.nodes:
        return f"up to {verdict.nodes} nodes; any two functions up to {verdict.reach}"
    return f"up to {verdict.nodes} nodes"


def _details(screen: Screen, verdict: ShapeVerdict, *, reproducible: bool) -> None:
    from dmaproof.engine.fabric.conditions import CONDITIONS

    claim = verdict.theorem
    if claim.note:
        screen.item("  ", ("note   ", "dim"), text=claim.note)
    rests = (
        f"{name}={'on' if value else 'off'}" for name, value in sorted(claim.assumptions.items())
    )
    screen.item("  ", ("assume ", "dim"), text=", ".join(rests))
    for name in claim.where:
        screen.item("  ", ("where  ", "dim"), text=f"{CONDITIONS[name].says} ({name})")
    for size, effort in sorted(verdict.efforts.items()) if not reproducible else ():
        if size:
            shapes = f"{effort.shapes} shape{'s' if effort.shapes > 1 else ''}"
            screen.line("  ", ("asked  ", "dim"), f"{size} nodes: {shapes}, {effort.seconds:.2f} s")
    if verdict.counterexample is not None:
        _show_machine(screen, verdict.counterexample, claim.grouping)


def _show_machine(screen: Screen, shown: Counterexample, grouping: str) -> None:
    machine = shown.machine
    screen.line(("The smallest machine, replayed", "bold"))
    home = {member: number for number, group in enumerate(shown.groups) for member in group}
    wide = max(len(device.label) for device in machine.devices)
    tops = (device.bdf for device in machine.devices if machine.on_root(device))
    for device in (machine.device(bdf) for top in tops for bdf in machine.subtree(top)):
        depth = sum(1 for _ in machine.ancestors(device.bdf))
        acs = str(device.acs) if device.acs is not None else "no ACS capability"
        several = ", one of several functions" if device.multifunction else ""
        virtual = f", virtual function of {device.physfn}" if device.physfn else ""
        alias = f", also sends as {', '.join(map(str, device.aliases))}" if device.aliases else ""
        screen.line(
            f"  {'  ' * depth}{device.bdf}  ",
            (f"{device.label:{wide}}", "green"),
            f"  {device.kind}: {acs}{several}{virtual}{alias}",
            (f"  [{grouping} group {home[device.bdf]}]", "cyan"),
        )
    if shown.order:
        screen.line(f"  probed in the order {', '.join(map(str, shown.order))}")
    for source, target, chain in shown.leaks:
        screen.item(
            "  ",
            (f"leak {source} to {target}: ", "red"),
            text="; then ".join(f"{edge.channel}: {edge.reason}" for edge in chain),
        )


def _data(verdict: ShapeVerdict, *, reproducible: bool) -> dict[str, Any]:
    claim = verdict.theorem
    shown = verdict.counterexample
    return {
        "id": claim.id,
        "row": claim.row,
        "says": claim.says,
        "note": claim.note,
        "grouping": claim.grouping,
        "assume": {name: "on" if on else "off" for name, on in sorted(claim.assumptions.items())},
        "where": list(claim.where),
        "expected": claim.expected or None,
        "result": verdict.result,
        "nodes": verdict.nodes,
        "reach": verdict.reach,
        "shapes": verdict.shapes,
        "sizes": {
            str(size): {"shapes": effort.shapes}
            | ({} if reproducible else {"seconds": round(effort.seconds, 3)})
            for size, effort in sorted(verdict.efforts.items())
            if size
        },
        "detail": verdict.detail,
        "reason": verdict.reason,
        "counterexample": _shown(shown) if shown is not None else None,
    }


def _shown(shown: Counterexample) -> dict[str, Any]:
    from dmaproof.model.pcie.machine_json import to_json

    return {
        "machine": json.loads(to_json(shown.machine)),
        "order": [str(bdf) for bdf in shown.order],
        "groups": [[str(member) for member in group] for group in shown.groups],
        "leaks": [
            {
                "from": str(source),
                "to": str(target),
                "path": [
                    {
                        "channel": str(e.channel),
                        "from": str(e.source),
                        "to": str(e.target),
                        "hops": [str(hop) for hop in e.path],
                        "reason": e.reason,
                    }
                    for e in chain
                ],
            }
            for source, target, chain in shown.leaks
        ],
    }
