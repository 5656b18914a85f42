"""``dmaproof machine``: list and show machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dmaproof.commands.machine_dmar import dmar
from dmaproof.commands.options import grouping_option, json_option

if TYPE_CHECKING:
    from dmaproof.model.pcie.device import Bdf, Device
    from dmaproof.model.pcie.topology import Machine
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
@json_option
def show(name: str, grouping: str, as_json: bool) -> None:
    """Print a machine as a tree: type, buses, ACS bits on (+) and off (-), capabilities, group.

    With --json, print the machine file, which every command reads back.
    """
    from dmaproof.model.pcie.groups import group_of, groups
    from dmaproof.model.pcie.machines import load, to_json
    from dmaproof.terminal import Screen, warn

    found = load(name)
    for warning in found.warnings:
        warn(f"{found.name}: {warning}")
    if as_json:
        click.echo(to_json(found), nl=False)
        return
    screen = Screen()
    screen.line((found.name, "bold"), f": {len(found.functions)} functions,"
                f" {len(found.ports)} ports, groups by {grouping}")
    _tree(screen, found, group_of(groups(found, grouping)))


def _tree(screen: Screen, found: Machine, group: dict[Bdf, int]) -> None:
    tee, last, bar = ("├─ ", "└─ ", "│  ") if screen.fancy else ("|- ", "`- ", "|  ")
    roots = [device.bdf for device in found.devices if found.on_root(device)]
    stack = [("", bdf, index == len(roots) - 1) for index, bdf in enumerate(roots)][::-1]
    while stack:
        left, bdf, final = stack.pop()
        device = found.device(bdf)
        screen.line((left + (last if final else tee), "dim"), *_describe(found, device),
                    (f"  group {group[bdf]}", "magenta"))
        below = found.children(bdf)
        deeper = left + ("   " if final else bar)
        stack.extend(
            (deeper, child, index == len(below) - 1)
            for index, child in reversed(list(enumerate(below)))
        )


def _describe(found: Machine, device: Device) -> list[Piece]:
    pieces: list[Piece] = [str(device.bdf)]
    if device.label:
        pieces.append((f" {device.label}", "bold green"))
    pieces.append((f"  {device.kind}", "dim"))
    if device.secondary is not None:
        pieces.append(f" to bus {device.secondary:02x}-{device.subordinate or 0:02x}")
    pieces.append("  ")
    pieces.extend(_acs(found, device))
    pieces.append(_capabilities(device))
    return pieces


def _acs(found: Machine, device: Device) -> list[Piece]:
    from dmaproof.model.pcie.acs import acs_quirk
    from dmaproof.model.pcie.device import ACS_BITS

    quirk = acs_quirk(found, device)
    if quirk is not None:
        return [(f"ACS by quirk ({quirk.reason})", "yellow")]
    if device.hidden and device.acs is None:
        return [("ACS unknown", "yellow")]
    if device.acs is None:
        return [("no ACS", "red" if device.kind.has_link_below else "dim")]
    pieces: list[Piece] = ["ACS"]
    for letters, bit in ACS_BITS.items():
        if device.acs.capability & bit:
            on = bool(device.acs.control & bit)
            pieces.append((f" {letters}{'+' if on else '-'}", "green" if on else "red"))
    return pieces


def _capabilities(device: Device) -> str:
    words = []
    if device.pasid is not None:
        words.append(f"PASID {device.pasid} bits")
    words += [word for word, there in (("ATS", device.ats), ("PRI", device.pri)) if there]
    if device.sriov is not None and device.sriov.enabled:
        words.append(f"{device.sriov.number} VFs")
    if device.physfn is not None:
        words.append(f"VF of {device.physfn}")
    if device.aliases:
        words.append(f"also sends as {', '.join(map(str, sorted(device.aliases)))}")
    return f"  {', '.join(words)}" if words else ""
