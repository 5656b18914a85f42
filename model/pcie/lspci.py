"""Reader and writer of lspci text: hex dumps, words, or both.

A hex dump (``-xxx``, ``-xxxx``) says what the registers hold; words (``-v`` to ``-vvv``) say part
of it; where both are there, bytes go first. Whatever the text leaves open is named in
`Device.unknown`, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.configspace import EXTENDED, ConfigSpace, decode, encode
from dmaproof.model.pcie.listed import fill, place, warnings
from dmaproof.model.pcie.lspci_records import TAKE_AGAIN, Cut, Listing, Record, cut, kernel_log
from dmaproof.model.pcie.lspci_tree import bridges
from dmaproof.model.pcie.lspci_verbose import Words, read_words
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind


@dataclass(frozen=True)
class _Read:
    """One function as one listing shows it."""

    device: Device
    words: Words
    record: Record

    @property
    def weight(self) -> int:
        """How much it says: the listing that says most is the one to believe."""
        missing = len(self.device.unknown)
        return 1 + (2 if self.record.data else 0) + 2 * (4 - min(missing, 4))


_SIZES = (64, 128, 256, 4096)
"""Bytes of configuration space that lspci prints of a function."""
_NOTHING: tuple[list[str], ...] = ([], ["(config space)"])
_Readings = dict[Bdf, _Read]


def read_lspci(text: str, where: str = "lspci", name: str = "") -> Machine:
    """Read the output of lspci, with or without bytes, as it is or as people post it.

    Args:
        text: the dump. Domains and trailing all-zero lines may be left out; quoted, wrapped or
            coloured text, sentences in between and several listings are coped with.
        where: file name for messages.
        name: name of the machine; default is *where*.

    Raises:
        InputError: no functions, damaged hex lines, bus numbers that form no tree.

    """
    found = cut(text, where)
    _check_content(found.listings, where)
    readings = [_listing(listing, where) for listing in found.listings]
    chosen, said = _choose(readings)
    recorded, more = _recorded(text, chosen)
    devices = [_known_quirk(read, has_groups=bool(recorded)) for read in chosen.values()]
    devices = _drawn(devices, bridges(found.drawn))
    devices = _paths(devices, [read.record for read in chosen.values()])
    owners = [read.device.bdf for read in chosen.values() if read.words.owns_segment]
    devices, lost = place(devices, owners)
    said = [
        *said,
        *_left_out(found),
        *more,
        *lost,
        *_assumed(chosen, devices),
        *warnings(devices),
    ]
    return Machine(name or where, devices, said, recorded)


def _left_out(found: Cut) -> Iterator[str]:
    if found.unseen:
        yield (
            f"{len(found.unseen)} lines look like functions, but do not begin like one, and are "
            f"ignored; the first is line {found.unseen[0]}"
        )
    if found.snipped:
        yield f"line {found.snipped[0]} stands for text left out: functions may be missing"


def _check_content(listings: list[Listing], where: str) -> None:
    records = [record for listing in listings for record in listing.values()]
    if not any(record.data or record.lines[:1] not in _NOTHING for record in records):
        first = records[0]
        raise InputError(
            f"function {first.bdf} has neither a class nor configuration space",
            f"{where}:{first.line}",
            "a list of addresses, or the dump is truncated here",
            TAKE_AGAIN,
        )


def _listing(listing: Listing, where: str) -> _Readings:
    extended = _extended_read(list(listing.values()))
    words = {bdf: read_words(record) for bdf, record in listing.items()}
    shown = any(word.extended for word in words.values())
    readings = {}
    short = _cut_short(list(listing.values()))
    for bdf, record in listing.items():
        device = words[bdf].device
        if device.kind.is_pcie and not shown:
            device = replace(device, unknown=device.unknown | {Fact.ACS, Fact.CAPABILITIES})
        if record.data:
            decoded = _decode(record, where, extended=extended)
            if record is short:
                missing = {Fact.ACS, Fact.CAPABILITIES}
                missing |= {Fact.KIND} if len(record.data) < EXTENDED else set()
                decoded = replace(decoded, unknown=decoded.unknown | missing)
            device = fill(decoded, device)
        readings[bdf] = _Read(device, words[bdf], record)
    return readings


def _extended_read(records: list[Record]) -> bool:
    """Whether the extended space was read, by the bytes that each function of a listing has.

    lspci prints 64, 128, 256 or 4096. `write_lspci` and what else says "(config space)" leaves
    trailing zeros out; there even a listing without one extended byte was read whole. The last
    function does not tell: the file may be cut there.
    """
    if any(len(record.data) > EXTENDED for record in records):
        return True
    return any(
        len(record.data) not in {0, *_SIZES} and record.lines[:1] == ["(config space)"]
        for record in records[:-1]
    )


def _cut_short(records: list[Record]) -> Record | None:
    """Return the last function if its bytes end where lspci would not end them."""
    *others, last = records
    whole = all(len(record.data) in {0, *_SIZES} for record in others)
    return last if others and whole and len(last.data) not in {0, *_SIZES} else None


def _decode(record: Record, where: str, *, extended: bool) -> Device:
    if len(record.data) < 16:
        raise InputError(
            f"function {record.bdf} has only {len(record.data)} bytes of configuration space",
            f"{where}:{record.line}",
            "the dump is truncated here",
            TAKE_AGAIN,
        )
    return decode(record.bdf, ConfigSpace(bytes(record.data), extended))


def _choose(readings: list[_Readings]) -> tuple[_Readings, list[str]]:
    """Return the listing that says most, completed from the others where they agree."""
    weights = [sum(read.weight for read in reading.values()) for reading in readings]
    best = weights.index(max(weights))
    chosen = dict(readings[best])
    strangers: set[Bdf] = set()
    differing: set[Bdf] = set()
    for other in [*readings[:best], *readings[best + 1 :]]:
        for bdf, read in other.items():
            if bdf not in chosen:
                strangers.add(bdf)
            elif _agree(chosen[bdf].device, read.device):
                chosen[bdf] = _join(chosen[bdf], read)
            else:
                differing.add(bdf)
    line = min(read.record.line for read in chosen.values())
    said = []
    if strangers or differing:
        said.append(f"the file holds {len(readings)} listings; the one from line {line} is used")
    if strangers:
        said.append(f"ignored, because only other listings have them: {_some(strangers)}")
    if differing:
        said.append(f"other listings show {_some(differing)} differently; that is ignored")
    return chosen, said


def _agree(first: Device, second: Device) -> bool:
    """Whether two records of one function say nothing that differs."""
    unknown = first.unknown | second.unknown
    same_ids = (first.vendor, first.device) == (second.vendor, second.device)
    return (
        (same_ids or Fact.IDS in unknown or not (first.vendor and second.vendor))
        and (first.kind is second.kind or Fact.KIND in unknown)
        and (first.acs == second.acs or Fact.ACS in unknown)
        and (first.secondary == second.secondary or None in {first.secondary, second.secondary})
    )


def _join(first: _Read, second: _Read) -> _Read:
    words = first.words
    if words.group is None:
        words = replace(words, group=second.words.group)
    return _Read(fill(first.device, second.device), words, first.record)


def _recorded(text: str, chosen: _Readings) -> tuple[dict[Bdf, int], list[str]]:
    """Return the kernel's group numbers: lspci's own, else those of a kernel log."""
    shown = {bdf: read.words.group for bdf, read in chosen.items()}
    recorded = {bdf: group for bdf, group in shown.items() if group is not None}
    if recorded:
        return recorded, []
    log = kernel_log(text)
    said = []
    if log.boots > 1:
        said.append(f"groups of the first of {log.boots} boots are used, the others ignored")
    return {bdf: group for bdf, group in log.groups.items() if bdf in chosen}, said


def _known_quirk(read: _Read, *, has_groups: bool) -> Device:
    """Put right the ACS control of ports whose register lspci reads at the wrong place.

    Where groups are recorded, an IOMMU was on, and then the kernel's quirk has set every bit that
    the port can do (drivers/pci/quirks.c pci_quirk_enable_intel_spt_pch_acs).
    """
    device = read.device
    if not read.words.wide or device.acs is None or len(read.record.data) > EXTENDED:
        return device
    if has_groups:
        able = device.acs.capability & quirks.ISOLATED
        return replace(device, acs=Acs(device.acs.capability, able))
    return replace(device, acs=None, unknown=device.unknown | {Fact.ACS})


def _assumed(chosen: _Readings, devices: list[Device]) -> list[str]:
    """Say what is taken for granted because words do not show it."""
    slots: dict[tuple[int, int, int], int] = {}
    for device in devices:
        slots[device.bdf.slot] = slots.get(device.bdf.slot, 0) + 1
    lone = [
        device.bdf
        for device in devices
        if device.kind is PortKind.UPSTREAM
        and slots[device.bdf.slot] == 1
        and not chosen[device.bdf].record.data
    ]
    said = []
    if lone:
        said.append(
            f"taken for single-function, because no other function of theirs is listed and words "
            f"do not show the multifunction bit: {_some(lone)}"
        )
    wide = [
        d.bdf
        for d in devices
        if chosen[d.bdf].words.wide
        and d.acs is not None
        and len(chosen[d.bdf].record.data) <= EXTENDED
    ]
    if wide:
        said.append(
            f"lspci reads the ACS control of {_some(wide)} at the wrong place; it is taken as the "
            "kernel sets it when an IOMMU is on"
        )
    return said


def _drawn(devices: list[Device], drawn: dict[Bdf, tuple[int, int]]) -> list[Device]:
    """Take buses of bridges from a drawn tree where their records have none."""
    return [
        replace(
            d,
            secondary=drawn[d.bdf][0],
            subordinate=drawn[d.bdf][1],
            header_type=d.header_type or 1,
        )
        if d.secondary is None and d.bdf in drawn
        else d
        for d in devices
    ]


def _paths(devices: list[Device], records: list[Record]) -> list[Device]:
    """Take buses of bridges from the paths that ``lspci -PP`` prints."""
    below: dict[Bdf, set[int]] = {}
    direct: dict[Bdf, int] = {}
    for record in records:
        places = [*(_step(step, record.bdf.domain) for step in record.path), record.bdf]
        for number, (port, child) in enumerate(pairwise(places)):
            direct[port] = child.bus
            below.setdefault(port, set()).update(place.bus for place in places[number + 1 :])
    return [
        replace(
            d,
            secondary=direct[d.bdf],
            subordinate=max(below[d.bdf]),
            header_type=d.header_type or 1,
        )
        if d.secondary is None and d.bdf in direct
        else d
        for d in devices
    ]


def _step(text: str, domain: int) -> Bdf:
    step = Bdf.parse(text)
    return step if text.count(":") > 1 else replace(step, domain=domain)


def _some(places: Iterable[Bdf]) -> str:
    listed = sorted(places)
    return ", ".join(map(str, listed[:4])) + (" ..." if len(listed) > 4 else "")


def write_lspci(devices: Iterable[Device]) -> str:
    """Return *devices* as ``lspci -xxxx`` prints them, trailing all-zero lines left out."""
    return "\n".join(_dump(device) for device in devices)


def _dump(device: Device) -> str:
    data = encode(device)
    lines = [f"{device.bdf} (config space)"]
    used = len(data.rstrip(b"\0"))
    # A PCIe function keeps the first line of its extended space: it says that it was read.
    end = max(used, EXTENDED + 1 if len(data) > EXTENDED else 1)
    lines.extend(
        f"{offset:02x}: {data[offset : offset + 16].hex(' ')}" for offset in range(0, end, 16)
    )
    return "\n".join(lines) + "\n"
