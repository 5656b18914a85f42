"""The bind calls' user interface of 2018: structures, ioctl numbers, argument rules.

Sources: `struct pasid_table_config` and intel_iommu_bind_pasid_table (patch v4 04/22, uapi
linux/iommu.h of that series), `VFIO_IOMMU_BIND` (host SVA v2, 13/40) with the flag
`VFIO_IOMMU_BIND_PASIDTBL` of the mails of 6 and 7 June 2018.

An argument rule says which calls are refused. It is written once, over the values that all carriers
of `model.algebra` share, so the rule that a concrete call meets is the one that z3 reasons about.
What depends on earlier calls (a space bound twice, groups, members) is in `model.vfio.bind`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dmaproof.model.algebra import Carrier, Cond, Image, IntCarrier, Word
from dmaproof.model.errors import InputError
from dmaproof.model.rules import rule

VFIO_TYPE: Final = ord(";")
VFIO_BASE: Final = 100
VFIO_IOMMU_BIND: Final = VFIO_TYPE << 8 | (VFIO_BASE + 22)
"""`_IO(VFIO_TYPE, VFIO_BASE + 22)`, on the container's file descriptor."""
VFIO_IOMMU_UNBIND: Final = VFIO_TYPE << 8 | (VFIO_BASE + 23)

VFIO_IOMMU_BIND_PROCESS: Final = 1 << 0
VFIO_IOMMU_BIND_PASIDTBL: Final = 1 << 1
VFIO_IOMMU_BIND_PID: Final = 1 << 0
"""Flag of the process payload: `pid` names the process; without it the caller is bound."""

PASID_TABLE_CFG_VERSION: Final = 1
MIN_NR_PASID_BITS: Final = 5
"""The smallest PASID table has 2^5 entries (PTS = 0)."""

_CONFIG = struct.Struct("<IIQB7x")  # the compiler pads the structure to a multiple of 8
_HEADER = struct.Struct("<II")
_PROCESS = struct.Struct("<IIi")

HEADER_BYTES: Final = _HEADER.size
TABLE_BYTES: Final = HEADER_BYTES + _CONFIG.size
"""The shortest `argsz` of a table bind: header and `struct pasid_table_config`."""
PROCESS_BYTES: Final = HEADER_BYTES + _PROCESS.size


@dataclass(frozen=True)
class TableConfig:
    """`struct pasid_table_config`.

    Attributes:
        version: u32; the header asks for PASID_TABLE_CFG_VERSION.
        bytes: u32; size of the structure.
        base_ptr: u64; guest physical address of the PASID table.
        pasid_bits: u8; log2 of the number of entries of the table.

    """

    version: Word = PASID_TABLE_CFG_VERSION
    bytes: Word = _CONFIG.size
    base_ptr: Word = 0
    pasid_bits: Word = 20


@dataclass(frozen=True)
class ProcessBind:
    """`struct vfio_iommu_type1_bind_process`, the payload of a process bind.

    Attributes:
        flags: u32; VFIO_IOMMU_BIND_PID or 0.
        pasid: u32; written by the kernel on success.
        pid: s32; the process, if the flag says so.

    """

    flags: Word = 0
    pasid: Word = 0
    pid: Word = 0


@dataclass(frozen=True)
class BindCall:
    """`struct vfio_iommu_type1_bind` with what its `data[]` means; `flags` tells which part counts.

    Attributes:
        argsz: u32; bytes that the caller provides, this header included.
        flags: u32; exactly one of the VFIO_IOMMU_BIND flags.
        config: the payload of a table bind.
        process: the payload of a process bind.

    """

    argsz: Word = TABLE_BYTES
    flags: Word = VFIO_IOMMU_BIND_PASIDTBL
    config: TableConfig = TableConfig()
    process: ProcessBind = ProcessBind()


