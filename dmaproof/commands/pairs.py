"""What ``diff`` and ``gate`` share: reading a pair of designs, comparing, showing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dmaproof.counterexamples.gate.changes import Change, Comparison, Operation
    from dmaproof.model.design import Design
    from dmaproof.model.scenario import StudyDesign
    from dmaproof.terminal import Screen

F = TypeVar("F", bound=Callable[..., Any])


def machine_option(function: F) -> F:
    """Add ``--machine``, repeatable, passed as ``machines``."""
    return click.option(
        "--machine", "machines", multiple=True, metavar="NAME|FILE",
        help="A machine to compare bind designs on, besides the built-in ones; NAME: on that"
        " alone. Repeatable.",
    )(function)


def pair(
    old: str, new: str, machines: Sequence[str], assume: Sequence[str], grouping: str | None,
    seconds: float, *, quiet: bool,
) -> Comparison:
    """Compare two designs given by name or file.

    Raises:
        InputError: no such design, or designs of two kinds.
    """
    from dmaproof.model.design import Design
    from dmaproof.model.errors import InputError
    from dmaproof.terminal import Screen

    if math.isnan(seconds):
        raise click.BadParameter("is not a number", param_hint="--seconds")
    one, other = load_any(old), load_any(new)
    screen = Screen()
    if isinstance(one, Design) and isinstance(other, Design):
        return _binds(screen, one, other, machines, assume, grouping, quiet=quiet)
    if isinstance(one, Design) or isinstance(other, Design):
        raise InputError(
            "one is a bind design, the other a design of the study", "OLD and NEW",
            "designs that describe different things", "compare two of one kind",
        )
    if machines or assume or grouping:
        raise InputError(
            "designs of the study are about any machine", "--machine, --assume or --grouping",
            "options that concern bind designs", "leave them out",
        )
    return _claims(screen, one, other, seconds, quiet=quiet)


def load_any(name: str) -> Design | StudyDesign:
    """A design of either kind, built-in or from a file.

    Raises:
        InputError: no such design, an unreadable file or a bad design.
    """
    from difflib import get_close_matches

    from dmaproof.model import design as binds
    from dmaproof.model import scenario
    from dmaproof.model.errors import InputError

    if name in scenario.builtins():
        return scenario.load(name)
    if name in binds.builtin_names():
        return binds.load(name)
    path = Path(name)
    if not path.exists():
        near = get_close_matches(name, [*binds.builtin_names(), *scenario.builtins()], 3, 0.5)
        raise InputError(
            f"no built-in design and no file is called {name!r}", "", "a typing error",
            f"near it: {', '.join(near) or 'nothing'}; `dmaproof design list` names all",
        )
    return scenario.load(name) if _is_of_the_study(path) else binds.load(name)


def _is_of_the_study(path: Path) -> bool:
    """Whether a file looks like a design of the study; what is wrong with it is told later."""
    import tomllib

    from dmaproof.model.design import MAX_BYTES
    from dmaproof.model.scenario import SCHEMA

    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return data.get("schema") == SCHEMA or ("family" in data and "interface" not in data)


def _binds(
    screen: Screen, old: Design, new: Design, machines: Sequence[str], assume: Sequence[str],
    grouping: str | None, *, quiet: bool,
) -> Comparison:
    from dmaproof.counterexamples.gate.binds import compare
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.pcie import machines as files

    assumptions = Assumptions.parse(assume)
    named = [files.load(m) for m in dict.fromkeys(machines)]
    known = set(files.names())
    chosen = list(named) if any(m in known for m in machines) else [
        *map(files.machine, files.names()), *named
    ]
    return _with_progress(
        screen, lambda tell: compare(old, new, chosen, assumptions, grouping, tell), quiet=quiet
    )


def _claims(
    screen: Screen, old: StudyDesign, new: StudyDesign, seconds: float, *, quiet: bool
) -> Comparison:
    from dmaproof.counterexamples.gate.claims import compare
    from dmaproof.engine.cache import Cache, default_folder
    from dmaproof.engine.known import Known

    known = Known(Cache(default_folder()))
    return _with_progress(
        screen, lambda tell: compare(old, new, known, seconds, tell), quiet=quiet
    )


def _with_progress(
    screen: Screen, run: Callable[[Callable[[str], None]], Comparison], *, quiet: bool
) -> Comparison:
    if quiet or not screen.console.is_terminal:
        return run(lambda _: None)
    with screen.console.status("comparing") as status:
        return run(lambda what: status.update(f"comparing: {what}"))


# -- showing --------------------------------------------------------------------------------


def reported(
    comparison: Comparison, out: Path | None, *, as_json: bool, brief: bool
) -> int:
    """Write the traces, print the comparison, and return the exit code."""
    from dmaproof.terminal import Screen

    if out is not None:
        _write(comparison, out)
    if as_json:
        click.echo(json.dumps(comparison.data(), indent=1))
    else:
        _show(Screen(), comparison, brief=brief)
    return comparison.exit_code


def _write(comparison: Comparison, out: Path) -> None:
    from dmaproof.counterexamples.verdict import slug
    from dmaproof.engine.cache import appear

    out.mkdir(parents=True, exist_ok=True)
    for change in comparison.changes:
        literals = "".join(f"--{n}={v}" for n, v in change.assumptions.items())
        for run in change.runs:
            name = slug(f"{run.side}--{change.property}--{change.machine}{literals}")
            text = json.dumps(run.data, indent=1, ensure_ascii=False) + "\n"
            appear(out / f"{name}.json", text.encode())


_ORDER = ("weakened", "incomparable", "undecided", "strengthened", "gained", "lost", "same")
_STYLES = {
    "same": "dim", "strengthened": "green", "weakened": "red bold", "incomparable": "red bold",
    "undecided": "yellow", "gained": "cyan", "lost": "cyan",
}


def _show(screen: Screen, comparison: Comparison, *, brief: bool) -> None:
    screen.line((f"{comparison.old} -> {comparison.new}", "bold"))
    told: set[tuple[str, ...]] = set()
    for group in _grouped(comparison.changes):
        first = group[0]
        if first.relation.value == "same" and (brief or first.machine):
            continue
        _change(screen, group, told, brief=brief)
    for operation in comparison.operations:
        _operation(screen, operation)
    for note in comparison.notes:
        screen.item("  note: ", text=note, style="dim")
    count: dict[str, int] = {}
    for change in comparison.changes:
        count[change.relation.value] = count.get(change.relation.value, 0) + 1
    total = ", ".join(f"{n} {r}" for r, n in sorted(count.items(), key=lambda c: -c[1]))
    screen.line(f"{len(comparison.changes)} comparisons: {total}")
    verdict = comparison.relation.value
    screen.line("the new design is ", (verdict, _STYLES[verdict]))


def _grouped(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes that say the same of different machines, together, in their first order."""
    found: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        key = (change.relation, change.property, change.old, change.new,
               tuple(change.assumptions.items()))
        found.setdefault(key, []).append(change)
    return sorted(found.values(), key=lambda g: _ORDER.index(g[0].relation.value))


