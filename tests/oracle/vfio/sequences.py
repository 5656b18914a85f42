"""Random sequences of VFIO calls, and the smallest part of one that shows a difference.

Slots: containers c0..c2; groups g0.. one a group, and g7 for those who try a second time; devices
d0..d3. The writer follows the model's state, so that most calls succeed and programs get somewhere;
the rest is made whether or not it makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_state import Call, Platform, State
from dmaproof.model.vfio.type1_uapi import Answer, refusal, step

from .run import MEMORY, MEMORY_BYTES, Groups, machine

SHAPES = (("vfio",), ("vfio", "vfio"), ("vfio", "none"), ("vfio", "kernel"), ("none",))
EDGES = (0xFEDFF000, 0xFEE00000, 0xFEEFF000, 0xFEF00000, (1 << 39) - t.PAGE, 1 << 39)
TOP = (1 << 64) - t.PAGE


def machines() -> st.SearchStrategy[Groups]:
    """Draw two to five groups; the first two can be opened."""
    first = st.sampled_from(SHAPES[:3])
    rest = st.lists(st.sampled_from(SHAPES), max_size=3)
    return st.tuples(first, first, rest).map(lambda drawn: machine([*drawn[:2], *drawn[2]]))


class _Program:
    """Writes calls one by one and follows the model, so as to know which would be served."""

    def __init__(self, random: Random, platform: Platform) -> None:
        self.random, self.platform = random, platform
        self.state = State()
        self.calls: list[Call] = []
        self.names = sorted(platform.groups)
        self.functions = [f for members in platform.groups.values() for f in members]

    def write(self, length: int) -> list[Call]:
        """Return about *length* calls; of three in four the model expects success."""
        while len(self.calls) < length:
            wanted = self._served if self.random.random() < 0.75 else self._interesting
            tries = [self._any() for _ in range(40)]
            call = next(filter(wanted, tries), tries[0])
            for each in written_for(self.platform, [call], self.state):
                self.calls.append(each)
                self.state, _ = step(self.platform, self.state, each)
        return self.calls

    def _served(self, call: Call) -> bool:
        # Else nearly every call that succeeds would open or close a file, or only ask.
        if self.random.random() < _SHUNNED.get(type(call), 0.0):
            return False
        reused = isinstance(call, _OPENS) and call.slot in self.state.files
        return not reused and refusal(self.platform, self.state, call) is None

    def _interesting(self, call: Call) -> bool:
        guard = refusal(self.platform, self.state, call)
        return guard is not None and (guard.name not in _DULL or self.random.random() < 0.02)

    def _pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def _container(self) -> str:
        return self._pick("c0", "c0", "c0", "c1", "c1", "c2")

    def _group(self) -> str:
        return self._pick(*(f"g{index}" for index in range(len(self.names))), "g7")

    def _device(self) -> str:
        return self._pick("d0", "d0", "d1", "d1", "d2", "d3")

    def _page(self) -> int:
        return self.random.randrange(6) * t.PAGE

    def _iova(self) -> int:
        return self._pick(*[self._page()] * 12, *EDGES, TOP, 0x800)

    def _size(self) -> int:
        odd = (0, 0x800, TOP, (1 << 64) - 1, 1 << 63)
        return self._pick(*[t.PAGE] * 12, *[2 * t.PAGE] * 8, *[3 * t.PAGE] * 3, *odd)

    def _vaddr(self) -> int:
        odd = (MEMORY + MEMORY_BYTES, MEMORY + 0x10, TOP)
        return self._pick(*[MEMORY + self._page()] * 20, *odd)

    def _short(self, size: int) -> int:
        return self._pick(*[size] * 20, size - 1, 0, size + 64)

    def _map(self) -> Call:
        flags = self._pick(*[3] * 8, 1, 2, *[t.VADDR] * 3, 0, 7, 8)
        readable = self.random.random() < 0.97
        place = (self._container(), self._vaddr(), self._iova(), self._size())
        return t.MapDma(*place, flags, self._short(t.MAP_BYTES), readable)

    def _unmap(self) -> Call:
        if self.random.random() < 0.15:
            return t.UnmapDma(self._container(), 0, 0, self._pick(2, 2, 6))
        flags = self._pick(*[0] * 8, *[t.UNMAP_VADDR] * 3, 1, 2, 6, 8)
        readable = self.random.random() < 0.97
        place = (self._container(), self._iova(), self._size())
        return t.UnmapDma(*place, flags, self._short(t.UNMAP_BYTES), readable)

    def _any(self) -> Call:
        """Return a call that may or may not make sense."""
        slots = (self._container(), self._group(), self._device())
        kinds: list[tuple[int, Callable[[], Call]]] = [
            (3, lambda: t.OpenContainer(self._container())),
            (6, self._open_group),
            (3, lambda: t.Close(self._pick(*slots))),
            (2, lambda: t.GroupStatus(self._group(), self._short(t.STATUS_BYTES))),
            (6, lambda: t.SetContainer(self._group(), self._pick(*[slots[0]] * 9, *slots[1:]))),
            (2, lambda: t.UnsetContainer(self._group())),
            (6, lambda: t.GetDevice(self._device(), self._group(), self._pick(*self.functions))),
            (1, lambda: t.CheckExtension(self._container(), self.random.randrange(12))),
            (6, lambda: t.SetIommu(self._container(), self._pick(1, 1, 3, 3, 3, 6, 9, 10, 99))),
            (1, lambda: t.GetInfo(self._container(), self._short(t.INFO_BYTES))),
            (14, self._map),
            (7, self._unmap),
            (3, lambda: t.Dma(self._device(), self._page() + self._pick(0, 0x24))),
        ]
        weights = [weight for weight, _ in kinds]
        return self.random.choices([make for _, make in kinds], weights)[0]()

    def _open_group(self) -> Call:
        number = self.random.randrange(len(self.names))
        return t.OpenGroup(self._pick(*[f"g{number}"] * 6, "g7"), self.names[number])


_OPENS = (t.OpenContainer, t.OpenGroup, t.GetDevice)
_DULL = {"descriptor-open", "container-has-iommu", "container-descriptor-open"}
_SHUNNED: dict[type[Call], float] = {
    t.OpenContainer: 0.8, t.OpenGroup: 0.3, t.Close: 0.95, t.UnsetContainer: 0.9,
    t.GroupStatus: 0.95, t.CheckExtension: 0.95, t.GetInfo: 0.9,
    t.UnmapDma: 0.7, t.Dma: 0.4,
}  # fmt: skip


def program(seed: int | str, platform: Platform, length: int = 50) -> list[Call]:
    """Return about *length* calls of one program, the same for the same seed."""
    return _Program(Random(seed), platform).write(length)


def written_for(
    platform: Platform, calls: Iterable[Call], start: State | None = None
) -> list[Call]:
    """Return the calls with those that use a descriptor twice, or none, put right.

    A device that is not open cannot write; what would open into a used slot closes it first.
    """
    state, result = start or State(), []
    for call in calls:
        opens = isinstance(call, _OPENS)
        if isinstance(call, t.Dma) and call.slot not in state.files:
            continue
        for each in ([t.Close(call.slot)] if opens and call.slot in state.files else []) + [call]:
            result.append(each)
            state, _ = step(platform, state, each)
    return result


def expected(platform: Platform, calls: Iterable[Call]) -> list[Answer]:
    """Return what the model answers."""
    state, answers = State(), []
    for call in calls:
        state, answer = step(platform, state, call)
        answers.append(answer)
    return answers


def first_difference(ours: Sequence[Answer], theirs: Sequence[Answer]) -> int | None:
    """Return the number of the first call that was answered differently, None without one."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if (mine.errno, mine.value) != (other.errno, other.value):
            return number
    return None


Ask = Callable[[list[list[Call]]], list[list[Answer]]]


def smallest(platform: Platform, calls: list[Call], ask: Ask) -> tuple[list[Call], list[Answer]]:
    """Return the shortest part of *calls* that still shows a difference, and what was answered.

    Every round leaves out each run of calls of every length, and asks all at once: one boot a
    round, where shrinking example by example would take one boot a guess.

    Args:
        platform: for the model's answers.
        calls: a sequence that shows a difference.
        ask: makes sequences on the real kernel.

    """
    current, answers = calls, ask([calls])[0]
    while True:
        cut = first_difference(expected(platform, current), answers)
        current = current if cut is None else current[: cut + 1]
        shorter, length = [], len(current) // 2
        while length:
            shorter += [
                written_for(platform, current[:at] + current[at + length :])
                for at in range(0, len(current), length)
            ]
            length //= 2
        tried = zip(shorter, ask(shorter) if shorter else [], strict=True)
        found = [
            (part, given)
            for part, given in tried
            if len(part) < len(current)
            and first_difference(expected(platform, part), given) is not None
        ]
        if not found:
            return current, answers[: len(current)]
        current, answers = min(found, key=lambda pair: len(pair[0]))