@dataclass(frozen=True)
class Host:
    """What the machine and the kernel bring to a call.

    Attributes:
        pasid_bits: log2 of the largest PASID table that the IOMMU takes (PTS + 5).
        domain: the container has an IOMMU domain (SET_IOMMU was done).
        driver_op: the IOMMU driver implements bind_pasid_table.
        iommu: an IOMMU serves the device.
        nesting: the IOMMU has nested translation (ecap_nest).
        device_info: the device has a device_domain_info.
        bound: the device has a PASID table bound already.
        pasid_enables: PASID is enabled in the device, or pci_enable_pasid succeeds.
        context_present: the device's context entry is present.

    """

    pasid_bits: Word = 20
    domain: Cond = True
    driver_op: Cond = True
    iommu: Cond = True
    nesting: Cond = True
    device_info: Cond = True
    bound: Cond = False
    pasid_enables: Cond = True
    context_present: Cond = True


class Outcome(NamedTuple):
    """What a call returns: None twice on success, else errno's name and the rule that refused."""

    errno: str | None
    guard: str | None


# -- bytes -----------------------------------------------------------------------------------


def encode_config(config: TableConfig) -> bytes:
    """Return the 24 bytes of `struct pasid_table_config`, little endian, padding zero.

    Raises:
        ValueError: a field is out of its range.

    """
    return _pack(_CONFIG, config.version, config.bytes, config.base_ptr, config.pasid_bits)


def decode_config(data: bytes) -> TableConfig:
    """Read `struct pasid_table_config`; padding and what follows are ignored, as in the kernel.

    Raises:
        InputError: fewer than 24 bytes.

    """
    if len(data) < _CONFIG.size:
        raise _short("struct pasid_table_config", len(data), _CONFIG.size)
    return TableConfig(*_CONFIG.unpack_from(data))


def encode_bind(call: BindCall) -> bytes:
    """Return the bytes of `struct vfio_iommu_type1_bind` with the payload that `flags` names.

    Raises:
        ValueError: a field is out of its range.

    """
    head = _pack(_HEADER, call.argsz, call.flags)
    if call.flags == VFIO_IOMMU_BIND_PASIDTBL:
        return head + encode_config(call.config)
    if call.flags == VFIO_IOMMU_BIND_PROCESS:
        process = call.process
        return head + _pack(_PROCESS, process.flags, process.pasid, process.pid)
    return head


def decode_bind(data: bytes) -> BindCall:
    """Read what the kernel reads of a bind call: the payload only if `argsz` covers it.

    Raises:
        InputError: the memory ends before what the kernel reads (the call returns -EFAULT).

    """
    if len(data) < HEADER_BYTES:
        raise _short("struct vfio_iommu_type1_bind", len(data), HEADER_BYTES)
    argsz, flags = _HEADER.unpack_from(data)
    if flags == VFIO_IOMMU_BIND_PASIDTBL and argsz >= TABLE_BYTES:
        return BindCall(argsz, flags, config=decode_config(data[HEADER_BYTES:]))
    if flags == VFIO_IOMMU_BIND_PROCESS and argsz >= PROCESS_BYTES:
        if len(data) < PROCESS_BYTES:
            raise _short("the payload of VFIO_IOMMU_BIND_PROCESS", len(data), PROCESS_BYTES)
        process = ProcessBind(*_PROCESS.unpack_from(data, HEADER_BYTES))
        return BindCall(argsz, flags, process=process)
    return BindCall(argsz, flags)


def _pack(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"a field is out of its range: {error}") from None


def _short(what: str, have: int, need: int) -> InputError:
    return InputError(
        f"{what} needs {need} bytes, {have} are there", cause="a truncated argument",
        remedy="pass the whole structure; the kernel answers -EFAULT here",
    )


# -- argument rules --------------------------------------------------------------------------

Refuses = Callable[[BindCall, Host], Cond]


def _is_table(call: BindCall) -> Cond:
    return call.flags == VFIO_IOMMU_BIND_PASIDTBL


def _is_process(call: BindCall) -> Cond:
    return call.flags == VFIO_IOMMU_BIND_PROCESS


@rule("vfio.bind.argsz-header", "host SVA v2, 13/40, vfio_iommu_type1_ioctl",
      "A bind whose argsz is below the header returns -EINVAL")
def header_is_short(call: BindCall, _: Host) -> Cond:
    """Test whether `argsz` ends before `data[]`."""
    return call.argsz < HEADER_BYTES


