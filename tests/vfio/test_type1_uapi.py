"""The legacy VFIO interface as a model: every guard refuses something, and nothing is for nothing.

That a real kernel answers the same is `tests/oracle/test_vfio.py`.
"""

from __future__ import annotations

import errno as numbers
from collections.abc import Iterator
from dataclasses import replace

import pytest

# The writer of random programs is the kernel oracle's.
from oracle.vfio.sequences import program

from dmaproof.model.rules import all_rules
from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_guards import GUARDS
from dmaproof.model.vfio.type1_uapi import NOWHERE, Answer, lands, run, step

PAGE = t.PAGE
BASE = 0x200000000
GROUPS = {
    "G0": {"a": "vfio"},
    "G1": {"b": "vfio", "c": "vfio"},
    "G2": {"d": "vfio", "e": "kernel"},
    "G3": {"f": "none"},
}
HOST = t.Platform(GROUPS, entry_limit=3, memory=(range(BASE, BASE + 8 * PAGE),))
UNSAFE = replace(HOST, isolated_interrupts=False)

OPEN = [t.OpenContainer("c0"), t.OpenGroup("g0", "G0")]
JOINED = [*OPEN, t.SetContainer("g0", "c0")]
READY = [*JOINED, t.SetIommu("c0")]
DEVICE = [*READY, t.GetDevice("d0", "g0", "a")]
MAPPED = [*READY, t.MapDma("c0", BASE, 0x4000, 2 * PAGE)]
STALE = [*MAPPED, t.UnmapDma("c0", 0x4000, 2 * PAGE, t.UNMAP_VADDR)]


def mapping(**changes) -> list[t.Call]:
    return [*READY, replace(t.MapDma("c0", BASE, 0x4000), **changes)]


def unmapping(**changes) -> list[t.Call]:
    return [*MAPPED, replace(t.UnmapDma("c0", 0x4000, 2 * PAGE), **changes)]


