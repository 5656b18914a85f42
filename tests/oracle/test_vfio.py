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


def test_random_calls(kernel, record_property) -> None:
    record_property("oracle", f"DMAPROOF_ORACLE_SEED={SEED}")
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
    record_property("oracle", f"{dict(counts)}, {len(met)} guards met")
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


SHAPE = (("vfio",), ("vfio",), ("vfio", "vfio"), ("vfio", "kernel"))
LATE = [t.OpenGroup("g1", "G1"), t.SetContainer("g1", "c0"), t.GetDevice("d1", "g1", B)]
DMA: dict[str, list[t.Call]] = {
    "p6-together": [
        *opened("c0", 0, 1),
        t.MapDma("c0", MEMORY + 0x3000, 0x10000),
        t.Dma("d0", 0x10000),
        t.Dma("d1", 0x10040),
    ],
    "p6-later": [*opened("c0", 0), t.MapDma("c0", MEMORY, 0x4000), *LATE, t.Dma("d1", 0x4008)],
    "p6-sibling": [
        *opened("c0", 2),
        t.GetDevice("d1", "g2", "0000:00:04.1"),
        t.MapDma("c0", MEMORY, 0x4000),
        t.Dma("d1", 0x4010),
    ],
    "p7": [
        *opened("c0", 0),
        *opened("c1", 1),
        t.MapDma("c0", MEMORY + 0x1000, 0x10000),
        t.Dma("d0", 0x10000),
        t.Dma("d1", 0x10000),
        t.MapDma("c1", MEMORY + 0x2000, 0x10000),
        t.Dma("d1", 0x10000),
        t.Dma("d0", 0x10000),
    ],
}
START: list[t.Call] = [t.OpenContainer("c0"), t.OpenContainer("c1"), t.OpenGroup("g0", "G0")]
IN = [*START, t.SetContainer("g0", "c0")]
READY = [*IN, t.SetIommu("c0")]
SPLIT = [*START, t.OpenGroup("g2", "G2"), t.SetContainer("g2", "c0")]
P8: dict[str, tuple[list[t.Call], str]] = {
    "group-of-two-in-two-containers": ([*SPLIT, t.SetContainer("g2", "c1")], "EINVAL"),
    "group-of-two-opened-for-each": ([*SPLIT, t.OpenGroup("g7", "G2")], "EBUSY"),
    "sibling-has-kernel-driver": (
        [*START, t.OpenGroup("g3", "G3"), t.SetContainer("g3", "c0")],
        "EPERM",
    ),
    "set-container-twice": ([*IN, t.SetContainer("g0", "c0")], "EINVAL"),
    "group-opened-twice": ([*START, t.OpenGroup("g7", "G0")], "EBUSY"),
    "set-iommu-on-empty-container": ([*START, t.SetIommu("c1")], "EINVAL"),
    "device-before-set-iommu": ([*IN, t.GetDevice("d0", "g0", A)], "EINVAL"),
    "overlapping-map": (
        [*READY, t.MapDma("c0", MEMORY, 0x1000, 0x2000), t.MapDma("c0", MEMORY, 0x2000)],
        "EEXIST",
    ),
    "map-of-message-interrupts": ([*READY, t.MapDma("c0", MEMORY, 0xFEE00000)], "EINVAL"),
    "map-that-wraps": ([*READY, t.MapDma("c0", MEMORY, (1 << 64) - 0x1000, 0x2000)], "EINVAL"),
    "unmap-that-splits": (
        [*READY, t.MapDma("c0", MEMORY, 0x1000, 0x2000), t.UnmapDma("c0", 0x2000)],
        "EINVAL",
    ),
    "unset-with-open-device": (
        [*READY, t.GetDevice("d0", "g0", A), t.UnsetContainer("g0")],
        "EBUSY",
    ),
    "too-many-maps": (
        [*READY, *(t.MapDma("c0", MEMORY, n * 0x1000) for n in range(6))],
        "ENOSPC",
    ),
}


@pytest.fixture(scope="module")
def answers(kernel):
    """One boot that makes all of the sequences above; the model agrees with every answer."""
    groups = machine(SHAPE)
    rows = {**DMA, **{name: calls for name, (calls, _) in P8.items()}}
    found = dict(zip(rows, run(kernel, groups, list(rows.values())).answers, strict=True))
    for name, calls in rows.items():
        ours = expected(platform(groups, kernel), calls)
        assert first_difference(ours, found[name]) is None, name
    return found


def landed(answers, name: str) -> list[int]:
    pairs = zip(DMA[name], answers[name], strict=True)
    return [answer.value for call, answer in pairs if isinstance(call, t.Dma)]


def test_p6_one_container_one_map(answers) -> None:
    """P6: all devices of a container write to the page that was mapped once, late ones too."""
    assert landed(answers, "p6-together") == [MEMORY + 0x3000, MEMORY + 0x3040]
    assert landed(answers, "p6-later") == [MEMORY + 8]
    assert landed(answers, "p6-sibling") == [MEMORY + 0x10]


def test_p7_two_containers(answers) -> None:
    """P7: two devices in two containers; the other's write does not land."""
    expected_ = [MEMORY + 0x1000, NOWHERE, MEMORY + 0x2000, MEMORY + 0x1000]
    assert landed(answers, "p7") == expected_


@pytest.mark.parametrize("name", P8)
def test_p8_errno(answers, name) -> None:
    """P8, and the other refusals that the reference names."""
    *before, last = answers[name]
    assert all(answer.errno is None for answer in before)
    assert last.errno == P8[name][1]


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
