"""Where TLPs end: each ACS bit by its effect, and the whole against channels and symbols."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
import z3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie.channels import PERMISSIVE, Channel, Fabric, holds
from dmaproof.model.pcie.delivery import (
    MEMORY,
    Address,
    Aim,
    End,
    EndKind,
    SymbolicAcs,
    TlpKind,
    endings,
    ends,
)
from dmaproof.model.pcie.groups import dma_aliases
from dmaproof.model.pcie.groups_v3 import (
    DSP_MT_RB,
    DSP_MT_RR,
    ENHANCED,
    IORB,
    UNCLAIMED_RR,
    USP_MT_RB,
    USP_MT_RR,
)
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.routing import MachineAcs, PrefixRouter
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Bdf, Machine, PortKind
from pcie.strategies import machines
from pcie.test_fabric_scale import rich_machines

few = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
EVERYTHING = 0x7F | ENHANCED
SWITCH = machine("SW(off,off)")
LABELS = {device.label: device.bdf for device in SWITCH.devices}
A, B, DSP1, DSP2, USP, RP = (LABELS[name] for name in ("A", "B", "DSP1", "DSP2", "USP", "RP"))


def bits(*names: str) -> int:
    return sum(ACS_BITS[name] for name in names)


def switch(dsp1: int = 0, root: int = 0, egress: int = 0, a: Acs | None = None) -> Machine:
    """RP - USP - {DSP1 - A, DSP2 - B}; DSP2 is port 1 and everything is implemented."""
    changed = {DSP1: Acs(EVERYTHING, dsp1, egress), RP: Acs(EVERYTHING, root), A: a}
    return Machine(
        "switch",
        [
            replace(
                device,
                acs=changed.get(device.bdf, device.acs),
                port_number=int(device.bdf == DSP2),
            )
            for device in SWITCH.devices
        ],
    )


def sent(made: Machine, kind: TlpKind, address: Address, **more) -> End:
    """The one place where a TLP of A ends."""
    acs, assume = MachineAcs(made), {**PERMISSIVE, "rp_loopback": True}
    found = [
        end
        for condition, end in endings(
            made, A, kind, address, acs, lambda name: assume[name], **more
        )
        if condition
    ]
    (end,) = found
    return end


def bar(at: Bdf) -> Address:
    return Address(Aim.BAR, at)


def at_iommu(rid: Bdf = A) -> End:
    return End(EndKind.IOMMU, None, rid)


REQUESTS = (TlpKind.UNTRANSLATED, TlpKind.WITH_PASID, TlpKind.TRANSLATED, TlpKind.TRANSLATION)
UP = bits("RR", "UF", "CR")


@pytest.mark.parametrize("kind", REQUESTS)
def test_what_no_bar_claims_reaches_the_iommu(kind: TlpKind) -> None:
    made = switch()
    for aim in (Aim.MEMORY, Aim.UNCLAIMED):
        assert sent(made, kind, Address(aim)) == at_iommu()
    expected = EndKind.INTERRUPT if kind is TlpKind.UNTRANSLATED else EndKind.IOMMU
    assert sent(made, kind, Address(Aim.INTERRUPT)).kind is expected


@pytest.mark.parametrize("kind", [*REQUESTS, TlpKind.COMPLETION])
def test_peers_are_reached_straight_unless_redirected_everywhere(kind: TlpKind) -> None:
    straight = sent(switch(), kind, bar(B))
    assert (straight.kind, straight.at) == (EndKind.DELIVERED, B)
    assert "peer" in straight.by
    looped = sent(switch(UP, 0), kind, bar(B))
    assert (looped.kind, looped.at) == (EndKind.DELIVERED, B)
    assert "back down" in looped.by
    end = sent(switch(UP, UP), kind, bar(B))
    completion = kind is TlpKind.COMPLETION
    assert end.kind is (EndKind.ROOT_COMPLEX if completion else EndKind.IOMMU)


def test_requests_heed_rr_and_completions_cr() -> None:
    for bit, stopped in (("RR", TlpKind.UNTRANSLATED), ("CR", TlpKind.COMPLETION)):
        made = switch(bits(bit), UP)
        for kind in (TlpKind.UNTRANSLATED, TlpKind.COMPLETION):
            assert (sent(made, kind, bar(B)).kind is EndKind.DELIVERED) is (kind is not stopped)


@pytest.mark.parametrize("kind", REQUESTS)
def test_dt_lets_translated_requests_alone_go_straight(kind: TlpKind) -> None:
    end = sent(switch(bits("RR", "DT"), UP), kind, bar(B))
    assert (end.kind is EndKind.DELIVERED) is (kind is TlpKind.TRANSLATED)
    # DT says nothing about what is sent back down (UF), nor without being implemented.
    made = switch(bits("RR", "DT"), UP)
    without = [
        replace(d, acs=Acs(EVERYTHING & ~bits("DT"), d.acs.control)) if d.bdf == DSP1 else d
        for d in made.devices
    ]
    assert sent(Machine("no DT", without), kind, bar(B)) == at_iommu()


@pytest.mark.parametrize("kind", [*REQUESTS, TlpKind.COMPLETION])
def test_tb_drops_what_ats_sends(kind: TlpKind) -> None:
    translated = {TlpKind.TRANSLATED, TlpKind.TRANSLATION}
    for made, port in ((switch(bits("TB")), DSP1), (switch(0, bits("TB")), RP)):
        end = sent(made, kind, MEMORY)
        assert (end.kind is EndKind.BLOCKED) is (kind in translated)
        if kind in translated:
            assert (end.at, end.by) == (port, "TB")
    lacking = [replace(d, acs=Acs(0x1D, 0x1D)) if d.bdf == DSP1 else d for d in switch().devices]
    assert sent(Machine("no TB", lacking), kind, MEMORY).kind is not EndKind.BLOCKED


def test_sv_drops_requests_with_a_foreign_bus_number() -> None:
    for kind in REQUESTS:
        end = sent(switch(bits("SV")), kind, MEMORY, claimed=B)
        assert end == End(EndKind.BLOCKED, DSP1, B, "SV")
        assert sent(switch(0, bits("SV")), kind, MEMORY, claimed=B) == at_iommu(B)
        assert sent(switch(bits("SV")), kind, MEMORY, claimed=replace(A, function=3)) == at_iommu(
            replace(A, function=3)
        )
    assert sent(switch(bits("SV")), TlpKind.COMPLETION, bar(B), claimed=B).kind is (
        EndKind.DELIVERED
    )


def test_egress_vector_drops_without_rr_and_redirects_with_it() -> None:
    towards_b = 1 << 1
    for kind in REQUESTS:
        dropped = sent(switch(bits("EC"), UP, towards_b), kind, bar(B))
        assert (dropped.kind, dropped.at, dropped.by) == (EndKind.BLOCKED, DSP1, "EC")
        assert sent(switch(bits("EC", "RR"), UP, towards_b), kind, bar(B)) == at_iommu()
        for control in (bits("EC"), bits("EC", "RR")):
            end = sent(switch(control, UP, ~towards_b & 0xFF), kind, bar(B))
            assert end.kind is EndKind.DELIVERED
    straight = sent(switch(bits("EC", "DT"), UP, towards_b), TlpKind.TRANSLATED, bar(B))
    assert straight.kind is EndKind.DELIVERED


def test_io_requests_can_be_blocked_where_acs_is_enhanced() -> None:
    assert sent(switch(IORB), TlpKind.IO, MEMORY).kind is EndKind.BLOCKED
    assert sent(switch(), TlpKind.IO, MEMORY).kind is EndKind.ROOT_COMPLEX
    assert sent(switch(IORB), TlpKind.UNTRANSLATED, MEMORY) == at_iommu()
    plain = [replace(d, acs=Acs(0x7F, IORB)) if d.bdf == DSP1 else d for d in switch().devices]
    assert sent(Machine("plain", plain), TlpKind.IO, MEMORY).kind is EndKind.ROOT_COMPLEX


PORT_MEMORY = [
    (DSP1, DSP_MT_RB, DSP_MT_RR),
    (DSP2, DSP_MT_RB, DSP_MT_RR),
    (USP, USP_MT_RB, USP_MT_RR),
]


@pytest.mark.parametrize(("port", "block", "redirect"), PORT_MEMORY)
def test_memory_of_ports_has_bits_of_its_own(port: Bdf, block: int, redirect: int) -> None:
    kind = TlpKind.UNTRANSLATED
    # RR and UF at the port do not matter, nor do the two bits of the other kind of port.
    others = (DSP_MT_RB | DSP_MT_RR | USP_MT_RB | USP_MT_RR) & ~(block | redirect)
    assert sent(switch(UP | others, UP), kind, bar(port)).at == port
    assert sent(switch(block, UP), kind, bar(port)).kind is EndKind.BLOCKED
    assert sent(switch(redirect, UP), kind, bar(port)) == at_iommu()
    assert sent(switch(redirect, 0), kind, bar(port)).at == port, "a lax root port sends it back"


def test_the_root_port_guards_its_own_memory() -> None:
    kind = TlpKind.UNTRANSLATED
    assert sent(switch(UP, UP), kind, bar(RP)).at == RP
    assert sent(switch(0, DSP_MT_RB), kind, bar(RP)).kind is EndKind.BLOCKED
    assert sent(switch(0, DSP_MT_RR), kind, bar(RP)) == at_iommu()


def test_unclaimed_addresses_of_a_switch_and_of_a_port() -> None:
    kind = TlpKind.UNTRANSLATED
    inside = Address(Aim.RANGE, USP)
    assert sent(switch(UP, UP), kind, inside).kind is EndKind.UNCLAIMED
    assert sent(switch(UNCLAIMED_RR, UP), kind, inside) == at_iommu()
    assert sent(switch(UNCLAIMED_RR, 0), kind, inside).kind is EndKind.UNCLAIMED
    own = Address(Aim.RANGE, DSP1)
    assert sent(switch(0, UP), kind, own).kind is EndKind.UNCLAIMED
    assert sent(switch(bits("UF"), UP), kind, own) == at_iommu()
    peer = Address(Aim.RANGE, DSP2)
    assert sent(switch(bits("UF"), UP), kind, peer).kind is EndKind.UNCLAIMED
    assert sent(switch(bits("RR"), UP), kind, peer) == at_iommu()


def test_functions_of_a_device_guard_themselves() -> None:
    for name, expected in (("MF(on)", EndKind.IOMMU), ("MF(off)", EndKind.DELIVERED)):
        found = machine(name)
        first, second = (device.bdf for device in found.functions)
        (end,) = ends(
            found,
            first,
            TlpKind.UNTRANSLATED,
            bar(second),
            MachineAcs(found),
            {**PERMISSIVE, "rp_loopback": False},
        )
        assert end.kind is expected
    found = machine("MF(nocap)")
    first, second = (device.bdf for device in found.functions)
    for loopback in (False, True):
        assume = {**PERMISSIVE, "rp_loopback": False, "mf_loopback": loopback}
        (end,) = ends(found, first, TlpKind.UNTRANSLATED, bar(second), MachineAcs(found), assume)
        assert (end.kind is EndKind.DELIVERED) is loopback


def test_behind_a_bridge_requests_carry_its_id_and_no_prefix() -> None:
    found = machine("BR")
    first = found.functions[0].bdf
    acs = MachineAcs(found)
    arrived = ends(found, first, TlpKind.UNTRANSLATED, MEMORY, acs, PERMISSIVE)
    assert {end.rid for end in arrived} == set(Fabric(found).requester_ids(first))
    for kind in (TlpKind.WITH_PASID, TlpKind.TRANSLATED, TlpKind.TRANSLATION):
        assert ends(found, first, kind, MEMORY, acs, PERMISSIVE) == []
    behind = Bdf(0, 2, 0, 0)
    claimed = [
        end
        for condition, end in endings(
            found,
            first,
            TlpKind.UNTRANSLATED,
            MEMORY,
            acs,
            lambda name: PERMISSIVE[name],
            claimed=Bdf(0, 2, 31, 0),
        )
        if condition
    ]
    assert claimed == [at_iommu(behind)], "the bridge writes its own id over a forged one"


# -- the whole -----------------------------------------------------------------------------------

assumptions = st.fixed_dictionaries({name: st.booleans() for name in PERMISSIVE})
inhabited = machines(budget=6).filter(lambda machine: machine.functions)


@given(st.one_of(machines(), rich_machines()), assumptions)
@few
def test_a_bar_is_reached_exactly_where_channels_have_an_edge(machine: Machine, assume) -> None:
    fabric = Fabric(machine)
    reach, nodes = fabric.reach(assume), fabric.numbering.nodes
    for source, target in product(nodes, repeat=2):
        if source == target:
            continue
        found = ends(machine, source, TlpKind.UNTRANSLATED, bar(target), fabric.acs, assume)
        landed = {end.at for end in found if end.kind is EndKind.DELIVERED}
        edge = fabric.p2p(assume).has_edge(source, target)
        # Channels take a request that an egress vector drops for one that it redirects.
        dropped = any(end.kind is EndKind.BLOCKED for end in found)
        assert landed == ({target} if edge else set()) or (edge and dropped and not landed)
        assert len(found) == len(list(dma_aliases(machine, source)))
    assert reach.nodes == nodes


@given(st.one_of(machines(), rich_machines()))
@few
def test_a_forged_id_arrives_exactly_where_channels_have_a_spoof(machine: Machine) -> None:
    fabric = Fabric(machine)
    assume = {**PERMISSIVE, "mfd_rid_honest": False}
    for source, user in product(fabric.numbering.nodes, repeat=2):
        check = fabric.source_check(source)
        if source == user or check is None or not check.linked:
            continue
        spoofs = {
            edge.rid
            for edge in fabric.edges_between(source, user)
            if edge.channel is Channel.SPOOF and holds(edge.requires, assume)
        }
        for rid in fabric.requester_ids(user):
            if rid in fabric.requester_ids(source) or rid.domain != source.domain:
                continue
            found = endings(
                machine,
                source,
                TlpKind.UNTRANSLATED,
                MEMORY,
                fabric.acs,
                lambda name: assume[name],
                claimed=rid,
            )
            arrived = {end.rid for condition, end in found if condition and end.at is None}
            assert (rid in arrived) == (rid.rid in spoofs)


@given(inhabited, st.sampled_from(TlpKind), st.data())
@few
def test_symbols_say_what_settings_decide(found: Machine, kind: TlpKind, data) -> None:
    source = data.draw(st.sampled_from(found.functions)).bdf
    place = data.draw(st.sampled_from([d.bdf for d in found.devices if d.bdf != source] or [None]))
    aims = [Aim.BAR, Aim.MEMORY, Aim.INTERRUPT]
    aim = data.draw(st.sampled_from([*aims, Aim.RANGE] if place else aims[1:]))
    address = Address(aim, place if aim in {Aim.BAR, Aim.RANGE} else None)
    if aim is Aim.RANGE and not found.device(place).is_bridge:
        return
    acs = MachineAcs(found)
    assume = data.draw(assumptions)
    wanted = ends(found, source, kind, address, acs, assume)
    symbolic = endings(found, source, kind, address, SymbolicAcs(found), z3.Bool)
    assert [end for term, end in symbolic if decided(term, acs, assume)] == wanted


def decided(term: z3.BoolRef | bool, acs: MachineAcs, assume: dict[str, bool]) -> bool:
    """The value of a condition under the settings of a machine."""
    if isinstance(term, bool):
        return term
    values = [(symbol, z3.BoolVal(value_of(str(symbol), acs, assume))) for symbol in symbols(term)]
    return z3.is_true(z3.simplify(z3.substitute(term, *values)))


def symbols(term: z3.ExprRef) -> set[z3.BoolRef]:
    if not term.children():
        return {term}
    return set().union(*(symbols(child) for child in term.children()))


def value_of(name: str, acs: MachineAcs, assume: dict[str, bool]) -> bool:
    if name in assume:
        return assume[name]
    words = name.split()
    towards = None
    if words[-2] == "to":
        towards = None if words[-1] == "None" else Bdf.parse(words[-1])
        words = words[:-2]
    fact, at = " ".join(words[:-1]), Bdf.parse(words[-1])
    if fact == "present":
        return acs.present(at)
    if fact == "EC drops":
        return towards is not None and acs.drops(at, towards)
    if fact.startswith("0x"):
        return acs.switched_on(at, int(fact, 16))
    return acs.in_force(at, fact, towards)


@pytest.mark.parametrize("kind", TlpKind)
@pytest.mark.parametrize("name", ["SWR", "MF(on)", "BR", "SS"])
def test_under_any_setting_a_tlp_ends_in_one_place(name: str, kind: TlpKind) -> None:
    found = machine(name)
    first, second = (device.bdf for device in found.functions[:2])
    for address in (MEMORY, bar(second)):
        decided = endings(found, first, kind, address, SymbolicAcs(found), z3.Bool)
        for rid in {end.rid for _, end in decided if end.at is None}:
            conditions = [c for c, end in decided if len({e.rid for _, e in decided}) == 1]
            if not conditions:
                continue
            solver = z3.Solver()
            solver.add(z3.Not(z3.Or(conditions)))
            assert solver.check() == z3.unsat, rid
        if name != "BR":
            for one, other in combinations([c for c, _ in decided], 2):
                solver = z3.Solver()
                solver.add(z3.And(one, other))
                assert solver.check() == z3.unsat


@given(inhabited, st.data())
@few
def test_a_pasid_prefix_changes_no_way(found: Machine, data) -> None:
    source, target = (data.draw(st.sampled_from(found.functions)).bdf for _ in range(2))
    acs = MachineAcs(found)
    if source == target or not found.device(source).kind.is_pcie:
        return
    plain, prefixed = (
        ends(found, source, kind, bar(target), acs, PERMISSIVE)
        for kind in (TlpKind.UNTRANSLATED, TlpKind.WITH_PASID)
    )
    assert plain == prefixed
    routed = endings(
        found,
        source,
        TlpKind.WITH_PASID,
        bar(target),
        acs,
        lambda name: PERMISSIVE[name],
        router=PrefixRouter(),
    )
    assert all(end.kind is EndKind.IOMMU for condition, end in routed if condition)


def test_integrated_endpoints_reach_the_iommu_at_once() -> None:
    from dmaproof.model.pcie.topology import Device

    found = Machine("rciep", [Device(bdf=Bdf(0, 0, 2, 0), kind=PortKind.RC_INTEGRATED_ENDPOINT)])
    where = found.devices[0].bdf
    for kind in REQUESTS:
        assert ends(found, where, kind, MEMORY, MachineAcs(found), PERMISSIVE) == [at_iommu(where)]