@rule("vfio.bind.one-known-flag", "host SVA v2, 13/40; mails of 6 and 7 June 2018",
      "A bind whose flags are not exactly one known flag returns -EINVAL")
def flags_are_unknown(call: BindCall, _: Host) -> Cond:
    """Test whether `flags` is anything but one of the two flags."""
    return (_is_table(call) | _is_process(call)) ^ True


@rule("vfio.bind.argsz-payload", "host SVA v2, 13/40, vfio_iommu_type1_bind_process",
      "A bind whose argsz ends before its payload returns -EINVAL")
def payload_is_short(call: BindCall, _: Host) -> Cond:
    """Test whether `argsz` ends inside the payload that `flags` names."""
    table = _is_table(call) & (call.argsz < TABLE_BYTES)
    return table | (_is_process(call) & (call.argsz < PROCESS_BYTES))


@rule("vfio.bind.process-flags", "host SVA v2, 13/40, vfio_iommu_type1_bind_process",
      "A process bind whose payload has an unknown flag returns -EINVAL")
def process_flags_are_unknown(call: BindCall, _: Host) -> Cond:
    """Test for a process flag other than VFIO_IOMMU_BIND_PID."""
    return _is_process(call) & (call.process.flags > VFIO_IOMMU_BIND_PID)


@rule("vfio.bind.domain", "host SVA v2, 13/40",
      "A bind on a container without IOMMU domain returns -EINVAL")
def container_has_no_domain(_: BindCall, host: Host) -> Cond:
    """Test whether the container has no IOMMU domain."""
    return host.domain ^ True


@rule("iommu.bind-pasid-table.op", "drivers/iommu/iommu.c iommu_bind_pasid_table, 2018",
      "A table bind with a driver that has no such operation returns -ENODEV")
def driver_has_no_op(call: BindCall, host: Host) -> Cond:
    """Test whether the IOMMU driver lacks bind_pasid_table."""
    return _is_table(call) & (host.driver_op ^ True)


@rule("vtd.bind-pasid-table.iommu", "intel_iommu_bind_pasid_table, patch v4 04/22, check 1",
      "A table bind of a device without IOMMU returns -ENODEV")
def device_has_no_iommu(call: BindCall, host: Host) -> Cond:
    """Test whether no IOMMU serves the device."""
    return _is_table(call) & (host.iommu ^ True)


@rule("vtd.bind-pasid-table.pasid-bits", "intel_iommu_bind_pasid_table, patch v4 04/22, check 2",
      "A table bind with fewer than 5 PASID bits, or more than the host has, returns -ERANGE")
def pasid_bits_do_not_fit(call: BindCall, host: Host) -> Cond:
    """Test whether the table is smaller than the smallest or larger than the host's largest."""
    bits = call.config.pasid_bits
    return _is_table(call) & ((bits < MIN_NR_PASID_BITS) | (bits > host.pasid_bits))


@rule("vtd.bind-pasid-table.nesting", "intel_iommu_bind_pasid_table, patch v4 04/22, check 3",
      "A table bind on an IOMMU without nested translation returns -EINVAL")
def iommu_has_no_nesting(call: BindCall, host: Host) -> Cond:
    """Test whether the IOMMU lacks nested translation."""
    return _is_table(call) & (host.nesting ^ True)


@rule("vtd.bind-pasid-table.device-info", "intel_iommu_bind_pasid_table, patch v4 04/22, check 4",
      "A table bind of a device without device_domain_info returns -EINVAL")
def device_has_no_info(call: BindCall, host: Host) -> Cond:
    """Test whether the device has no device_domain_info."""
    return _is_table(call) & (host.device_info ^ True)


@rule("vtd.bind-pasid-table.once", "intel_iommu_bind_pasid_table, patch v4 04/22, check 5",
      "A second table bind on a device returns -EBUSY")
def table_is_bound(call: BindCall, host: Host) -> Cond:
    """Test whether the device has a table bound."""
    return _is_table(call) & host.bound


@rule("vtd.bind-pasid-table.enable", "intel_iommu_bind_pasid_table, patch v4 04/22, check 6",
      "A table bind returns the error of pci_enable_pasid, -EINVAL for want of the capability")
