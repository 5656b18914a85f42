"""Reader and writer of ``lspci -xxx`` and ``lspci -xxxx`` text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.configspace import EXTENDED, FULL, ConfigSpace, decode, encode
from dmaproof.model.pcie.topology import Bdf, Device, Machine

_HEADLINE = re.compile(
    r"(?:[0-9a-fA-F:.]+/)*(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([01][0-9a-fA-F])\.([0-7])"
    r"(?=\s|$)"
)
_HEX_LINE = re.compile(r"([0-9a-fA-F]{2,3}):((?: [0-9a-fA-F]{2}){16})\s*")
_HEX_START = re.compile(r"[0-9a-fA-F]{2,3}: (?:[0-9a-fA-F]{1,2}(?:\s|$))")
_ANY_HEADLINE = re.compile(f"^{_HEADLINE.pattern}", re.MULTILINE)
_TAKE_AGAIN = "record it again as root: lspci -xxxx > machine.txt"


@dataclass
class _Record:
    """One function while it is being read."""

    bdf: Bdf
    line: int
    data: bytearray = field(default_factory=bytearray)

    def append(self, offset: int, values: bytes, where: str) -> None:
        if offset % 16 or offset >= FULL or offset < len(self.data):
            raise InputError(
                f"hex line at offset {offset:x} of {self.bdf} is out of order",
                where,
                "lines of two functions are mixed, or the dump was edited",
                _TAKE_AGAIN,
            )
        self.data.extend(bytes(offset - len(self.data)))
        self.data.extend(values)


def read_lspci(text: str, where: str = "lspci", name: str = "") -> Machine:
    """Read the output of ``lspci -xxxx`` (or ``-xxx``; descriptions are skipped).

    Args:
        text: the dump. Domains and trailing all-zero lines may be left out.
        where: file name for messages.
        name: name of the machine; default is *where*.

    Raises:
        InputError: no functions, damaged or missing hex lines, a function given twice, bus
            numbers that form no tree.

    """
    if _ANY_HEADLINE.search(text) is None:
        raise InputError(
            "no PCI function found" if text.strip() else "the file is empty",
            where,
            "this is not the output of lspci -xxxx",
            _TAKE_AGAIN,
        )
    records = _records(text, where)
    extended = any(len(record.data) > EXTENDED for record in records)
    devices = [_device(record, where, extended) for record in records]
    machine = Machine(name or where, devices)
    warnings = [*_hidden(machine, extended), *_unrooted(machine)]
    return Machine(machine.name, machine.devices, warnings) if warnings else machine


def _records(text: str, where: str) -> list[_Record]:
    records: dict[Bdf, _Record] = {}
    current: _Record | None = None
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line[0] in " \t":
            continue
        match = _HEX_LINE.fullmatch(line)
        if match is not None:
            if current is None:
                raise _damaged("a hex line before the first function", where, number)
            current.append(int(match[1], 16), bytes.fromhex(match[2]), f"{where}:{number}")
        elif (head := _HEADLINE.match(line)) is not None:
            current = _start(head, records, where, number)
        elif current is not None and _HEX_START.match(line):
            raise _damaged(f"hex line of {current.bdf} is cut or damaged", where, number)
    return list(records.values())


def _start(head: re.Match[str], records: dict[Bdf, _Record], where: str, number: int) -> _Record:
    domain, bus, device, function = head.groups(default="0")
    bdf = Bdf(int(domain, 16), int(bus, 16), int(device, 16), int(function, 16))
    if bdf in records:
        raise InputError(
            f"function {bdf} is there twice, first in line {records[bdf].line}",
            f"{where}:{number}",
            "two dumps, or two boots of one machine, are in one file",
            "keep one dump per file",
        )
    records[bdf] = _Record(bdf, number)
    return records[bdf]


def _damaged(what: str, where: str, number: int) -> InputError:
    return InputError(what, f"{where}:{number}", "the dump is truncated or was edited", _TAKE_AGAIN)


def _device(record: _Record, where: str, extended: bool) -> Device:
    if len(record.data) < 16:
        raise InputError(
            f"function {record.bdf} has no configuration space",
            f"{where}:{record.line}",
            "lspci ran without -x options, or the dump is truncated here",
            _TAKE_AGAIN,
        )
    return decode(record.bdf, ConfigSpace(bytes(record.data), extended))


def _hidden(machine: Machine, extended: bool) -> Iterator[str]:
    hidden = [device.bdf for device in machine.devices if device.hidden]
    if hidden and extended:
        yield f"capabilities of {_some(hidden)} could not be read: take the dump as root"
    elif hidden:
        yield (
            f"no extended configuration space, so the ACS of {_some(hidden)} is unknown: "
            "use lspci -xxxx"
        )


def _unrooted(machine: Machine) -> Iterator[str]:
    lost = [device.bdf for device in machine.unrooted]
    if lost:
        yield f"{_some(lost)} must have a port above, but the dump has none: dump all functions"


def _some(places: list[Bdf]) -> str:
    return ", ".join(map(str, places[:4])) + (" ..." if len(places) > 4 else "")


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
