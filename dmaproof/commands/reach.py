"""``dmaproof reach``: why one function acts as another, or what stops it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import assume_option, grouping_option, json_option

if TYPE_CHECKING:
    from dmaproof.model.pcie.channels import Edge
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.reachability import Answer, Switching
    from dmaproof.terminal import Screen


@click.command()
@click.argument("machine", metavar="MACHINE")
@click.argument("source", metavar="A")
@click.argument("target", metavar="B")
@assume_option
@grouping_option
@json_option
def reach(
    machine: str, source: str, target: str, assume: tuple[str, ...], grouping: str, as_json: bool
) -> None:
    """Tell whether function A of MACHINE acts as function B.

    A acts as B when requests of A, or of a function that A can make work for it, arrive at the
    IOMMU under a requester id of B. Printed are the way hop by hop, the leak channel, the
    assumptions it rests on and ACS bits that cut it; or else what stops it.

    MACHINE is a built-in machine or a file; A and B are addresses (0000:03:00.0) or labels.
    """
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.pcie.groups import group_of, groups
    from dmaproof.model.pcie.machines import load
    from dmaproof.reachability import ask
    from dmaproof.terminal import warn

    assumptions = Assumptions.parse(assume)
    found = load(machine)
    for warning in found.warnings:
        warn(f"{found.name}: {warning}")
    answer = ask(found, source, target, assumptions)
    numbers = group_of(groups(found, grouping, assumptions.fabric()))
    here, there = numbers[answer.source], numbers[answer.target]
    if as_json:
        click.echo(json.dumps(_to_json(found, answer, grouping, (here, there)), indent=1))
    else:
        _show(found, answer, grouping, (here, there))


def _to_json(
    machine: Machine, answer: Answer, grouping: str, groups: tuple[int, int]
) -> dict[str, Any]:
    return {
        "schema": "dmaproof/reach/1",
        "machine": machine.name,
        "from": str(answer.source),
        "to": str(answer.target),
        "grouping": grouping,
        "groups": list(groups),
        "acts": answer.acts,
        "path": [_edge(edge) for edge in answer.chain],
        "also": [_edge(edge) for edge in answer.also],
        "assumptions": dict(answer.rests_on),
        "cut": None if answer.cut is None else [_cut(switching) for switching in answer.cut],
        "uncut": answer.uncut,
        "stopped_by": list(answer.stops),
        "opened_by": dict(answer.opened_by),
    }


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "channel": str(edge.channel),
        "from": str(edge.source),
        "to": str(edge.target),
        "hops": [str(hop) for hop in edge.path],
        "requester_id": None if edge.rid is None else f"0x{edge.rid:04x}",
        "requires": {name: "on" if value else "off" for name, value in sorted(edge.requires)},
        "cuts": [{"port": str(cut.port), "bits": cut.bits} for cut in edge.cuts],
        "reason": edge.reason,
    }


def _cut(switching: Switching) -> dict[str, Any]:
    return {
        "port": str(switching.port.bdf),
        "bits": list(switching.bits),
        "implemented": switching.able,
    }


def _show(machine: Machine, answer: Answer, grouping: str, groups: tuple[int, int]) -> None:
    from dmaproof.terminal import Screen

    screen = Screen()
    source, target = machine.device(answer.source), machine.device(answer.target)
    verb, style = ("acts as", "bold red") if answer.acts else ("does not act as", "bold green")
    screen.line((str(source), "bold"), " ", (verb, style), " ", (str(target), "bold"),
                f" on {machine.name}")
    where = f"both in group {groups[0]}" if groups[0] == groups[1] else (
        f"in groups {groups[0]} and {groups[1]}"
    )
    leak = " (this grouping is not closed)" if answer.acts and groups[0] != groups[1] else ""
    screen.line(f"  grouping {grouping}: {where}{leak}")
    if answer.source == answer.target:
        screen.line("  every function acts as itself")
    elif answer.acts:
        _show_way(screen, machine, answer)
    else:
        _show_stops(screen, answer)


def _show_way(screen: Screen, machine: Machine, answer: Answer) -> None:
    from dmaproof.reachability import literals

    arrow = " → " if screen.fancy else " -> "
    for number, edge in enumerate(answer.chain, 1):
        goal = machine.device(edge.target) if edge.target else "an id of no function"
        what = f"{machine.device(edge.source)} to {goal}"
        screen.line(f"{number:3}. ", (edge.channel, "bold yellow"), f": {what}")
        screen.item("     ", ("way      ", "dim"), text=arrow.join(map(str, edge.path)))
        screen.item("     ", ("because  ", "dim"), text=edge.reason)
        if edge.rid is not None:
            screen.item("     ", ("sent as  ", "dim"), text=f"requester id 0x{edge.rid:04x}")
    for edge in answer.also:
        needs = f" (needs {literals(edge.requires)})" if edge.requires else ""
        screen.item("also ", (edge.channel, "bold yellow"), ": ", text=edge.reason + needs)
    assumed = ", ".join(f"{name}={value}" for name, value in answer.rests_on)
    screen.line(("assumptions this way rests on: ", "dim"), assumed or "none")
    if answer.cut is None:
        screen.item(("ACS cannot cut it: ", "bold"), text=answer.uncut)
        return
    screen.line(("ACS bits that cut every way:", "bold"))
    for switching in answer.cut:
        note = "" if switching.able else " (not implemented there: needs other hardware)"
        screen.line("  ", (" ".join(switching.bits), "green"), f" at {switching.port}{note}")


def _show_stops(screen: Screen, answer: Answer) -> None:
    for sentence in answer.stops:
        screen.item("  ", text=sentence)
    if answer.opened_by:
        needed = ", ".join(f"{name}={value}" for name, value in answer.opened_by)
        screen.item(("it would with ", "dim"), text=needed)
