"""Known answers on the built-in machines."""

from __future__ import annotations

import pytest

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.acs import pasid_path_ok
from dmaproof.model.pcie.channels import PERMISSIVE, Channel, Fabric
from dmaproof.model.pcie.groups import LinuxGrouping, groups
from dmaproof.model.pcie.machines import load, machine, names
from dmaproof.model.pcie.topology import Machine

PLAIN = {**PERMISSIVE, "spoof": False, "mf_loopback": False}
EVERYTHING = {**PERMISSIVE, "mfd_rid_honest": False, "rc_p2p": True}


def label(found: Machine, bdf) -> str | None:
    if bdf is None:
        return None
    return found.device(bdf).label if bdf in found else str(bdf)


def edges(name: str, assume: dict[str, bool], *channels: Channel) -> set[str]:
    found = machine(name)
    return {
        f"{label(found, edge.source)}>{label(found, edge.target)}"
        for edge in Fabric(found).edges(assume)
        if edge.channel in channels
    }


def partition(name: str, algorithm: str = "linux") -> set[str]:
    found = machine(name)
    return {
        " ".join(sorted(label(found, member) or "" for member in group.members))
        for group in groups(found, algorithm)
    }


BOTH = {"A>B", "B>A"}
P2P = {
    "S": set(),
    "SS": set(),
    "SW(on,on)": set(),
    "SW(off,off)": BOTH,
    "SW(nocap,nocap)": BOTH,
    "SW(off,on)": {"A>B"},
    "SW(on,off)": {"B>A"},
    "SW(rruf,rruf)": set(),
    "SW(rruf,off)": {"B>A"},
    "SWR": BOTH,
    "SWG": set(),
    "MF(on)": set(),
    "MF(off)": {"A.0>A.1", "A.1>A.0"},
    "MF(rruf)": set(),
    "MF(nocap)": set(),
    "BR": BOTH,
    "AL": set(),
    "AL2": set(),
    "VF": set(),
    "T3": {"A>B", "A>C", "B>A", "B>C"},
}


@pytest.mark.parametrize(("name", "expected"), P2P.items(), ids=P2P.keys())
def test_peer_to_peer_without_assumptions(name: str, expected: set[str]) -> None:
    assert edges(name, PLAIN, Channel.PEER_TO_PEER) == expected
    # Misrouting is the same fact seen from the sender.
    assert edges(name, PLAIN, Channel.MISROUTE) == expected


SPOOF = {
    "S": set(),
    "SS": set(),
    "SW(on,on)": set(),
    "SW(off,off)": BOTH,
    "SW(off,on)": {"A>B"},
    "SW(on,off)": {"B>A"},
    "SWR": BOTH,
    "SWG": BOTH,
    "MF(off)": set(),
    "BR": set(),
    "AL": set(),
    "AL2": set(),
}


@pytest.mark.parametrize(("name", "expected"), SPOOF.items(), ids=SPOOF.keys())
def test_spoofing(name: str, expected: set[str]) -> None:
    assert edges(name, PERMISSIVE, Channel.SPOOF) == expected
    assert edges(name, PLAIN, Channel.SPOOF) == set()


def test_dishonest_silicon_spoofs_its_sibling_whatever_the_port_checks() -> None:
    assert edges("MF(on)", EVERYTHING, Channel.SPOOF) == {"A.0>A.1", "A.1>A.0"}
    assert edges("VF", EVERYTHING, Channel.SPOOF) >= {"VF1>VF2", "VF2>PF"}
    assert edges("SS", EVERYTHING, Channel.SPOOF) == set()


ALIASES = {
    "SS": set(),
    "BR": BOTH,
    "AL": {"A>None"},
    "AL2": BOTH,
}


@pytest.mark.parametrize(("name", "expected"), ALIASES.items(), ids=ALIASES.keys())
def test_aliases(name: str, expected: set[str]) -> None:
    assert edges(name, PLAIN, Channel.ALIAS) == expected


def test_loopback_is_an_assumption_only_without_capability() -> None:
    assumed = {**PLAIN, "mf_loopback": True}
    assert edges("MF(nocap)", assumed, Channel.PEER_TO_PEER) == {"A.0>A.1", "A.1>A.0"}
    assert edges("MF(on)", EVERYTHING, Channel.PEER_TO_PEER) == set()


def test_root_complex_forwards_only_by_assumption_and_never_past_redirection() -> None:
    found = machine("SS")
    lax = [
        device if not device.is_bridge else type(device)(**{**vars(device), "acs": None})
        for device in found.devices
    ]
    fabric = Fabric(Machine("lax", lax))
    assert not fabric.p2p(PLAIN).edges
    assert len(fabric.p2p(EVERYTHING).edges) == 2
    assert not Fabric(found).p2p(EVERYTHING).edges


GROUPS = {
    "S": {"RP", "A"},
    "SS": {"RP1", "RP2", "A", "B"},
    "SW(on,on)": {"RP", "USP", "DSP1", "DSP2", "A", "B"},
    # T1: what the kernel makes of it; the two leak into each other.
    "SW(off,off)": {"RP", "USP", "A DSP1", "B DSP2"},
    # T2: B is a true singleton, and A writes to it.
    "SW(off,on)": {"RP", "USP", "A DSP1", "DSP2", "B"},
    "SW(on,off)": {"RP", "USP", "DSP1", "A", "B DSP2"},
    "SWR": {"A B DSP1 DSP2 RP USP"},
    "SWG": {"A B DSP1 DSP2 RP USP"},
    "MF(on)": {"RP", "A.0", "A.1"},
    "MF(off)": {"RP", "A.0 A.1"},
    "MF(rruf)": {"RP", "A.0 A.1"},
    "MF(nocap)": {"RP", "A.0 A.1"},
    "BR": {"RP", "A B BR"},
    "AL": {"RP", "A"},
    "AL2": {"RP", "A B"},
    "T3": {"RP", "A B", "C"},
    "VF": {"RP", "PF", "VF1", "VF2"},
}


