"""Kernel command-line parameters that change ACS control bits before groups are made.

`pci=disable_acs_redir=` and `pci=config_acs=` are applied to the ACS registers of a machine as a
boot would apply them. `pcie_acs_override=` (never part of Linux) only makes the kernel *believe* in
isolation: no claim about a machine booted with it holds, and `refuse_override` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.device import Acs, Bdf, Device
from dmaproof.model.pcie.quirks import CR, DT, EC, RR, SV, TB, UF
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.rules import rule

REDIRECT = RR | CR | EC
"""What `disable_acs_redir` switches off."""

CONFIGURABLE = SV | TB | RR | CR | UF | EC | DT
"""What `config_acs` may name: bits 6 to 0 of the control register."""

KNOWN = ("pci=disable_acs_redir=DEVICES", "pci=config_acs=BITS@DEVICE", "pcie_acs_override=...")

_IDS = re.compile(r"pci:" + ":".join([r"([0-9a-fA-F]{1,4})"] * 2) + r"((?::[0-9a-fA-F]{1,4}){2})?")
_START = re.compile(r"(?:([0-9a-fA-F]{1,4}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")
_STEP = re.compile(r"([0-9a-fA-F]{1,2})\.([0-7])")


@dataclass(frozen=True)
class Selector:
    """Which functions a parameter means.

    Attributes:
        text: as written.
        ids: vendor, device, subsystem vendor and subsystem device; 0 means any.
        start: address of the first function of a path.
        steps: device and function numbers below it, downwards.

    """

    text: str
    ids: tuple[int, int, int, int] | None = None
    start: Bdf | None = None
    steps: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str, where: str) -> Selector:
        """Read ``pci:vvvv:dddd[:ssss:tttt]`` or ``[dddd:]bb:dd.f[/dd.f]...``.

        Raises:
            InputError: neither of these forms.

        """
        match = _IDS.fullmatch(text)
        if match is not None:
            vendors = [*match.groups("")[:2], *(match[3] or ":0:0").split(":")[1:]]
            first, second, third, fourth = (int(value, 16) for value in vendors)
            return cls(text, (first, second, third, fourth))
        head, *rest = text.split("/")
        start, steps = _START.fullmatch(head), [_STEP.fullmatch(step) for step in rest]
        if start is None or None in steps:
            raise InputError(
                f"{text[:60]!r} names no device",
                where,
                "a device is an address, a path or a pair of ids",
                "write 0000:00:1c.0, 00:1c.0/00.0/01.0 or pci:8086:a110",
            )
        domain, bus, device, function = start.groups(default="0")
        place = Bdf(int(domain, 16), int(bus, 16), int(device, 16), int(function, 16))
        below = tuple((int(step[1], 16), int(step[2])) for step in steps if step is not None)
        return cls(text, None, place, below)

    @rule(
        "kernel.parameter.device",
        "drivers/pci/pci.c pci_dev_str_match",
        "a device is named by its ids (0 is any) or by its address and the path below it",
    )
    def matches(self, machine: Machine, device: Device) -> bool:
        """Whether *device* of *machine* is meant."""
        if self.ids is not None:
            subsystem = device.subsystem >> 16, device.subsystem & 0xFFFF
            has = (device.vendor, device.device, *subsystem)
            return all(wanted in {0, value} for wanted, value in zip(self.ids, has, strict=True))
        at = device.bdf
        for step in reversed(self.steps):
            above = machine.parent(at)
            if step != (at.device, at.function) or above is None:
                return False
            at = above
        return at == self.start


@dataclass(frozen=True)
class Setting:
    """One ``BITS@DEVICE`` of `config_acs`.

    Attributes:
        mask: bits that are named by 0 or 1; the others keep what the firmware left there.
        value: bits that are named by 1.
        selector: the devices.

    """

    mask: int
    value: int
    selector: Selector


@dataclass(frozen=True)
class KernelParameters:
    """What a command line says about ACS.

    Attributes:
        redirect_off: devices of `disable_acs_redir`.
        settings: those of `config_acs`; of several that match, the first counts.
        override: value of `pcie_acs_override`, None without it.

    """

    redirect_off: tuple[Selector, ...] = ()
    settings: tuple[Setting, ...] = ()
    override: str | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], where: str = "--kernel-parameter") -> KernelParameters:
        """Read kernel parameters; one text may hold several, as a command line does.

        Of a parameter given twice the last counts, as in the kernel.

        Raises:
            InputError: a parameter with no known effect on ACS, or one that cannot be read.

        """
        found = cls()
        for word in " ".join(texts).split():
            name, _, value = word.partition("=")
            if name == "pcie_acs_override":
                found = replace(found, override=value)
            elif name == "pci":
                for option in value.split(","):
                    found = found._with(option, where)
            else:
                raise _unknown(word, where)
        return found

    def _with(self, option: str, where: str) -> KernelParameters:
        name, _, value = option.partition("=")
        parts = [part for part in value.split(";") if part]
        if name == "disable_acs_redir" and parts:
            chosen = tuple(Selector.parse(part, where) for part in parts)
            return replace(self, redirect_off=chosen)
        if name == "config_acs" and parts:
            return replace(self, settings=tuple(_setting(part, where) for part in parts))
        raise _unknown(f"pci={option}", where)

    def refuse_override(self, where: str = "--kernel-parameter") -> None:
        """Raise when the parameters make every claim of isolation void.

        Raises:
            InputError: `pcie_acs_override` is among them.

        """
        if self.override is not None:
            raise InputError(
                f"pcie_acs_override={self.override} makes every claim of isolation void",
                where,
                "the patch makes the kernel report ACS that the hardware does not have: the "
                "groups get smaller, what devices reach stays as it is",
                "leave it out to see the groups and ways that the hardware has",
            )


def _setting(text: str, where: str) -> Setting:
    bits, at, device = text.partition("@")
    if not at or not re.fullmatch(r"[01xX]{1,7}", bits):
        raise InputError(
            f"config_acs: {text[:60]!r} does not start with bits",
            where,
            "every device needs its own bits: up to 7 of 0, 1 and x, bit 0 (SV) last",
            "write for example pci=config_acs=x110x@pci:8086:a110;1x@0000:00:1c.0",
        )
    mask = value = 0
    for position, bit in enumerate(reversed(bits.lower())):
        mask |= (bit != "x") << position
        value |= (bit == "1") << position
    return Setting(mask, value, Selector.parse(device, where))


def _unknown(word: str, where: str) -> InputError:
    return InputError(
        f"kernel parameter {word[:60]!r} is not known to change ACS",
        where,
        "a typing error, or a parameter that has nothing to do with peer-to-peer",
        f"known are {', '.join(KNOWN)}",
    )


@rule(
    "kernel.parameter.acs",
    "drivers/pci/pci.c __pci_config_acs, pci_enable_acs (6.15 and later)",
    "a named device gets the bits asked for over the firmware's value, not over the kernel's own; "
    "config_acs comes after disable_acs_redir and replaces it",
)
def _configured(
    machine: Machine, device: Device, acs: Acs, parameters: KernelParameters, firmware: int
) -> int:
    """Return the ACS control register of *device* after a boot with *parameters*."""
    control = acs.control
    asked = [
        *((REDIRECT, 0) for each in parameters.redirect_off if each.matches(machine, device)),
        *_first(s for s in parameters.settings if s.selector.matches(machine, device)),
    ]
    for mask, value in asked:
        if _by_quirk(device):
            control &= ~REDIRECT
        else:
            control = (firmware & ~mask | value & mask) & (acs.capability | ~CONFIGURABLE)
    return control


def _first(settings: Iterable[Setting]) -> list[tuple[int, int]]:
    chosen = next(iter(settings), None)
    return [] if chosen is None else [(chosen.mask, chosen.value)]


def _by_quirk(device: Device) -> bool:
    """Whether the kernel has a function of its own that switches redirection off here.

    That function runs for either parameter, whatever bits were asked for.
    """
    return quirks.acs_control_offset(device.vendor, device.device, device.kind) == 8


@rule(
    "kernel.parameter.acs-old",
    "drivers/pci/pci.c pci_disable_acs_redir (before 6.11)",
    "RR, CR and EC are cleared after the kernel has set its own bits; config_acs is unknown",
)
def _configured_by_old(
    machine: Machine, device: Device, acs: Acs, parameters: KernelParameters
) -> int:
    if any(each.matches(machine, device) for each in parameters.redirect_off):
        return acs.control & ~REDIRECT
    return acs.control


def apply(
    machine: Machine,
    parameters: KernelParameters,
    *,
    kernel: tuple[int, int] = (6, 18),
    firmware: int = 0,
) -> Machine:
    """Return *machine* as it would be after a boot with *parameters*.

    Args:
        machine: as a kernel without these parameters leaves it.
        parameters: what changes.
        kernel: version. Before 6.11 `config_acs` is unknown; 6.11 to 6.14 set wrong bits.
        firmware: ACS control as the firmware leaves it in the named devices. A dump does not hold
            it; 0, the default, is what isolates least.

    Raises:
        InputError: a kernel of 6.11 to 6.14, whose faults are not modelled.

    """
    if (6, 11) <= kernel < (6, 15) and (parameters.redirect_off or parameters.settings):
        raise InputError(
            f"Linux {kernel[0]}.{kernel[1]} sets other ACS bits than these parameters ask for",
            "kernel version",
            "config_acs was faulty from 6.11 to 6.14",
            "use an older or a newer kernel, or read the bits from the running machine",
        )
    devices = []
    for device in machine.devices:
        if device.acs is None:
            devices.append(device)
            continue
        if kernel < (6, 11):
            control = _configured_by_old(machine, device, device.acs, parameters)
        else:
            control = _configured(machine, device, device.acs, parameters, firmware)
        devices.append(replace(device, acs=replace(device.acs, control=control)))
    return Machine(machine.name, devices, machine.warnings)
