"""State of the legacy VFIO user interface, and the calls that change it.

Containers, groups and devices as a user space program sees them through file descriptors: which
files are open, which group is in which container, which container has an IOMMU (type1) and what it
maps. Everything is immutable; `model.vfio.type1_uapi` has the transitions.

Source: drivers/vfio/group.c, container.c, vfio_iommu_type1.c; include/uapi/linux/vfio.h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

PAGE: Final = 0x1000
ALL_ONES: Final = (1 << 64) - 1

READ: Final = 1 << 0
WRITE: Final = 1 << 1
VADDR: Final = 1 << 2
"""VFIO_DMA_MAP_FLAG_*: protection, and "the memory behind this mapping has a new address"."""

UNMAP_DIRTY: Final = 1 << 0
UNMAP_ALL: Final = 1 << 1
UNMAP_VADDR: Final = 1 << 2
"""VFIO_DMA_UNMAP_FLAG_*."""

MAP_BYTES: Final = 32
UNMAP_BYTES: Final = 24
STATUS_BYTES: Final = 8
INFO_BYTES: Final = 16
"""Shortest `argsz` of MAP_DMA, UNMAP_DMA, GROUP_GET_STATUS and IOMMU_GET_INFO."""

VIABLE: Final = 1 << 0
CONTAINER_SET: Final = 1 << 1
"""VFIO_GROUP_FLAGS_*."""

TYPE1: Final = 1
TYPE1_V2: Final = 3
NESTING: Final = 6
UNMAP_ALL_EXTENSION: Final = 9
UPDATE_VADDR_EXTENSION: Final = 10
"""Numbers of VFIO_CHECK_EXTENSION; the first three are IOMMU types, too."""


@dataclass(frozen=True)
class Platform:
    """What does not change while a program runs.

    Attributes:
        groups: members of each group: function and what drives it, ``vfio``, ``kernel`` (a driver
            that does DMA through the kernel) or ``none``.
        kernel: version; some errno differ between 6.1 and later ones.
        entry_limit: module parameter dma_entry_limit: mappings that a container may hold.
        aperture: first and last address of the IOMMU domain.
        reserved: address ranges that no mapping may touch (message interrupts).
        memory: ranges of user addresses where the program has memory.
        isolated_interrupts: interrupts are remapped, or the module takes unsafe ones.

    """

    groups: Mapping[str, Mapping[str, str]]
    kernel: tuple[int, int] = (6, 1)
    entry_limit: int = 0xFFFF
    aperture: tuple[int, int] = (0, (1 << 39) - 1)
    reserved: tuple[tuple[int, int], ...] = ((0xFEE00000, 0xFEEFFFFF),)
    memory: tuple[range, ...] = ()
    isolated_interrupts: bool = True

    @property
    def has_nesting_type(self) -> bool:
        """Whether type1 still knows the nesting type (drivers that lack it refuse it later)."""
        return self.kernel <= (6, 1)

    def end(self, first: int, size: int) -> int:
        """Return the address after a range, as the kernel computes it.

        Until 6.18 in 64 bits: for a range that ends with the last address of all it is 0.
        """
        end = first + size
        return end if self.kernel >= (6, 18) else end & ALL_ONES

    def has_memory(self, start: int, size: int) -> bool:
        """Whether all of [start, start + size) is memory of the program."""
        return any(start in part and start + size - 1 in part for part in self.memory)

    def valid(self, first: int, last: int) -> bool:
        """Whether [first, last] lies inside the aperture and touches no reserved range."""
        inside = self.aperture[0] <= first and last <= self.aperture[1]
        return inside and all(last < low or first > high for low, high in self.reserved)

    def group_of(self, device: str) -> str:
        """Return the group that *device* is in."""
        return next(name for name, members in self.groups.items() if device in members)


@dataclass(frozen=True)
class Area:
    """One mapping of a container.

    Attributes:
        iova: first address that devices use.
        size: bytes.
        memory: user address that the memory behind it had when it was mapped, and pinned.
        vaddr: user address that the memory has now.
        protection: READ | WRITE, as devices see it.
        stale: its user address was taken back (UNMAP with VADDR) and not yet replaced.

    """

    iova: int
    size: int
    memory: int
    vaddr: int
    protection: int
    stale: bool = False


@dataclass(frozen=True)
class Container:
    """What a container holds.

    Attributes:
        groups: groups that are in it.
        iommu: type that SET_IOMMU set, None before; v1 and v2 differ in what UNMAP may split.
        areas: its mappings, by address.

    """

    groups: frozenset[str] = frozenset()
    iommu: int | None = None
    areas: tuple[Area, ...] = ()

    @property
    def is_v2(self) -> bool:
        """Whether mappings cannot be split or be unmapped by a part of them."""
        return self.iommu != TYPE1


@dataclass(frozen=True)
class File:
    """An open file.

    Attributes:
        kind: ``container``, ``group`` or ``device``.
        name: number of the container, name of the group or of the function.

    """

    kind: str
    name: str


@dataclass(frozen=True)
class State:
    """What the kernel knows of one program.

    Attributes:
        files: open files by slot, the program's own name for a descriptor.
        containers: containers that exist.
        inside: container of each group that is in one.
        count: containers made so far; names the next one.

    """

    files: Mapping[str, File] = field(default_factory=dict)
    containers: Mapping[str, Container] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    count: int = 0

    def named(self, slot: str) -> str:
        """Return the object behind an open slot."""
        return self.files[slot].name

    def container(self, slot: str) -> Container:
        """Return the container behind an open slot."""
        return self.containers[self.named(slot)]

    def devices(self, platform: Platform, group: str) -> Iterator[str]:
        """Yield the open device files of *group*."""
        for slot, file in self.files.items():
            if file.kind == "device" and platform.group_of(file.name) == group:
                yield slot

    def opened(self, platform: Platform, group: str) -> bool:
        """Whether the group's file is held open, by its own descriptor or by a device's."""
        own = File("group", group) in self.files.values()
        return own or any(True for _ in self.devices(platform, group))

    def claimed(self, platform: Platform, group: str) -> bool:
        """Whether the DMA of *group* belongs to somebody: a container or a kernel driver."""
        return group in self.inside or "kernel" in platform.groups[group].values()


@dataclass(frozen=True)
class Call:
    """One system call. The slot names a file descriptor that the program keeps."""

    slot: str


@dataclass(frozen=True)
class OpenContainer(Call):
    """Open /dev/vfio/vfio."""


@dataclass(frozen=True)
class OpenGroup(Call):
    """Open /dev/vfio/N of a group."""

    group: str


@dataclass(frozen=True)
class Close(Call):
    """Close a descriptor."""


@dataclass(frozen=True)
class GroupStatus(Call):
    """VFIO_GROUP_GET_STATUS."""

    argsz: int = STATUS_BYTES


@dataclass(frozen=True)
class SetContainer(Call):
    """VFIO_GROUP_SET_CONTAINER; *container* is a slot of any kind, or none."""

    container: str = ""


@dataclass(frozen=True)
class UnsetContainer(Call):
    """VFIO_GROUP_UNSET_CONTAINER."""


@dataclass(frozen=True)
class GetDevice(Call):
    """VFIO_GROUP_GET_DEVICE_FD: *slot* is the new descriptor, *group* the group's slot."""

    group: str = ""
    device: str = ""


@dataclass(frozen=True)
class CheckExtension(Call):
    """VFIO_CHECK_EXTENSION."""

    extension: int = TYPE1


@dataclass(frozen=True)
class SetIommu(Call):
    """VFIO_SET_IOMMU."""

    iommu: int = TYPE1_V2


@dataclass(frozen=True)
class GetInfo(Call):
    """VFIO_IOMMU_GET_INFO."""

    argsz: int = INFO_BYTES


@dataclass(frozen=True)
class MapDma(Call):
    """VFIO_IOMMU_MAP_DMA; *readable* is False where the argument's address is bad."""

    vaddr: int = 0
    iova: int = 0
    size: int = PAGE
    flags: int = READ | WRITE
    argsz: int = MAP_BYTES
    readable: bool = True


@dataclass(frozen=True)
class UnmapDma(Call):
    """VFIO_IOMMU_UNMAP_DMA; *readable* is False where the argument's address is bad."""

    iova: int = 0
    size: int = PAGE
    flags: int = 0
    argsz: int = UNMAP_BYTES
    readable: bool = True


@dataclass(frozen=True)
class Dma(Call):
    """No system call: the device behind *slot* writes four bytes to *iova*."""

    iova: int = 0
