"""The bind calls of 2018: table binds on a device, group or container, and process binds.

Sources: `VFIO_DEVICE_BIND_PASID_TABLE` and intel_iommu_bind_pasid_table (patch v4 04/22),
`VFIO_IOMMU_BIND` (host SVA v2, 13/40), iommu_sva_bind_device (02/40).
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
    delete_where,
    fresh_vars,
    insert,
)
from dmaproof.model.logic.terms import (
    TRUE,
    Eq,
    Formula,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    ne,
    not_,
    or_,
)
from dmaproof.model.vfio import ghosts
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.scheme import Scheme

_WHERE = {
    Object.DEVICE: "on the device",
    Object.GROUP: "on its group",
    Object.CONTAINER: "on container {c}",
}


class Binder:
    """The bind and unbind programs of one design."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.binding = scheme.call_rel("binding")
        self.bound = scheme.call_rel("bound")
        self.teardown = Teardown(
            "unbind", scheme.keyed, scheme.design.teardown.steps, scheme.caches, self._unbind_says()
        )
        self.what = (
            "PASID {p} to space {s}" if scheme.payload is Payload.PROCESS else "its PASID table"
        )

    def _unbind_says(self) -> str:
        if self.scheme.payload is Payload.PROCESS:
            return "The unbind of PASID {p} from {k}"
        return "The unbind of {k}'s PASID table"

    # -- conditions -------------------------------------------------------------------------

    def busy(self, key: Term) -> Formula:
        """A bind or unbind of the object is in progress."""
        scheme = self.scheme
        bound = tuple(Var(f"busy.{a.name}", a.sort) for a in scheme.args)
        stages = [self.binding, *self.teardown.stages]
        return exists(bound, or_(*(r(key, *bound) for r in stages)))

    def live(self, key: Term, *args: Term) -> Formula:
        """The call with these arguments has entered and its unbind has not returned."""
        return or_(*(r(key, *args) for r in (self.binding, self.bound, *self.teardown.stages)))

    def idle(self, key: Term) -> Formula:
        """No call of the object has entered, or each was undone."""
        bound = tuple(Var(f"idle.{a.name}", a.sort) for a in self.scheme.args)
        return forall(bound, not_(self.live(key, *bound)))

    def _free(self, key: Term) -> list[Guard]:
        """The object can take this bind."""
        if self.scheme.payload is Payload.TABLE:
            return [Guard("table-not-bound", not_(self.live(key)), "EBUSY",
                          "intel_iommu_bind_pasid_table")]
        pasid, space = Var("free.p", v.PASID), Var("free.s", v.SPACE)
        return [
            Guard("space-not-bound", forall((pasid,), not_(self.live(key, pasid, v.S))), "EEXIST",
                  "iommu_sva_bind_device, 02/40"),
            Guard("pasid-free", forall((space,), not_(self.live(key, v.P, space)))),
        ]

    def enter_guards(self) -> list[Guard]:
        """What bind refuses, in the kernel's order."""
        scheme, design = self.scheme, self.scheme.design
        key = scheme.key_of(v.F, v.C)
        guards = [Guard("function-present", scheme.present(v.F))] if scheme.hot_add else []
        if scheme.containers:
            guards.append(Guard("function-in-container", v.IN(v.group(v.F), v.C), "EINVAL",
                                "VFIO_GROUP_GET_DEVICE_FD"))
        if design.guards.pasid_capable:
            guards.append(Guard("pasid-capable", v.CAPABLE(v.F), "EINVAL", "pci_enable_pasid"))
        if design.guards.acs_path:
            guards.append(Guard("acs-path-rr-uf", v.PATH_OK(v.F), "EINVAL",
                                "drivers/pci/ats.c pci_enable_pasid"))
        if design.guards.singleton:
            guards.append(Guard("group-is-singleton", self._singleton(), "EINVAL",
                                "iommu_sva_bind_device, 02/40"))
        if scheme.payload is Payload.PROCESS:
            guards.append(Guard("pasid-not-zero", ne(v.P, v.NO_PASID)))
            if design.guards.pasid_fits:
                guards.append(Guard("pasid-fits", v.FITS(v.F, v.P), "ERANGE"))
        if design.guards.not_bound:
            guards += self._free(key)
        guards.append(Guard("no-call-in-progress", not_(self.busy(key))))
        return guards

    def _singleton(self) -> Formula:
        scheme = self.scheme
        if scheme.object is not Object.CONTAINER:
            return scheme.single(v.group(v.F))
        return forall((v.G1,), implies(v.IN(v.G1, v.C), scheme.single(v.G1)))

    # -- actions ----------------------------------------------------------------------------

    def module(self) -> Module:
        """Relations and actions of bind and unbind."""
        scheme = self.scheme
        rels = [self.binding, self.bound, *self.teardown.stages, scheme.slot]
        actions = [self._enter(), self._visit(), self._fail(), self._return(), self._unbind()]
        actions += self._teardown_actions()
        if scheme.content is not None:
            rels.append(scheme.content)
            actions.append(self._write())
        return Module("bind", rels=tuple(rels), actions=tuple(actions))

    def _enter(self) -> Action:
        scheme = self.scheme
        key = scheme.key_of(v.F, v.C)
        updates = [insert(self.binding, key, *scheme.args)]
        if scheme.payload is Payload.PROCESS:
            updates += ghosts.granted(scheme)
        says = f"For {{f}}, the user calls bind {_WHERE[scheme.object]} with {self.what}"
        return action("bind.enter", (*scheme.caller, *scheme.args), self.enter_guards(), updates,
                      Actor.USER, says)

    def _visit(self) -> Action:
        scheme = self.scheme
        guards = [
            Guard("in-bind-loop", self.binding(*scheme.keyed)),
            Guard("member-of-object", scheme.member(scheme.key, v.H)),
            Guard("not-visited", not_(scheme.installed(v.rid(v.H)))),
        ]
        if scheme.hot_add:
            guards.append(Guard("member-present", v.PRESENT(v.H)))
        if scheme.design.guards.pasid_capable:
            guards.append(Guard("member-pasid-capable", v.CAPABLE(v.H), "EINVAL",
                                "pci_enable_pasid"))
        if scheme.design.guards.acs_path:
            guards.append(Guard("member-acs-path-rr-uf", v.PATH_OK(v.H), "EINVAL",
                                "drivers/pci/ats.c pci_enable_pasid"))
        what = "PASID {p} to {s} in the PASID table" if scheme.args else "the PASID table"
        verb = "writes" if scheme.args else "points the context entry to"
        return action("bind.visit", (*scheme.keyed, v.H), guards,
                      [scheme.install(v.rid(v.H))], Actor.KERNEL,
                      f"The bind's loop visits {{h}} and {verb} {what}")

    def _fail(self) -> Action:
        scheme = self.scheme
        left = exists(
            (v.X1,),
            and_(scheme.member(scheme.key, v.X1), not_(scheme.installed(v.rid(v.X1)))),
        )
        guards = [Guard("in-bind-loop", self.binding(*scheme.keyed)),
                  Guard("member-left", left)]
        updates = [delete(self.binding, *scheme.keyed)]
        if scheme.design.bind.undo:
            updates.append(self.teardown.begin(*scheme.keyed))
            end = "and takes back the members done so far"
        else:
            updates += self._forget()
            end = "and returns the error as it stands"
        return action("bind.fail", scheme.keyed, guards, updates, Actor.KERNEL,
                      f"The bind's loop fails at a member (-ENOMEM, or one it cannot serve) {end}")

    def _return(self) -> Action:
        scheme = self.scheme
        todo = and_(scheme.member(scheme.key, v.X1), scheme.present(v.X1))
        done = forall((v.X1,), implies(todo, scheme.installed(v.rid(v.X1))))
        guards = [Guard("in-bind-loop", self.binding(*scheme.keyed)),
                  Guard("all-members-visited", done)]
        updates = [delete(self.binding, *scheme.keyed), insert(self.bound, *scheme.keyed)]
        return action("bind.return", scheme.keyed, guards, updates, Actor.KERNEL,
                      "The bind returns success")

    def _write(self) -> Action:
        scheme = self.scheme
        assert scheme.content is not None
        key, owner = scheme.key_of(v.F, v.C), scheme.owner_of(v.F, v.C)
        space = Var("free.s", v.SPACE)
        guards = [Guard("table-in-use", or_(self.binding(key), self.bound(key)))]
        if scheme.containers:
            guards.append(Guard("function-in-container", v.IN(v.group(v.F), v.C)))
        if scheme.design.guards.pasid_capable:
            # Nobody makes entries for the work of a function that cannot send a PASID.
            guards.append(Guard("function-pasid-capable", v.CAPABLE(v.F)))
        guards += [
            Guard("pasid-not-zero", ne(v.P, v.NO_PASID)),
            Guard("pasid-fits", v.FITS(v.F, v.P)),
            Guard("entry-free", forall((space,), not_(scheme.content(owner, v.P, space)))),
        ]
        updates = [insert(scheme.content, owner, v.P, v.S), *ghosts.granted(scheme)]
        return action("table.write", (*scheme.caller, v.P, v.S), guards, updates, Actor.USER,
                      "For {f}, the user writes PASID {p} to space {s} into its table")

    def _unbind(self) -> Action:
        scheme = self.scheme
        key = scheme.key_of(v.F, v.C)
        guards = []
        if scheme.containers:
            guards.append(Guard("function-in-container", v.IN(v.group(v.F), v.C), "EINVAL"))
        guards += [
            Guard("bound", self.bound(key, *scheme.args), "ESRCH", "host SVA v2, 13/40"),
            Guard("no-call-in-progress", not_(self.busy(key))),
        ]
        updates = [delete(self.bound, key, *scheme.args),
                   insert(self.teardown.first, key, *scheme.args)]
        return action("unbind.enter", (*scheme.caller, *scheme.args), guards, updates, Actor.USER,
                      f"For {{f}}, the user calls unbind {_WHERE[scheme.object]}")

    def _teardown_actions(self) -> list[Action]:
        scheme = self.scheme
        slot_rid = Var("clear.r", v.RID)

        def clear() -> list[Update]:
            members = scheme.member_rid(scheme.key, slot_rid)
            return [scheme.uninstall(members, slot_rid, every_pasid=False)]

        def pasids(pasid: Var) -> Formula:
            return Eq(pasid, v.P) if scheme.args else TRUE

        return self.teardown.actions(
            clear, lambda r: scheme.member_rid(scheme.key, r), pasids, self._forget(),
            "The unbind returns",
        )

    def _forget(self) -> list[Update]:
        """What ends with a call: the grants, and a table that is the object's own."""
        scheme = self.scheme
        updates = ghosts.revoked(scheme, ghosts.subject_of_call(scheme))
        if scheme.content is not None:
            owner, *rest = fresh_vars(scheme.content)
            mine = scheme.owns(scheme.key, owner)
            updates.append(delete_where(scheme.content, (owner, *rest), mine))
        return updates


