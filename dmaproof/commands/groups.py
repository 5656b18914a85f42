"""``dmaproof groups``: the IOMMU groups of machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import assume_option, grouping_option, json_option
from dmaproof.model.errors import InputError

if TYPE_CHECKING:
    from dmaproof.model.pcie.groups import Group
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.terminal import Screen


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@grouping_option
@assume_option
@json_option
def groups(files: tuple[str, ...], grouping: str, assume: tuple[str, ...], as_json: bool) -> int:
    """Print the IOMMU groups of each machine and why each member is where it is.

    FILE is an lspci dump (lspci -xxxx as root), a machine in JSON or a built-in machine. A file
    that cannot be read does not keep the others from being printed; the exit code is then 2.

    With --json, one line a file: {"file", "algorithm", "groups": [{"id", "members", "why"}]} or
    {"file", "error"}. --assume matters to --grouping components only.
    """
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.pcie.groups import groups as compute
    from dmaproof.model.pcie.machines import load

    assumptions = Assumptions.parse(assume).fabric()
    bugs: list[Exception] = []
    bad = False
    for number, name in enumerate(files):
        try:
            machine = load(name)
            found = compute(machine, grouping, assumptions)
        except InputError as error:
            bad = True
            _failed(name, str(error), as_json)
        except Exception as error:  # the other files still get their lines
            bugs.append(error)
            _failed(name, f"bug in dmaproof: {error!r}", as_json)
        else:
            _warn(machine)
            if as_json:
                click.echo(_json_line(name, grouping, found))
            else:
                _show(machine, grouping, found, first=number == 0)
    if bugs:
        raise bugs[0]
    return 2 if bad else 0


def _failed(name: str, error: str, as_json: bool) -> None:
    from dmaproof.cli import complain

    if as_json:
        click.echo(json.dumps({"file": name, "error": error}))
    else:
        complain(error)


def _warn(machine: Machine) -> None:
    from dmaproof.terminal import warn

    for warning in machine.warnings:
        warn(f"{machine.name}: {warning}")


def _json_line(name: str, grouping: str, found: list[Group]) -> str:
    listed = [
        {"id": group.id, "members": [str(m) for m in group.members], "why": list(group.why)}
        for group in found
    ]
    return json.dumps({"file": name, "algorithm": grouping, "groups": listed})


def _show(machine: Machine, grouping: str, found: list[Group], *, first: bool) -> None:
    from dmaproof.terminal import Screen

    screen = Screen()
    if not first:
        screen.line()
    count = "1 group" if len(found) == 1 else f"{len(found)} groups"
    size = f"{len(machine.devices)} functions and ports, {count} ({grouping})"
    screen.line((machine.name, "bold"), f": {size}")
    wide = max(len(device.label) for device in machine.devices)
    for group in found:
        _show_group(screen, machine, group, wide)


def _show_group(screen: Screen, machine: Machine, group: Group, wide: int) -> None:
    screen.line((f"group {group.id}", "bold cyan"))
    for member, why in zip(group.members, group.why, strict=True):
        device = machine.device(member)
        label = f"{device.label:{wide}}  " if wide else ""
        kind = f"{device.kind:22}  "
        screen.item(f"  {member}  ", (label, "green"), (kind, "dim"), text=why)
