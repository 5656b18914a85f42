"""``dmaproof groups --compare``: computed groups beside the kernel's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dmaproof.model.errors import InputError

if TYPE_CHECKING:
    from dmaproof.model.pcie.compare import Comparison, Difference
    from dmaproof.model.pcie.device import Bdf
    from dmaproof.model.pcie.topology import Machine
    from dmaproof.terminal import Screen

AGREE, DIFFERENT, UNDECIDED = 0, 1, 3


@dataclass(frozen=True)
class Comparing:
    """What to compare with.

    Attributes:
        recorded: groups from a file of their own; None: from each dump.

    """

    recorded: Mapping[Bdf, int] | None

    @classmethod
    def of(
        cls, files: tuple[str, ...], grouping: str, *, compare: bool, recorded: str | None
    ) -> Comparing | None:
        """Return what the options ask for, None for no comparison.

        Raises:
            InputError: options that contradict each other.

        """
        if not compare and recorded is None:
            return None
        if grouping != "linux":
            raise _contradiction("--grouping", "the kernel's groups are Linux's", "leave it out")
        if recorded is None:
            return cls(None)
        if len(files) != 1:
            raise _contradiction("--recorded", "one file cannot go with several dumps",
                                 "name one dump")
        from dmaproof.model.pcie.recorded import recorded_groups

        return cls(recorded_groups(recorded))

    def run(
        self,
        machine: Machine,
        name: str,
        assume: Mapping[str, bool] | None,
        *,
        as_json: bool,
        first: bool,
    ) -> int:
        """Compare and print one machine; return its exit code."""
        from dmaproof.commands.groups import warn_of
        from dmaproof.model.pcie.compare import compare

        recorded = machine.recorded if self.recorded is None else self.recorded
        if not any(bdf in machine for bdf in recorded):
            raise InputError(
                "no kernel groups of this machine",
                name,
                "the dump was taken without an IOMMU, or by lspci without -v",
                "give the groups with --recorded FILE: a kernel log, sysfs, or JSON",
            )
        found = compare(machine, recorded, assume)
        warn_of(machine)
        if as_json:
            click.echo(json.dumps({"file": name, **_to_json(found)}))
        else:
            _show(machine, found, first=first)
        if found.contradicted or found.leaks:
            return DIFFERENT
        return UNDECIDED if found.undecided else AGREE


def _contradiction(option: str, cause: str, remedy: str) -> InputError:
    return InputError(f"{option} does not go with this", "groups --compare", cause, remedy)


def _block(members: Iterable[Bdf]) -> str:
    return "{" + ", ".join(map(str, members)) + "}"


def _show(machine: Machine, found: Comparison, *, first: bool) -> None:
    from dmaproof.terminal import Screen

    screen = Screen()
    if not first:
        screen.line()
    open_ = sum(len(d.kernel) for d in found.differences if d.cause == "hidden-capability")
    other = sum(len(d.kernel) for d in found.differences) - open_
    counts = [f"{len(found.same)} of the kernel's groups agree"]
    if open_:
        counts.append(f"{open_} undecided and not contradicted")
    if other:
        counts.append(f"{other} differ")
    screen.line((machine.name, "bold"), f": {', '.join(counts)}")
    for difference in found.differences:
        _show_difference(screen, difference)
    if found.uncovered:
        screen.item(("no kernel group  ", "dim"), text=", ".join(map(str, found.uncovered)))
    arrow = " → " if screen.fancy else " -> "
    for leak in found.leaks:
        first_group, second = leak.groups
        screen.line(("leak", "bold red"),
                    f"  out of the kernel's group {first_group} into group {second}:"
                    f" {leak.source} to {leak.target}")
        screen.item("  ", ("way      ", "dim"), text=arrow.join(map(str, leak.path)))
        screen.item("  ", ("because  ", "dim"), text=leak.reason)


def _show_difference(screen: Screen, difference: Difference) -> None:
    style = "bold yellow" if difference.cause == "hidden-capability" else "bold red"
    screen.line((str(difference.cause), style))
    screen.item("  ", ("because   ", "dim"), text=difference.reason)
    screen.item("  ", ("kernel    ", "dim"), text=" ".join(map(_block, difference.kernel)))
    screen.item("  ", ("computed  ", "dim"), text=" ".join(map(_block, difference.computed)))


def _to_json(found: Comparison) -> dict[str, Any]:
    def listed(blocks: Iterable[Iterable[Bdf]]) -> list[list[str]]:
        return [[str(member) for member in block] for block in blocks]

    return {
        "schema": "dmaproof/comparison/1",
        "same": listed(found.same),
        "differences": [
            {
                "cause": str(d.cause),
                "kernel": listed(d.kernel),
                "computed": listed(d.computed),
                "reason": d.reason,
            }
            for d in found.differences
        ],
        "uncovered": [str(bdf) for bdf in found.uncovered],
        "leaks": [
            {
                "from": str(leak.source),
                "to": str(leak.target),
                "groups": list(leak.groups),
                "hops": [str(hop) for hop in leak.path],
                "reason": leak.reason,
            }
            for leak in found.leaks
        ],
    }
