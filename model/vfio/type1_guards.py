"""What each call of the legacy VFIO user interface tests, in the kernel's order.

A guard is named by what must hold. The first that does not refuses the call with its errno, and a
refused call changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dmaproof.model.rules import rule
from dmaproof.model.vfio import type1_ranges as ranges
from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_state import Platform, State

_GROUP = "drivers/vfio/group.c"
_CONTAINER = "drivers/vfio/container.c"
_TYPE1 = "drivers/vfio/vfio_iommu_type1.c"

Refuses = Callable[[Platform, State, Any], bool]


@dataclass(frozen=True)
class Guard:
    """A named condition of a call.

    Attributes:
        name: what must hold.
        errno: name of the error that the call returns where it does not hold.
        refuses: whether it does not hold.
        later: error in kernels after 6.1 where that changed, else "".

    """

    name: str
    errno: str
    refuses: Refuses
    later: str = ""

    def code(self, kernel: tuple[int, int]) -> str:
        """Return the name of the error that *kernel* gives."""
        return self.later if self.later and kernel > (6, 1) else self.errno


# -- files -----------------------------------------------------------------------------------


@rule("vfio.file.open", "fs/ioctl.c ioctl", "a call on a descriptor that is not open fails")
def not_open(_: Platform, state: State, call: t.Call) -> bool:
    """Test whether the slot holds no file."""
    return call.slot not in state.files


@rule(
    "vfio.group.node",
    f"{_GROUP} vfio_create_group",
    "a group has a character device only while a function of it is bound to a vfio driver",
)
def no_vfio_driver(platform: Platform, _: State, call: t.OpenGroup) -> bool:
    """Test whether no member is bound to vfio."""
    return "vfio" not in platform.groups[call.group].values()


@rule(
    "vfio.group.exclusive",
    f"{_GROUP} vfio_group_fops_open",
    "a group is opened once; device files of the group keep it open",
)
def group_is_open(platform: Platform, state: State, call: t.OpenGroup) -> bool:
    """Test whether somebody holds the group."""
    return state.opened(platform, call.group)


# -- group -----------------------------------------------------------------------------------


@rule(
    "vfio.status.argsz",
    f"{_GROUP} vfio_group_ioctl_get_status",
    "the argument must reach to the end of its structure",
)
def status_is_short(_: Platform, __: State, call: t.GroupStatus) -> bool:
    """Test whether argsz ends before the flags."""
    return call.argsz < t.STATUS_BYTES


@rule(
    "vfio.set-container.descriptor",
    f"{_GROUP} vfio_group_ioctl_set_container",
    "the number given must be an open descriptor",
)
def descriptor_is_bad(_: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether the container's descriptor is not open."""
    return call.container not in state.files


