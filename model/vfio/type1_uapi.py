"""The legacy VFIO user interface as a transition system: what every call answers and changes.

`step` is one system call. It is executable, so that the same sequence can be given to it and to a
kernel (`tests/oracle/test_vfio.py`); `lands` says where a device's write ends.

>>> platform = Platform({"g": {"a": "vfio"}}, memory=(range(0x1000, 0x3000),))
>>> state, answer = run(platform, [OpenContainer("c"), OpenGroup("g", "g"), SetIommu("c")])
>>> answer.errno, answer.guard
('EINVAL', 'container-has-group')
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dmaproof.model.rules import rule
from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_guards import GUARDS, Guard, answers_to
from dmaproof.model.vfio.type1_ranges import first_area, unmapped
from dmaproof.model.vfio.type1_state import (
    Area,
    Container,
    File,
    OpenContainer,
    OpenGroup,
    Platform,
    SetIommu,
    State,
)

__all__ = ["Answer", "OpenContainer", "OpenGroup", "Platform", "SetIommu", "State", "lands"]
__all__ += ["refusal", "run", "step"]

NOWHERE = -1
"""Answer of a write that the IOMMU blocks."""


@dataclass(frozen=True)
class Answer:
    """What a call answers.

    Attributes:
        value: what it returns or writes back: flags, bytes unmapped, offset of a write in the
            program's memory, 0 where there is nothing to say.
        errno: name of the error, None if it succeeded.
        guard: name of the guard that refused it, None if it succeeded.

    """

    value: int = 0
    errno: str | None = None
    guard: str | None = None


def refusal(platform: Platform, state: State, call: t.Call) -> Guard | None:
    """Return the first guard that refuses *call*, None if it is served."""
    for guard in GUARDS[type(call)]:
        if guard.refuses(platform, state, call):
            return guard
    return None


def step(platform: Platform, state: State, call: t.Call) -> tuple[State, Answer]:
    """Return what the kernel is after *call*, and what it answers; refused, it stays as it is."""
    guard = refusal(platform, state, call)
    if guard is not None:
        return state, Answer(0, guard.code(platform.kernel), guard.name)
    after, value = _EFFECTS[type(call)](platform, state, call)
    return after, Answer(value)


def run(platform: Platform, calls: Iterable[t.Call]) -> tuple[State, Answer]:
    """Make *calls* one after the other; return the last state and answer."""
    state, answer = State(), Answer()
    for call in calls:
        state, answer = step(platform, state, call)
    return state, answer


@rule(
    "vfio.dma.lands",
    "drivers/vfio/vfio_iommu_type1.c vfio_iommu_type1_attach_group",
    "a device uses the one address map of its container; a group that is in none reaches nothing",
)
def lands(platform: Platform, state: State, device: str, iova: int, right: int) -> int:
    """Return what *device* reaches at *iova* with *right* by its user address, NOWHERE if nothing.

    The memory is pinned when it is mapped: a mapping whose user address was taken back still
    translates, and a new user address says where the program sees the memory, it does not move it.
    """
    container = state.inside.get(platform.group_of(device))
    for area in state.containers[container].areas if container is not None else ():
        if area.iova <= iova < area.iova + area.size and area.protection & right:
            return area.memory + iova - area.iova
    return NOWHERE


# -- effects ---------------------------------------------------------------------------------

_Effect = tuple[State, int]


def _with_container(state: State, name: str, container: Container) -> State:
    return replace(state, containers={**state.containers, name: container})


def _open_container(_: Platform, state: State, call: t.OpenContainer) -> _Effect:
    name = str(state.count)
    state = replace(state, count=state.count + 1)
    return _opened(_with_container(state, name, Container()), call.slot, "container", name), 0


def _open_group(_: Platform, state: State, call: t.OpenGroup) -> _Effect:
    return _opened(state, call.slot, "group", call.group), 0


def _get_device(_: Platform, state: State, call: t.GetDevice) -> _Effect:
    return _opened(state, call.slot, "device", call.device), 0


def _opened(state: State, slot: str, kind: str, name: str) -> State:
    return replace(state, files={**state.files, slot: File(kind, name)})


@rule(
    "vfio.file.close",
    "drivers/vfio/group.c vfio_group_fops_release; drivers/vfio/container.c vfio_container_put",
    "a group leaves its container when its last file closes; a container lives while a file or a "
    "group holds it",
)
def _close(platform: Platform, state: State, call: t.Close) -> _Effect:
    file = state.files[call.slot]
    state = replace(state, files={s: f for s, f in state.files.items() if s != call.slot})
    group = {"group": file.name, "container": None}.get(file.kind, "device")
    if group == "device":
        group = platform.group_of(file.name)
    if group is not None and group in state.inside and not state.opened(platform, group):
        state = _leave(state, group)
    return _swept(state), 0


def _swept(state: State) -> State:
    """Drop containers that neither a file nor a group holds."""
    held = {file.name for file in state.files.values() if file.kind == "container"}
    held |= set(state.inside.values())
    kept = {name: value for name, value in state.containers.items() if name in held}
    return replace(state, containers=kept)


@rule(
    "vfio.container.last-group",
    "drivers/vfio/container.c vfio_group_detach_container",
    "the last group takes the container's IOMMU and all mappings with it",
)
def _leave(state: State, group: str) -> State:
    name = state.inside[group]
    container = state.containers[name]
    rest = container.groups - {group}
    container = replace(container, groups=rest) if rest else Container()
    inside = {other: where for other, where in state.inside.items() if other != group}
    return _with_container(replace(state, inside=inside), name, container)


def _unset_container(_: Platform, state: State, call: t.UnsetContainer) -> _Effect:
    return _swept(_leave(state, state.named(call.slot))), 0


@rule(
    "vfio.group.status",
    "drivers/vfio/group.c vfio_group_ioctl_get_status",
    "a group is viable in a container, or as long as nobody owns its DMA",
)
def _status(platform: Platform, state: State, call: t.GroupStatus) -> _Effect:
    group = state.named(call.slot)
    if group in state.inside:
        return state, t.VIABLE | t.CONTAINER_SET
    return state, 0 if state.claimed(platform, group) else t.VIABLE


def _set_container(_: Platform, state: State, call: t.SetContainer) -> _Effect:
    group, name = state.named(call.slot), state.named(call.container)
    container = state.containers[name]
    state = replace(state, inside={**state.inside, group: name})
    joined = replace(container, groups=container.groups | {group})
    return _with_container(state, name, joined), 0


def _check(platform: Platform, state: State, call: t.CheckExtension) -> _Effect:
    return state, int(answers_to(platform, state.container(call.slot).iommu, call.extension))


def _set_iommu(_: Platform, state: State, call: t.SetIommu) -> _Effect:
    name = state.named(call.slot)
    container = replace(state.containers[name], iommu=call.iommu)
    return _with_container(state, name, container), 0


def _map(platform: Platform, state: State, call: t.MapDma) -> _Effect:
    name = state.named(call.slot)
    container = state.containers[name]
    old = first_area(platform, state, call)
    kept = [area for area in container.areas if area is not old]
    if old is not None:
        new = replace(old, vaddr=call.vaddr, stale=False)
    else:
        rights = call.flags & (t.READ | t.WRITE)
        new = Area(call.iova, call.size, call.vaddr, call.vaddr, rights)
    areas = tuple(sorted([*kept, new], key=lambda area: area.iova))
    return _with_container(state, name, replace(container, areas=areas)), 0


def _unmap(platform: Platform, state: State, call: t.UnmapDma) -> _Effect:
    name = state.named(call.slot)
    container = state.containers[name]
    gone = unmapped(platform, state, call)
    if call.flags & t.UNMAP_VADDR:
        areas = tuple(replace(a, stale=True) if a in gone else a for a in container.areas)
    else:
        areas = tuple(area for area in container.areas if area not in gone)
    size = sum(area.size for area in gone)
    return _with_container(state, name, replace(container, areas=areas)), size


def _dma(platform: Platform, state: State, call: t.Dma) -> _Effect:
    return state, lands(platform, state, state.named(call.slot), call.iova, t.WRITE)


def _nothing(_: Platform, state: State, __: t.Call) -> _Effect:
    return state, 0


_EFFECTS: dict[type[t.Call], Any] = {
    t.OpenContainer: _open_container,
    t.OpenGroup: _open_group,
    t.Close: _close,
    t.GroupStatus: _status,
    t.SetContainer: _set_container,
    t.UnsetContainer: _unset_container,
    t.GetDevice: _get_device,
    t.CheckExtension: _check,
    t.SetIommu: _set_iommu,
    t.GetInfo: _nothing,
    t.MapDma: _map,
    t.UnmapDma: _unmap,
    t.Dma: _dma,
}
