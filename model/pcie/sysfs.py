"""Reader of sysfs: a live ``/sys``, a copy of it, or a tar archive of one.

An archive is read in memory, member by member; nothing is unpacked, links are read as text and
never followed, and what is no plain file is not opened. In a folder, links are followed only inside
it. Recorded are the functions' configuration spaces, the tree that their paths form, and the
kernel's groups.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.configspace import FULL, ConfigSpace, decode
from dmaproof.model.pcie.device import NO_ID
from dmaproof.model.pcie.listed import from_paths, place, warnings
from dmaproof.model.pcie.lspci_verbose import BRIDGE_CLASSES
from dmaproof.model.pcie.topology import Bdf, Device, Fact, Machine, PortKind

PACK = (
    "tar --exclude='resource*' --exclude=rom -czf sys.tar.gz "
    "/sys/bus/pci/devices /sys/devices/pci* /sys/kernel/iommu_groups"
)
"""The command that makes an archive which this reader likes (as root)."""

_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_ALIKE = re.compile(r"[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+\.[0-9a-fA-F]+")
_NUMBERS = {
    "vendor",
    "device",
    "class",
    "subsystem_vendor",
    "subsystem_device",
    "secondary_bus_number",
    "subordinate_bus_number",
}
_WANTED = _NUMBERS | {"config"}
_MAX_ATTRIBUTE = 64 << 10
_MAX_MEMBERS = 5_000_000
_MAX_FUNCTIONS = 200_000
_HIDDEN = frozenset({Fact.KIND, Fact.ACS, Fact.CAPABILITIES})


@dataclass
class _Function:
    """What was found about one function."""

    path: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    group: int | None = None


@dataclass
class _Found:
    """What was found in a tree, and what could not be used of it."""

    where: str
    functions: dict[Bdf, _Function] = field(default_factory=dict)
    top: tuple[str, ...] | None = None
    ignored: dict[str, list[str]] = field(default_factory=dict)

    def function(self, name: str) -> _Function:
        """Return the record of a function, new at its first mention."""
        known = self.functions.setdefault(Bdf.parse(name), _Function())
        if len(self.functions) > _MAX_FUNCTIONS:
            raise _bad(
                f"more than {_MAX_FUNCTIONS} functions", self.where, "no tree of one machine"
            )
        return known

    def path(self, parts: tuple[str, ...]) -> _Function:
        """Note the path of a function; the longest one is the real one."""
        chain = tuple(part for part in parts if _FUNCTION.fullmatch(part))
        function = self.function(chain[-1])
        if any(map(_ROOT.fullmatch, parts)) and len(chain) > len(function.path):
            function.path = chain
        return function

    def other_tree(self, parts: tuple[str, ...]) -> bool:
        """Whether an entry belongs to a second tree beside the one that came first."""
        top = _top(parts)
        if top is None:
            return False
        if self.top is None:
            self.top = top
        return top != self.top

    def ignore(self, why: str, name: str) -> None:
        """Note that something was left out."""
        names = self.ignored.setdefault(why, [])
        if name not in names[-1:]:
            names.append(name)

    def notes(self) -> Iterator[str]:
        """Say what was left out."""
        for why, names in sorted(self.ignored.items()):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"ignored: {why}: {', '.join(names[:3])}{more}"


def read_tar(data: bytes, where: str) -> Machine:
    """Read a tar archive of sysfs, not compressed.

    Args:
        data: the archive.
        where: file name for messages, and the machine's name.

    Raises:
        InputError: a damaged archive, or no PCI functions in it.

    """
    found = _Found(where)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number > _MAX_MEMBERS:
                    raise _bad(f"more than {_MAX_MEMBERS} members", where, "no archive of sysfs")
                _member(archive, member, found)
            if data[archive.offset : archive.offset + 512] != bytes(512):
                rest = f"all after byte {archive.offset}, so that functions may be missing"
                found.ignore("the archive is cut or damaged", rest)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        cause = "the archive is truncated"
        raise _bad(f"a damaged archive: {str(error)[:80]}", where, cause) from error
    return _machine(found)


def _top(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the folders above ``devices``, ``bus/pci`` or ``kernel``; None outside of these."""
    for at, (part, following) in enumerate(pairwise((*parts, ""))):
        if (
            (part == "devices" and (_ROOT.fullmatch(following) or _FUNCTION.fullmatch(following)))
            or (part, following) in {("bus", "pci"), ("kernel", "iommu_groups")}
            or (part == "iommu_groups" and following)
        ):
            return parts[:at]
    return None


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, found: _Found) -> None:
    parts = tuple(part for part in member.name.split("/") if part not in {"", "."})
    if ".." in parts:
        found.ignore("a name that leaves the tree", member.name[:80])
        return
    if not parts:
        return
    strange = [part for part in parts if _ALIKE.fullmatch(part) and not _FUNCTION.fullmatch(part)]
    if strange:
        found.ignore("a name that is no PCI address", strange[0][:40])
        return
    if found.other_tree(parts):
        found.ignore("another tree", "/".join(_top(parts) or ())[:80] or ".")
        return
    if _group_entry(parts, found):
        return
    inside = len(parts) > 1 and _FUNCTION.fullmatch(parts[-2]) is not None
    if member.issym():
        _link(parts, member.linkname, found, inside=inside)
    elif inside and parts[-1] in _WANTED:
        function = found.path(parts[:-1])
        if not member.isreg():
            found.ignore("no plain file", member.name[:80])
        elif member.size > _MAX_ATTRIBUTE:
            found.ignore("an oversized file", f"{member.name[:80]} ({member.size} bytes)")
        else:
            stream = archive.extractfile(member)
            function.files[parts[-1]] = stream.read(_MAX_ATTRIBUTE) if stream else b""
    elif _FUNCTION.fullmatch(parts[-1]):
        found.path(parts)