@rule(
    "vfio.set-container.once",
    f"{_GROUP} vfio_group_ioctl_set_container",
    "a group is in one container at most",
)
def is_in_container(_: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether the group is in a container already."""
    return state.named(call.slot) in state.inside


@rule(
    "vfio.set-container.kind",
    f"{_CONTAINER} vfio_container_from_file",
    "the descriptor must be a container's",
)
def is_no_container(_: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether the descriptor is of another kind."""
    return state.files[call.container].kind != "container"


@rule(
    "vfio.set-container.owner",
    "drivers/iommu/iommu.c iommu_group_claim_dma_owner",
    "no member may have a driver that does DMA through the kernel",
)
def dma_is_owned(platform: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether the DMA of the group belongs to somebody else."""
    return state.claimed(platform, state.named(call.slot))


@rule(
    "vfio.attach.vaddr",
    f"{_TYPE1} vfio_iommu_type1_attach_group",
    "no group joins while a mapping has lost its user address: joining may have to pin memory",
)
def has_stale_area(_: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether the container has an IOMMU and a mapping without user address."""
    return any(area.stale for area in state.container(call.container).areas)


@rule(
    "vfio.attach.interrupts",
    f"{_TYPE1} vfio_iommu_type1_attach_group",
    "interrupts must be remapped unless allow_unsafe_interrupts is set",
)
def interrupts_are_unsafe(platform: Platform, state: State, call: t.SetContainer) -> bool:
    """Test whether a group would be attached to an IOMMU although interrupts are not isolated."""
    return state.container(call.container).iommu is not None and not platform.isolated_interrupts


@rule(
    "vfio.unset-container.set",
    f"{_GROUP} vfio_group_ioctl_unset_container",
    "only a group that is in a container leaves it",
)
def is_in_no_container(_: Platform, state: State, call: t.Call) -> bool:
    """Test whether the group is in no container."""
    return state.named(call.slot) not in state.inside


@rule(
    "vfio.unset-container.idle",
    f"{_GROUP} vfio_group_ioctl_unset_container",
    "a group stays while a device of it is open",
)
def device_is_open(platform: Platform, state: State, call: t.Call) -> bool:
    """Test whether a device of the group is open."""
    return any(True for _ in state.devices(platform, state.named(call.slot)))


# -- device ----------------------------------------------------------------------------------


@rule(
    "vfio.get-device.group-file",
    "fs/ioctl.c ioctl",
    "a device is asked for on an open group descriptor",
)
def group_not_open(_: Platform, state: State, call: t.GetDevice) -> bool:
    """Test whether the group's slot holds no file."""
    return call.group not in state.files


@rule(
    "vfio.get-device.member",
    f"{_GROUP} vfio_device_get_from_name",
    "the device must be a member of the group and be bound to a vfio driver",
)
def is_no_member(platform: Platform, state: State, call: t.GetDevice) -> bool:
    """Test whether the group has no such vfio device."""
    return platform.groups[state.named(call.group)].get(call.device) != "vfio"


@rule(
    "vfio.get-device.iommu",
    f"{_CONTAINER} vfio_group_use_container",
    "a device is given out only when its group is in a container that has an IOMMU",
)
def has_no_iommu_yet(_: Platform, state: State, call: t.GetDevice) -> bool:
    """Test whether the group's container is missing or has no IOMMU."""
    container = state.inside.get(state.named(call.group))
    return container is None or state.containers[container].iommu is None


# -- container -------------------------------------------------------------------------------


@rule(
    "vfio.container.extension",
    f"{_TYPE1} vfio_iommu_type1_check_extension",
    "type1 knows its types and UNMAP_ALL, and UPDATE_VADDR in a container that it serves",
)
def answers_to(platform: Platform, iommu: int | None, extension: int) -> bool:
    """Test whether type1 answers 1 for *extension* in a container whose IOMMU is *iommu*."""
    if extension == t.UPDATE_VADDR_EXTENSION:
        return iommu is not None
    if extension == t.NESTING:
        return platform.has_nesting_type
    return extension in {t.TYPE1, t.TYPE1_V2, t.UNMAP_ALL_EXTENSION}


@rule(
    "vfio.set-iommu.group",
    f"{_CONTAINER} vfio_ioctl_set_iommu",
    "a container gets its privilege by a group: without one there is no IOMMU",
)
def has_no_group(_: Platform, state: State, call: t.Call) -> bool:
    """Test whether the container is empty."""
    return not state.container(call.slot).groups


@rule(
    "vfio.set-iommu.once",
    f"{_CONTAINER} vfio_ioctl_set_iommu",
    "the IOMMU of a container is set once",
)
def has_iommu(_: Platform, state: State, call: t.Call) -> bool:
    """Test whether the container has an IOMMU."""
    return state.container(call.slot).iommu is not None


@rule(
    "vfio.set-iommu.driver",
    f"{_CONTAINER} vfio_ioctl_set_iommu",
    "some IOMMU driver must know the number as an extension",
)
def no_such_driver(platform: Platform, _: State, call: t.SetIommu) -> bool:
    """Test whether no driver answers to the type."""
    return not answers_to(platform, None, call.iommu)


@rule(
    "vfio.set-iommu.type",
    f"{_TYPE1} vfio_iommu_type1_open",
    "an extension that is no IOMMU type cannot be opened as one",
)
def is_no_type(_: Platform, __: State, call: t.SetIommu) -> bool:
    """Test whether the extension is not a type."""
    return call.iommu not in {t.TYPE1, t.TYPE1_V2}


@rule(
    "vfio.set-iommu.interrupts",
    f"{_TYPE1} vfio_iommu_type1_attach_group",
    "the groups that are in the container are attached under the rule for joining groups",
)
def groups_are_unsafe(platform: Platform, _: State, __: t.SetIommu) -> bool:
    """Test whether interrupts are not isolated."""
    return not platform.isolated_interrupts


@rule(
    "vfio.container.iommu",
    f"{_CONTAINER} vfio_fops_unl_ioctl",
    "calls of the IOMMU need one; without it the argument is not even read",
)
def lacks_iommu(_: Platform, state: State, call: t.Call) -> bool:
    """Test whether the container has no IOMMU."""
    return state.container(call.slot).iommu is None


@rule(
    "vfio.info.argsz",
    f"{_TYPE1} vfio_iommu_type1_get_info",
    "the argument must reach to the end of the page sizes",
)
def info_is_short(_: Platform, __: State, call: t.GetInfo) -> bool:
    """Test whether argsz ends before the page sizes."""
    return call.argsz < t.INFO_BYTES


@rule(
    "vfio.argument.readable",
    f"{_TYPE1} vfio_iommu_type1_ioctl",
    "the argument must be readable memory",
)
def is_unreadable(_: Platform, __: State, call: t.MapDma | t.UnmapDma) -> bool:
    """Test whether the argument's address is bad."""
    return not call.readable


_OPEN: Final = Guard("descriptor-open", "EBADF", not_open)
_IOMMU: Final = Guard("container-has-iommu", "EINVAL", lacks_iommu)
_READABLE: Final = Guard("argument-readable", "EFAULT", is_unreadable)

GUARDS: Final[dict[type[t.Call], tuple[Guard, ...]]] = {
    t.OpenContainer: (),
    t.OpenGroup: (
        Guard("vfio-driver-bound", "ENOENT", no_vfio_driver),
        Guard("group-not-open", "EBUSY", group_is_open),
    ),
    t.Close: (_OPEN,),
    t.GroupStatus: (_OPEN, Guard("argsz-covers-status", "EINVAL", status_is_short)),
    t.SetContainer: (
        _OPEN,
        Guard("container-descriptor-open", "EBADF", descriptor_is_bad),
        Guard("group-in-no-container", "EINVAL", is_in_container),
        Guard("descriptor-is-container", "EINVAL", is_no_container, later="EBADFD"),
        Guard("dma-owner-free", "EPERM", dma_is_owned),
        Guard("user-addresses-valid", "EBUSY", has_stale_area),
        Guard("interrupts-isolated", "EPERM", interrupts_are_unsafe),
    ),
    t.UnsetContainer: (
        _OPEN,
        Guard("group-in-container", "EINVAL", is_in_no_container),
        Guard("no-device-open", "EBUSY", device_is_open),
    ),
    t.GetDevice: (
        Guard("descriptor-open", "EBADF", group_not_open),
        Guard("device-in-group", "ENODEV", is_no_member),
        Guard("group-container-has-iommu", "EINVAL", has_no_iommu_yet),
    ),
    t.CheckExtension: (_OPEN,),
    t.SetIommu: (
        _OPEN,
        Guard("container-has-group", "EINVAL", has_no_group),
        Guard("iommu-not-set", "EINVAL", has_iommu),
        Guard("driver-knows-type", "ENODEV", no_such_driver),
        Guard("type-can-be-opened", "EINVAL", is_no_type),
        Guard("interrupts-isolated", "EPERM", groups_are_unsafe),
    ),
    t.GetInfo: (_OPEN, _IOMMU, Guard("argsz-covers-info", "EINVAL", info_is_short)),
    t.MapDma: (
        _OPEN,
        _IOMMU,
        _READABLE,
        Guard("argsz-covers-map", "EINVAL", ranges.map_is_short),
        Guard("known-flags", "EINVAL", ranges.map_flags_are_unknown),
        Guard("protection-or-address", "EINVAL", ranges.map_is_ambiguous),
        Guard("whole-pages", "EINVAL", ranges.map_is_unaligned),
        Guard("does-not-wrap", "EINVAL", ranges.map_wraps, later="EOVERFLOW"),
        Guard("mapping-known", "ENOENT", ranges.update_is_unknown),
        Guard("mapping-stale", "EINVAL", ranges.update_is_wrong),
        Guard("not-mapped", "EEXIST", ranges.map_overlaps),
        Guard("entry-left", "ENOSPC", ranges.entries_are_used_up),
        Guard("address-valid", "EINVAL", ranges.map_is_invalid),
        Guard("memory-there", "EFAULT", ranges.memory_is_missing),
    ),
    t.UnmapDma: (
        _OPEN,
        _IOMMU,
        _READABLE,
        Guard("argsz-covers-unmap", "EINVAL", ranges.unmap_is_short),
        Guard("known-flags", "EINVAL", ranges.unmap_flags_are_unknown),
        Guard("dirty-tracking-on", "EINVAL", ranges.dirty_is_not_tracked),
        Guard("whole-pages", "EINVAL", ranges.unmap_is_unaligned),
        Guard("does-not-wrap", "EINVAL", ranges.unmap_wraps, later="EOVERFLOW"),
        Guard("no-mapping-split", "EINVAL", ranges.unmap_splits),
        Guard("address-not-taken", "EINVAL", ranges.takes_back_twice),
    ),
    t.Dma: (_OPEN,),
}
"""The guards of each call, in the order in which the kernel tests them."""