def _change(
    screen: Screen, group: Sequence[Change], told: set[tuple[str, ...]], *, brief: bool
) -> None:
    """One line, the machines, the reason and the runs; a run that was told before only by name."""
    first = group[0]
    literals = ", ".join(f"{n}={v}" for n, v in first.assumptions.items())
    head = f"  {first.property}: "
    result = f" ({first.old} -> {first.new})" if first.old != first.new else f" ({first.old})"
    under = f" assuming {literals}" if literals else ""
    screen.line((head, "bold"), (first.relation.value, _STYLES[first.relation.value]), result,
                under)
    if first.machine:
        screen.item("    on ", text=", ".join(dict.fromkeys(c.machine for c in group)))
    screen.item("    ", text=first.reason)
    harmful = first.relation.value in ("weakened", "incomparable")
    if first.runs and (harmful or not brief):
        for run in first.runs:
            for line in run.lines if run.lines not in told else (f"{run.lines[0]}: as above",):
                screen.line((f"      {line}", "dim"))
            told.add(run.lines)


def _operation(screen: Screen, operation: Operation) -> None:
    screen.line((f"  {operation.kind}: ", "bold"), operation.says)
    other = "old" if operation.allowed_by == "new" else "new"
    where = f" on {operation.machine}" if operation.machine else ""
    screen.item("    ", text=f"the {other} design returns {operation.errno} by guard"
                f" {operation.guard}{where}", style="dim")
    for number, call in enumerate(operation.calls, 1):
        screen.line((f"      {number}. {call}", "dim"))
