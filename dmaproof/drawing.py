"""What a drawing of a machine shows, row by row; terminal, SVG and DOT each draw it their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from dmaproof.engine.assumptions import Assumptions
from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, acs_quirk
from dmaproof.model.pcie.channels import Fabric
from dmaproof.model.pcie.device import ACS_BITS, Bdf, Device
from dmaproof.model.pcie.groups import Group
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.pcie.undecided import bounds, decide
from dmaproof.overview import Overview, compared

FEW = 4
"""Functions of a bus that look alike: up to this many are drawn one by one."""
WHITE = "#ffffff"


class Tone(Enum):
    """What a piece of text says about isolation."""

    ON = "on"
    OFF = "off"
    IDLE = "off, and no loss"
    DOUBT = "doubt"
    PLAIN = "plain"


Words = tuple[tuple[str, Tone], ...]


@dataclass(frozen=True)
class Row:
    """One function, port or bridge.

    Attributes:
        device: what it is.
        lines: for each level above, whether the tree line goes on below; the last is its own.
        group: number of its group.
        why: why it is in that group.
        component: number of its fabric component; None for what starts no requests.
        alike: further functions like it that are left out behind it.
        last_group: group of the last of these.
        undecided: its group depends on what the dump hides; `group` is the smallest it could be.

    """

    device: Device
    lines: tuple[bool, ...]
    group: int
    why: str
    component: int | None
    alike: int = 0
    last_group: int | None = None
    undecided: bool = False

    @property
    def group_text(self) -> str:
        """The number of its group; of the first and last where those left out have their own."""
        if self.undecided:
            return f"{self.group}?"
        if self.last_group in {None, self.group}:
            return str(self.group)
        return f"{self.group} .. {self.last_group}"


@dataclass(frozen=True)
class Picture:
    """A machine as it is drawn.

    Attributes:
        machine: the topology.
        grouping: the algorithm that made the groups.
        rows: functions and ports, depth first.
        overview: where components and groups differ.
        shared: groups with more than one member.
        leaking: components that are larger than their groups.

    """

    machine: Machine
    grouping: str
    rows: tuple[Row, ...]
    overview: Overview
    shared: frozenset[int]
    leaking: frozenset[int]

    def fill(self, row: Row, colours: Sequence[str]) -> str:
        """Return the colour of a row's group: white alone, else in turn, so that few repeat."""
        return colours[self._turn[row.group] % len(colours)] if row.group in self.shared else WHITE

    @cached_property
    def _turn(self) -> dict[int, int]:
        return {group: place for place, group in enumerate(sorted(self.shared))}


def picture(machine: Machine, grouping: str, assumptions: Assumptions) -> Picture:
    """Return what a drawing of *machine* shows.

    What its dump hides counts as isolating: a leak that is shown is there in any case.
    """
    assume = assumptions.fabric()
    decision = decide(machine, grouping, assume)
    found = decision.finest if decision.doubts else list(decision.groups)
    hides = any(device.unknown for device in machine.devices)
    fabric = Fabric(bounds(machine)[0] if hides else machine)
    parts = fabric.components(assume)
    component = {member: number for number, part in enumerate(parts) for member in part}
    seen = compared(fabric.machine, fabric, found, assume)
    open_ = {member for doubt in decision.doubts for member in doubt.members}
    return Picture(
        machine,
        grouping,
        tuple(replace(row, undecided=row.device.bdf in open_)
              for row in _rows(machine, found, component)),
        seen,
        frozenset(group.id for group in found if len(group.members) > 1),
        frozenset(component[leak.members[0]] for leak in seen.leaks),
    )


def _rows(
    machine: Machine, found: list[Group], component: dict[Bdf, int]
) -> Iterator[Row]:
    home = {
        member: (group.id, why)
        for group in found
        for member, why in zip(group.members, group.why, strict=True)
    }
    roots = [device.bdf for device in machine.devices if machine.on_root(device)]
    stack: list[tuple[tuple[bool, ...], Bdf]] = []
    stack.extend(((i < len(roots) - 1,), roots[i]) for i in reversed(range(len(roots))))
    while stack:
        lines, bdf = stack.pop()
        yield Row(machine.device(bdf), lines, *home[bdf], component.get(bdf))
        below = machine.children(bdf)
        stack.extend(((*lines, i < len(below) - 1), below[i]) for i in reversed(range(len(below))))


def folded(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return *rows* with long runs of functions that look alike cut down to the first of them."""
    found: list[Row] = []
    run: list[Row] = []

    def close() -> None:
        if len(run) > FEW:
            first, last = run[0], run[-1]
            lines = (*first.lines[:-1], last.lines[-1])
            found.append(
                replace(first, lines=lines, alike=len(run) - 1, last_group=last.group)
            )
        else:
            found.extend(run)
        run.clear()

    grouped = {row.group: 0 for row in rows}
    for row in rows:
        grouped[row.group] += 1
    before: object = None
    for row in rows:
        group = row.group if grouped[row.group] > 1 else None
        look = (row.device.kind, row.device.acs, row.device.physfn, row.device.label, group,
                row.undecided, row.component, row.device.bdf.segment_bus, len(row.lines))
        if row.device.is_bridge or look != before:
            close()
        run.append(row)
        before = None if row.device.is_bridge else look
    close()
    return tuple(found)


def acs_words(machine: Machine, device: Device) -> Words:
    """Return the ACS letters of a function, or what stands in their place."""
    quirk = acs_quirk(machine, device)
    if quirk is not None:
        return ((f"ACS by quirk ({quirk.reason})", Tone.DOUBT),)
    if device.acs is None:
        if device.hidden:
            return (("ACS unknown", Tone.DOUBT),)
        return (("no ACS", Tone.OFF if device.kind.has_link_below else Tone.PLAIN),)
    letters = [
        (bit, Tone.ON if device.acs.control & value else _off(value))
        for bit, value in ACS_BITS.items()
        if device.acs.capability & value
    ]
    return (("ACS" if letters else "ACS of no bits", Tone.PLAIN), *letters)


def _off(bit: int) -> Tone:
    return Tone.OFF if bit & REQ_ACS_FLAGS else Tone.IDLE


def capabilities(device: Device) -> str:
    """Return what else matters about a function, in words."""
    words = []
    if device.pasid is not None:
        words.append(f"PASID {device.pasid} bits")
    words += [word for word, there in (("ATS", device.ats), ("PRI", device.pri)) if there]
    if device.sriov is not None and device.sriov.enabled:
        words.append(f"{device.sriov.number} VFs")
    if device.physfn is not None:
        words.append(f"VF of {device.physfn}")
    if device.aliases:
        first, *others = sorted(device.aliases)
        named = ", ".join(map(str, (first, *others[:2])))
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        words.append(f"also sends as {named}{more}")
    if device.real_dma is not None:
        words.append(f"sends as {device.real_dma}")
    return ", ".join(words)


def buses(device: Device) -> str:
    """Return the buses behind a bridge, "" without any."""
    if device.secondary is None:
        return ""
    return f"bus {device.secondary:02x}-{device.subordinate or 0:02x}"


def counted(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where it is due."""
    return f"{number} {what}{'' if number == 1 else 's'}"
