"""Reader of NixOS hardware reports (``facter.json``): ids, tree and groups, no capabilities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.listed import from_paths, place, warnings
from dmaproof.model.pcie.lspci_verbose import BRIDGE_CLASSES
from dmaproof.model.pcie.topology import Bdf, Device, Fact, Machine, PortKind

_PCI = re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]")
_HIDDEN = frozenset({Fact.KIND, Fact.ACS, Fact.CAPABILITIES})
_MAX_ENTRIES = 200_000


def is_facter(raw: object) -> bool:
    """Whether parsed JSON looks like a hardware report."""
    return isinstance(raw, dict) and isinstance(raw.get("hardware"), dict)


@dataclass(frozen=True)
class _Entry:
    """One PCI function of a report."""

    device: Device
    path: tuple[str, ...]
    group: int | None


def from_facter(text: str, where: str = "facter.json") -> Machine:
    """Read a hardware report.

    The report shows ids, the tree and the kernel's groups, and neither PCIe types nor ACS, so all
    of that is unknown in the machine.

    Args:
        text: JSON.
        where: file name for messages, and the machine's name.

    Raises:
        InputError: no JSON, no report, no PCI functions, an entry of the wrong type.

    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON: {str(error)[:120]}", where, "the file is truncated") from error
    if not is_facter(raw):
        raise _bad("no hardware report: key `hardware` is missing", where, "another kind of file")
    entries: dict[Bdf, _Entry] = {}
    for entry in _entries(raw["hardware"], where):
        other = entries.setdefault(entry.device.bdf, entry)
        if other != entry:
            what = f"{entry.device.bdf} is there twice, and differently"
            raise _bad(what, where, "two reports were joined")
    if not entries:
        raise _bad("no PCI function found", where, "a report of a machine without PCI")
    devices = from_paths(
        [e.device for e in entries.values()], {b: e.path for b, e in entries.items()}
    )
    owners = [device.bdf for device in devices if quirks.is_vmd(device)]
    placed, said = place(devices, owners, _roots(entries))
    recorded = {bdf: e.group for bdf, e in entries.items() if e.group is not None}
    return Machine(where, placed, [*said, *warnings(placed)], recorded)


def _roots(entries: dict[Bdf, _Entry]) -> set[tuple[int, int]]:
    """Return the root buses: those whose functions have nobody above on their path."""
    return {bdf.segment_bus for bdf, entry in entries.items() if len(entry.path) == 1}


def _entries(hardware: dict[str, Any], where: str) -> Iterator[_Entry]:
    count = 0
    for category, listed in hardware.items():
        if not isinstance(listed, list):
            continue
        for number, raw in enumerate(listed):
            count += 1
            if count > _MAX_ENTRIES:
                raise _bad(f"more than {_MAX_ENTRIES} entries", where, "no report of one machine")
            if isinstance(raw, dict) and _is_pci(raw):
                yield _entry(raw, f"{where}: hardware.{category}.{number}")


def _is_pci(raw: dict[str, Any]) -> bool:
    name = raw.get("sysfs_bus_id")
    return isinstance(name, str) and _PCI.fullmatch(name) is not None


def _entry(raw: dict[str, Any], place_: str) -> _Entry:
    bdf = Bdf.parse(raw["sysfs_bus_id"], f"{place_}.sysfs_bus_id")
    code = _value(raw, "base_class", place_) << 8 | _value(raw, "sub_class", place_)
    detail = raw.get("detail")
    header = detail.get("header_type") if isinstance(detail, dict) else None
    bus = detail.get("secondary_bus") if isinstance(detail, dict) else None
    header = header if type(header) is int and 0 <= header <= 2 else BRIDGE_CLASSES.get(code, 0)
    secondary = bus if header and type(bus) is int and 0 < bus < 256 else None
    owner, owned = _value(raw, "sub_vendor", place_), _value(raw, "sub_device", place_)
    device = Device(
        bdf=bdf,
        kind=PortKind.CONVENTIONAL_BRIDGE if header else PortKind.CONVENTIONAL,
        vendor=_value(raw, "vendor", place_),
        device=_value(raw, "device", place_),
        class_code=code & 0xFFFF,
        subsystem=0 if header else owner << 16 | owned,
        header_type=header,
        secondary=secondary,
        subordinate=secondary,
        unknown=_HIDDEN,
    )
    group = raw.get("sysfs_iommu_group_id")
    if group is not None and (not isinstance(group, int) or isinstance(group, bool) or group < 0):
        raise _bad(f"{group!r:.40} is no group number", f"{place_}.sysfs_iommu_group_id", "damage")
    return _Entry(device, _path(raw.get("sysfs_id"), bdf), group)


def _value(raw: dict[str, Any], name: str, place_: str) -> int:
    """Return the number under a key like ``"vendor": {"hex": "8086", "value": 32902}``; 0: none."""
    found = raw.get(name)
    if found is None:
        return 0
    value = found.get("value") if isinstance(found, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise _bad(f"no number of 16 bits under {name}", f"{place_}.{name}", "a damaged report")
    return value


def _path(raw: object, bdf: Bdf) -> tuple[str, ...]:
    """Return the addresses on the sysfs path of a function, itself last; () if there is none."""
    steps = tuple(raw.split("/")) if isinstance(raw, str) else ()
    chain = tuple(step for step in steps if _PCI.fullmatch(step))
    return chain if chain and Bdf.parse(chain[-1]) == bdf else ()


def _bad(what: str, where: str, cause: str) -> InputError:
    return InputError(what, where, cause, "make the report again: nixos-facter -o facter.json")
