"""Machines as JSON, schema ``dmaproof/machine/1``."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind, Sriov

SCHEMA = "dmaproof/machine/1"
_MAX_DEVICES = 200_000


def _number(value: object) -> object:
    """Accept ``"0x1d"`` beside 29: registers are written in hexadecimal."""
    if isinstance(value, str) and value[:2] in {"0x", "0X"}:
        return int(value, 16)
    return value


Word = Annotated[int, BeforeValidator(_number), Field(ge=0, le=0xFFFF, strict=True)]
Byte = Annotated[int, BeforeValidator(_number), Field(ge=0, le=0xFF, strict=True)]
Dword = Annotated[int, BeforeValidator(_number), Field(ge=0, le=0xFFFFFFFF, strict=True)]
Vector = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=1 << 256, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
_Strict = ConfigDict(extra="forbid")


class _AcsFile(BaseModel):
    model_config = _Strict
    capability: Word
    control: Word
    egress: Vector = 0


class _SriovFile(BaseModel):
    model_config = _Strict
    enabled: Flag
    total: Word
    number: Word
    offset: Word
    stride: Word
    device: Word = 0


class _DeviceFile(BaseModel):
    model_config = _Strict
    bdf: str
    kind: PortKind = PortKind.ENDPOINT
    vendor: Word = 0
    device: Word = 0
    class_code: Word = 0
    subsystem: Dword = 0
    header_type: Annotated[int, Field(ge=0, le=2, strict=True)] = 0
    multifunction: Flag = False
    acs: _AcsFile | None = None
    pasid: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    pasid_execute: Flag = False
    pasid_privileged: Flag = False
    ats: Flag = False
    pri: Flag = False
    sriov: _SriovFile | None = None
    secondary: Byte | None = None
    subordinate: Byte | None = None
    port_number: Byte = 0
    label: Annotated[str, Field(max_length=40, pattern=r"^[!-~]*$")] = ""
    hidden: Flag = False
    unknown: list[Fact] = []
    aliases: list[str] = []
    real_dma: str | None = None
    own_memory: Flag = False


_SPECIAL = frozenset({"bdf", "kind", "acs", "sriov", "aliases", "hidden", "unknown", "real_dma"})
"""Keys that are not written as the plain field of the same name."""


class _MachineFile(BaseModel):
    model_config = _Strict
    schema_: Literal["dmaproof/machine/1"] = Field(alias="schema")
    name: str = ""
    devices: list[_DeviceFile]
    groups: dict[str, Annotated[int, Field(ge=0, strict=True)]] = {}


def to_json(machine: Machine) -> str:
    """Return *machine* as JSON text; `from_json` reads it back."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "name": machine.name,
        "devices": [_device_to_json(device) for device in machine.devices],
    }
    if machine.recorded:
        body["groups"] = {str(bdf): group for bdf, group in sorted(machine.recorded.items())}
    return json.dumps(body, indent=1) + "\n"


def _device_to_json(device: Device) -> dict[str, Any]:
    plain = _DeviceFile.model_fields
    values: dict[str, Any] = {"bdf": str(device.bdf), "kind": str(device.kind)}
    for name in plain.keys() - _SPECIAL:
        if getattr(device, name) != plain[name].default:
            values[name] = getattr(device, name)
    if device.acs is not None:
        values["acs"] = {
            "capability": hex(device.acs.capability),
            "control": hex(device.acs.control),
        }
        if device.acs.egress:
            values["acs"]["egress"] = hex(device.acs.egress)
    if device.sriov is not None:
        values["sriov"] = {name: getattr(device.sriov, name) for name in _SriovFile.model_fields}
    if device.unknown:
        values["unknown"] = sorted(device.unknown)
    if device.real_dma is not None:
        values["real_dma"] = str(device.real_dma)
    if device.aliases:
        values["aliases"] = [str(alias) for alias in sorted(device.aliases)]
    for name in ("vendor", "device", "class_code", "subsystem", "secondary", "subordinate"):
        if name in values:
            values[name] = hex(values[name])
    order = list(plain)
    return dict(sorted(values.items(), key=lambda item: order.index(item[0])))


