"""Routing and PASID: claim C12, decided on machines, targets and ACS settings.

The claim of May 2018: PASID adds no protection against peer-to-peer requests, because the fabric
routes by address alone. It is decided by trying every node on the way up of every function, every
target and every setting of the node's ACS, before any redirect and after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dmaproof.model.pcie.routing import (
    ADDRESS_ROUTER,
    Decision,
    Difference,
    PrefixRouter,
    Router,
    first_prefix_difference,
)
from dmaproof.model.pcie.topology import Bdf, Machine

ROUTERS: dict[str, Router] = {"address": ADDRESS_ROUTER, "prefix": PrefixRouter()}
"""PCIe's router, and one that reads the PASID prefix."""


@dataclass(frozen=True)
class RoutingVerdict:
    """The answer to C12 for one router.

    Attributes:
        router: its name in `ROUTERS`.
        machines: names of the machines that were tried.
        machine: where the decisions differ ("" if they do not).
        difference: the request, node and setting that show it.
        reason: one sentence.
    """

    router: str
    result: Literal["proved", "refuted"]
    machines: tuple[str, ...]
    machine: str
    difference: Difference | None
    reason: str
    kind: str = "always"


def prefix_is_ignored(router: str, machines: Iterable[Machine]) -> RoutingVerdict:
    """Decide whether the PASID prefix of a request changes no routing decision.

    Raises:
        KeyError: there is no such router.
    """
    tried: list[str] = []
    for machine in machines:
        tried.append(machine.name)
        found = first_prefix_difference(machine, ROUTERS[router])
        if found is not None:
            return RoutingVerdict(
                router, "refuted", tuple(tried), machine.name, found, _says(machine, found)
            )
    return RoutingVerdict(
        router, "proved", tuple(tried), "", None,
        f"On {len(tried)} machines no decision depends on the PASID prefix, whatever ACS says.",
    )


def _says(machine: Machine, found: Difference) -> str:
    def name(at: Bdf) -> str:
        label = machine.device(at).label
        return f"{at} ({label})" if label else str(at)

    def goes(decision: Decision) -> str:
        return "goes up" if decision.rung is None else str(decision.rung.kind)

    target = "system memory" if found.target is None else f"a BAR of {name(found.target)}"
    if found.acs is None:
        setting = "no ACS capability"
    else:
        setting = f"ACS capability {found.acs.capability:#x}, control {found.acs.control:#x}"
    return (
        f"On {machine.name}, at {name(found.port)} with {setting}, a request for {target}"
        f" {goes(found.plain)} without PASID prefix and {goes(found.prefixed)} with one."
    )