def pasid_does_not_enable(call: BindCall, host: Host) -> Cond:
    """Test whether PASID cannot be enabled in the device."""
    return _is_table(call) & (host.pasid_enables ^ True)


@rule("vtd.bind-pasid-table.context", "intel_iommu_bind_pasid_table, patch v4 04/22, check 7",
      "A table bind of a device whose context entry is not present returns -EINVAL")
def context_is_absent(call: BindCall, host: Host) -> Cond:
    """Test whether the device's context entry is not present."""
    return _is_table(call) & (host.context_present ^ True)


@dataclass(frozen=True)
class ArgumentRule:
    """A named refusal.

    Attributes:
        name: what must hold, as guards are named elsewhere.
        errno: name of the error that the call returns.
        refuses: the condition of the refusal; `model.rules` has its source.

    """

    name: str
    errno: str
    refuses: Refuses


DRIVER_RULES: Final = (
    ArgumentRule("driver-has-op", "ENODEV", driver_has_no_op),
    ArgumentRule("device-has-iommu", "ENODEV", device_has_no_iommu),
    ArgumentRule("pasid-bits-fit", "ERANGE", pasid_bits_do_not_fit),
    ArgumentRule("iommu-has-nesting", "EINVAL", iommu_has_no_nesting),
    ArgumentRule("device-has-info", "EINVAL", device_has_no_info),
    ArgumentRule("table-not-bound", "EBUSY", table_is_bound),
    ArgumentRule("pasid-enables", "EINVAL", pasid_does_not_enable),
    ArgumentRule("context-present", "EINVAL", context_is_absent),
)
"""What the core and the VT-d driver test, in order; this is all that a device bind meets."""

BIND_RULES: Final = (
    ArgumentRule("argsz-covers-header", "EINVAL", header_is_short),
    ArgumentRule("one-known-flag", "EINVAL", flags_are_unknown),
    ArgumentRule("argsz-covers-payload", "EINVAL", payload_is_short),
    ArgumentRule("known-process-flags", "EINVAL", process_flags_are_unknown),
    ArgumentRule("container-has-domain", "EINVAL", container_has_no_domain),
    *DRIVER_RULES,
)
"""What `VFIO_IOMMU_BIND` tests, in order."""


def first_refusal(
    carrier: Carrier, call: BindCall, host: Host, rules: Sequence[ArgumentRule] = BIND_RULES
) -> Word:
    """Return the number of the first rule that refuses, counted from 1; 0 means success.

    Args:
        carrier: a fresh carrier of the kind of the values in *call* and *host*.
        call: the call's arguments.
        host: what they meet.
        rules: the rules in the kernel's order.

    """

    def test(on: Carrier) -> tuple[()]:
        for number, item in enumerate(rules, 1):
            on.fail(item.refuses(call, host), number)
        return ()

    carrier.run(test, blocked=())
    return carrier.fault


@rule("vtd.bind-pasid-table.context-high", "intel_iommu_bind_pasid_table, patch v4 04/22; VT-d"
      " extended context entry",
      "A table bind writes PTS = pasid_bits - 5 and the page-aligned pointer to the context entry")
def context_high(config: TableConfig) -> Word:
    """Return the quadword with PTS (bits 3:0) and PASIDPTR (bits 63:12) that a bind writes."""
    # Sixteen minus five: the field has four bits, and words have no subtraction.
    pts = (config.pasid_bits + 11) & 0xF
    return (config.base_ptr & 0xFFFF_FFFF_FFFF_F000) | pts


def check_bind(
    call: BindCall, host: Host, rules: Sequence[ArgumentRule] = BIND_RULES
) -> Outcome:
    """Return what `VFIO_IOMMU_BIND` answers to concrete arguments."""
    number = first_refusal(IntCarrier(Image()), call, host, rules)
    if number == 0:
        return Outcome(None, None)
    refused = rules[number - 1]
    return Outcome(refused.errno, refused.name)


def check(config: TableConfig, host: Host) -> Outcome:
    """Return what the core and the VT-d driver answer to a concrete table bind of one device."""
    return check_bind(BindCall(config=config), host, DRIVER_RULES)
