"""The tables of device quirks against the kernel's own: it is shown devices with these identities.

A slot holds an anchor that no quirk knows and functions with the identities in question, all
multifunction and without ACS capability: what the kernel isolates by a quirk stays out of the
anchor's group.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.lspci import read_lspci

from .kernel.record import SERVED
from .kernel.remote import MOST, Function, dump_served
from .kernel.required import kernel_or_skip

pytestmark = pytest.mark.oracle
Identity = tuple[int, int]
ENDPOINT, ROOT_PORT = 0, 4


@pytest.fixture(scope="module")
def kernel():
    return kernel_or_skip()


def listed(*tables: dict[int, frozenset[int]]) -> list[Identity]:
    return [(v, d) for table in tables for v, ids in table.items() for d in sorted(ids)]


def compare(kernel, functions: Iterable[Function]) -> list[str]:
    """Boot; return what the kernel and we put into different groups."""
    served = tuple(functions)
    found = dump_served(kernel, served, below=served[0].bridge)
    assert len(found.groups) == len(found.spaces)
    ours = {frozenset(map(str, group.members)) for group in groups(read_lspci(found.lspci()))}
    wrong = ours ^ found.partition
    return sorted({member for group in wrong for member in group})


def slot_of(identities: list[Identity], pcie_type: int) -> list[Function]:
    bridge = pcie_type == ROOT_PORT
    slot = 0 if bridge else 2
    anchor = Function(slot, 0, 0x1234, 1, pcie_type=pcie_type, bridge=bridge, several=True)
    return [
        anchor,
        *(
            Function(slot, number, vendor, device, pcie_type=pcie_type, bridge=bridge)
            for number, (vendor, device) in enumerate(identities, 1)
        ),
    ]


def compare_all(kernel, identities: list[Identity], pcie_type: int) -> dict[str, list[str]]:
    wrong = {}
    for start in range(0, len(identities), MOST - 1):
        some = identities[start : start + MOST - 1]
        different = compare(kernel, slot_of(some, pcie_type))
        if different:
            wrong[" ".join(f"{vendor:04x}:{device:04x}" for vendor, device in some)] = different
    return wrong


def test_aliases(kernel) -> None:
    """Requester ids of function 0 and 1, lent and real; one of each kind of ACS quirk."""
    assert compare(kernel, SERVED["quirk-alias"]) == []


@pytest.mark.slow
def test_one_of_each_kind(kernel) -> None:
    known = [(0x8086, 0x10C9), (0x1924, 0x0903), (0x14E4, 0x16D7), (0x8088, 0x0100)]
    unknown = [(0x8088, 0x7777), (0x8086, 0x10D3)]
    assert compare(kernel, slot_of([*known, *unknown], ENDPOINT)) == []


@pytest.mark.slow
def test_every_endpoint_quirk(kernel) -> None:
    identities = [*listed(quirks.QUIET_MULTIFUNCTION), *((0x8088, d) for d in quirks.WANGXUN)]
    assert compare_all(kernel, identities, ENDPOINT) == {}


@pytest.mark.slow
def test_every_port_quirk(kernel) -> None:
    identities = [
        *listed(quirks.VOUCHED_PORTS),
        *listed(quirks.VOUCHED_ROOT_PORTS)[::25],
        *((0x1D17, device) for device in sorted(quirks.ZHAOXIN_PORTS)),
        (0x1D17, 0x9999),
    ]
    assert compare_all(kernel, identities, ROOT_PORT) == {}
