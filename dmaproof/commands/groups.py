"""``dmaproof groups``: the IOMMU groups of machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dmaproof.commands.options import (
    assume_option,
    booted,
    grouping_option,
    json_option,
    kernel_parameter_option,
)
from dmaproof.model.errors import InputError

if TYPE_CHECKING:
    from dmaproof.model.pcie.groups import Group
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.model.pcie.undecided import Decision, Doubt
    from dmaproof.terminal import Screen

DIFFERENT, BAD_INPUT, UNDECIDED = 1, 2, 3


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@grouping_option
@assume_option
@kernel_parameter_option
@click.option("--compare", is_flag=True, help="Set them beside the kernel's own groups.")
@click.option("--recorded", metavar="FILE",
              help="The kernel's groups, where the dump has none: a kernel log, sysfs, JSON.")
@json_option
def groups(
    files: tuple[str, ...],
    grouping: str,
    assume: tuple[str, ...],
    kernel_parameters: tuple[str, ...],
    compare: bool,
    recorded: str | None,
    as_json: bool,
) -> int:
    """Print the IOMMU groups of each machine and why each member is where it is.

    FILE is lspci output (lspci -xxxx as root is best), sysfs (/sys, or a tar archive of it), a
    hardware report (facter.json), a machine in JSON or a built-in machine. A file that cannot be
    read does not keep the others from being printed; the exit code is then 2. What the dump hides
    is not guessed: groups that depend on it are undecided, and the exit code is 3.

    --compare looks at the groups that the kernel made (in the dump, or in --recorded FILE), gives a
    reason for every difference, and names the ways out of the kernel's groups; the exit code is 1
    if there is a difference or a way out.

    With --json, one line a file: {"file", "algorithm", "groups": [{"id", "members", "why"}]}, with
    "undecided": [{"members", "parts", "hiding", "reason"}] where there is some, or {"file",
    "error"}. --assume matters to --grouping components and to --compare only.
    """
    from dmaproof.commands.groups_compare import Comparing
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.model.pcie.machines import load
    from dmaproof.model.pcie.undecided import decide

    assumptions = Assumptions.parse(assume).fabric()
    comparing = Comparing.of(files, grouping, compare=compare, recorded=recorded)
    bugs: list[Exception] = []
    codes = {0}
    for number, name in enumerate(files):
        try:
            machine = booted(load(name), kernel_parameters, claims=False)
            if comparing:
                codes.add(comparing.run(machine, name, assumptions if assume else None,
                                        as_json=as_json, first=number == 0))
                continue
            found = decide(machine, grouping, assumptions)
        except InputError as error:
            codes.add(BAD_INPUT)
            _failed(name, str(error), as_json)
        except Exception as error:  # the other files still get their lines
            bugs.append(error)
            _failed(name, f"bug in dmaproof: {error!r}", as_json)
        else:
            warn_of(machine)
            codes.add(UNDECIDED if found.doubts else 0)
            if as_json:
                click.echo(_json_line(name, grouping, found))
            else:
                _show(machine, grouping, found, first=number == 0)
    if bugs:
        raise bugs[0]
    return next((code for code in (BAD_INPUT, DIFFERENT, UNDECIDED) if code in codes), 0)


def _failed(name: str, error: str, as_json: bool) -> None:
    from dmaproof.cli import complain

    if as_json:
        click.echo(json.dumps({"file": name, "error": error}))
    else:
        complain(error)


def warn_of(machine: Machine) -> None:
    """Write what the reader of *machine* could not use."""
    from dmaproof.terminal import warn

    for warning in machine.warnings:
        warn(f"{machine.name}: {warning}")


def _json_line(name: str, grouping: str, found: Decision) -> str:
    listed = [
        {"id": group.id, "members": [str(m) for m in group.members], "why": list(group.why)}
        for group in found.groups
    ]
    body: dict[str, object] = {"file": name, "algorithm": grouping, "groups": listed}
    if found.doubts:
        body["undecided"] = [
            {
                "members": [str(m) for m in doubt.members],
                "parts": [[str(m) for m in part] for part in doubt.parts],
                "hiding": [str(m) for m in doubt.hiding],
                "reason": doubt.reason,
            }
            for doubt in found.doubts
        ]
    return json.dumps(body)


def _show(machine: Machine, grouping: str, found: Decision, *, first: bool) -> None:
    from dmaproof.terminal import Screen

    screen = Screen()
    if not first:
        screen.line()
    count = "1 group" if len(found.groups) == 1 else f"{len(found.groups)} groups"
    left = sum(len(doubt.members) for doubt in found.doubts)
    rest = f", {left} functions and ports undecided" if left else ""
    size = f"{len(machine.devices)} functions and ports, {count} ({grouping}){rest}"
    screen.line((machine.name, "bold"), f": {size}")
    wide = max(len(device.label) for device in machine.devices)
    for group in found.groups:
        _show_group(screen, machine, group, wide)
    for doubt in found.doubts:
        _show_doubt(screen, doubt)


def _show_doubt(screen: Screen, doubt: Doubt) -> None:
    screen.line(("undecided", "bold yellow"))
    screen.item("  ", text=doubt.reason, style="yellow")
    for part in doubt.parts:
        screen.item("  ", ("surely together  " if len(part) > 1 else "perhaps alone    ", "dim"),
                    text=", ".join(map(str, part)))


def _show_group(screen: Screen, machine: Machine, group: Group, wide: int) -> None:
    screen.line((f"group {group.id}", "bold cyan"))
    for member, why in zip(group.members, group.why, strict=True):
        device = machine.device(member)
        label = f"{device.label:{wide}}  " if wide else ""
        kind = f"{device.kind_name:22}  "
        screen.item(f"  {member}  ", (label, "green"), (kind, "dim"), text=why)
