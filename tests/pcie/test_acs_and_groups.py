"""The kernel's ACS questions, quirks and grouping rules, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from dmaproof.model.pcie.acs import (
    REQ_ACS_FLAGS,
    first_gap,
    pasid_path_ok,
    pci_acs_enabled,
    pci_acs_flags_enabled,
    pci_acs_path_enabled,
    why_not,
)
from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.configspace import ConfigSpace, decode, encode
from dmaproof.model.pcie.groups import LinuxGrouping, dma_aliases, groups
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.routing import Decision, MachineAcs, Rung, RungKind, Tlp, decide, direct
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind, Sriov
from pcie.strategies import machines

SV, TB, RR, CR, UF, EC, DT = 1, 2, 4, 8, 0x10, 0x20, 0x40


def function(place: str, kind: PortKind = PortKind.ENDPOINT, **fields) -> Device:
    return Device(bdf=Bdf.parse(place), kind=kind, **fields)


def port(place: str, kind: PortKind, first: int, last: int, **fields) -> Device:
    return function(place, kind, header_type=1, secondary=first, subordinate=last, **fields)


def root_port(place: str, first: int, last: int, acs: Acs | None = None, **fields) -> Device:
    return port(place, PortKind.ROOT_PORT, first, last, acs=acs, **fields)


ON = Acs(0x5F, 0x1D)


def partition(*devices: Device) -> set[str]:
    return {
        " ".join(str(member)[5:] for member in group.members)
        for group in groups(Machine("test", devices))
    }


FLAGS = [
    (None, SV, False),
    (None, 0, False),
    (Acs(0, 0), SV | RR | CR | UF, True),
    (Acs(0, 0), EC, False),
    (Acs(EC, EC), EC, True),
    (Acs(0x1D, 0x1D), REQ_ACS_FLAGS, True),
    (Acs(0x1D, 0x1C), REQ_ACS_FLAGS, False),
    (Acs(0x1C, 0x1C), REQ_ACS_FLAGS, True),
    (Acs(0x7F, 0x14), RR | UF, True),
    (Acs(0x7F, 0x14), REQ_ACS_FLAGS, False),
]


@pytest.mark.parametrize(("acs", "flags", "expected"), FLAGS)
def test_flags_enabled(acs: Acs | None, flags: int, expected: bool) -> None:
    assert pci_acs_flags_enabled(acs, flags) is expected


ENABLED = [
    (PortKind.ROOT_PORT, False, None, False),
    (PortKind.ROOT_PORT, False, ON, True),
    (PortKind.DOWNSTREAM, False, Acs(0x5F, 0), False),
    (PortKind.UPSTREAM, False, None, True),
    (PortKind.UPSTREAM, True, None, False),
    (PortKind.ENDPOINT, False, None, True),
    (PortKind.ENDPOINT, True, None, False),
    (PortKind.ENDPOINT, True, ON, True),
    (PortKind.LEGACY_ENDPOINT, True, Acs(0x5F, 0), False),
    (PortKind.RC_INTEGRATED_ENDPOINT, False, None, True),
    (PortKind.RC_EVENT_COLLECTOR, False, ON, False),
    (PortKind.PCIE_TO_PCI_BRIDGE, False, ON, False),
    (PortKind.PCI_TO_PCIE_BRIDGE, False, ON, False),
    (PortKind.CONVENTIONAL, False, None, False),
    (PortKind.CONVENTIONAL_BRIDGE, False, None, False),
    (PortKind.RESERVED, True, None, True),
]


@pytest.mark.parametrize(("kind", "multifunction", "acs", "expected"), ENABLED)
def test_acs_enabled(kind: PortKind, multifunction: bool, acs: Acs | None, expected: bool) -> None:
    device = function("00:05.0", kind, multifunction=multifunction, acs=acs)
    only = Machine("test", [device])
    assert pci_acs_enabled(only, only.devices[0], REQ_ACS_FLAGS) is expected
    if not expected:
        assert "00:05.0" in why_not(only, only.devices[0], REQ_ACS_FLAGS)


QUIRKS = [
    (0x8086, 0x10C9, PortKind.ENDPOINT, True),
    (0x8086, 0x10CA, PortKind.ENDPOINT, False),
    (0x8086, 0x1234, PortKind.RC_INTEGRATED_ENDPOINT, True),
    (0x1B36, 0x1234, PortKind.RC_INTEGRATED_ENDPOINT, False),
    (0x8086, 0x8C10, PortKind.ROOT_PORT, True),
    (0x8086, 0x8C10, PortKind.ENDPOINT, False),
    (0x8086, 0x8C91, PortKind.ROOT_PORT, False),
    (0x0014, 0x7A09, PortKind.ROOT_PORT, True),
    (0x177D, 0xA123, PortKind.ROOT_PORT, True),
    (0x177D, 0xA123, PortKind.ENDPOINT, False),
    (0x1D17, 0x0711, PortKind.DOWNSTREAM, True),
    (0x1D17, 0x9999, PortKind.DOWNSTREAM, False),
    (0x8088, 0x0101, PortKind.ENDPOINT, True),
    (0x1957, 0x8D83, PortKind.ROOT_PORT, True),
    (0x1957, 0x8DB9, PortKind.ROOT_PORT, True),
    (0x1957, 0x8D84, PortKind.ROOT_PORT, False),
]


@pytest.mark.parametrize(("vendor", "device", "kind", "expected"), QUIRKS)
def test_quirks(vendor: int, device: int, kind: PortKind, expected: bool) -> None:
    found = function("00:05.0", kind, vendor=vendor, device=device, multifunction=True)
    only = Machine("test", [found])
    assert pci_acs_enabled(only, only.devices[0], REQ_ACS_FLAGS) is expected


def test_amd_south_bridge_needs_an_amd_iommu() -> None:
    lpc = function(
        "00:14.0", PortKind.CONVENTIONAL, vendor=0x1002, device=0x439D, multifunction=True
    )
    iommu = function("00:00.2", PortKind.CONVENTIONAL, vendor=0x1022, class_code=0x0806)
    without, having = Machine("a", [lpc]), Machine("b", [lpc, iommu])
    assert not pci_acs_enabled(without, without.device(lpc.bdf), REQ_ACS_FLAGS)
    assert pci_acs_enabled(having, having.device(lpc.bdf), REQ_ACS_FLAGS)


def test_quirked_functions_are_isolated_in_the_fabric_too() -> None:
    nics = [function(f"01:00.{n}", vendor=0x8086, device=0x10C9) for n in (0, 1)]
    found = Machine("test", [root_port("00:01.0", 1, 1, ON), *nics])
    assert len(groups(found)) == 3
    assert not Fabric(found).p2p(PERMISSIVE).edges


def test_egress_control_undoes_redirection() -> None:
    """With EC on, the vector decides; Linux leaves it zero and does not look at EC."""
    switch = machine("SW(on,on)")
    for acs, leaks in ((Acs(0x7F, 0x3D), True), (Acs(0x7F, 0x3D, egress=0b10), False)):
        devices = [
            replace(device, acs=acs, port_number=0)
            if device.label == "DSP1"
            else replace(device, port_number=1 if device.label == "DSP2" else 0)
            for device in switch.devices
        ]
        found = Machine("test", devices)
        assert bool(Fabric(found).p2p({**PERMISSIVE, "spoof": False}).edges) is leaks
        assert len(groups(found)) == 6


@given(machines())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_remembered_gaps_agree_with_the_path_test(found: Machine) -> None:
    grouping = LinuxGrouping(found)
    for device in reversed(found.devices):
        gap = grouping._first_gap(device.bdf)
        expected = first_gap(found, device.bdf, REQ_ACS_FLAGS)
        assert gap == (expected.bdf if expected else None)
        assert pci_acs_path_enabled(found, device.bdf, REQ_ACS_FLAGS) == (gap is None)
    acs = MachineAcs(found)
    for device in found.devices:
        if device.acs is not None and device.kind.has_link_below:
            all_on = all(acs.in_force(device.bdf, bit, None) for bit in ("SV", "RR", "CR", "UF"))
            assert all_on == pci_acs_enabled(found, device, REQ_ACS_FLAGS)


# -- grouping --------------------------------------------------------------------------------------


def test_conventional_functions_share_the_group_of_their_bridge() -> None:
    found = partition(
        root_port("00:01.0", 1, 3, ON),
        port("01:00.0", PortKind.PCIE_TO_PCI_BRIDGE, 2, 3),
        function("02:01.0", PortKind.CONVENTIONAL),
        port("02:02.0", PortKind.CONVENTIONAL_BRIDGE, 3, 3),
        function("03:01.0", PortKind.CONVENTIONAL),
    )
    assert found == {"00:01.0", "01:00.0 02:01.0 02:02.0 03:01.0"}


def test_aliases_on_the_way_up() -> None:
    found = Machine(
        "test",
        [
            root_port("00:01.0", 1, 3, ON),
            port("01:00.0", PortKind.PCIE_TO_PCI_BRIDGE, 2, 3),
            port("02:02.0", PortKind.CONVENTIONAL_BRIDGE, 3, 3),
            function("03:01.0", PortKind.CONVENTIONAL, aliases=frozenset({Bdf.parse("03:01.1")})),
        ],
    )
    ids = [str(alias)[5:] for _, alias in dma_aliases(found, Bdf.parse("03:01.0"))]
    assert ids == ["03:01.0", "03:01.1", "02:02.0", "02:00.0"]


def test_a_bridge_without_pcie_capability_may_still_be_one() -> None:
    bridge = port("01:00.0", PortKind.CONVENTIONAL_BRIDGE, 2, 2, vendor=0x1B21, device=0x1080)
    device = function("02:01.0", PortKind.CONVENTIONAL)
    found = Machine("test", [root_port("00:01.0", 1, 2, ON), bridge, device])
    assert [alias.rid for _, alias in dma_aliases(found, device.bdf)] == [0x208, 0x200]
    other = Machine("test", [root_port("00:01.0", 1, 2, ON), replace(bridge, vendor=1), device])
    assert [alias.rid for _, alias in dma_aliases(other, device.bdf)] == [0x208, 0x100]


def test_functions_of_one_slot_with_and_without_acs() -> None:
    found = partition(
        root_port("00:1c.0", 1, 1, ON),
        root_port("00:1c.1", 2, 2),
        root_port("00:1c.2", 3, 3),
        function("01:00.0"),
        function("02:00.0"),
        function("03:00.0"),
    )
    assert found == {"00:1c.0", "01:00.0", "00:1c.1 00:1c.2 02:00.0 03:00.0"}


def test_a_lone_function_with_the_multifunction_bit_needs_acs() -> None:
    single = function("01:00.0", multifunction=True)
    found = Machine("test", [root_port("00:01.0", 1, 1, ON), single])
    assert not pci_acs_enabled(found, found.device(single.bdf), REQ_ACS_FLAGS)
    assert len(groups(found)) == 2


def test_alias_between_slots_joins_groups_transitively() -> None:
    kind = PortKind.RC_INTEGRATED_ENDPOINT
    found = partition(
        function("00:02.0", kind, aliases=frozenset({Bdf.parse("00:03.0")})),
        function("00:03.0", kind),
        function("00:04.0", kind, aliases=frozenset({Bdf.parse("00:03.0")})),
        function("00:05.0", kind, aliases=frozenset({Bdf.parse("00:05.7")})),
    )
    assert found == {"00:02.0 00:03.0 00:04.0", "00:05.0"}


def test_virtual_functions_on_a_bus_of_their_own() -> None:
    physical = function("01:00.0", sriov=Sriov(True, 8, 2, 0x100, 2))
    virtual = [function("02:00.0"), function("02:00.2")]
    for acs, expected in (
        (ON, {"00:01.0", "01:00.0", "02:00.0", "02:00.2"}),
        (None, {"00:01.0 01:00.0 02:00.0 02:00.2"}),
    ):
        assert partition(root_port("00:01.0", 1, 2, acs), physical, *virtual) == expected
    found = Machine("test", [root_port("00:01.0", 1, 2, ON), physical, *virtual])
    assert found.package(virtual[0].bdf) == physical.bdf.slot
    assert not any(device.multifunction for device in found.devices)


def test_impossible_switch_ports_are_corrected() -> None:
    found = Machine(
        "test",
        [
            root_port("00:01.0", 1, 3, ON),
            port("01:00.0", PortKind.DOWNSTREAM, 2, 3),
            port("02:00.0", PortKind.UPSTREAM, 3, 3),
            function("03:00.0"),
        ],
    )
    assert [device.kind for device in found.devices[1:3]] == [
        PortKind.UPSTREAM,
        PortKind.DOWNSTREAM,
    ]


def test_second_root_bus_and_second_domain() -> None:
    found = Machine(
        "test",
        [
            root_port("00:01.0", 1, 1, ON),
            root_port("80:01.0", 0x81, 0x81, ON),
            root_port("0001:00:01.0", 1, 1, ON),
            function("01:00.0"),
            function("81:00.0"),
            function("0001:01:00.0"),
        ],
    )
    assert len(groups(found)) == 6
    assert [device.bdf for device in found.devices if found.on_root(device)] == [
        Bdf.parse("00:01.0"),
        Bdf.parse("80:01.0"),
        Bdf.parse("0001:00:01.0"),
    ]
    # Equal requester ids in two domains are two ids.
    assert not Fabric(found).identity({**PERMISSIVE, "mfd_rid_honest": False}).edges


def test_tree_queries() -> None:
    found = machine("SW(on,on)")
    root, a, b = (found.by_label(name).bdf for name in ("RP", "A", "B"))
    dsp1 = found.by_label("DSP1").bdf
    assert found.parent(a) == dsp1 and found.parent(root) is None
    assert found.children(dsp1) == (a,)
    assert found.under(a, root) and found.under(a, a) and not found.under(b, dsp1)
    assert [found.device(bdf).label for bdf in found.ancestors(a)] == ["DSP1", "USP", "RP"]
    assert set(found.tree.successors(dsp1)) == {a} and len(found.tree) == 6
    assert [device.label for device in found.functions] == ["A", "B"]
    assert len(found.ports) == 4
    order = [found.device(bdf).label for bdf in found.enumeration]
    assert order == ["RP", "USP", "DSP1", "DSP2", "A", "B"]


def test_addresses() -> None:
    bdf = Bdf.parse("1c:1f.7")
    assert str(bdf) == "0000:1c:1f.7" and bdf.rid == 0x1CFF and Bdf.from_rid(0x1CFF) == bdf
    assert Bdf.parse("10000:e1:00.0") > bdf


# -- corners of the fabric -------------------------------------------------------------------------

LOOSE = {**PERMISSIVE, "mfd_rid_honest": False, "rc_p2p": True}


def two_ports(control: int, first: str = "01:00.0", second: str = "02:00.0") -> Machine:
    acs = Acs(0x5F, control)
    left, right = Bdf.parse(first), Bdf.parse(second)
    return Machine(
        "test",
        [
            root_port(f"{left.domain:04x}:00:01.0", left.bus, left.bus, acs),
            root_port(f"{right.domain:04x}:00:02.0", right.bus, right.bus, acs),
            function(first),
            function(second),
        ],
    )


def test_redirection_at_the_root_port_keeps_requests_off_the_root_complex() -> None:
    assert not Fabric(two_ports(SV | RR)).p2p(LOOSE).edges
    assert len(Fabric(two_ports(SV | UF)).p2p(LOOSE).edges) == 2


def test_spoofing_stays_in_its_domain() -> None:
    assert len(Fabric(two_ports(0)).identity(LOOSE).edges) == 2
    assert not Fabric(two_ports(0, second="0001:02:00.0")).identity(LOOSE).edges


def test_integrated_functions_spoof_only_siblings_and_only_if_dishonest() -> None:
    kind = PortKind.RC_INTEGRATED_ENDPOINT
    places = ("00:04.0", "00:04.1", "00:05.0")
    fabric = Fabric(Machine("test", [function(place, kind) for place in places]))
    first, second, _ = map(Bdf.parse, places)
    assert not fabric.identity(PERMISSIVE).edges
    assert set(fabric.identity(LOOSE).edges) == {(first, second), (second, first)}


def test_a_request_lands_once() -> None:
    found = machine("SWR")
    edges = [edge for edge in Fabric(found).edges(LOOSE) if edge.channel == "peer-to-peer"]
    assert len(edges) == 2


def test_loopback_and_the_port_above_are_two_ways() -> None:
    functions = [function("01:00.0"), function("01:00.1")]
    found = Machine("test", [root_port("00:01.0", 1, 1, Acs(0x5F, 0)), *functions])
    data = Fabric(found).p2p(PERMISSIVE).edges[functions[0].bdf, functions[1].bdf]
    assert [len(edge.requires) for edge in data["edges"]] == [1, 0]
    # The one that needs no assumption explains the pair.
    assert data["edge"].requires == frozenset()


def test_what_a_root_port_without_capability_does_is_an_assumption() -> None:
    functions = [function("01:00.0", acs=ON), function("01:00.1", acs=ON)]
    found = Machine("test", [root_port("00:01.0", 1, 1), *functions])
    assert Fabric(found).p2p(PERMISSIVE).edges
    assert not Fabric(found).p2p({**PERMISSIVE, "rp_loopback": False}).edges
    lax = Machine("test", [root_port("00:01.0", 1, 1, Acs(0x5F, 0)), *functions])
    assert Fabric(lax).p2p({**PERMISSIVE, "rp_loopback": False}).edges


def test_a_grouped_sibling_of_an_alias_counts() -> None:
    kind = PortKind.CONVENTIONAL
    places = [Bdf.parse(place) for place in ("00:02.0", "00:03.0", "00:03.1")]
    found = Machine(
        "test",
        [
            function("00:02.0", kind, aliases=frozenset({places[1]})),
            function("00:03.0", kind),
            function("00:03.1", kind),
        ],
    )
    (group,) = LinuxGrouping(found, (places[2], places[0], places[1])).run()
    assert "functions of one device" in group.why[0]


def test_bridges_that_keep_requester_ids() -> None:
    below = function("02:01.0", PortKind.CONVENTIONAL)

    def ids(bridge: Device) -> list[int]:
        found = Machine("test", [root_port("00:01.0", 1, 2, ON), bridge, below])
        return [alias.rid for _, alias in dma_aliases(found, below.bdf)]

    plain = port("01:00.0", PortKind.PCIE_TO_PCI_BRIDGE, 2, 2)
    assert ids(plain) == [0x208, 0x200]
    assert ids(replace(plain, vendor=0x1A03, device=0x1150)) == [0x208]
    assert ids(replace(plain, vendor=0x14E4, device=0x9000)) == [0x208]
    assert ids(replace(plain, kind=PortKind.PCI_TO_PCIE_BRIDGE)) == [0x208, 0x100]


def test_pasid_of_a_virtual_function_is_a_matter_of_its_physical_function() -> None:
    physical = function("01:00.0", sriov=Sriov(True, 1, 1, 1, 1), multifunction=True)
    virtual = function("01:00.1")
    found = Machine("test", [root_port("00:01.0", 1, 1, ON), physical, virtual])
    assert not pasid_path_ok(found, virtual.bdf)
    isolated = replace(physical, acs=ON)
    found = Machine("test", [root_port("00:01.0", 1, 1, ON), isolated, virtual])
    assert pasid_path_ok(found, virtual.bdf)


def test_registers_out_of_range() -> None:
    gone = decode(Bdf.parse("01:00.0"), ConfigSpace(b"\xff" * 4096))
    assert not gone.multifunction and gone.header_type == 0 and gone.acs is None
    data = bytearray(encode(replace(machine("S").by_label("A"), label="")))
    data[0x105] = 0x1F
    assert decode(Bdf.parse("01:00.0"), ConfigSpace(bytes(data))).pasid == 20


def test_restricting_keeps_the_physical_function() -> None:
    whole = machine("VF")
    part = whole.restrict([whole.by_label("VF2").bdf])
    assert [device.label for device in part.devices] == ["RP", "PF", "VF2"]
    assert part.by_label("VF2").physfn == part.by_label("PF").bdf


def test_system_memory_and_own_addresses_go_up() -> None:
    found = machine("SWR")
    a, b = found.by_label("A").bdf, found.by_label("B").bdf
    port_of_a = found.by_label("DSP1").bdf
    for target in (None, a):
        assert direct(found, port_of_a, Tlp(a, 5), target).rung is None
    assert direct(found, port_of_a, Tlp(a), b).rung == Rung(RungKind.PEER, port_of_a)
    acs = MachineAcs(found)
    assert decide(found, port_of_a, Tlp(a), b, acs).rung is not None
    redirecting = MachineAcs(found, {port_of_a: ON})
    assert decide(found, port_of_a, Tlp(a), b, redirecting) == Decision(None, redirected=True)


def test_components_say_why_one_is_alone() -> None:
    whys = {group.members: group.why for group in groups(machine("S"), "components")}
    assert whys[Bdf.parse("00:01.0"),] == ("alone: it starts no requests of its own",)
    assert whys[Bdf.parse("01:00.0"),] == ("alone: no leak channel leads to it or from it",)
