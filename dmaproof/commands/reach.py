"""``dmaproof reach``: why one function acts as another, or where components and groups differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import (
    assume_option,
    booted,
    grouping_option,
    json_option,
    kernel_parameter_option,
)

if TYPE_CHECKING:
    from dmaproof.model.pcie.channels import Edge
    from dmaproof.model.pcie.device import Bdf
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.overview import Leak, Overview
    from dmaproof.reachability import Answer, Remedy
    from dmaproof.terminal import Screen

_SHOWN = 20
"""Components and groups that the summary prints; --json prints all."""


@click.command()
@click.argument("machine", metavar="MACHINE")
@click.argument("source", metavar="[A", required=False)
@click.argument("target", metavar="B]", required=False)
@assume_option
@grouping_option
@kernel_parameter_option
@json_option
def reach(
    machine: str,
    source: str | None,
    target: str | None,
    assume: tuple[str, ...],
    grouping: str,
    kernel_parameters: tuple[str, ...],
    as_json: bool,
) -> int:
    """Tell whether function A of MACHINE acts as function B, or where MACHINE leaks.

    A acts as B when requests of A, or of a function that A can make work for it, arrive at the
    IOMMU under a requester id of B. Printed are the way hop by hop, the leak channel, the
    assumptions it rests on, the smallest sets of ACS bits that cut it and the kernel parameter
    that switches them; or else what stops it.

    Where the answer depends on what a dump hides, it is undecided, and the exit code is 3.

    Without A and B: which fabric components are larger than their groups (the groups leak), with
    one leak each, and which groups are larger than their components.

    MACHINE is a built-in machine or a file; A and B are addresses (0000:03:00.0) or labels.
    """
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.errors import InputError
    from dmaproof.model.pcie.machines import load
    from dmaproof.terminal import warn

    assumptions = Assumptions.parse(assume)
    found = booted(load(machine), kernel_parameters)
    for warning in found.warnings:
        warn(f"{found.name}: {warning}")
    if source is None:
        from dmaproof.overview import overview

        found, hidden = _at_best(found)
        summary = overview(found, grouping, assumptions)
        if as_json:
            click.echo(json.dumps(_summary_to_json(found, summary, grouping), indent=1))
        else:
            _show_summary(found, summary, grouping)
        return 3 if hidden else 0
    if target is None:
        raise InputError(
            f"{source} reaches what?",
            "reach",
            "the second function is missing",
            f"name two functions, or none for a summary of {found.name}",
        )
    return _pair(found, (source, target), assumptions, grouping, as_json=as_json)


def _at_best(machine: Machine) -> tuple[Machine, bool]:
    """Take what a dump hides as isolating: then every leak shown is there in any case."""
    from dmaproof.model.pcie.undecided import bounds
    from dmaproof.terminal import warn

    if not any(device.unknown for device in machine.devices):
        return machine, False
    warn(f"{machine.name}: what the dump hides counts as isolating here; there may be more leaks")
    return bounds(machine)[0], True


def _pair(  # type: ignore[no-untyped-def]
    machine: Machine, names: tuple[str, str], assumptions, grouping: str, *, as_json: bool  # noqa: ANN001
) -> int:
    from dmaproof.model.pcie.groups import group_of, groups
    from dmaproof.model.pcie.undecided import settled
    from dmaproof.reachability import ask

    source, target = (machine.by_label(name).bdf for name in names)
    known = settled(machine, source, target, assumptions.fabric())
    if known is None:
        return _undecided(machine, (source, target), as_json=as_json)
    machine = known
    answer = ask(machine, *names, assumptions)
    numbers = group_of(groups(machine, grouping, assumptions.fabric()))
    both = numbers[answer.source], numbers[answer.target]
    if as_json:
        click.echo(json.dumps(_to_json(machine, answer, grouping, both), indent=1))
    else:
        _show(machine, answer, grouping, both)
    return 0


def _undecided(machine: Machine, pair: tuple[Bdf, Bdf], *, as_json: bool) -> int:
    from dmaproof.model.pcie.undecided import missing
    from dmaproof.terminal import Screen

    near = {*pair, *(up for bdf in pair for up in machine.ancestors(bdf))}
    unknown = sorted(bdf for bdf in near if machine.device(bdf).unknown)
    if not unknown:
        unknown = [device.bdf for device in machine.devices if device.unknown]
    reason = "cannot be decided: " + "; ".join(missing(machine, unknown))
    source, target = pair
    if as_json:
        body = {"schema": "dmaproof/reach/2", "machine": machine.name, "from": str(source),
                "to": str(target), "acts": None, "undecided": reason}
        click.echo(json.dumps(body, indent=1))
    else:
        screen = Screen()
        screen.line((str(source), "bold"), " ", ("may or may not act as", "bold yellow"), " ",
                    (str(target), "bold"), f" on {machine.name}")
        screen.item("  ", text=reason)
    return 3


# -- JSON ----------------------------------------------------------------------------------------


def _to_json(
    machine: Machine, answer: Answer, grouping: str, groups: tuple[int, int]
) -> dict[str, Any]:
    return {
        "schema": "dmaproof/reach/2",
        "machine": machine.name,
        "from": str(answer.source),
        "to": str(answer.target),
        "grouping": grouping,
        "groups": list(groups),
        "acts": answer.acts,
        "path": [_edge(edge) for edge in answer.chain],
        "also": [_edge(edge) for edge in answer.also],
        "beside": [_edge(edge) for edge in answer.beside],
        "assumptions": dict(answer.rests_on),
        "cuts": [_remedy(remedy) for remedy in answer.remedies],
        "all_cuts": answer.all_remedies,
        "uncut": answer.uncut,
        "stopped_by": list(answer.stops),
        "opened_by": dict(answer.opened_by),
    }


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "channel": str(edge.channel),
        "leak": edge.channel.leak,
        "from": str(edge.source),
        "to": None if edge.target is None else str(edge.target),
        "hops": [str(hop) for hop in edge.path],
        "requester_id": None if edge.rid is None else f"0x{edge.rid:04x}",
        "requires": {name: "on" if value else "off" for name, value in sorted(edge.requires)},
        "cuts": [
            [{"port": str(cut.port), "bit": cut.bits, "on": cut.on} for cut in way]
            for way in edge.ways_to_cut
        ],
        "reason": edge.reason,
    }


def _remedy(remedy: Remedy) -> dict[str, Any]:
    return {
        "ports": [
            {
                "port": str(switching.port.bdf),
                "on": list(switching.bits),
                "off": list(switching.off),
                "implemented": switching.able,
            }
            for switching in remedy.switchings
        ],
        "kernel": remedy.kernel,
    }


def _summary_to_json(machine: Machine, summary: Overview, grouping: str) -> dict[str, Any]:
    return {
        "schema": "dmaproof/reach-summary/1",
        "machine": machine.name,
        "grouping": grouping,
        "functions": len(machine.functions),
        "components": summary.components,
        "groups": summary.groups,
        "leaks": [
            {
                "functions": [str(member) for member in leak.members],
                "groups": list(leak.groups),
                "edge": _edge(leak.edge),
                "cuts": [_remedy(remedy) for remedy in leak.remedies],
            }
            for leak in summary.leaks
        ],
        "coarse": [
            {
                "group": coarse.group,
                "components": [[str(member) for member in part] for part in coarse.parts],
            }
            for coarse in summary.coarse
        ],
    }


# -- text ----------------------------------------------------------------------------------------


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
        _show_stops(screen, machine, answer)


def _show_edge(screen: Screen, machine: Machine, edge: Edge) -> None:
    """Print the hops of an edge, why it is open and under which id it arrives."""
    arrow = " → " if screen.fancy else " -> "
    screen.item("     ", ("way      ", "dim"), text=arrow.join(map(str, edge.path)))
    screen.item("     ", ("because  ", "dim"), text=edge.reason)
    if edge.rid is not None:
        screen.item("     ", ("sent as  ", "dim"), text=f"requester id 0x{edge.rid:04x}")


def _channel(edge: Edge) -> tuple[str, str]:
    return (f"{edge.channel} ({edge.channel.leak})", "bold yellow")


def _between(machine: Machine, edge: Edge) -> str:
    goal = machine.device(edge.target) if edge.target else "an id of no function"
    return f"{machine.device(edge.source)} to {goal}"


def _show_way(screen: Screen, machine: Machine, answer: Answer) -> None:
    from dmaproof.reachability import literals

    for number, edge in enumerate(answer.chain, 1):
        screen.line(f"{number:3}. ", _channel(edge), f": {_between(machine, edge)}")
        _show_edge(screen, machine, edge)
    for edge in answer.also:
        needs = f" (needs {literals(edge.requires)})" if edge.requires else ""
        screen.item("also ", _channel(edge), ": ", text=edge.reason + needs)
    _show_beside(screen, machine, answer)
    assumed = ", ".join(f"{name}={value}" for name, value in answer.rests_on)
    screen.line(("assumptions this way rests on: ", "dim"), assumed or "none")
    if not answer.remedies:
        screen.item(("ACS cannot cut it: ", "bold"), text=answer.uncut)
        return
    _show_remedies(screen, answer)


def _show_beside(screen: Screen, machine: Machine, answer: Answer) -> None:
    """Print the edges that make no function act as another."""
    from dmaproof.model.pcie.channels import Channel
    from dmaproof.reachability import literals

    for edge in answer.beside:
        text = edge.reason
        if edge.channel is Channel.MISROUTE:
            own, peer = machine.device(answer.source), machine.device(answer.target)
            text = (
                f"a request of {own}, with PASID or not, to an address that is also in a BAR of "
                f"{peer} ends there and not at the IOMMU"
            )
        needs = f" (needs {literals(edge.requires)})" if edge.requires else ""
        screen.item("beside ", _channel(edge), ": ", text=text + needs)


def _show_remedies(screen: Screen, answer: Answer) -> None:
    """Print the smallest sets of bits, port by port, each with its kernel parameter."""
    count = sum(len(each.bits) + len(each.off) for each in answer.remedies[0].switchings)
    sets = len(answer.remedies)
    head = "ACS bit cuts" if count == 1 else "ACS bits cut"
    one_of = f", in {sets} ways" if sets > 1 else ""
    more = "" if answer.all_remedies else "; there may be further sets"
    screen.line((f"{count} {head} every way{one_of}, and no smaller set does{more}:", "bold"))
    for place, remedy in enumerate(answer.remedies):
        if place:
            screen.line(("or", "bold"))
        for switching in remedy.switchings:
            note = "" if switching.able else " (not implemented there: needs other hardware)"
            bits = " ".join([*switching.bits, *(f"{bit} off" for bit in switching.off)])
            screen.line("  ", (bits, "green"), f" at {switching.port}{note}")
        if remedy.kernel:
            screen.item("  at boot ", text=f"{remedy.kernel} (Linux 6.15 or later)", style="dim")


def _show_stops(screen: Screen, machine: Machine, answer: Answer) -> None:
    for sentence in answer.stops:
        screen.item("  ", text=sentence)
    _show_beside(screen, machine, answer)
    if answer.opened_by:
        needed = ", ".join(f"{name}={value}" for name, value in answer.opened_by)
        screen.item(("it would with ", "dim"), text=needed)


def _show_summary(machine: Machine, summary: Overview, grouping: str) -> None:
    from dmaproof.drawing import counted
    from dmaproof.terminal import Screen

    screen = Screen()
    screen.line(
        (machine.name, "bold"),
        f": {counted(len(machine.functions), 'function')},"
        f" {counted(summary.components, 'fabric component')},"
        f" {counted(summary.groups, 'group')} ({grouping})",
    )
    leaking = len(summary.leaks)
    verb = "is" if leaking == 1 else "are"
    style = "bold red" if leaking else "bold green"
    screen.line((f"{counted(leaking, 'component')} {verb} larger than the groups inside: "
                 f"{'these groups leak' if leaking else 'no group leaks'}", style))
    for leak in summary.leaks[:_SHOWN]:
        _show_leak(screen, machine, leak)
    _more(screen, leaking)
    coarse = len(summary.coarse)
    verb = "is" if coarse == 1 else "are"
    screen.line((f"{counted(coarse, 'group')} {verb} larger than the components inside", "bold"))
    for group in summary.coarse[:_SHOWN]:
        parts = "; ".join(_some(machine, part) for part in group.parts[:4])
        rest = f"; and {len(group.parts) - 4} more" if len(group.parts) > 4 else ""
        screen.item(f"  group {group.group}: ", text=f"{len(group.parts)} parts: {parts}{rest}")
    _more(screen, coarse)


def _show_leak(screen: Screen, machine: Machine, leak: Leak) -> None:
    from dmaproof.reachability import literals

    groups = ", ".join(map(str, leak.groups[:8])) + (" ..." if len(leak.groups) > 8 else "")
    screen.item("  ", text=f"{_some(machine, leak.members)}: groups {groups}")
    screen.line("     ", _channel(leak.edge), f": {_between(machine, leak.edge)}")
    _show_edge(screen, machine, leak.edge)
    if leak.edge.requires:
        screen.item("     ", ("needs    ", "dim"), text=literals(leak.edge.requires))
    ways = [
        ", ".join(
            " ".join([*s.bits, *(f"{bit} off" for bit in s.off)]) + f" at {s.port}"
            for s in remedy.switchings
        )
        for remedy in leak.remedies
    ]
    screen.item("     ", ("cut by   ", "dim"), text=" or ".join(ways) or "nothing ACS has")


def _some(machine: Machine, members: tuple[Bdf, ...]) -> str:
    named = ", ".join(str(machine.device(member)) for member in members[:4])
    return named + (f" and {len(members) - 4} more" if len(members) > 4 else "")


def _more(screen: Screen, count: int) -> None:
    if count > _SHOWN:
        screen.line(f"  ... and {count - _SHOWN} more; --json prints all")