def _link(parts: tuple[str, ...], target: str, found: _Found, *, inside: bool) -> None:
    steps = tuple(target.split("/"))
    if inside and parts[-1] == "iommu_group":
        _set_group(found, parts[-2], steps[-1])
    elif _FUNCTION.fullmatch(parts[-1]) and steps[-1] == parts[-1]:
        # bus/pci/devices: the link tells the real path, even if nothing is packed there
        found.path(("devices", *(step for step in steps if step != "bus")))
    elif inside and parts[-1] in _WANTED:
        found.ignore("a link in place of a file", "/".join(parts)[:80])


def _group_entry(parts: tuple[str, ...], found: _Found) -> bool:
    """Read ``.../iommu_groups/N/devices/ADDRESS``."""
    if len(parts) < 4 or parts[-4] != "iommu_groups" or parts[-2] != "devices":
        return False
    if _FUNCTION.fullmatch(parts[-1]):
        _set_group(found, parts[-1], parts[-3])
    return True


def _set_group(found: _Found, name: str, number: str) -> None:
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        found.ignore("no group number", number[:40])
        return
    function = found.function(name)
    if function.group not in {None, int(number)}:
        raise _bad(
            f"{name} is in group {function.group} and in group {int(number)}",
            found.where,
            "two trees, or two moments of one, were joined",
        )
    function.group = int(number)


# -- a folder --------------------------------------------------------------------------------------


def is_tree(folder: Path) -> bool:
    """Whether a folder is sysfs, or holds it."""
    return _base(folder) is not None


def _base(folder: Path) -> Path | None:
    """Return the folder that plays ``/sys``."""
    parts = folder.absolute().parts
    above = [folder, folder / "sys"]
    for tail in (("bus", "pci", "devices"), ("bus", "pci"), ("kernel", "iommu_groups")):
        if parts[-len(tail) :] == tail:
            above.append(Path(*parts[: -len(tail)]))
    if parts[-1] == "devices":
        above.append(Path(*parts[:-1]))
    for base in above:
        if (base / "bus" / "pci" / "devices").is_dir() or any((base / "devices").glob("pci*:*")):
            return base
    # What remains of bus/pci/devices when links are copied as what they point at.
    return next((base for base in (folder, folder / "devices") if _is_flat(base)), None)


def _is_flat(folder: Path) -> bool:
    return any(_FUNCTION.fullmatch(place.name) for place in folder.glob("*:*:*.*"))


def read_tree(folder: Path, where: str) -> Machine:
    """Read a live or copied sysfs.

    Args:
        folder: ``/sys``, a folder in it, or a copy.
        where: name for messages, and the machine's name.

    Raises:
        InputError: no PCI functions there.

    """
    base = _base(folder)
    if base is None:
        raise _bad("no PCI tree", where, "not sysfs: there is no bus/pci/devices")
    base = base.resolve()
    found = _Found(where)
    try:
        for place_ in _places(base):
            _folder(base, place_, found)
        for entry in sorted((base / "kernel" / "iommu_groups").glob("*/devices/*")):
            _group_entry(entry.parts, found)
    except OSError as error:
        raise _bad(f"cannot read: {error.strerror}", where, "no permission") from error
    return _machine(found)


def _places(base: Path) -> Iterator[Path]:
    listed = base / "bus" / "pci" / "devices"
    if listed.is_dir():
        yield from sorted(listed.iterdir())
        return
    if _is_flat(base):
        yield from sorted(base.iterdir())
        return
    for root in sorted((base / "devices").glob("pci*:*")):
        for here, inner, _ in os.walk(root):
            inner[:] = sorted(n for n in inner if _FUNCTION.fullmatch(n) or n.startswith("pci"))
            yield from (Path(here) / name for name in inner if _FUNCTION.fullmatch(name))


