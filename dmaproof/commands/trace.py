"""``dmaproof trace``: show or replay a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import json_option

if TYPE_CHECKING:
    from dmaproof.counterexamples.runs import RunTrace
    from dmaproof.counterexamples.trace import Trace


@click.group()
def trace() -> None:
    """Show or replay a trace."""


class _Opened:
    """A trace of a bind design (``dmaproof/trace/1``) or a run of a scenario (``dmaproof/run/1``).

    Attributes:
        trace: what the file holds.
        says: how it ends.
        lines: it in sentences, each with its role.
        replayed: replays it; "" if it reproduces, else why not.
    """

    trace: RunTrace | Trace
    says: str
    lines: Callable[[], Iterator[tuple[str, str]]]
    replayed: Callable[[], str]

    def __init__(self, file: str) -> None:
        """Read a file.

        Raises:
            InputError: it is neither.
        """
        from dmaproof.counterexamples import runs, show
        from dmaproof.counterexamples import trace as traces

        data = traces.read(file)
        if isinstance(data, dict) and data.get("schema") == runs.SCHEMA:
            run = self.trace = runs.parse(data, file)
            self.says = run.end.says
            self.lines, self.replayed = partial(runs.lines, run), partial(runs.replayed, run)
        else:
            old = self.trace = traces.parse(data, file)
            self.says = old.violation.says
            self.lines, self.replayed = partial(show.lines, old), partial(traces.replayed, old)


@trace.command("show")
@click.argument("file", metavar="FILE")
@json_option
def show(file: str, as_json: bool) -> None:
    """Print a trace as numbered sentences."""
    found = _Opened(file)
    if as_json:
        click.echo(found.trace.dump(), nl=False)
        return
    _print(found.lines())


@trace.command("replay")
@click.argument("file", metavar="FILE")
@click.option("--bits", is_flag=True,
              help="Make it concrete: write tables and registers of VT-d for each step, issue the"
              " request at the end.")
@click.option("--qemu", is_flag=True,
              help="Do the same on the VT-d of a running QEMU, beside the engine.")
@click.option("--tables", type=click.Choice(("legacy", "extended", "scalable")),
              help="Table format, with --bits or --qemu  [default: what the design's calls use]")
@click.option("--machine", metavar="NAME|FILE",
              help="The machine, with --bits or --qemu, for a trace that carries none.")
@json_option
def replay(
    file: str, bits: bool, qemu: bool, tables: str | None, machine: str | None, as_json: bool
) -> int:
    """Run a trace on the model, or on tables, registers and requests.

    Exit code: 0 it reproduces, 1 it does not, 2 bad input, 3 it reproduces on the model alone
    (on the bits it does not, or they have nothing of it: the reason is printed).
    """
    found = _Opened(file)
    problem = found.replayed()
    if not (bits or qemu):
        if tables or machine:
            raise click.UsageError("--tables and --machine need --bits or --qemu.")
        _tell(file, found, problem, as_json=as_json)
        return 1 if problem else 0
    if problem:
        _tell(file, found, problem, as_json=as_json)
        return 1
    return _concrete(file, found.trace, tables, machine, qemu=qemu, as_json=as_json)


def _tell(file: str, found: _Opened, problem: str, *, as_json: bool) -> None:
    if as_json:
        data = {"schema": "dmaproof/replay/1", "file": file, "reproduces": not problem,
                "reason": problem}
        click.echo(json.dumps(data))
    elif problem:
        click.echo(f"{file}: does not reproduce: {problem}")
    else:
        steps = len(found.trace.steps)
        click.echo(f"{file}: reproduces: after {steps} steps, {found.says}")


def _concrete(
    file: str, trace: RunTrace | Trace, tables: str | None, machine: str | None, *, qemu: bool,
    as_json: bool,
) -> int:
    """Replay on the bits (and on QEMU), print it, and return the exit code."""
    from dmaproof.counterexamples.runs import RunTrace

    if isinstance(trace, RunTrace):
        if qemu or tables or machine:
            raise click.UsageError(f"{file} is a run of a scenario: it takes --bits, and no --qemu,"
                                   " --tables or --machine.")
        return _concrete_run(file, trace, as_json=as_json)
    from dmaproof.counterexamples.bits import show as bits
    from dmaproof.counterexamples.bits.on_qemu import beside_qemu
    from dmaproof.counterexamples.bits.replay import replay_on_bits
    from dmaproof.counterexamples.bits.unit import Tables

    wanted = Tables(tables) if tables else None
    if qemu:
        done, on_qemu = beside_qemu(trace, machine, wanted)
    else:
        done, on_qemu = replay_on_bits(trace, machine, wanted), None
    if as_json:
        click.echo(json.dumps(bits.data(file, trace, done, on_qemu), indent=1))
    else:
        _print(bits.lines(trace, done, on_qemu))
    good = done.result == "reproduced" and (on_qemu is None or not on_qemu.reason)
    return 0 if good else 3


def _concrete_run(file: str, trace: RunTrace, *, as_json: bool) -> int:
    """Replay a run of a scenario on the bits, print it, and return the exit code."""
    from dmaproof.counterexamples.bits.scenarios import show as bits
    from dmaproof.counterexamples.bits.scenarios.replay import replay_run

    done = replay_run(trace)
    if as_json:
        click.echo(json.dumps(bits.data(file, trace, done), indent=1))
    else:
        _print(bits.lines(trace, done))
    return 0 if done.result == "reproduced" else 3


def _print(lines: Iterable[tuple[str, str]]) -> None:
    from dmaproof.terminal import Screen

    screen = Screen()
    styles = {"head": "bold", "end": "red", "path": "yellow", "note": "dim"}
    for text, role in lines:
        screen.line((text, styles.get(role, "")))
