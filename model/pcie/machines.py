"""Built-in machines, and loading of machines by name or from a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.contents import as_text, contents, folder_of, is_tar
from dmaproof.model.pcie.dmar import is_dmar
from dmaproof.model.pcie.facter import from_facter
from dmaproof.model.pcie.lspci import read_lspci
from dmaproof.model.pcie.machine_json import SCHEMA, from_json, to_json
from dmaproof.model.pcie.sysfs import read_tar, read_tree
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind, Sriov

__all__ = ["SETTINGS", "from_json", "load", "machine", "names", "to_json"]

CAPABLE = 0x5F
"""SV TB RR CR UF DT: what the built-in ports with ACS implement."""

SETTINGS: dict[str, Acs | None] = {
    "on": Acs(CAPABLE, 0x1D),
    "off": Acs(CAPABLE, 0),
    "rruf": Acs(CAPABLE, 0x14),
    "nocap": None,
}
"""Names of ACS settings in machine names: SV RR CR UF on; all off; RR UF on; no capability."""

PASID_WIDTH = 20

_NAME = re.compile(r"([A-Z0-9]+)(?:\(([^()]*)\))?")


def _port(
    place: str, kind: PortKind, buses: tuple[int, int], acs: Acs | None, label: str
) -> Device:
    return Device(
        bdf=Bdf.parse(place),
        kind=kind,
        vendor=0x1B36,
        device=0x000C,
        class_code=0x0604,
        header_type=1,
        acs=acs,
        secondary=buses[0],
        subordinate=buses[1],
        label=label,
    )


def _root_port(place: str, buses: tuple[int, int], acs: Acs | None, label: str = "RP") -> Device:
    return _port(place, PortKind.ROOT_PORT, buses, acs, label)


def _endpoint(place: str, label: str, acs: Acs | None = None) -> Device:
    return Device(
        bdf=Bdf.parse(place),
        vendor=0x1B36,
        device=0x0010,
        class_code=0x0200,
        acs=acs,
        pasid=PASID_WIDTH,
        pasid_execute=True,
        pasid_privileged=True,
        label=label,
    )


def _single() -> list[Device]:
    return [_root_port("00:01.0", (1, 1), SETTINGS["on"]), _endpoint("01:00.0", "A")]


def _two_singles() -> list[Device]:
    return [
        _root_port("00:01.0", (1, 1), SETTINGS["on"], "RP1"),
        _root_port("00:02.0", (2, 2), SETTINGS["on"], "RP2"),
        _endpoint("01:00.0", "A"),
        _endpoint("02:00.0", "B"),
    ]


def _switch(first: Acs | None, second: Acs | None, root: Acs | None) -> list[Device]:
    return [
        _root_port("00:01.0", (1, 4), root),
        _port("01:00.0", PortKind.UPSTREAM, (2, 4), None, "USP"),
        _port("02:00.0", PortKind.DOWNSTREAM, (3, 3), first, "DSP1"),
        _port("02:01.0", PortKind.DOWNSTREAM, (4, 4), second, "DSP2"),
        _endpoint("03:00.0", "A"),
        _endpoint("04:00.0", "B"),
    ]


def _multifunction(acs: Acs | None) -> list[Device]:
    return [
        _root_port("00:01.0", (1, 1), SETTINGS["on"]),
        _endpoint("01:00.0", "A.0", acs),
        _endpoint("01:00.1", "A.1", acs),
    ]


def _bridge() -> list[Device]:
    conventional = [
        Device(
            bdf=Bdf.parse(place),
            kind=PortKind.CONVENTIONAL,
            vendor=0x1B36,
            device=0x0005,
            class_code=0x0200,
            label=label,
        )
        for place, label in (("02:01.0", "A"), ("02:02.0", "B"))
    ]
    return [
        _root_port("00:01.0", (1, 2), SETTINGS["on"]),
        _port("01:00.0", PortKind.PCIE_TO_PCI_BRIDGE, (2, 2), None, "BR"),
        *conventional,
    ]


def _ghost_alias() -> list[Device]:
    function = replace(_endpoint("01:00.0", "A"), aliases=frozenset({Bdf.parse("01:00.1")}))
    return [_root_port("00:01.0", (1, 1), SETTINGS["on"]), function]


def _sibling_alias() -> list[Device]:
    # ACS on in the functions: the shared requester id is then the only channel.
    first = _endpoint("01:00.0", "A", SETTINGS["on"])
    second = _endpoint("01:00.1", "B", SETTINGS["on"])
    first = replace(first, aliases=frozenset({second.bdf}))
    return [_root_port("00:01.0", (1, 1), SETTINGS["on"]), first, second]


def _three_functions() -> list[Device]:
    return [
        _root_port("00:01.0", (1, 1), SETTINGS["on"]),
        _endpoint("01:00.0", "A", SETTINGS["off"]),
        _endpoint("01:00.2", "B", SETTINGS["off"]),
        _endpoint("01:00.6", "C", SETTINGS["on"]),
    ]


def _virtual_functions() -> list[Device]:
    physical = replace(_endpoint("01:00.0", "PF"), sriov=Sriov(True, 2, 2, 1, 1))
    virtual = [
        replace(_endpoint(f"01:00.{number}", f"VF{number}"), pasid=None) for number in (1, 2)
    ]
    return [_root_port("00:01.0", (1, 1), SETTINGS["on"]), physical, *virtual]


_BUILDERS: dict[str, tuple[int, Callable[..., list[Device]]]] = {
    "S": (0, _single),
    "SS": (0, _two_singles),
    "SW": (2, lambda x, y: _switch(x, y, SETTINGS["on"])),
    "SWR": (0, lambda: _switch(SETTINGS["off"], SETTINGS["off"], SETTINGS["off"])),
    "SWG": (0, lambda: _switch(SETTINGS["rruf"], SETTINGS["rruf"], SETTINGS["rruf"])),
    "MF": (1, _multifunction),
    "BR": (0, _bridge),
    "AL": (0, _ghost_alias),
    "AL2": (0, _sibling_alias),
    "T3": (0, _three_functions),
    "VF": (0, _virtual_functions),
}

_DEFAULT_NAMES = (
    "S",
    "SS",
    "SW(on,on)",
    "SW(off,off)",
    "SW(off,on)",
    "SW(on,off)",
    "SW(nocap,nocap)",
    "SW(rruf,rruf)",
    "SWR",
    "SWG",
    "MF(on)",
    "MF(off)",
    "MF(nocap)",
    "BR",
    "AL",
    "AL2",
    "T3",
    "VF",
)


def names() -> tuple[str, ...]:
    """Return the built-in machines that commands use when none is named."""
    return _DEFAULT_NAMES


def machine(name: str) -> Machine:
    """Return the built-in machine *name*, for example ``SS`` or ``SW(off,nocap)``.

    Raises:
        InputError: there is no such machine, or an ACS setting has another name.

    """
    match = _NAME.fullmatch("".join(name.split()))
    if match is None or match[1] not in _BUILDERS:
        raise _unknown(name)
    arguments = [] if match[2] is None else match[2].split(",")
    count, build = _BUILDERS[match[1]]
    if len(arguments) != count or any(argument not in SETTINGS for argument in arguments):
        raise InputError(
            f"{name[:60]!r} needs {count} ACS settings of {', '.join(SETTINGS)}",
            "machine",
            "a typing error, or a setting too many or too few",
            "write for example S, SS, SW(off,on) or MF(nocap)",
        )
    label = match[1] + (f"({','.join(arguments)})" if arguments else "")
    return Machine(label, build(*(SETTINGS[argument] for argument in arguments)))


def load(path_or_name: str) -> Machine:
    """Return a machine from a dump of any kind, or by its built-in name.

    Read are lspci text, machine files and hardware reports in JSON, sysfs as a folder or tar
    archive; files may be compressed. A name wins over a file of the same name; write ``./SS`` for
    the file.

    Raises:
        InputError: neither a file nor a name, or the file's contents are bad.

    """
    match = _NAME.fullmatch("".join(path_or_name.split()))
    if match is not None and match[1] in _BUILDERS:
        return machine(path_or_name)
    if not path_or_name or "\0" in path_or_name:
        raise _unknown(path_or_name)
    folder = folder_of(path_or_name)
    if folder is not None:
        return read_tree(folder, path_or_name)
    data = contents(path_or_name, _unknown)
    if is_tar(data):
        return read_tar(data, path_or_name)
    if is_dmar(data):
        raise InputError(
            "this is an ACPI DMAR table, which holds IOMMU units and no functions",
            path_or_name,
            "a table in place of a dump",
            f"show it with: dmaproof machine dmar {path_or_name}",
        )
    return _from_text(as_text(data, path_or_name), path_or_name)


def _from_text(text: str, where: str) -> Machine:
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return read_lspci(text, where)
    if '"sysfs_bus_id"' in text and SCHEMA not in text[:4096]:
        return from_facter(text.lstrip("\ufeff"), where)
    return from_json(text.lstrip("\ufeff"), where)


def _unknown(name: str) -> InputError:
    return InputError(
        f"{name[:80]!r} is neither a file nor a built-in machine",
        "machine",
        "a typing error in the path or the name",
        f"give a file, or one of: {', '.join(_DEFAULT_NAMES)}",
    )