def _folder(base: Path, place_: Path, found: _Found) -> None:
    name = place_.name
    if not _FUNCTION.fullmatch(name):
        if _ALIKE.fullmatch(name):
            found.ignore("a name that is no PCI address", name[:40])
        return
    try:
        real = place_.resolve()
    except RuntimeError:  # links that lead round in a circle, before Python 3.13
        real = base.parent
    if not real.is_relative_to(base):
        found.ignore("a link out of the tree", name)
        return
    if not real.is_dir():
        found.ignore("a link to nowhere", name)
        return
    inside = real.relative_to(base).parts
    function = found.path(inside) if inside[-1] == name else found.function(name)
    for wanted in sorted(_WANTED):
        data = _read_plain(real / wanted)
        if data is not None:
            function.files[wanted] = data
    group = real / "iommu_group"
    if group.is_symlink():
        _set_group(found, name, group.readlink().name)


def _read_plain(path: Path) -> bytes | None:
    """Read the beginning of a plain file; None for anything else, which is not even opened."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(FULL)
    except OSError:
        return None


# -- both ------------------------------------------------------------------------------------------


def _machine(found: _Found) -> Machine:
    if not found.functions:
        raise _bad("no PCI function found", found.where, "not a tree of sysfs, or an empty one")
    short: list[str] = []
    devices = [_device(bdf, function, short) for bdf, function in found.functions.items()]
    paths = {bdf: function.path for bdf, function in found.functions.items()}
    roots = {bdf.segment_bus for bdf, path in paths.items() if len(path) == 1}
    devices = from_paths(devices, paths)
    placed, said = place(devices, [d.bdf for d in devices if quirks.is_vmd(d)], roots)
    recorded = {bdf: f.group for bdf, f in found.functions.items() if f.group is not None}
    notes = [*found.notes(), *said, *warnings(placed)]
    if short:
        notes.append(f"no usable configuration space of {', '.join(short[:4])}")
    return Machine(found.where, placed, notes, recorded)


def _device(bdf: Bdf, function: _Function, short: list[str]) -> Device:
    data = function.files.get("config", b"")[:FULL]
    if len(data) < 64:
        short.append(str(bdf))
        return _without_config(bdf, function)
    if _cut_off(data):
        data = data[:64]
    # A config file of 256 bytes means that the kernel, too, cannot reach what comes after.
    device = decode(bdf, ConfigSpace(data, extended_read=len(data) >= 256))
    if device.vendor in {0, NO_ID} and (vendor := _number(function, "vendor")):
        # A virtual function, or one that is asleep, reads as ones; the kernel knows its ids.
        number = _number(function, "device")
        known = device.unknown - {Fact.IDS}
        device = replace(device, vendor=vendor, device=number, unknown=known)
        device = replace(device, aliases=quirks.quirk_aliases(device))
    return device


def _cut_off(data: bytes) -> bool:
    """Whether only 64 bytes were readable and tar filled up with zeros."""
    space = ConfigSpace(data)
    announced = next(space.capabilities(), None) is not None
    return announced and not any(data[64:])


def _without_config(bdf: Bdf, function: _Function) -> Device:
    code = (_number(function, "class") or 0xFF0000) >> 8
    vendor, number = _number(function, "vendor"), _number(function, "device")
    secondary = _number(function, "secondary_bus_number")
    header = BRIDGE_CLASSES.get(code, 1 if secondary else 0)
    unknown = _HIDDEN if vendor else _HIDDEN | {Fact.IDS}
    owner = _number(function, "subsystem_vendor") << 16 | _number(function, "subsystem_device")
    device = Device(
        bdf=bdf,
        kind=PortKind.CONVENTIONAL_BRIDGE if header else PortKind.CONVENTIONAL,
        vendor=vendor,
        device=number,
        class_code=code,
        subsystem=0 if header else owner,
        header_type=header,
        secondary=secondary or None if header else None,
        subordinate=(_number(function, "subordinate_bus_number") or secondary) or None
        if header and secondary
        else None,
        unknown=unknown,
    )
    return replace(device, aliases=quirks.quirk_aliases(device))


def _number(function: _Function, name: str) -> int:
    """Return a number from an attribute, 0 where it is missing or no number."""
    text = function.files.get(name, b"").rstrip(b"\0").strip()
    base = 10 if name.endswith("number") else 16
    try:
        value = int(text, base)
    except ValueError:
        return 0
    limit = {"class": 0xFFFFFF, "secondary_bus_number": 255, "subordinate_bus_number": 255}
    return value if 0 <= value <= limit.get(name, 0xFFFF) else 0


def _bad(what: str, where: str, cause: str) -> InputError:
    return InputError(what, where, cause, f"pack it again as root: {PACK}")
