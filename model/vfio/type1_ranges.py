"""What MAP_DMA and UNMAP_DMA of type1 test: the arithmetic of ranges.

Sizes and addresses are 64-bit; `Guard` and the order of the tests are in `type1_guards`.
"""

from __future__ import annotations

from typing import Final

from dmaproof.model.rules import rule
from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_state import ALL_ONES, PAGE, Platform, State

_TYPE1: Final = "drivers/vfio/vfio_iommu_type1.c"


# -- map -------------------------------------------------------------------------------------


@rule(
    "vfio.map.argsz",
    f"{_TYPE1} vfio_iommu_type1_map_dma",
    "the argument must reach to the end of its structure",
)
def map_is_short(_: Platform, __: State, call: t.MapDma) -> bool:
    """Test whether argsz ends before the size."""
    return call.argsz < t.MAP_BYTES


@rule("vfio.map.flags", f"{_TYPE1} vfio_iommu_type1_map_dma", "no flag but READ, WRITE and VADDR")
def map_flags_are_unknown(_: Platform, __: State, call: t.MapDma) -> bool:
    """Test for an unknown flag."""
    return bool(call.flags & ~(t.READ | t.WRITE | t.VADDR))


@rule(
    "vfio.map.protection",
    f"{_TYPE1} vfio_dma_do_map",
    "a new mapping needs READ or WRITE, a new user address has neither",
)
def map_is_ambiguous(_: Platform, __: State, call: t.MapDma) -> bool:
    """Test whether both or neither are asked for."""
    return bool(call.flags & (t.READ | t.WRITE)) == bool(call.flags & t.VADDR)


@rule(
    "vfio.map.aligned",
    f"{_TYPE1} vfio_dma_do_map",
    "size, address and user address are whole pages, and there is at least one",
)
def map_is_unaligned(_: Platform, __: State, call: t.MapDma) -> bool:
    """Test for an empty or unaligned range."""
    return not call.size or bool((call.size | call.iova | call.vaddr) & (PAGE - 1))


@rule("vfio.map.wraps", f"{_TYPE1} vfio_dma_do_map", "neither range runs over the top address")
def map_wraps(_: Platform, __: State, call: t.MapDma) -> bool:
    """Test whether a range wraps around."""
    return max(call.iova, call.vaddr) + call.size - 1 > ALL_ONES


@rule(
    "vfio.map.update-known",
    f"{_TYPE1} vfio_dma_do_map",
    "a new user address is for a mapping that exists",
)
def update_is_unknown(platform: Platform, state: State, call: t.MapDma) -> bool:
    """Test whether a user address is given for a range where nothing is mapped."""
    return bool(call.flags & t.VADDR) and first_area(platform, state, call) is None


@rule(
    "vfio.map.update-stale",
    f"{_TYPE1} vfio_dma_do_map",
    "a new user address is for exactly one mapping that has lost its own",
)
def update_is_wrong(platform: Platform, state: State, call: t.MapDma) -> bool:
    """Test whether the mapping has another range or still has its address."""
    found = first_area(platform, state, call)
    if not call.flags & t.VADDR or found is None:
        return False
    return not found.stale or (found.iova, found.size) != (call.iova, call.size)


@rule("vfio.map.overlap", f"{_TYPE1} vfio_dma_do_map", "no part of the range is mapped already")
def map_overlaps(platform: Platform, state: State, call: t.MapDma) -> bool:
    """Test whether a new mapping meets an old one."""
    return not call.flags & t.VADDR and first_area(platform, state, call) is not None


@rule(
    "vfio.map.limit",
    f"{_TYPE1} vfio_dma_do_map, dma_entry_limit",
    "a container holds so many mappings and no more",
)
def entries_are_used_up(platform: Platform, state: State, call: t.MapDma) -> bool:
    """Test whether no entry is left for a new mapping."""
    used = len(state.container(call.slot).areas)
    return not call.flags & t.VADDR and used >= platform.entry_limit


@rule(
    "vfio.map.valid",
    f"{_TYPE1} vfio_iommu_iova_dma_valid",
    "the range lies in the domain's aperture, outside every reserved range",
)
def map_is_invalid(platform: Platform, _: State, call: t.MapDma) -> bool:
    """Test whether a new mapping touches what no mapping may touch."""
    return not call.flags & t.VADDR and not platform.valid(call.iova, call.iova + call.size - 1)


@rule(
    "vfio.map.pinned",
    f"{_TYPE1} vfio_pin_map_dma",
    "the memory behind the range is there and is pinned; a failure undoes the whole call",
)
def memory_is_missing(platform: Platform, _: State, call: t.MapDma) -> bool:
    """Test whether the program has no memory in a part of the range."""
    return not call.flags & t.VADDR and not platform.has_memory(call.vaddr, call.size)


