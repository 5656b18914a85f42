"""The tables of quirks: how many ids each has in the kernel, and quirks no dump can settle."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, pci_acs_enabled
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.lspci import read_lspci, write_lspci
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind
from dmaproof.model.pcie.undecided import decide

ON = Acs(0x5F, 0x1D)
# Ids in drivers/pci/quirks.c and drivers/pci/controller/vmd.c of Linux 7.0, counted there.
COUNTS = [
    (quirks.QUIET_MULTIFUNCTION, {0x8086: 48, 0x1924: 3, 0x19A2: 1, 0x10DF: 1, 0x177D: 3}),
    (quirks.QUIET_MULTIFUNCTION, {0x14E4: 8, 0x1D17: 3}),
    (quirks.VOUCHED_PORTS, {0x17CB: 5, 0x1DBF: 1, 0x10E8: 1, 0x1DEF: 8, 0x14E4: 1, 0x0014: 10}),
    (quirks.VOUCHED_PORTS, {0x1957: 24}),
    (quirks.VOUCHED_ROOT_PORTS, {0x177D: 0x802, 0x1C36: 1}),
    (quirks.AMD_SOUTHBRIDGE, {0x1002: 6, 0x1022: 2}),
    (quirks.FUNCTION_0_DMA, {0x1180: 2, 0x6766: 2}),
    (quirks.FUNCTION_1_DMA, {0x1B4B: 15, 0x1103: 2, 0x197B: 1, 0x1C28: 1}),
    (quirks.HIDDEN_PCIE_BRIDGES, {0x1B21: 1, 0x10E3: 1, 0x1283: 2, 0x8086: 1}),
    (quirks.TRANSPARENT_BRIDGES, {0x1A03: 1}),
    (quirks.TRANSLATION_ROOTS, {0x14E4: 2}),
    (quirks.NTB_PROXIES, {0x10B5: 2}),
    (quirks.SWITCHTEC, {0x11F8: 93, 0x1055: 6}),
    (quirks.VMD, {0x8086: 11}),
    ({0: quirks.INTEL_PCH_ROOT_PORTS}, {0: 119}),
    ({0: quirks.WIDE_ACS_ROOT_PORTS}, {0: 56}),
    ({0: quirks.ZHAOXIN_PORTS}, {0: 64}),
    ({0: quirks.WANGXUN}, {0: 24}),
]


@pytest.mark.parametrize(("table", "counts"), COUNTS)
def test_how_many_ids_the_kernel_has(table, counts: dict[int, int]) -> None:
    assert {vendor: len(table[vendor]) for vendor in counts} == counts


def test_no_other_vendors() -> None:
    tables: dict[int, set[int]] = {}
    for table, counts in COUNTS:
        tables.setdefault(id(table), set()).update(counts)
    for table, _ in COUNTS:
        assert set(table) == tables[id(table)]


def function(place: str, **fields) -> Device:
    return Device(bdf=Bdf.parse(place), acs=ON, **fields)


def root_port(place: str, bus: int) -> Device:
    kind = PortKind.ROOT_PORT
    return function(place, kind=kind, header_type=1, secondary=bus, subordinate=bus)


def test_requester_ids_of_a_switchtec_bridge_are_open() -> None:
    """Its table of requester ids is in its own memory: anything on its bus may be among them."""
    ntb = function("01:00.1", vendor=0x11F8, device=0x8533, class_code=0x0680)
    beside = [function("01:00.0"), function("01:01.0")]
    others = [root_port("00:01.0", 1), root_port("00:02.0", 2), function("02:00.0")]
    found = read_lspci(write_lspci([*others, ntb, *beside]))
    assert found.device(ntb.bdf).unknown == {Fact.ALIASES}
    (doubt,) = decide(found).doubts
    assert set(doubt.members) == {ntb.bdf, *(d.bdf for d in beside)}
    assert doubt.hiding == (ntb.bdf,)
    assert "their own memory" in doubt.reason
    assert any("their own memory" in warning for warning in found.warnings)
    management = replace(ntb, class_code=0x0580)
    assert not decide(read_lspci(write_lspci([*others, management, *beside]))).doubts


def test_a_switchtec_bridge_by_name() -> None:
    text = (
        "01:00.1 Bridge: Microsemi / PMC / IDT PM8533 PFX 48xG3 Fanout PCIe Switches\n"
        "\tFlags: fast devsel\n\tCapabilities: [40] Express Endpoint, MSI 00\n\n"
    )
    assert Fact.ALIASES in read_lspci(text).device(Bdf.parse("01:00.1")).unknown


# -- the order in which aliases are followed -------------------------------------------------------


def as_the_kernel_recurses(found: Machine) -> list[set[Bdf]]:
    """Groups of functions of one root bus by aliases and slots: iommu.c, its two recursions."""
    group: dict[Bdf, int] = {}
    enabled = {d.bdf: pci_acs_enabled(found, d, REQ_ACS_FLAGS) for d in found.devices}

    def of_aliases(device: Device, seen: set[Bdf]) -> int | None:
        if device.bdf in seen:
            return None
        seen.add(device.bdf)
        if device.bdf in group:
            return group[device.bdf]
        for other in found.devices:
            if other.bdf != device.bdf and (
                other.bdf in device.aliases or device.bdf in other.aliases
            ):
                for search in (of_aliases, of_siblings):
                    number = search(other, seen)
                    if number is not None:
                        return number
        return None

    def of_siblings(device: Device, seen: set[Bdf]) -> int | None:
        if not device.multifunction or enabled[device.bdf]:
            return None
        for other in found.devices:
            if (
                other.bdf != device.bdf
                and other.bdf.slot == device.bdf.slot
                and not enabled[other.bdf]
            ):
                number = of_aliases(other, seen)
                if number is not None:
                    return number
        return None

    for device in found.devices:
        seen: set[Bdf] = set()
        number = of_aliases(device, seen)
        if number is None:
            number = of_siblings(device, seen)
        group[device.bdf] = len(found.devices) + len(group) if number is None else number
    return [
        {bdf for bdf in group if group[bdf] == number} for number in sorted(set(group.values()))
    ]


@st.composite
def one_bus(draw: st.DrawFn) -> Machine:
    places = draw(st.sets(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=2, max_size=9))
    addresses = [Bdf(0, 0, *place) for place in sorted(places)]
    kind = PortKind.RC_INTEGRATED_ENDPOINT
    return Machine(
        "bus",
        [
            Device(
                bdf=bdf,
                kind=kind,
                acs=draw(st.sampled_from([ON, None])),
                aliases=frozenset(draw(st.sets(st.sampled_from(addresses), max_size=2)) - {bdf}),
            )
            for bdf in addresses
        ],
    )


@given(one_bus())
@settings(max_examples=300, deadline=None)
def test_aliases_are_followed_in_the_order_of_the_kernel(found: Machine) -> None:
    ours = [set(group.members) for group in groups(found)]
    assert sorted(map(sorted, ours)) == sorted(map(sorted, as_the_kernel_recurses(found)))


def test_a_bus_full_of_aliases_is_grouped_quickly() -> None:
    """Every function aliases the next two, round in a circle."""
    ring = [Bdf.from_rid(rid) for rid in range(256)]
    devices = [
        Device(bdf=bdf, aliases=frozenset({ring[(at + 1) % 256], ring[(at + 2) % 256]}))
        for at, bdf in enumerate(ring)
    ]
    started = time.process_time()
    assert len(groups(Machine("ring", devices))) == 1
    assert time.process_time() - started < 2
