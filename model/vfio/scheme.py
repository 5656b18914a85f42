"""What the object of a bind means: its key, its members, its tables.

A call is identified by its object (a function, a group or a container: the *key*) and, for a
process bind, by PASID and space. A visit of the kernel's loop installs one member: it points the
member's context entry at the table (table bind, type1) or writes the member's PASID entry (process
bind).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dmaproof.model.design import Design, Object, Payload
from dmaproof.model.logic.system import Update, delete_where, fresh_vars, insert
from dmaproof.model.logic.terms import (
    TRUE,
    Eq,
    Formula,
    Rel,
    Sort,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.vfio import vocabulary as v

POINTED = Rel("table_pointer", (v.RID,))
ENTRY = Rel("pasid_entry", (v.RID, v.PASID, v.SPACE))
SHARED_ENTRY = Rel("iommu_pasid_entry", (v.PASID, v.SPACE))
ATTACHED = Rel("domain_attached", (v.RID,))

_KEY_SORT = {
    Object.DEVICE: v.FUNCTION,
    Object.GROUP: v.GROUP,
    Object.CONTAINER: v.CONTAINER,
}


@dataclass(frozen=True)
class Scheme:
    """The relations and conditions that follow from a design's object, payload and table owner."""

    design: Design
    hot_add: bool

    @property
    def object(self) -> Object:
        """The object of the bind call."""
        return self.design.interface.object

    @property
    def payload(self) -> Payload:
        """What the call hands over."""
        return self.design.interface.payload

    @property
    def containers(self) -> bool:
        """Whether functions are used through VFIO containers."""
        return self.design.interface.containers

    @cached_property
    def key(self) -> Var:
        """The key of a call as a parameter."""
        return Var("k", _KEY_SORT[self.object])

    @cached_property
    def key1(self) -> Var:
        """The key of a call as a bound variable."""
        return Var("k1", _KEY_SORT[self.object])

    @cached_property
    def args(self) -> tuple[Var, ...]:
        """What identifies a call besides its key."""
        return (v.P, v.S) if self.payload is Payload.PROCESS else ()

    @property
    def caller(self) -> tuple[Var, ...]:
        """Parameters of a call: the beneficiary and, where there is one, its container."""
        return (v.F, v.C) if self.containers else (v.F,)

    def call_rel(self, name: str) -> Rel:
        """A relation over calls, such as "the bind is in its loop"."""
        return Rel(name, (_KEY_SORT[self.object], *(a.sort for a in self.args)))

    @property
    def keyed(self) -> tuple[Var, ...]:
        """Parameters of a kernel step of a call."""
        return (self.key, *self.args)

    def key_of(self, function: Term, container: Term) -> Term:
        """The object that a call for *function* names."""
        match self.object:
            case Object.DEVICE:
                return function
            case Object.GROUP:
                return v.group(function)
        return container

    def member(self, key: Term, function: Term) -> Formula:
        """Whether a function belongs to an object."""
        match self.object:
            case Object.DEVICE:
                return Eq(function, key)
            case Object.GROUP:
                return Eq(v.group(function), key)
        return v.IN(v.group(function), key)

    def member_rid(self, key: Term, requester: Term) -> Formula:
        """Whether a requester id belongs to an object."""
        match self.object:
            case Object.DEVICE:
                return Eq(requester, v.rid(key))
            case Object.GROUP:
                return Eq(v.RGROUP(requester), key)
        return v.IN(v.RGROUP(requester), key)

    # -- tables -----------------------------------------------------------------------------

    @property
    def slot(self) -> Rel:
        """What a visit of the bind loop installs."""
        if self.payload is Payload.TABLE:
            return POINTED
        if self.payload is Payload.MAP:
            return ATTACHED
        return SHARED_ENTRY if self.design.interface.table == "iommu" else ENTRY

    def slot_args(self, requester: Term) -> tuple[Term, ...]:
        """Arguments of the slot for a member's requester id."""
        if self.payload is not Payload.PROCESS:
            return (requester,)
        return (v.P, v.S) if self.slot == SHARED_ENTRY else (requester, v.P, v.S)

    def installed(self, requester: Term) -> Formula:
        """Whether the loop has visited the member with this requester id."""
        return self.slot(*self.slot_args(requester))

    def install(self, requester: Term) -> Update:
        """What visiting a member writes."""
        return insert(self.slot, *self.slot_args(requester))

    def uninstall(self, members: Formula, requester: Var, *, every_pasid: bool) -> Update:
        """Clear the slots of the requester ids of which *members* holds.

        Args:
            members: a condition on *requester*.
            requester: the variable *members* speaks of.
            every_pasid: a leaving group loses all its PASIDs, an unbind only its own.
        """
        xs = fresh_vars(self.slot)
        if self.slot == SHARED_ENTRY:
            same = and_(Eq(xs[0], v.P), Eq(xs[1], v.S))
            return delete_where(self.slot, xs, same)
        variables = (requester, *xs[1:])
        parts = [members]
        if self.payload is Payload.PROCESS and not every_pasid:
            parts += [Eq(xs[1], v.P), Eq(xs[2], v.S)]
        return delete_where(self.slot, variables, and_(*parts))

    @cached_property
    def content(self) -> Rel | None:
        """The memory of a table that the user fills: keyed by its owner."""
        match self.payload:
            case Payload.TABLE:
                return Rel("table_entry", (self.owner_sort, v.PASID, v.SPACE))
            case Payload.MAP:
                return Rel("mapped", (v.CONTAINER, v.SPACE))
        return None

    @property
    def owner_sort(self) -> Sort:
        """Sort of what owns a user's table."""
        if self.design.interface.table == "container":
            return v.CONTAINER
        return v.RID if self.object is Object.DEVICE else _KEY_SORT[self.object]

    def owner_of(self, function: Term, container: Term) -> Term:
        """The owner of the table that a function's entries are written to."""
        if self.owner_sort == v.RID:
            return v.rid(function)
        return v.group(function) if self.owner_sort == v.GROUP else container

    def owns(self, key: Term, owner: Term) -> Formula:
        """Whether an owner's table belongs to one object alone."""
        if self.owner_sort == v.RID:
            return Eq(owner, v.rid(key))
        return Eq(owner, key) if self.owner_sort == key.sort else not_(TRUE)

    def walk(self, requester: Term, pasid: Term, space: Term) -> Formula:
        """What the tables give to a request, caches apart."""
        if self.payload is Payload.PROCESS:
            if self.slot == SHARED_ENTRY:
                return SHARED_ENTRY(pasid, space)
            return ENTRY(requester, pasid, space)
        assert self.content is not None
        pointed = self.slot(requester)
        if self.payload is Payload.MAP:
            held = exists(
                (v.C2,), and_(v.IN(v.RGROUP(requester), v.C2), self.content(v.C2, space))
            )
            return and_(pointed, Eq(pasid, v.NO_PASID), held)
        if self.owner_sort == v.RID:
            return and_(pointed, self.content(requester, pasid, space))
        if self.owner_sort == v.GROUP:
            return and_(pointed, self.content(v.RGROUP(requester), pasid, space))
        inside = and_(v.IN(v.RGROUP(requester), v.C2), self.content(v.C2, pasid, space))
        return and_(pointed, exists((v.C2,), inside))

    @property
    def caches(self) -> tuple[Rel, ...]:
        """The hardware caches of the design, from the inside out."""
        outer = (v.DEVICE_TLB,) if self.design.fabric.ats else ()
        return (v.PASID_CACHE, v.IOTLB, *outer)

    def hit(self, requester: Term, pasid: Term, space: Term) -> Formula:
        """``hit(r, p, s)``: a table or a cache gives the space to a request."""
        cached = (c(requester, pasid, space) for c in self.caches)
        return or_(self.walk(requester, pasid, space), *cached)

    # -- static conditions ------------------------------------------------------------------

    def eligible(self, function: Term) -> Formula:
        """The machine's facts allow a bind to program this function at all."""
        guards = self.design.guards
        parts: list[Formula] = []
        if guards.pasid_capable and self.payload is not Payload.MAP:
            parts.append(v.CAPABLE(function))
        if guards.acs_path:
            parts.append(v.PATH_OK(function))
        if guards.singleton:
            parts.append(not_(v.PORTED(v.group(function))) if self.hot_add
                         else v.ALONE(v.group(function)))
        return and_(*parts)

    def single(self, group: Term) -> Formula:
        """The group has one member, ports and bridges counted.

        On a static fabric that is a fact of the machine; counting in the formula would leave EPR
        where it is a premise. With hot-add it depends on who is plugged in.
        """
        if not self.hot_add:
            return v.ALONE(group)
        # Variables of their own: *group* may speak of those that properties and premises bind.
        one, two = Var("single.f", v.FUNCTION), Var("single.h", v.FUNCTION)
        both = and_(Eq(v.group(one), group), Eq(v.group(two), group),
                    v.PRESENT(one), v.PRESENT(two))
        return and_(not_(v.PORTED(group)), forall((one, two), implies(both, Eq(one, two))))

    def present(self, function: Term) -> Formula:
        """The function is plugged in; always so on a static fabric."""
        return v.PRESENT(function) if self.hot_add else TRUE