# (call, guard): the calls that lead there, and the errno.
ROWS: dict[tuple[type[t.Call], str], tuple[list[t.Call], str]] = {
    (t.OpenGroup, "vfio-driver-bound"): ([t.OpenGroup("g3", "G3")], "ENOENT"),
    (t.OpenGroup, "group-not-open"): ([*OPEN, t.OpenGroup("g7", "G0")], "EBUSY"),
    (t.Close, "descriptor-open"): ([t.Close("c0")], "EBADF"),
    (t.GroupStatus, "descriptor-open"): ([t.GroupStatus("g0")], "EBADF"),
    (t.GroupStatus, "argsz-covers-status"): ([*OPEN, t.GroupStatus("g0", 7)], "EINVAL"),
    (t.SetContainer, "descriptor-open"): ([*OPEN, t.SetContainer("g1", "c0")], "EBADF"),
    (t.SetContainer, "container-descriptor-open"): ([*OPEN, t.SetContainer("g0", "c1")], "EBADF"),
    (t.SetContainer, "group-in-no-container"): ([*JOINED, t.SetContainer("g0", "c0")], "EINVAL"),
    (t.SetContainer, "descriptor-is-container"): ([*OPEN, t.SetContainer("g0", "g0")], "EINVAL"),
    (t.SetContainer, "dma-owner-free"): (
        [*OPEN, t.OpenGroup("g2", "G2"), t.SetContainer("g2", "c0")],
        "EPERM",
    ),
    (t.SetContainer, "user-addresses-valid"): (
        [*STALE, t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c0")],
        "EBUSY",
    ),
    (t.UnsetContainer, "descriptor-open"): ([t.UnsetContainer("g0")], "EBADF"),
    (t.UnsetContainer, "group-in-container"): ([*OPEN, t.UnsetContainer("g0")], "EINVAL"),
    (t.UnsetContainer, "no-device-open"): ([*DEVICE, t.UnsetContainer("g0")], "EBUSY"),
    (t.GetDevice, "descriptor-open"): ([t.GetDevice("d0", "g0", "a")], "EBADF"),
    (t.GetDevice, "device-in-group"): ([*READY, t.GetDevice("d0", "g0", "b")], "ENODEV"),
    (t.GetDevice, "group-container-has-iommu"): (
        [*JOINED, t.GetDevice("d0", "g0", "a")],
        "EINVAL",
    ),
    (t.CheckExtension, "descriptor-open"): ([t.CheckExtension("c0")], "EBADF"),
    (t.SetIommu, "descriptor-open"): ([t.SetIommu("c0")], "EBADF"),
    (t.SetIommu, "container-has-group"): ([*OPEN, t.SetIommu("c0")], "EINVAL"),
    (t.SetIommu, "iommu-not-set"): ([*READY, t.SetIommu("c0")], "EINVAL"),
    (t.SetIommu, "driver-knows-type"): ([*JOINED, t.SetIommu("c0", 99)], "ENODEV"),
    (t.SetIommu, "type-can-be-opened"): ([*JOINED, t.SetIommu("c0", 9)], "EINVAL"),
    (t.SetIommu, "interrupts-isolated"): (READY, "EPERM"),
    (t.GetInfo, "descriptor-open"): ([t.GetInfo("c0")], "EBADF"),
    (t.GetInfo, "container-has-iommu"): ([*JOINED, t.GetInfo("c0")], "EINVAL"),
    (t.GetInfo, "argsz-covers-info"): ([*READY, t.GetInfo("c0", 15)], "EINVAL"),
    (t.MapDma, "descriptor-open"): ([t.MapDma("c0", BASE)], "EBADF"),
    (t.MapDma, "container-has-iommu"): ([*JOINED, t.MapDma("c0", BASE)], "EINVAL"),
    (t.MapDma, "argument-readable"): (mapping(readable=False), "EFAULT"),
    (t.MapDma, "argsz-covers-map"): (mapping(argsz=31), "EINVAL"),
    (t.MapDma, "known-flags"): (mapping(flags=0xB), "EINVAL"),
    (t.MapDma, "protection-or-address"): (mapping(flags=0), "EINVAL"),
    (t.MapDma, "whole-pages"): (mapping(iova=0x4800), "EINVAL"),
    (t.MapDma, "does-not-wrap"): (mapping(iova=(1 << 64) - PAGE, size=2 * PAGE), "EINVAL"),
    (t.MapDma, "mapping-known"): (mapping(flags=t.VADDR), "ENOENT"),
    (t.MapDma, "mapping-stale"): (
        [*MAPPED, t.MapDma("c0", BASE + PAGE, 0x4000, 2 * PAGE, t.VADDR)],
        "EINVAL",
    ),
    (t.MapDma, "not-mapped"): ([*MAPPED, t.MapDma("c0", BASE, 0x5000)], "EEXIST"),
    (t.MapDma, "entry-left"): (
        [*READY, *(t.MapDma("c0", BASE, n * PAGE) for n in range(4))],
        "ENOSPC",
    ),
    (t.MapDma, "address-valid"): (mapping(iova=0xFEDFF000, size=2 * PAGE), "EINVAL"),
    (t.MapDma, "memory-there"): (mapping(vaddr=BASE + 7 * PAGE, size=2 * PAGE), "EFAULT"),
    (t.UnmapDma, "descriptor-open"): ([t.UnmapDma("c0")], "EBADF"),
    (t.UnmapDma, "container-has-iommu"): ([*JOINED, t.UnmapDma("c0")], "EINVAL"),
    (t.UnmapDma, "argument-readable"): (unmapping(readable=False), "EFAULT"),
    (t.UnmapDma, "argsz-covers-unmap"): (unmapping(argsz=23), "EINVAL"),
    (t.UnmapDma, "known-flags"): (unmapping(flags=8), "EINVAL"),
    (t.UnmapDma, "dirty-tracking-on"): (unmapping(flags=t.UNMAP_DIRTY), "EINVAL"),
    (t.UnmapDma, "whole-pages"): (unmapping(size=0), "EINVAL"),
    (t.UnmapDma, "does-not-wrap"): (unmapping(size=(1 << 64) - PAGE), "EINVAL"),
    (t.UnmapDma, "no-mapping-split"): (unmapping(size=PAGE), "EINVAL"),
    (t.UnmapDma, "address-not-taken"): (
        [*STALE, t.UnmapDma("c0", 0x4000, 2 * PAGE, t.UNMAP_VADDR)],
        "EINVAL",
    ),
    (t.Dma, "descriptor-open"): ([t.Dma("d0")], "EBADF"),
}
# A container of a host with unsafe interrupts never gets the IOMMU that this guard asks about.
REDUNDANT = {(t.SetContainer, "interrupts-isolated")}


def host_of(key: tuple[type[t.Call], str]) -> t.Platform:
    return UNSAFE if key[1] == "interrupts-isolated" else HOST


def named(key: tuple[type[t.Call], str]) -> str:
    return f"{key[0].__name__}:{key[1]}"


def test_every_guard_has_a_row() -> None:
    every = {(call, guard.name) for call, guards in GUARDS.items() for guard in guards}
    assert every - ROWS.keys() == REDUNDANT
    assert ROWS.keys() <= every


@pytest.mark.parametrize("key", ROWS, ids=named)
def test_refusal(key) -> None:
    calls, errno = ROWS[key]
    before, _ = run(host_of(key), calls[:-1])
    after, answer = step(host_of(key), before, calls[-1])
    assert answer == Answer(0, errno, key[1])
    assert after is before, "a refused call changes nothing"
    assert hasattr(numbers, errno)


@pytest.mark.parametrize("key", ROWS, ids=named)
def test_without_the_guard_the_answer_is_another(key, monkeypatch) -> None:
    calls, _ = ROWS[key]
    call, name = key
    monkeypatch.setitem(GUARDS, call, tuple(g for g in GUARDS[call] if g.name != name))
    try:
        _, answer = run(host_of(key), calls)
    except KeyError:  # the effect runs into what the guard kept out
        return
    assert answer.guard != name


def test_redundant_guard_cannot_be_met() -> None:
    for seed in range(20):
        for state in states(program(seed, UNSAFE), UNSAFE):
            assert all(container.iommu is None for container in state.containers.values())


def states(calls, host=HOST) -> Iterator[t.State]:
    state = t.State()
    for call in calls:
        state, _ = step(host, state, call)
        yield state


@pytest.mark.parametrize("seed", range(12))
def test_what_always_holds(seed: int) -> None:
    for state in states(program(seed, HOST, 150)):
        held = {file.name for file in state.files.values() if file.kind == "container"}
        assert state.containers.keys() == held | set(state.inside.values())
        for name, container in state.containers.items():
            assert container.groups == {g for g, where in state.inside.items() if where == name}
            assert container.groups or container.iommu is None
            assert container.iommu is not None or not container.areas
            assert len(container.areas) <= HOST.entry_limit
            last = -1
            for area in container.areas:
                assert area.iova > last
                last = area.iova + area.size - 1
                assert HOST.valid(area.iova, last)
        for file in state.files.values():
            if file.kind == "device":
                container = state.inside[HOST.group_of(file.name)]
                assert state.containers[container].iommu is not None
        groups = [file.name for file in state.files.values() if file.kind == "group"]
        assert len(groups) == len(set(groups))
        assert all(state.opened(HOST, group) for group in state.inside)


def test_one_map_for_all_groups_of_a_container() -> None:
    """P6 and C10: every member of every group, also of one that joins later; K1: siblings, too."""
    late = [t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c0")]
    state, _ = run(HOST, [*MAPPED, *late])
    assert {lands(HOST, state, f, 0x5008, t.WRITE) for f in "abc"} == {BASE + PAGE + 8}
    assert lands(HOST, state, "d", 0x5008, t.WRITE) == NOWHERE


def test_two_containers_are_apart() -> None:
    """P7, and what closing does: the group leaves with its file, the last takes the map."""
    other = [t.OpenContainer("c1"), t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c1")]
    calls = [*MAPPED, *other, t.SetIommu("c1"), t.MapDma("c1", BASE + 2 * PAGE, 0x4000)]
    state, _ = run(HOST, calls)
    assert lands(HOST, state, "a", 0x4000, t.WRITE) == BASE
    assert lands(HOST, state, "b", 0x4000, t.WRITE) == BASE + 2 * PAGE
    state, _ = step(HOST, state, t.Close("c0"))
    assert lands(HOST, state, "a", 0x4000, t.WRITE) == BASE
    state, _ = step(HOST, state, t.Close("g0"))
    assert lands(HOST, state, "a", 0x4000, t.WRITE) == NOWHERE
    assert set(state.containers) == {"1"}


@pytest.mark.parametrize(("flags", "right", "reaches"), [
    (t.READ, t.WRITE, False), (t.WRITE, t.WRITE, True), (t.WRITE, t.READ, False),
])  # fmt: skip
def test_protection(flags: int, right: int, reaches: bool) -> None:
    state, _ = run(HOST, mapping(flags=flags))
    assert (lands(HOST, state, "a", 0x4000, right) != NOWHERE) == reaches


def test_user_address_is_replaced() -> None:
    moved = t.MapDma("c0", BASE + 4 * PAGE, 0x4000, 2 * PAGE, t.VADDR)
    state, answer = run(HOST, [*STALE, moved])
    assert answer == Answer()
    (area,) = state.containers["0"].areas
    assert (area.vaddr, area.stale, area.protection) == (BASE + 4 * PAGE, False, 3)
    # The memory is pinned: devices go on reaching what they reached.
    assert lands(HOST, state, "a", 0x4000, t.WRITE) == BASE


def test_old_containers_unmap_more_than_asked_or_nothing() -> None:
    """A v1 container: an area goes whole with its first page, and stays without it."""
    start = [*JOINED, t.SetIommu("c0", t.TYPE1), t.MapDma("c0", BASE, 0x4000, 3 * PAGE)]
    assert run(HOST, [*start, t.UnmapDma("c0", 0x4000, PAGE)])[1].value == 3 * PAGE
    assert run(HOST, [*start, t.UnmapDma("c0", 0x5000, 2 * PAGE)])[1].value == 0


def test_later_kernels() -> None:
    later = replace(HOST, kernel=(7, 0))
    for key, expected in (
        ((t.MapDma, "does-not-wrap"), "EOVERFLOW"),
        ((t.UnmapDma, "does-not-wrap"), "EOVERFLOW"),
        ((t.SetContainer, "descriptor-is-container"), "EBADFD"),
        ((t.MapDma, "not-mapped"), "EEXIST"),
    ):
        assert run(later, ROWS[key][0])[1].errno == expected
    nesting = [*JOINED, t.SetIommu("c0", t.NESTING)]
    assert run(HOST, nesting)[1].guard == "type-can-be-opened"
    assert run(later, nesting)[1].guard == "driver-knows-type"


def test_a_range_to_the_last_address() -> None:
    """Until 6.18 its end wraps to 0: UNMAP answers 0 and takes nothing, MAP sees no overlap."""
    size = (1 << 64) - 0x4000
    later = replace(HOST, kernel=(6, 18))
    take = [*MAPPED, t.UnmapDma("c0", 0x4000, size)]
    assert run(HOST, take)[1] == Answer(0)
    assert run(later, take)[1] == Answer(2 * PAGE)
    put = [*MAPPED, t.MapDma("c0", 0, 0x4000, size)]
    assert run(HOST, put)[1].guard == "address-valid"
    assert run(later, put)[1].guard == "not-mapped"


def test_every_guard_is_a_cited_rule() -> None:
    cited = {rule.where.rpartition(".")[2] for rule in all_rules()}
    for guards in GUARDS.values():
        assert {guard.refuses.__name__ for guard in guards} <= cited
