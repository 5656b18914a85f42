"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dmaproof.model.pcie.topology import Machine

F = TypeVar("F", bound=Callable[..., Any])


def grouping_option(function: F) -> F:
    """Add ``--grouping linux|v3|components``."""
    return click.option(
        "--grouping",
        type=click.Choice(("linux", "v3", "components")),
        default="linux",
        show_default=True,
        help="Grouping algorithm: Linux's (up to 7.0), the proposal of 2025, or whatever leaks"
        " connect.",
    )(function)


def assume_option(function: F) -> F:
    """Add ``--assume NAME=VALUE``, repeatable."""
    return click.option(
        "--assume",
        metavar="NAME=VALUE",
        multiple=True,
        help="Set an assumption to on, off or free (deputy, spoof, mfd_rid_honest, mf_loopback,"
        " rp_loopback, rc_p2p, ...). Repeatable.",
    )(function)


def json_option(function: F) -> F:
    """Add ``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def kernel_parameter_option(function: F) -> F:
    """Add ``--kernel-parameter TEXT``, repeatable, passed as ``kernel_parameters``."""
    return click.option(
        "--kernel-parameter",
        "kernel_parameters",
        metavar="TEXT",
        multiple=True,
        help="See machines as after a boot (Linux 6.15 or later) with pci=config_acs=BITS@DEVICE or"
        " pci=disable_acs_redir=DEVICE; bits not named are off. Repeatable.",
    )(function)


def booted(machine: Machine, texts: tuple[str, ...], *, claims: bool = True) -> Machine:
    """Return *machine* as after a boot with the kernel parameters *texts*, which join its name.

    Args:
        machine: as it was read.
        texts: values of ``--kernel-parameter``.
        claims: isolation is to be claimed, so that a parameter that voids the claim is an error.

    Raises:
        InputError: an unknown or misspelt parameter, or one that voids the claim.

    """
    if not texts:
        return machine
    from dmaproof.model.pcie.kernel_parameters import KernelParameters, apply
    from dmaproof.model.pcie.topology import Machine

    parameters = KernelParameters.parse(texts)
    if claims:
        parameters.refuse_override()
    changed = apply(machine, parameters)
    warnings = list(machine.warnings)
    if parameters.override is not None:
        warnings.append(
            "pcie_acs_override only makes the kernel believe in isolation: these are the groups"
            " of the hardware, the kernel's own would be smaller and would leak"
        )
    elif changed.devices == machine.devices:
        warnings.append(f"{' '.join(texts)} changes no ACS bit of this machine")
    return Machine(f"{machine.name} with {' '.join(texts)}", changed.devices, warnings)