def from_json(text: str, where: str = "machine.json") -> Machine:
    """Read a machine file.

    Args:
        text: JSON, schema ``dmaproof/machine/1``.
        where: file name for messages.

    Raises:
        InputError: no JSON, unknown key, wrong type, value out of range, or no tree.

    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not JSON: {str(error)[:120]}",
            where,
            "a missing comma or quote, or the file is truncated",
            "see `dmaproof machine` for a file to start from",
        ) from error
    listed = raw.get("devices") if isinstance(raw, dict) else None
    if isinstance(listed, list) and len(listed) > _MAX_DEVICES:
        raise InputError(
            f"{len(listed)} functions",
            f"{where}: devices",
            "not a description of one machine",
            f"give at most {_MAX_DEVICES} functions",
        )
    try:
        parsed = _MachineFile.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, where) from error
    devices = [_device(number, entry, where) for number, entry in enumerate(parsed.devices)]
    recorded = _recorded(parsed.groups, {device.bdf for device in devices}, where)
    try:
        return Machine(parsed.name or where, devices, recorded=recorded)
    except InputError as error:
        error.where = f"{where}: {error.where}" if error.where not in {"", where} else where
        raise


def _recorded(listed: dict[str, int], known: set[Bdf], where: str) -> dict[Bdf, int]:
    recorded = {Bdf.parse(text, f"{where}: groups"): group for text, group in listed.items()}
    strangers = sorted(recorded.keys() - known)
    if strangers:
        raise InputError(
            f"{strangers[0]} has a group but is no function of the machine",
            f"{where}: groups",
            "groups of another machine, or a function was taken out",
            "give groups of the functions under devices only",
        )
    return recorded


def _device(number: int, entry: _DeviceFile, where: str) -> Device:
    place = f"{where}: devices.{number}"
    bdf = Bdf.parse(entry.bdf, f"{place}.bdf")
    aliases = frozenset(Bdf.parse(alias, f"{place}.aliases") for alias in entry.aliases)
    if any(alias.segment_bus != bdf.segment_bus for alias in aliases):
        raise InputError(
            f"an alias of {bdf} lies on another bus",
            f"{place}.aliases",
            "a DMA alias quirk stays on the bus of its function",
            "give requester ids of the same bus",
        )
    if (entry.secondary is not None) and entry.header_type == 0:
        raise InputError(
            f"{bdf} has a secondary bus but header type 0",
            f"{place}.header_type",
            "the header type of the bridge was forgotten",
            'write "header_type": 1',
        )
    rest = entry.model_dump(exclude=set(_SPECIAL - {"kind"}))
    unknown = frozenset(entry.unknown)
    if entry.hidden:  # older files: capabilities exist that could not be read
        unknown |= {Fact.ACS, Fact.CAPABILITIES}
    return Device(
        bdf=bdf,
        unknown=unknown,
        real_dma=Bdf.parse(entry.real_dma, f"{place}.real_dma") if entry.real_dma else None,
        aliases=aliases - {bdf},
        acs=Acs(**entry.acs.model_dump()) if entry.acs else None,
        sriov=Sriov(**entry.sriov.model_dump()) if entry.sriov else None,
        **rest,
    )


def _explain(error: ValidationError, where: str) -> InputError:
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    causes = {
        "extra_forbidden": ("unknown key", "a misspelt key, or a newer file"),
        "missing": ("key is missing", "the key was forgotten"),
        "literal_error": ("unknown schema", "another kind of file, or a newer one"),
    }
    what, cause = causes.get(first["type"], (first["msg"], "a value of the wrong type or range"))
    known = ", ".join(sorted(_DeviceFile.model_fields))
    remedy = f"keys of a device are: {known}" if "devices" in key else f'use "schema": "{SCHEMA}"'
    return InputError(f"{key or 'top level'}: {what}", f"{where}: {key}", cause, remedy)
