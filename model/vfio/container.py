"""VFIO containers and groups: who is in which container, ownership, and what joining entails.

Sources: drivers/vfio/group.c, container.c, vfio_iommu_type1.c; reference in docs/semantics.md.
"""

from __future__ import annotations

from dmaproof.model.design import Object, Payload
from dmaproof.model.driver.teardown import Teardown
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    Update,
    action,
    delete,
    insert,
)
from dmaproof.model.logic.terms import (
    TRUE,
    Eq,
    Formula,
    Rel,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.vfio import ghosts
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.bind import Binder
from dmaproof.model.vfio.scheme import Scheme

JOINING = Rel("joining", (v.GROUP,))
KERNEL_DRIVER = Rel("kernel_driver", (v.FUNCTION,))
IOMMU_SET = Rel("iommu_set", (v.CONTAINER,))
OPENED = Rel("device_open", (v.FUNCTION,))

LIFECYCLE = (KERNEL_DRIVER, IOMMU_SET, OPENED)
"""Relations that only ever refuse: a proof without them is a proof with them."""


class Containers:
    """Joining and leaving a container under one design."""

    def __init__(self, scheme: Scheme, binder: Binder | None) -> None:
        """Lay out the calls.

        Args:
            scheme: the design's scheme.
            binder: its bind calls; None for type1, whose domain exists with the container.
        """
        self.scheme = scheme
        self.binder = binder
        self.wide = scheme.object is Object.CONTAINER
        self.replays = self.wide and scheme.design.bind.replay
        self.leave = Teardown(
            "leave", (v.G,), scheme.design.teardown.steps, scheme.caches,
            "The kernel, taking {grp} out of its container,",
        )

    def in_progress(self, container: Term) -> Formula:
        """A call is running on the container that holds its lock."""
        parts: list[Formula] = []
        if self.wide:
            stages = [JOINING] if self.replays else []
            running = or_(*(r(v.G1) for r in (*stages, *self.leave.stages)))
            parts.append(exists((v.G1,), and_(v.IN(v.G1, container), running)))
            if self.binder is not None:
                parts.append(self.binder.busy(container))
        return or_(*parts)

    def module(self) -> Module:
        """Relations and actions of joining and leaving, and the lock they share with bind."""
        rels = [v.IN]
        actions = [self._set_container()]
        if self.replays:
            rels.append(JOINING)
            actions += [self._join_visit(), self._join_return()]
        if self.wide:
            rels += self.leave.stages
            actions += [self._unset_wide(), *self._leave_actions()]
            actions += self._locked()
        else:
            actions.append(self._unset_narrow())
        return Module("container", rels=tuple(rels), actions=tuple(actions))

    def _locked(self) -> list[Action]:
        """Calls that take the container's lock, and writes that a leaving function ends."""
        scheme = self.scheme
        lock = Guard("container-not-locked", not_(self.in_progress(v.C)))
        names = ("bind.enter", "unbind.enter")
        args = (*scheme.caller, *scheme.args)
        if scheme.payload is Payload.MAP:
            names, args = ("map", "unmap.enter"), (v.F, v.C, v.S)
        found = [action(n, args, [lock]) for n in names]
        if scheme.payload is Payload.TABLE:
            leaving = or_(*(r(v.group(v.F)) for r in self.leave.stages))
            # The user has given the function back; it no longer makes entries for its work.
            stays = Guard("function-not-leaving", not_(leaving))
            found.append(action("table.write", (*scheme.caller, v.P, v.S), [stays]))
        return found

    def _set_container(self) -> Action:
        scheme = self.scheme
        guards = [
            Guard("group-has-no-container", forall((v.C1,), not_(v.IN(v.G, v.C1))), "EINVAL",
                  "drivers/vfio/group.c"),
        ]
        if scheme.design.guards.singleton_container:
            guards += [
                Guard("container-empty", forall((v.G1,), not_(v.IN(v.G1, v.C))), "EINVAL"),
                Guard("group-of-one-function", scheme.single(v.G), "EINVAL"),
            ]
        if self.wide:
            if scheme.design.guards.singleton and self.binder is not None:
                bound = self._bound_in(v.C)
                guards.append(
                    Guard("group-is-singleton", or_(not_(bound), scheme.single(v.G)), "EINVAL",
                          "host SVA v2, 13/40")
                )
            guards.append(Guard("container-not-locked", not_(self.in_progress(v.C))))
        updates = [insert(v.IN, v.G, v.C)]
        if self.replays:
            updates.append(insert(JOINING, v.G))
        return action("set-container", (v.G, v.C), guards, updates, Actor.USER,
                      "VFIO_GROUP_SET_CONTAINER puts {grp} into container {c}")

    def _bound_in(self, container: Term) -> Formula:
        """A bind is live on the container; type1's domain always is."""
        if self.binder is None:
            return TRUE
        args = tuple(Var(f"bd.{a.name}", a.sort) for a in self.scheme.args)
        return exists(args, self.binder.bound(container, *args))

    def _call_bound(self, container: Term) -> Formula:
        """The call that a replay is about is live on the container."""
        if self.binder is None:
            return TRUE
        return self.binder.bound(container, *self.scheme.args)

    def _join_visit(self) -> Action:
        scheme = self.scheme
        guards = [
            Guard("group-joins", JOINING(v.group(v.H))),
            Guard("function-in-container", v.IN(v.group(v.H), v.C)),
            Guard("container-bound", self._call_bound(v.C)),
            Guard("not-visited", not_(scheme.installed(v.rid(v.H)))),
        ]
        if scheme.hot_add:
            guards.append(Guard("member-present", v.PRESENT(v.H)))
        if scheme.payload is not Payload.MAP and scheme.design.guards.pasid_capable:
            guards.append(Guard("member-pasid-capable", v.CAPABLE(v.H), "EINVAL"))
        if scheme.payload is not Payload.MAP and scheme.design.guards.acs_path:
            guards.append(Guard("member-acs-path-rr-uf", v.PATH_OK(v.H), "EINVAL"))
        return action("join.visit", (v.H, v.C, *scheme.args), guards,
                      [scheme.install(v.rid(v.H))], Actor.KERNEL,
                      "The kernel gives {h}, which joins container {c}, what the container has")

    def _join_return(self) -> Action:
        scheme = self.scheme
        here = and_(Eq(v.group(v.X1), v.G), v.IN(v.G, v.C1), self._call_bound(v.C1))
        todo = and_(here, scheme.present(v.X1))
        done = forall((v.X1, v.C1, *scheme.args), implies(todo, scheme.installed(v.rid(v.X1))))
        guards = [Guard("group-joins", JOINING(v.G)), Guard("all-replayed", done)]
        return action("join.return", (v.G,), guards, [delete(JOINING, v.G)], Actor.KERNEL,
                      "VFIO_GROUP_SET_CONTAINER of {grp} returns success")

    def _unset_guards(self) -> list[Guard]:
        return [
            Guard("group-in-container", v.IN(v.G, v.C), "EINVAL", "drivers/vfio/group.c"),
            # The user ends the work of a function before it gives its group back.
            Guard("work-ended", ghosts.nothing_granted(v.G)),
        ]

    def _unset_narrow(self) -> Action:
        scheme = self.scheme
        assert self.binder is not None
        if scheme.object is Object.GROUP:
            idle = self.binder.idle(v.G)
        else:
            idle = forall((v.X1,), implies(Eq(v.group(v.X1), v.G), self.binder.idle(v.X1)))
        # Closing the last device runs the same unbind program first.
        guards = [*self._unset_guards(), Guard("binds-released", idle)]
        return action("unset-container", (v.G, v.C), guards, [delete(v.IN, v.G, v.C)], Actor.USER,
                      "VFIO_GROUP_UNSET_CONTAINER takes {grp} out of container {c}")

    def _unset_wide(self) -> Action:
        guards = [*self._unset_guards(),
                  Guard("container-not-locked", not_(self.in_progress(v.C)))]
        return action("unset-container", (v.G, v.C), guards, [self.leave.begin(v.G)], Actor.USER,
                      "VFIO_GROUP_UNSET_CONTAINER of {grp} and container {c} begins")

    def _leave_actions(self) -> list[Action]:
        scheme = self.scheme
        slot_rid, c = Var("clear.r", v.RID), Var("lv.c", v.CONTAINER)

        def mine(requester: Var) -> Formula:
            return Eq(v.RGROUP(requester), v.G)

        def clear() -> list[Update]:
            return [scheme.uninstall(mine(slot_rid), slot_rid, every_pasid=True)]

        g = Var("lv.grp", v.GROUP)
        out = Update(v.IN, (g, c), delete=Eq(g, v.G))
        return self.leave.actions(clear, mine, lambda _: TRUE, [out],
                                  "VFIO_GROUP_UNSET_CONTAINER of {grp} returns")


def device_files(scheme: Scheme) -> Module:
    """What a bind call needs before the kernel looks at anything else: an open file."""
    params = (*scheme.caller, *scheme.args)
    if scheme.payload is Payload.TABLE and scheme.object is Object.DEVICE:
        guard = Guard("device-open", OPENED(v.F), "EBADF")  # the ioctl is issued on its descriptor
    else:
        guard = Guard("iommu-set", IOMMU_SET(v.C), "EINVAL", "host SVA v2, 13/40")
    enter = action("bind.enter", params, [guard], actor=Actor.USER)
    return Module("device-files", rels=(OPENED, IOMMU_SET), actions=(enter,))


def lifecycle(scheme: Scheme, containers: Containers) -> Module:
    """Kernel drivers, SET_IOMMU and device file descriptors: rules that only refuse.

    Viability is DMA ownership: a group with a member bound to a kernel driver that does DMA cannot
    be claimed, and while it is claimed no such driver binds.
    """
    other = Var("lc.grp", v.GROUP)
    owned = exists((v.C1,), v.IN(v.group(v.F), v.C1))
    member_driven = exists((v.X1,), and_(Eq(v.group(v.X1), v.G), KERNEL_DRIVER(v.X1)))
    viable = [Guard("group-viable", not_(member_driven), "EPERM",
                    "drivers/iommu/iommu.c iommu_group_claim_dma_owner")]
    open_member = exists((v.X1,), and_(Eq(v.group(v.X1), v.G), OPENED(v.X1)))
    populated = exists((other,), v.IN(other, v.C))
    lock = [Guard("container-not-locked", not_(containers.in_progress(v.C)))]
    if not containers.wide:
        lock = []
    actions = [
        action("driver.bind", (v.F,),
               [Guard("group-not-owned", not_(owned), "EBUSY", "iommu_device_use_default_domain"),
                Guard("no-driver", not_(KERNEL_DRIVER(v.F)), "EBUSY")],
               [insert(KERNEL_DRIVER, v.F)], Actor.PLATFORM,
               "A kernel driver that does DMA binds to {f}"),
        action("driver.unbind", (v.F,), [Guard("has-driver", KERNEL_DRIVER(v.F), "ENODEV")],
               [delete(KERNEL_DRIVER, v.F)], Actor.PLATFORM, "The kernel driver lets go of {f}"),
        action("set-iommu", (v.C,),
               [Guard("container-has-group", populated, "EINVAL", "drivers/vfio/container.c"),
                Guard("iommu-not-set", not_(IOMMU_SET(v.C)), "EINVAL"), *lock],
               [insert(IOMMU_SET, v.C)], Actor.USER, "VFIO_SET_IOMMU on container {c}"),
        action("device.open", (v.F, v.C),
               [Guard("function-in-container", v.IN(v.group(v.F), v.C), "EINVAL"),
                Guard("iommu-set", IOMMU_SET(v.C), "EINVAL", "drivers/vfio/group.c"),
                Guard("not-open", not_(OPENED(v.F)), "EBUSY"), *lock],
               [insert(OPENED, v.F)], Actor.USER, "VFIO_GROUP_GET_DEVICE_FD opens {f}"),
        action("device.close", (v.F,), [Guard("open", OPENED(v.F), "EBADF")],
               [delete(OPENED, v.F)], Actor.USER, "The user closes {f}"),
        action("set-container", (v.G, v.C), viable if scheme.design.guards.viable else []),
        action("unset-container", (v.G, v.C),
               [Guard("devices-closed", not_(open_member), "EBUSY", "drivers/vfio/group.c")]),
        _iommu_goes(containers),
    ]
    return Module("lifecycle", rels=LIFECYCLE, actions=tuple(actions))


def _iommu_goes(containers: Containers) -> Action:
    """The IOMMU state of a container ends when its last group has left."""
    name = "leave.return" if containers.wide else "unset-container"
    params = (v.G,) if containers.wide else (v.G, v.C)
    c, other = Var("go.c", v.CONTAINER), Var("go.grp", v.GROUP)
    last = forall((other,), implies(v.IN(other, c), Eq(other, v.G)))
    gone = Update(IOMMU_SET, (c,), delete=and_(v.IN(v.G, c), last))
    return action(name, params, updates=[gone])


def hot_add() -> Module:
    """Functions that appear while the machine runs; what is there at boot is a fact."""
    x = Var("boot.f", v.FUNCTION)
    add = action("hot-add", (v.F,), [Guard("absent", not_(v.PRESENT(v.F)))],
                 [insert(v.PRESENT, v.F)], Actor.PLATFORM, "{f} is hot-added")
    return Module("hot-add", rels=(v.PRESENT, v.BOOT), initial={v.PRESENT: ((x,), v.BOOT(x))},
                  actions=(add,))
