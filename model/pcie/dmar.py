"""ACPI DMAR tables: which VT-d unit a function is under, and what firmware says about ATS.

Layouts are those of the VT-d specification, chapter 8. A table is read from its bytes, or from text
that shows them: the output of ``iasl -d`` or ``acpidump``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

from dmaproof.model.errors import InputError
from dmaproof.model.rules import rule

HEADER = 48
MAX_TABLE = 1 << 20
INTERRUPT_REMAPPING, X2APIC_OPT_OUT, DMA_OPT_IN = 1, 2, 4
"""Flags of the table."""

_SIGNATURE = b"DMAR"
_HEX_LINE = re.compile(r"[ \t]*([0-9A-Fa-f]{4,8}): (.*)")
_BYTE = re.compile(r"[0-9A-Fa-f]{2}")
_TAKE = "take it again as root: cp /sys/firmware/acpi/tables/DMAR dmar.bin"


class ScopeKind(IntEnum):
    """What a device scope entry points at."""

    ENDPOINT = 1
    BRIDGE = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5

    @property
    def is_pci(self) -> bool:
        """Whether it is a PCI function of its own."""
        return self <= ScopeKind.BRIDGE


@dataclass(frozen=True)
class Scope:
    """One device scope entry.

    Attributes:
        kind: what it points at.
        enumeration: APIC, HPET or namespace number.
        bus: bus the path starts on.
        path: (device, function) of each step.

    """

    kind: ScopeKind
    enumeration: int
    bus: int
    path: tuple[tuple[int, int], ...]

    @property
    def place(self) -> str:
        """Start bus and path, for example ``00:1c.0/00.0``."""
        steps = "/".join(f"{device:02x}.{function}" for device, function in self.path)
        return f"{self.bus:02x}:{steps}"

    def __str__(self) -> str:
        text = self.place
        if not self.kind.is_pci:
            text += f" ({self.kind.name.lower()} {self.enumeration})"
        return text + (" and below" if self.kind is ScopeKind.BRIDGE else "")


@dataclass(frozen=True)
class Unit:
    """A remapping unit (DRHD).

    Attributes:
        segment: PCI segment.
        registers: physical address of its registers.
        include_all: it has every PCI function of the segment that no other unit names.
        scopes: what else is under it.

    """

    segment: int
    registers: int
    include_all: bool
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class Reserved:
    """A reserved memory region (RMRR) that its devices keep using.

    Attributes:
        segment: PCI segment.
        base: first byte.
        limit: last byte.
        scopes: the devices.

    """

    segment: int
    base: int
    limit: int
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class AtsPorts:
    """Root ports that can pass ATS on (ATSR).

    Attributes:
        segment: PCI segment.
        all_ports: all of the segment.
        scopes: the ports otherwise.

    """

    segment: int
    all_ports: bool
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class AtsDevices:
    """Integrated devices with an address translation cache (SATC).

    Attributes:
        segment: PCI segment.
        required: the devices need ATS to work.
        scopes: the devices.

    """

    segment: int
    required: bool
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class Properties:
    """Integrated devices with properties (SIDP).

    Attributes:
        segment: PCI segment.
        scopes: the devices.

    """

    segment: int
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class Affinity:
    """Proximity domain of a unit (RHSA).

    Attributes:
        registers: the unit, by the address of its registers.
        domain: proximity domain.

    """

    registers: int
    domain: int


@dataclass(frozen=True)
class Namespace:
    """A device of the ACPI namespace that sends requests (ANDD).

    Attributes:
        number: the enumeration number that scopes use.
        name: its path in the namespace.

    """

    number: int
    name: str


@dataclass(frozen=True)
class DmarTable:
    """A DMAR table.

    Attributes:
        revision: of the table.
        oem: vendor and table name of the firmware.
        address_width: bits of a DMA address the platform supports.
        flags: `INTERRUPT_REMAPPING`, `X2APIC_OPT_OUT`, `DMA_OPT_IN`.
        units: DRHD, in table order.
        reserved: RMRR.
        ats_ports: ATSR.
        affinities: RHSA.
        names: ANDD.
        ats_devices: SATC.
        properties: SIDP.
        warnings: what is wrong without making the table unusable.

    """

    revision: int
    oem: str
    address_width: int
    flags: int
    units: tuple[Unit, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    ats_ports: tuple[AtsPorts, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    names: tuple[Namespace, ...] = ()
    ats_devices: tuple[AtsDevices, ...] = ()
    properties: tuple[Properties, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)


T = TypeVar("T")
Structure = Unit | Reserved | AtsPorts | AtsDevices | Properties | Affinity | Namespace


def is_dmar(data: bytes) -> bool:
    """Whether *data* is a DMAR table, or text that shows one."""
    start = data[:4096].lstrip()
    if start.startswith(_SIGNATURE) and len(data) >= 8:
        return True
    return b'Signature : "DMAR"' in start or (start.startswith(b"/*") and b"DMAR" in start)


def read_dmar(data: bytes, where: str = "DMAR") -> DmarTable:
    """Read a table from bytes, or from text of iasl or acpidump that shows its bytes.

    Raises:
        InputError: no table, no raw bytes in the text, lengths that do not fit.

    """
    raw = data if _looks_binary(data) else _bytes_of_text(data, where)
    if len(raw) < HEADER or raw[:4] != _SIGNATURE:
        raise _bad("no DMAR table", where, "another table, or a file cut after a few bytes")
    warnings: list[str] = []
    length = int.from_bytes(raw[4:8], "little")
    if length < HEADER or length > len(raw) or length > MAX_TABLE:
        raise _bad(
            f"the table says it has {length} bytes, but {len(raw)} are there",
            where,
            "the file is cut, or bytes were changed",
        )
    if length < len(raw):
        warnings.append(f"{len(raw) - length} bytes after the end of the table are ignored")
    if sum(raw[:length]) & 0xFF:
        warnings.append("the checksum is wrong: firmware wrote it so, or bytes were changed")
    structures = list(_structures(raw[:length], where, warnings))
    return DmarTable(
        revision=raw[8],
        oem=" ".join(part for part in (_ascii(raw[10:16]), _ascii(raw[16:24])) if part),
        address_width=raw[36] + 1,
        flags=raw[37],
        units=_only(structures, Unit),
        reserved=_only(structures, Reserved),
        ats_ports=_only(structures, AtsPorts),
        affinities=_only(structures, Affinity),
        names=_only(structures, Namespace),
        ats_devices=_only(structures, AtsDevices),
        properties=_only(structures, Properties),
        warnings=tuple(warnings),
    )


def _only(structures: list[Structure], kind: type[T]) -> tuple[T, ...]:
    return tuple(each for each in structures if isinstance(each, kind))


def _looks_binary(data: bytes) -> bool:
    """Whether it begins like a table: text would go on with blanks or a line end."""
    return data[:4] == _SIGNATURE and data[4:5] not in {b"\n", b"\r", b" ", b"\t"}


def _bytes_of_text(data: bytes, where: str) -> bytes:
    """Collect the hex lines of the table from text."""
    text = data[: 64 * MAX_TABLE].decode("latin-1")
    table = bytearray()
    inside = False
    for line in text.splitlines():
        match = _HEX_LINE.fullmatch(line)
        if match is None:
            continue
        offset, values = int(match[1], 16), _values(match[2])
        if offset == 0:
            if inside:
                break  # the table is over and another one begins
            table.clear()
            inside = values[:4] == _SIGNATURE
        if inside and offset == len(table):
            table += values
        elif inside:
            raise _bad(f"hex line {offset:x} is out of order", where, "lines are missing")
    if not inside:
        raise _bad("no raw bytes of a DMAR table in this text", where, "the raw data was cut off")
    return bytes(table)


def _values(text: str) -> bytes:
    """Return the bytes that a hex line begins with, at most 16."""
    values = []
    for part in text.split(" ")[:16]:
        if _BYTE.fullmatch(part) is None:
            break
        values.append(int(part, 16))
    return bytes(values)


@rule(
    "vtd.dmar.structures",
    "VT-d 8.2",
    "remapping structures follow the header, each with type and length; unknown types are skipped",
)
def _structures(raw: bytes, where: str, warnings: list[str]) -> Iterator[Structure]:
    offset = HEADER
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise _bad(f"{len(raw) - offset} stray bytes at {offset:x}", where, "a wrong length")
        kind, length = _int(raw, offset, 2), _int(raw, offset + 2, 2)
        name, least = _KINDS.get(kind, (f"structure of type {kind}", 4))
        place = f"{where}: {name} at {offset:x}"
        if length < least or offset + length > len(raw):
            raise _bad(
                f"length {length} of the structure cannot be right",
                place,
                "bytes were changed, or firmware is broken",
            )
        body = raw[offset : offset + length]
        if kind in _KINDS:
            yield _structure(kind, body, place, warnings)
        else:
            warnings.append(f"ignored: {name} at {offset:x}, which the specification does not have")
        offset += length


_KINDS: dict[int, tuple[str, int]] = {
    0: ("DRHD", 16),
    1: ("RMRR", 24),
    2: ("ATSR", 8),
    3: ("RHSA", 20),
    4: ("ANDD", 8),
    5: ("SATC", 8),
    6: ("SIDP", 8),
}
"""Name and least length in bytes of each type (VT-d 8.3 to 8.9)."""


def _structure(kind: int, body: bytes, place: str, warnings: list[str]) -> Structure:
    segment, flags = _int(body, 6, 2), body[4]
    match kind:
        case 0:
            scopes = _scopes(body[16:], place, warnings)
            return Unit(segment, _int(body, 8, 8), bool(flags & 1), scopes)
        case 1:
            base, limit = _int(body, 8, 8), _int(body, 16, 8)
            if limit < base:
                warnings.append(f"{place}: the region ends before it begins")
            return Reserved(segment, base, limit, _scopes(body[24:], place, warnings))
        case 2:
            return AtsPorts(segment, bool(flags & 1), _scopes(body[8:], place, warnings))
        case 3:
            return Affinity(_int(body, 8, 8), _int(body, 16, 4))
        case 4:
            return Namespace(body[7], _ascii(body[8:]))
        case 5:
            return AtsDevices(segment, bool(flags & 1), _scopes(body[8:], place, warnings))
    return Properties(segment, _scopes(body[8:], place, warnings))


@rule(
    "vtd.dmar.scope",
    "VT-d 8.3.1",
    "a scope has type, length, enumeration number, start bus and a path of device and function",
)
def _scopes(raw: bytes, place: str, warnings: list[str]) -> tuple[Scope, ...]:
    found: list[Scope] = []
    offset = 0
    while offset < len(raw):
        length = raw[offset + 1] if offset + 1 < len(raw) else 0
        if length < 8 or length % 2 or offset + length > len(raw):
            raise _bad(
                f"length {length} of a device scope cannot be right",
                place,
                "bytes were changed, or firmware is broken",
            )
        entry = raw[offset : offset + length]
        path = tuple((entry[at], entry[at + 1]) for at in range(6, length, 2))
        offset += length
        if entry[0] not in set(ScopeKind):
            warnings.append(f"{place}: ignored: a scope of type {entry[0]}")
        elif any(device > 31 or function > 7 for device, function in path):
            warnings.append(f"{place}: ignored: a scope whose path is no PCI address")
        else:
            found.append(Scope(ScopeKind(entry[0]), entry[4], entry[5], path))
    return tuple(found)


def _int(raw: bytes, offset: int, size: int) -> int:
    return int.from_bytes(raw[offset : offset + size], "little")


def _ascii(raw: bytes) -> str:
    text = raw.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(c if c.isprintable() else "?" for c in text).strip()


def _bad(what: str, where: str, cause: str) -> InputError:
    return InputError(what, where, cause, _TAKE)