@rule(
    "vfio.range.meets",
    f"{_TYPE1} vfio_find_dma, vfio_find_dma_first_node",
    "a mapping meets a range when they share an address; until 6.18 the end of a range that "
    "reaches the last address of all wraps to 0, so that it meets nothing",
)
def meets(platform: Platform, area: t.Area, first: int, size: int) -> bool:
    """Test whether *area* shares an address with *size* bytes from *first*."""
    return area.iova < platform.end(first, size) and first < area.iova + area.size


def first_area(platform: Platform, state: State, call: t.MapDma) -> t.Area | None:
    """Return the first area that the range of *call* meets, None without one."""
    for area in state.container(call.slot).areas:
        if meets(platform, area, call.iova, call.size):
            return area
    return None


# -- unmap -----------------------------------------------------------------------------------


@rule(
    "vfio.unmap.argsz",
    f"{_TYPE1} vfio_iommu_type1_unmap_dma",
    "the argument must reach to the end of its structure",
)
def unmap_is_short(_: Platform, __: State, call: t.UnmapDma) -> bool:
    """Test whether argsz ends before the size."""
    return call.argsz < t.UNMAP_BYTES


@rule(
    "vfio.unmap.flags",
    f"{_TYPE1} vfio_iommu_type1_unmap_dma",
    "no flag but GET_DIRTY_BITMAP, ALL and VADDR",
)
def unmap_flags_are_unknown(_: Platform, __: State, call: t.UnmapDma) -> bool:
    """Test for an unknown flag."""
    return bool(call.flags & ~(t.UNMAP_DIRTY | t.UNMAP_ALL | t.UNMAP_VADDR))


@rule(
    "vfio.unmap.dirty",
    f"{_TYPE1} vfio_dma_do_unmap",
    "a dirty bitmap is given only while dirty tracking is on, which no call here does",
)
def dirty_is_not_tracked(_: Platform, __: State, call: t.UnmapDma) -> bool:
    """Test whether the bitmap is asked for."""
    return bool(call.flags & t.UNMAP_DIRTY)


@rule(
    "vfio.unmap.range",
    f"{_TYPE1} vfio_dma_do_unmap",
    "the range is whole pages; with ALL it is empty and starts at 0",
)
def unmap_is_unaligned(_: Platform, __: State, call: t.UnmapDma) -> bool:
    """Test for a range that is unaligned, empty, or given beside ALL."""
    if call.iova & (PAGE - 1):
        return True
    if call.flags & t.UNMAP_ALL:
        return bool(call.iova or call.size)
    return not call.size or bool(call.size & (PAGE - 1))


@rule("vfio.unmap.wraps", f"{_TYPE1} vfio_dma_do_unmap", "the range does not run over the top")
def unmap_wraps(_: Platform, __: State, call: t.UnmapDma) -> bool:
    """Test whether the range wraps around."""
    return bool(call.size) and call.iova + call.size - 1 > ALL_ONES


@rule(
    "vfio.unmap.split",
    f"{_TYPE1} vfio_dma_do_unmap (v2)",
    "a mapping of a v2 container goes as a whole or stays",
)
def unmap_splits(_: Platform, state: State, call: t.UnmapDma) -> bool:
    """Test whether the range starts or ends inside a mapping."""
    container = state.container(call.slot)
    if not container.is_v2 or call.flags & t.UNMAP_ALL:
        return False
    first, end = call.iova, call.iova + call.size
    starts = any(area.iova < first < area.iova + area.size for area in container.areas)
    return starts or any(area.iova < end < area.iova + area.size for area in container.areas)


@rule(
    "vfio.unmap.stale",
    f"{_TYPE1} vfio_dma_do_unmap",
    "a user address is taken back once; one that is gone already undoes the call",
)
def takes_back_twice(platform: Platform, state: State, call: t.UnmapDma) -> bool:
    """Test whether a mapping in the range has no user address any more."""
    taken = bool(call.flags & t.UNMAP_VADDR)
    return taken and any(area.stale for area in unmapped(platform, state, call))


def unmapped(platform: Platform, state: State, call: t.UnmapDma) -> tuple[t.Area, ...]:
    """Return the areas that an unmap takes.

    In a v1 container it takes an area whole when it holds the area's first address, and nothing
    when it starts inside one.
    """
    container = state.container(call.slot)
    if call.flags & t.UNMAP_ALL:
        return container.areas
    found = tuple(area for area in container.areas if meets(platform, area, call.iova, call.size))
    if not container.is_v2 and found and found[0].iova < call.iova:
        return ()
    return found
