"""Designs: what the software does, as data.

A design names the interface, the object of a bind, who owns the PASID table, the guards, the
programs of bind and unbind, the ATS policy and the router. It is read from TOML by a validated
loader; `model.vfio.build` turns it into a transition system.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from dmaproof.model.errors import InputError

SCHEMA: Final = "dmaproof/design/1"
MAX_BYTES = 1 << 20  # a design is a page of text; anything larger is not one


class Object(StrEnum):
    """The object that a bind call names, and whose members' tables get the entry."""

    DEVICE = "device"
    GROUP = "group"
    CONTAINER = "container"


class Payload(StrEnum):
    """What a call hands over."""

    TABLE = "table"  # a PASID table that the caller owns and fills (pasid_table_config)
    PROCESS = "process"  # one address space under one PASID (host SVA)
    MAP = "map"  # an IOVA mapping in the container's RID domain (type1 MAP_DMA)


class Step(StrEnum):
    """A micro-step of a teardown program."""

    CLEAR = "clear"
    FLUSH_PASID_CACHE = "flush-pasid-cache"
    FLUSH_IOTLB = "flush-iotlb"
    FLUSH_DEVICE_TLB = "flush-device-tlb"


CORRECT_TEARDOWN = (Step.CLEAR, Step.FLUSH_PASID_CACHE, Step.FLUSH_IOTLB, Step.FLUSH_DEVICE_TLB)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interface(_Strict):
    """Which calls exist and what they act on."""

    kind: Literal["type1", "bind-2018", "sva-2018"]
    object: Object
    payload: Payload
    table: Literal["object", "container", "iommu"] = "object"
    containers: StrictBool = True


class Guards(_Strict):
    """What bind refuses."""

    not_bound: StrictBool = True  # -EBUSY or -EEXIST when the object has a live bind
    pasid_capable: StrictBool = True  # the function has the PASID capability, the IOMMU nesting
    singleton: StrictBool = False  # -EINVAL when the group has more than one device, ports counted
    acs_path: StrictBool = False  # -EINVAL unless RR and UF are enabled up to the root
    pasid_fits: StrictBool = True  # the PASID is below the limit of the function
    singleton_container: StrictBool = False  # a container holds one group of one function
    viable: StrictBool = True  # -EPERM when a member is bound to a kernel driver that does DMA


class Bind(_Strict):
    """The bind loop."""

    undo: StrictBool = True  # a failing call takes back what it did
    replay: StrictBool = True  # a group that joins a container receives its live binds


class Teardown(_Strict):
    """The order in which an unbind (and a leaving group) clears and flushes."""

    steps: Annotated[tuple[Step, ...], Field(min_length=0, max_length=16)] = CORRECT_TEARDOWN


class FabricPolicy(_Strict):
    """What a design changes in the fabric."""

    ats: StrictBool = False  # device TLBs are enabled
    router: Literal["address", "prefix"] = "address"
    grouping: Literal["linux", "v3", "components"] = "linux"


class Design(_Strict):
    """One way to bind PASIDs to devices."""

    schema_: Annotated[Literal["dmaproof/design/1"], Field(alias="schema")] = SCHEMA
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    year: Annotated[int, Field(strict=True, ge=1990, le=2100)]
    source: str = ""
    interface: Interface
    guards: Guards = Guards()
    bind: Bind = Bind()
    teardown: Teardown = Teardown()
    fabric: FabricPolicy = FabricPolicy()

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        face = self.interface
        if face.kind == "type1" and (face.payload, face.object) != (Payload.MAP, Object.CONTAINER):
            raise ValueError("interface.kind type1 needs payload = 'map', object = 'container'")
        if face.payload is Payload.MAP and face.kind != "type1":
            raise ValueError("interface.payload map exists in kind = 'type1' only")
        if face.kind == "sva-2018" and face.payload is not Payload.PROCESS:
            raise ValueError("interface.kind sva-2018 needs payload = 'process'")
        if not face.containers and face.object is Object.CONTAINER:
            raise ValueError("interface.object container needs containers = true")
        if not face.containers and (self.guards.singleton_container or face.table == "container"):
            raise ValueError("containers = false contradicts a key that speaks of containers")
        if face.table == "iommu" and face.payload is not Payload.PROCESS:
            raise ValueError("interface.table iommu needs payload = 'process'")
        if face.table == "iommu" and face.object is Object.CONTAINER:
            raise ValueError("interface.table iommu contradicts object = 'container'")
        if face.kind == "type1" and not self.bind.replay:
            raise ValueError("bind.replay false contradicts kind = 'type1': joining attaches")
        if face.table == "container" and face.payload is Payload.PROCESS:
            raise ValueError("interface.table container needs payload = 'table'")
        if len(set(self.teardown.steps)) != len(self.teardown.steps):
            raise ValueError("teardown.steps names a step twice")
        return self


def parse(text: str, where: str) -> Design:
    """Read a design from TOML.

    Raises:
        InputError: not TOML, an unknown key, a wrong type, or keys that contradict each other.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"not a TOML file: {error}",
            where,
            "a typing error, or another kind of file",
            "compare with `dmaproof design show bind-2018-device`",
        ) from None
    try:
        return Design.model_validate(data)
    except ValidationError as error:
        raise _explain(error, where) from None


def _explain(error: ValidationError, where: str) -> InputError:
    faults = error.errors(include_url=False)
    first: Any = faults[0]
    key = ".".join(map(str, first["loc"]))
    place = f"{where}: key {key}" if key else where
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    kind = first["type"]
    if kind == "extra_forbidden":
        return InputError(
            f"unknown key{more}",
            place,
            "a typing error, or a key of a newer version",
            "`dmaproof design show bind-2018-device` prints every key with its value",
        )
    if kind == "value_error":
        return InputError(
            f"contradiction: {message}{more}",
            place,
            "two keys that exclude each other",
            "change one of the keys named",
        )
    return InputError(
        f"{message[0].lower()}{message[1:]}{more}",
        place,
        "a missing key or a value of another type",
        "`dmaproof design show bind-2018-device` prints a complete design to copy",
    )


def builtin_names() -> list[str]:
    """Names of the built-in designs, oldest first, then by name."""
    return [d.name for d in sorted(_builtins().values(), key=lambda d: (d.year, d.name))]


@cache
def _builtins() -> dict[str, Design]:
    found = {}
    for entry in resources.files("dmaproof.model.designs").iterdir():
        if entry.name.endswith(".toml"):
            design = parse(entry.read_text("utf-8"), entry.name)
            found[design.name] = design
    return found


def builtin_text(name: str) -> str:
    """The TOML text of a built-in design.

    Raises:
        InputError: there is none of that name.
    """
    load(name)
    return resources.files("dmaproof.model.designs").joinpath(f"{name}.toml").read_text("utf-8")


def load(name_or_path: str) -> Design:
    """A built-in design by name, or a TOML file.

    Raises:
        InputError: no such design, an unreadable file or a bad design.
    """
    known = _builtins()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if not path.exists():
        raise InputError(
            f"no built-in design and no file is called {name_or_path!r}",
            "",
            "a typing error",
            f"built-in: {', '.join(builtin_names())}",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("larger than 1 MiB", str(path), "not a design", "name a TOML file")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read as UTF-8 text: {error}",
            str(path),
            "a folder or a binary file",
            "name a TOML file",
        ) from None
    return parse(text, str(path))
