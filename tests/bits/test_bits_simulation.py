"""Runs of the rules and of the bits side by side: alpha agrees after every step.

Random runs of random designs say that the bits follow the rules; runs written out with one thing
broken, in the software or in the hardware, say that a difference would be seen.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.counterexamples.bits import gamma
from dmaproof.counterexamples.bits.gamma import FITTING
from dmaproof.counterexamples.bits.guest_table import ExtendedGuest, ScalableGuest
from dmaproof.counterexamples.bits.host import Host, RidFormat
from dmaproof.counterexamples.bits.process_table import ScalableProcess
from dmaproof.counterexamples.bits.unit import NotExecuted, Tables, Unit
from dmaproof.model.design import Step, builtin_names
from dmaproof.model.logic.sets import failing_guard
from dmaproof.model.pcie.machines import machine
from dmaproof.model.vtd import caches, queue
from dmaproof.model.vtd import invalidation as inv

from .support import Run, design

FLUSHES = ["unbind.flush-pasid-cache", "unbind.flush-iotlb", "unbind.flush-device-tlb"]
CALLER = {
    "bind-2018-device": "A, C1", "bind-2018-group": "A, C1", "bind-2018-container": "A, C1",
    "sva-2018-core": "A, p1, s1", "sva-2018-vfio": "A, C1, p1, s1",
}
KEY = {
    "bind-2018-device": "A", "bind-2018-group": "group 1", "bind-2018-container": "C1",
    "sva-2018-core": "A, p1, s1", "sva-2018-vfio": "C1, p1, s1",
}
HIT = "rid(A), p1, s1"


def bound(name: str) -> list[str]:
    """A bind with all caches filled, and its unbind, one function on machine S."""
    lines = []
    if name != "sva-2018-core":
        lines += ["set-container: group 1, C1", "set-iommu: C1", "device.open: A, C1"]
        if "container" in name or name == "sva-2018-vfio":
            lines.insert(1, "join.return: group 1")
    lines += [f"bind.enter: {CALLER[name]}", f"bind.visit: {KEY[name]}, A"]
    if not name.startswith("sva"):
        lines.append("table.write: A, C1, p1, s1")
    lines.append(f"bind.return: {KEY[name]}")
    lines += [f"{cache}.fill: {HIT}" for cache in ("pasid-cache", "iotlb", "device-tlb")]
    lines += [f"unbind.enter: {CALLER[name]}", f"unbind.clear: {KEY[name]}"]
    return [*lines, *(f"{flush}: {KEY[name]}" for flush in FLUSHES), f"unbind.return: {KEY[name]}"]


MAPPED = [
    "set-container: group 1, C1", "join.visit: A, C1", "join.return: group 1",
    "map: A, C1, s1",
    *(f"{cache}.fill: rid(A), no PASID, s1" for cache in ("pasid-cache", "iotlb", "device-tlb")),
    "unmap.enter: A, C1, s1", "unmap.clear: C1, s1", "unmap.flush-pasid-cache: C1, s1",
    "unmap.flush-iotlb: C1, s1", "unmap.flush-device-tlb: C1, s1", "unmap.return: C1, s1",
]

LEFT = [
    "set-container: group 2, C1", "join.visit: A, C1", "join.return: group 2",
    "set-container: group 3, C1", "join.visit: B, C1", "join.return: group 3",
    "map: A, C1, s1",
    *(f"{cache}.fill: rid(B), no PASID, s1" for cache in ("pasid-cache", "iotlb", "device-tlb")),
    "unset-container: group 3, C1", "leave.clear: group 3", "leave.flush-pasid-cache: group 3",
    "leave.flush-iotlb: group 3", "leave.flush-device-tlb: group 3", "leave.return: group 3",
]


def run_of(name: str, tables: Tables, where: str = "S") -> Run:
    return Run(design(name, fabric={"ats": True}), machine(where), tables)


def left_over(run: Run) -> set[object]:
    """What caches still hold, context entries that have not changed apart."""
    (unit,) = run.gamma.host.units.values()
    held = unit.hardware.caches
    now = {run.gamma.host.memory[where] for where in run.gamma.host.context.values()}
    stale = {entry for entry in held.context if entry.value[0][0] not in now}
    return held.pasid | held.iotlb | held.device | stale


RUNS = [
    *((name, tables) for name in ("bind-2018-device", "bind-2018-group", "bind-2018-container")
      for tables in (Tables.EXTENDED, Tables.SCALABLE)),
    *((name, tables) for name in ("sva-2018-core", "sva-2018-vfio")
      for tables in (Tables.SCALABLE, Tables.EXTENDED)),
]


@pytest.mark.parametrize(("name", "tables"), RUNS)
def test_a_bind_and_its_unbind(name: str, tables: Tables) -> None:
    run = run_of(name, tables)
    assert run.script(bound(name)) == []
    assert left_over(run) == set()


@pytest.mark.parametrize("tables", [Tables.LEGACY, Tables.SCALABLE])
@pytest.mark.parametrize(("script", "where"), [(MAPPED, "S"), (LEFT, "SS")], ids=["map", "leave"])
def test_type1(script: list[str], where: str, tables: Tables) -> None:
    run = run_of("type1", tables, where)
    assert run.script(script) == []
    assert left_over(run) == set()


# -- one thing broken -----------------------------------------------------------------------


def skip(*flushes: str):
    """Software that leaves out some flushes."""
    plain = gamma.Gamma.flush

    def flush(self, call, step, args):
        return "" if f"{call}.{step}" in flushes else plain(self, call, step, args)

    return gamma.Gamma, "flush", flush


def nothing_dropped(predicate: str):
    """Hardware whose invalidations drop nothing of one cache."""
    return inv, predicate, lambda *_, **__: False


def in_another_domain(self, rid, pasids):
    return [(wire, inv.Command(inv.Op.IOTLB_DOMAIN, did=0x77)) for wire in self.host.wires(rid)]


GUEST = ("bind-2018-device", Tables.EXTENDED)
NESTED = ("bind-2018-device", Tables.SCALABLE)
PROCESS = ("sva-2018-core", Tables.SCALABLE)
OLD_PROCESS = ("sva-2018-core", Tables.EXTENDED)

BROKEN = {
    "no PASID-cache flush (extended)": (GUEST, skip("unbind.flush-pasid-cache")),
    "no PASID-cache flush (nested)": (NESTED, skip("unbind.flush-pasid-cache")),
    "no PASID-cache flush (process)": (PROCESS, skip("unbind.flush-pasid-cache")),
    "no IOTLB flush (extended)": (GUEST, skip("unbind.flush-iotlb")),
    "no IOTLB flush (nested)": (NESTED, skip("unbind.flush-iotlb")),
    "no IOTLB flush (process)": (PROCESS, skip("unbind.flush-iotlb")),
    "no device-TLB flush": (GUEST, skip("unbind.flush-device-tlb")),
    "no device-TLB flush (process)": (OLD_PROCESS, skip("unbind.flush-device-tlb")),
    "the context cache keeps all": (GUEST, nothing_dropped("drops_context")),
    "the PASID cache keeps all": (PROCESS, nothing_dropped("drops_pasid")),
    "the IOTLB keeps all (extended)": (GUEST, nothing_dropped("drops_iotlb")),
    "the IOTLB keeps all (process)": (PROCESS, nothing_dropped("drops_iotlb")),
    "the device TLB keeps all": (NESTED, nothing_dropped("drops_device")),
    "flushes name another domain (extended)": (GUEST, (ExtendedGuest, "iotlb", in_another_domain)),
    "flushes name another domain (process)": (
        PROCESS, (ScalableProcess, "did", lambda self, rid: 0x77)),
    "nothing is cleared (extended)": (GUEST, (ExtendedGuest, "unpoint", lambda self, rid: None)),
    "nothing is cleared (nested)": (NESTED, (ScalableGuest, "unpoint", lambda self, rid: None)),
    "nothing is cleared (process)": (
        PROCESS, (ScalableProcess, "clear", lambda self, rid, pasid, space: None)),
    "the table is not erased": (GUEST, (ExtendedGuest, "erase", lambda self, owner: None)),
    "the guest's page is not lent": (NESTED, (Host, "lend", lambda self, domain, space: None)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bind_differs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (subject, tables), (where, attribute, value) = BROKEN[name]
    monkeypatch.setattr(where, attribute, value)
    assert run_of(subject, tables).script(bound(subject)) != []


BROKEN_TYPE1 = {
    "no context flush": (LEFT, skip("leave.flush-pasid-cache")),
    "no IOTLB flush": (LEFT, skip("leave.flush-iotlb")),
    "no IOTLB flush after an unmap": (MAPPED, skip("unmap.flush-iotlb")),
    "no device-TLB flush": (MAPPED, skip("unmap.flush-device-tlb")),
    "the leaf stays": (MAPPED, (RidFormat, "unmap", lambda self, container, space: None)),
    "the IOTLB keeps all": (MAPPED, nothing_dropped("drops_iotlb")),
}


@pytest.mark.parametrize("tables", [Tables.LEGACY, Tables.SCALABLE])
@pytest.mark.parametrize("name", BROKEN_TYPE1)
def test_a_broken_type1_differs(
    name: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, (where, attribute, value) = BROKEN_TYPE1[name]
    monkeypatch.setattr(where, attribute, value)
    assert run_of("type1", tables, "SS" if script is LEFT else "S").script(script) != []


def test_a_queue_that_stops_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "decode", lambda words, registers: None)
    with pytest.raises(NotExecuted, match="the invalidation queue stopped"):
        run_of(*GUEST).script(bound(GUEST[0]))


def test_a_wait_that_never_completes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = queue.Queue._take
    monkeypatch.setattr(queue.Queue, "_take", lambda self, command: None if (
        command.op is inv.Op.WAIT) else plain(self, command))
    with pytest.raises(NotExecuted):
        run_of(*GUEST).script(bound(GUEST[0]))


def test_hardware_does_nothing_of_its_own_accord() -> None:
    run = run_of(*GUEST)
    until = next(n for n, x in enumerate(bound(GUEST[0])) if x.startswith("pasid-cache.fill"))
    run.script(bound(GUEST[0])[:until])
    (unit,) = run.gamma.host.units.values()
    assert isinstance(unit, Unit)
    assert unit.hardware.caches == caches.Caches()
    run.script(bound(GUEST[0])[until : until + 1])
    assert unit.hardware.caches.context
    assert unit.hardware.caches.pasid
    assert not unit.hardware.caches.iotlb


# -- random runs ----------------------------------------------------------------------------

LENGTH = 45
MACHINES = ("S", "SS", "SW(off,off)", "MF(off)", "AL", "AL2", "BR", "T3", "VF")
RARELY = {"driver.bind", "driver.unbind", "device.close"}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A design, with or without ATS, on a part of a machine, in a table format.

    Its teardown clears before it flushes what leads to the tables, and its tables are its object's:
    past that the PASID cache of the rules, whose entries name a PASID, is no match for a context
    cache, which knows none.
    """
    name = draw(st.sampled_from(builtin_names()))
    ats, hot_add = draw(st.booleans()), draw(st.integers(0, 4)) == 0
    order = draw(st.permutations([Step.CLEAR, Step.FLUSH_PASID_CACHE, Step.FLUSH_IOTLB,
                                  Step.FLUSH_DEVICE_TLB]))
    if order.index(Step.CLEAR) > order.index(Step.FLUSH_PASID_CACHE):
        order = sorted(order, key=list(Step).index)
    guards = {} if draw(st.booleans()) else {"singleton": False}
    what = design(name, fabric={"ats": ats}, guards=guards,
                  teardown={"steps": [str(s) for s in order]})
    where = machine(draw(st.sampled_from(MACHINES)))
    functions = [d.bdf for d in where.functions][:3]
    absent = frozenset(f for f in functions if hot_add and draw(st.booleans()))
    # Two spaces under one PASID would need PASIDs that the system hands out once.
    spaces = 1 if what.interface.kind == "sva-2018" else draw(st.integers(1, 2))
    counts = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), spaces)
    payload = what.interface.payload
    return Run(what, where, draw(st.sampled_from(FITTING[payload])), counts, functions,
               hot_add, absent)


def wander(run: Run, seed: int) -> None:
    """Take random actions that the rules allow (drawn outside of hypothesis, which is slow)."""
    random, taken = Random(seed), []
    actions = list(run.model.system.actions)
    for _ in range(LENGTH):
        random.shuffle(actions)
        for act in actions:
            if act.name in RARELY and random.random() < 0.8:
                continue
            choices = list(run.instance.tuples(p.sort for p in act.params))
            random.shuffle(choices)
            allowed = (args for args in choices
                       if failing_guard(act, args, run.instance, run.state) is None)
            args = next(allowed, None)
            if args is not None:
                run.step(act.name, args)
                taken.append((act.name, args))
                assert run.differences == [], taken
                break


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(runs(), st.integers(0, 1 << 32))
def test_bits_follow_the_rules(run: Run, seed: int) -> None:
    wander(run, seed)


@pytest.mark.slow
@settings(max_examples=400, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(runs(), st.integers(0, 1 << 32))
def test_bits_follow_the_rules_for_long(run: Run, seed: int) -> None:
    wander(run, seed)
