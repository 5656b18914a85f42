"""The model of the legacy VFIO interface against the calls and the DMA of a real kernel.

A boot makes some hundred calls in sequences of their own. DMAPROOF_VFIO_STEPS says how many in all,
DMAPROOF_ORACLE_SEED repeats a run.
"""

from __future__ import annotations

import os
import random as randomness
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dmaproof.model.vfio import type1_guards
from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_uapi import NOWHERE

from .kernel.required import kernel_or_skip
from .vfio.run import GCC, MEMORY, machine, platform, run
from .vfio.sequences import (
    expected,
    first_difference,
    machines,
    program,
    smallest,
)

pytestmark = pytest.mark.oracle
REQUIRED = bool(os.environ.get("DMAPROOF_REQUIRE_ORACLES"))
STEPS = int(os.environ.get("DMAPROOF_VFIO_STEPS") or (500 if REQUIRED else 200))
SEED = int(os.environ.get("DMAPROOF_ORACLE_SEED") or randomness.randrange(1 << 32))
PROGRAMS = min(25, STEPS // 40)
A, B = "0000:00:02.0", "0000:00:03.0"


@pytest.fixture(scope="module")
def kernel():
    found = kernel_or_skip()
    if GCC is None:
        (pytest.fail if REQUIRED else pytest.skip)("gcc is not installed")
    return found


def check_programs(kernel, groups, number) -> Counter:
    """Compare every call; of a difference, report the shortest sequence that shows it."""
    host = platform(groups, kernel)
    written = [program(f"{number}:{index}", host) for index in range(PROGRAMS)]
    counts: Counter = Counter(boots=1)
    for calls, theirs in zip(written, run(kernel, groups, written).answers, strict=True):
        ours = expected(host, calls)
        if first_difference(ours, theirs) is not None:
            report(kernel, groups, calls)
        for call, answer in zip(calls, ours, strict=True):
            counts["steps"] += 1
            counts["refused"] += answer.errno is not None
            counts["dma"] += isinstance(call, t.Dma)
            counts["landed"] += isinstance(call, t.Dma) and answer.value != NOWHERE
            if answer.guard:
                counts[type(call).__name__, answer.guard] += 1
    return counts


def report(kernel, groups, calls) -> None:
    host = platform(groups, kernel)
    short, theirs = smallest(host, calls, lambda many: run(kernel, groups, many).answers)
    ours = expected(host, short)
    rows = [
        f"{call}\n    kernel {k}\n    model  {m}"
        for call, k, m in zip(short, theirs, ours, strict=True)
    ]
    pytest.fail("\n".join([f"groups {groups}", *rows]))


def test_random_calls(kernel, capsys) -> None:
    counts: Counter = Counter()

    @seed(SEED)
    @settings(
        max_examples=STEPS // PROGRAMS + 1,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(machines(), st.integers(0, (1 << 64) - 1))
    def check(groups, number):
        if counts["steps"] < STEPS:
            counts.update(check_programs(kernel, groups, number))

    check()
    met = {key: counts.pop(key) for key in list(counts) if isinstance(key, tuple)}
    with capsys.disabled():
        print(f"\n  DMAPROOF_ORACLE_SEED={SEED}: {dict(counts)}, {len(met)} guards met", end="")
    assert counts["steps"] >= STEPS
    assert counts["landed"]
    # Rare ones and those of other machines have rows of their own in tests/vfio.
    assert len(met) >= (40 if STEPS >= 10_000 else 15)


def one(kernel, shape, calls, **options):
    """Make one sequence on the kernel and on the model; they agree; return the answers."""
    groups = machine(shape)
    remapping = options.get("interrupt_remapping", True)
    host = platform(groups, kernel, isolated_interrupts=remapping)
    theirs = run(kernel, groups, [calls], **options).answers[0]
    ours = expected(host, calls)
    assert [(m.errno, m.value) for m in ours] == [(k.errno, k.value) for k in theirs]
    return ours


def opened(container: str, *groups: int) -> list[t.Call]:
    """A container with groups (numbers), an IOMMU and the first device of each group."""
    calls: list[t.Call] = [t.OpenContainer(container)]
    for number in groups:
        calls += [t.OpenGroup(f"g{number}", f"G{number}"), t.SetContainer(f"g{number}", container)]
    calls.append(t.SetIommu(container))
    for number in groups:
        calls.append(t.GetDevice(f"d{number}", f"g{number}", f"0000:00:{number + 2:02x}.0"))
    return calls


def test_p6_one_container_one_map(kernel) -> None:
    """P6: two devices in one container; both writes land in the page that was mapped once."""
    calls = [
        *opened("c0", 0, 1),
        t.MapDma("c0", MEMORY + 0x3000, 0x10000),
        t.Dma("d0", 0x10000),
        t.Dma("d1", 0x10040),
    ]
    answers = one(kernel, [["vfio"], ["vfio"]], calls)
    assert [answer.value for answer in answers[-2:]] == [MEMORY + 0x3000, MEMORY + 0x3040]


def test_p6_group_that_joins_later(kernel) -> None:
    """P6: what was mapped before a group joined is there for it, too."""
    late = [t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c0"), t.GetDevice("d1", "g1", B)]
    calls = [*opened("c0", 0), t.MapDma("c0", MEMORY, 0x4000), *late, t.Dma("d1", 0x4008)]
    assert one(kernel, [["vfio"], ["vfio"]], calls)[-1].value == MEMORY + 8


def test_p7_two_containers(kernel) -> None:
    """P7: two devices in two containers; the other's write does not land."""
    calls = [
        *opened("c0", 0),
        *opened("c1", 1),
        t.MapDma("c0", MEMORY + 0x1000, 0x10000),
        t.Dma("d0", 0x10000),
        t.Dma("d1", 0x10000),
        t.MapDma("c1", MEMORY + 0x2000, 0x10000),
        t.Dma("d1", 0x10000),
        t.Dma("d0", 0x10000),
    ]
    answers = one(kernel, [["vfio"], ["vfio"]], calls)
    found = [
        answer.value for call, answer in zip(calls, answers, strict=True) if isinstance(call, t.Dma)
    ]
    assert found == [MEMORY + 0x1000, NOWHERE, MEMORY + 0x2000, MEMORY + 0x1000]


P8 = {
    "set-container-twice": ([t.SetContainer("g0", "c0"), t.SetContainer("g0", "c1")], "EINVAL"),
    "group-opened-twice": ([t.OpenGroup("g7", "G0")], "EBUSY"),
    "set-iommu-on-empty-container": ([t.SetIommu("c1")], "EINVAL"),
    "device-before-set-iommu": (
        [t.SetContainer("g0", "c0"), t.GetDevice("d0", "g0", A)],
        "EINVAL",
    ),
    "sibling-has-kernel-driver": (
        [t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c0")],
        "EPERM",
    ),
    "overlapping-map": (
        [t.MapDma("c0", MEMORY, 0x1000, 0x2000), t.MapDma("c0", MEMORY, 0x2000)],
        "EEXIST",
    ),
    "map-of-message-interrupts": ([t.MapDma("c0", MEMORY, 0xFEE00000)], "EINVAL"),
    "map-that-wraps": ([t.MapDma("c0", MEMORY, (1 << 64) - 0x1000, 0x2000)], "EINVAL"),
    "unmap-that-splits": (
        [t.MapDma("c0", MEMORY, 0x1000, 0x2000), t.UnmapDma("c0", 0x2000)],
        "EINVAL",
    ),
    "unset-with-open-device": ([t.GetDevice("d0", "g0", A), t.UnsetContainer("g0")], "EBUSY"),
    "too-many-maps": (
        [t.MapDma("c0", MEMORY, n * 0x1000) for n in range(6)],
        "ENOSPC",
    ),
}
READY = {"overlapping-map", "map-of-message-interrupts", "map-that-wraps", "unmap-that-splits"}
READY |= {"unset-with-open-device", "too-many-maps"}


def test_p8_errno(kernel) -> None:
    """P8 and the other refusals that the reference names, each on the kernel and on the model."""
    groups = machine([["vfio", "vfio"], ["vfio", "kernel"]])
    start: list[t.Call] = [t.OpenContainer("c0"), t.OpenContainer("c1"), t.OpenGroup("g0", "G0")]
    ready = [t.SetContainer("g0", "c0"), t.SetIommu("c0")]
    rows = {
        name: [*start, *(ready if name in READY else []), *calls] for name, (calls, _) in P8.items()
    }
    answers = run(kernel, groups, list(rows.values())).answers
    host = platform(groups, kernel)
    found = {name: each[-1].errno for name, each in zip(rows, answers, strict=True)}
    assert found == {name: errno for name, (_, errno) in P8.items()}
    for name, each in zip(rows, answers, strict=True):
        assert first_difference(expected(host, rows[name]), each) is None, name


def test_unsafe_interrupts(kernel) -> None:
    """Without interrupt remapping no group is attached (EPERM), unless the module is told to."""
    calls = opened("c0", 0)
    answers = one(kernel, [["vfio"]], calls, interrupt_remapping=False)
    assert [answer.errno for answer in answers[-2:]] == ["EPERM", "EINVAL"]


@pytest.mark.slow
def test_a_wrong_model_is_found_and_shrunk(kernel, monkeypatch) -> None:
    """A model that lets UNMAP split mappings: three calls make a mapping, the fourth splits it."""
    guards = type1_guards.GUARDS[t.UnmapDma]
    kept = tuple(guard for guard in guards if guard.name != "no-mapping-split")
    monkeypatch.setitem(type1_guards.GUARDS, t.UnmapDma, kept)
    groups = machine([["vfio"], ["vfio"]])
    noise = [t.GroupStatus("g0"), t.CheckExtension("c0"), t.OpenContainer("c2"), t.Close("c2")]
    calls = [*opened("c0", 0), *noise, t.MapDma("c0", MEMORY, 0, 0x2000), *noise]
    calls += [t.UnmapDma("c0", 0x1000), *noise]
    host = platform(groups, kernel)
    short, _ = smallest(host, calls, lambda many: run(kernel, groups, many).answers)
    kinds = [type(call).__name__ for call in short]
    assert sorted(kinds) == sorted(
        ["OpenContainer", "OpenGroup", "SetContainer", "SetIommu", "MapDma", "UnmapDma"]
    )