@pytest.mark.parametrize(("name", "expected"), GROUPS.items(), ids=GROUPS.keys())
def test_linux_groups(name: str, expected: set[str]) -> None:
    assert partition(name) == expected


COMPONENTS = {
    "SS": {"RP1", "RP2", "A", "B"},
    "SW(off,on)": {"RP", "USP", "DSP1", "DSP2", "A B"},
    "SWG": {"RP", "USP", "DSP1", "DSP2", "A B"},
    "T3": {"RP", "A B C"},
    "MF(nocap)": {"RP", "A.0 A.1"},
    "BR": {"RP", "BR", "A B"},
}


@pytest.mark.parametrize(("name", "expected"), COMPONENTS.items(), ids=COMPONENTS.keys())
def test_component_groups(name: str, expected: set[str]) -> None:
    assert partition(name, "components") == expected


PASID = {
    "S": "A",
    "SS": "A B",
    "SW(off,off)": "",
    "SW(on,off)": "A",
    "SW(rruf,nocap)": "A",
    "SWR": "",
    "SWG": "A B",
    "MF(on)": "A.0 A.1",
    "MF(off)": "",
    "BR": "",
    "VF": "PF VF1 VF2",
}


@pytest.mark.parametrize(("name", "expected"), PASID.items(), ids=PASID.keys())
def test_who_passes_the_pasid_path_test(name: str, expected: str) -> None:
    found = machine(name)
    assert " ".join(d.label for d in found.functions if pasid_path_ok(found, d.bdf)) == expected


def test_pasid_capability_is_on_every_function_but_conventional_ones() -> None:
    for name in names():
        for device in machine(name).functions:
            expected = device.kind.is_pcie and not device.is_virtual
            assert (device.pasid is not None) == expected, (name, device)


def test_reasons_name_port_and_bits() -> None:
    found = machine("SWR")
    fabric = Fabric(found)
    a, b = found.by_label("A").bdf, found.by_label("B").bdf
    (edge,) = fabric.witness(a, b, PLAIN)
    assert "DSP1 (0000:02:00.0) has RR off" in edge.reason
    assert [label(found, hop) for hop in edge.path] == ["A", "DSP1", "DSP2", "B"]
    assert {(label(found, cut.port), cut.bits) for cut in edge.cuts} == {
        ("DSP1", "RR"),
        ("RP", "UF"),
    }
    group = groups(found)[0]
    assert "0000:00:01.0 has ACS bits SV|RR|CR|UF off" in " ".join(group.why)


def test_downstream_redirect_is_undone_by_a_root_port_without_forwarding() -> None:
    found = machine("SW(rruf,rruf)")
    lax = [
        type(device)(**{**vars(device), "acs": None}) if device.label == "RP" else device
        for device in found.devices
    ]
    fabric = Fabric(Machine("lax", lax))
    (edge,) = fabric.witness(found.by_label("A").bdf, found.by_label("B").bdf, PLAIN)
    assert [label(found, hop) for hop in edge.path] == [
        "A",
        "DSP1",
        "USP",
        "RP",
        "USP",
        "DSP2",
        "B",
    ]


def test_acts_needs_a_deputy_or_an_identity() -> None:
    found = machine("SW(off,off)")
    fabric = Fabric(found)
    a, b = found.by_label("A").bdf, found.by_label("B").bdf
    assert (a, b) in fabric.acts(PLAIN).edges
    alone = {**PLAIN, "deputy": False}
    assert (a, b) not in fabric.acts(alone).edges
    assert fabric.witness(a, b, alone) == []
    assert (a, b) in fabric.acts({**alone, "spoof": True}).edges
    assert fabric.emits(alone)[a] == {a.rid: None}
    spoofed = fabric.emits({**alone, "spoof": True})[a][b.rid]
    assert spoofed is not None and spoofed.channel is Channel.SPOOF


def test_probe_order_changes_the_groups() -> None:
    """T8: endpoints before their ports get narrower groups."""
    found = machine("SWR")
    ordered = LinuxGrouping(found, found.enumeration).run()
    reversed_order = LinuxGrouping(found, tuple(reversed(found.enumeration))).run()
    assert len(ordered) == 1
    assert len(reversed_order) > 1


def test_names() -> None:
    for name in names():
        assert machine(name).name == name
        assert load(name) == machine(name)
    assert machine(" SW( off, on ) ").name == "SW(off,on)"
    assert machine("MF(on)").by_label("B").label == "A.1"


@pytest.mark.parametrize(
    "name", ["", "X", "SW", "SW(on)", "SW(on,on,on)", "SW(on,no)", "S(on)", "MF()", "SW(on,on", "é"]
)
def test_unknown_names_are_explained(name: str) -> None:
    with pytest.raises(InputError) as caught:
        machine(name)
    assert caught.value.remedy
    with pytest.raises(InputError):
        load(name)


def test_unknown_function_and_algorithm() -> None:
    with pytest.raises(InputError, match="no function 'C'"):
        machine("SS").by_label("C")
    with pytest.raises(InputError, match="no function '0000:77:00"):
        machine("SS").by_label("77:00.0")
    with pytest.raises(InputError, match="no grouping algorithm"):
        groups(machine("SS"), "v9")
