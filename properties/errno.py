"""Refusals: whenever its condition holds, a call is refused with the named errno (row 22).

A claim about earlier calls, groups and members is a condition on a state and the arguments of one
action. What it says is stronger than "reachable states": in every state whatsoever that meets the
condition, the first guard that fails is the named one. A claim about the bytes of a call is one of
the argument rules of `model.vfio.uapi`.

A refused call changes nothing, because an action whose guard fails does not fire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Eq, Formula, and_, exists, ne, not_, or_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vfio.container import IOMMU_SET, OPENED


@dataclass(frozen=True)
class Refusal:
    """A claim about what a call answers in a state.

    Attributes:
        id: the claim's name.
        says: the claim in one sentence.
        action: the call, or the kernel's step, that is refused.
        guard: the guard that refuses it.
        errno: what the caller gets.
        when: the condition, over the parameters of the action.
        never: a closed formula that no reachable state may satisfy, where a refused step of a loop
            must end the whole call; None where the call itself is refused.
    """

    id: str
    says: str
    action: str
    guard: str
    errno: str
    when: Callable[[Model], Formula]
    never: Callable[[Model], Formula] | None = None


@dataclass(frozen=True)
class ArgumentRefusal:
    """A claim about what a call answers to its arguments.

    Attributes:
        rules: argument rules, each of which must refuse some call with `errno`.
    """

    id: str
    says: str
    errno: str
    rules: tuple[str, ...]


def first_refusal(act: Action, guard: str, errno: str) -> Formula:
    """Say that the first guard of an action that fails is the named one, with that errno."""
    cases = []
    for place, item in enumerate(act.guards):
        if (item.name, item.errno) == (guard, errno):
            passed = (g.condition for g in act.guards[:place])
            cases.append(and_(*passed, not_(item.condition)))
    return or_(*cases)


def otherwise(refusal: Refusal, model: Model) -> Formula:
    """Say that the claim is false: a call meets the condition and is answered differently."""
    act = model.system.action(refusal.action)
    answered = first_refusal(act, refusal.guard, refusal.errno)
    return exists(act.params, and_(refusal.when(model), not_(answered)))


def occurs(refusal: Refusal, model: Model) -> Formula:
    """Say that some call meets the condition."""
    act = model.system.action(refusal.action)
    return exists(act.params, refusal.when(model))


# -- conditions ------------------------------------------------------------------------------


def _in_order(model: Model) -> Formula:
    """Say that the caller holds what the call needs: files, a container, a PASID function."""
    scheme = model.scheme
    parts: list[Formula] = [v.CAPABLE(v.F)]
    if scheme.containers:
        parts += [v.IN(v.group(v.F), v.C), IOMMU_SET(v.C), OPENED(v.F)]
    if scheme.args:
        parts += [ne(v.P, v.NO_PASID), v.FITS(v.F, v.P)]
    return and_(*parts)


def _table_bound(model: Model) -> Formula:
    assert model.binder is not None
    return and_(_in_order(model), model.binder.bound(model.scheme.key_of(v.F, v.C)))


def _space_bound(model: Model) -> Formula:
    assert model.binder is not None
    key = model.scheme.key_of(v.F, v.C)
    twice = exists((v.P1,), model.binder.bound(key, v.P1, v.S))
    return and_(_in_order(model), model.scheme.single(v.group(v.F)), twice)


def _has_group_mate(model: Model) -> Formula:
    mate = and_(ne(v.X1, v.F), Eq(v.group(v.X1), v.group(v.F)), model.scheme.present(v.X1))
    return and_(_in_order(model), exists((v.X1,), mate))


def _nothing_bound(model: Model) -> Formula:
    assert model.binder is not None
    live = model.binder.live(model.scheme.key_of(v.F, v.C), *model.scheme.args)
    return and_(_in_order(model), not_(live))


def _caller_incapable(model: Model) -> Formula:
    inside = [v.IN(v.group(v.F), v.C), IOMMU_SET(v.C), OPENED(v.F)]
    return and_(*(inside if model.scheme.containers else ()), not_(v.CAPABLE(v.F)))


def _path_without_acs(model: Model) -> Formula:
    return and_(_in_order(model), not_(v.PATH_OK(v.F)))


def _visited(model: Model) -> Formula:
    """Say that a call's loop comes to a member that it has not served."""
    assert model.binder is not None
    scheme = model.scheme
    left = and_(scheme.member(scheme.key, v.H), not_(scheme.installed(v.rid(v.H))))
    return and_(model.binder.binding(*scheme.keyed), left)


def _bound_with(model: Model, unfit: Formula) -> Formula:
    """Say that an object is bound although *unfit* holds of its member X1."""
    assert model.binder is not None
    scheme = model.scheme
    member = and_(scheme.member(scheme.key, v.X1), unfit)
    return exists((*scheme.keyed, v.X1), and_(model.binder.bound(*scheme.keyed), member))


def _incapable_member_visited(model: Model) -> Formula:
    return and_(_visited(model), not_(v.CAPABLE(v.H)))


def _bound_with_incapable_member(model: Model) -> Formula:
    return _bound_with(model, not_(v.CAPABLE(v.X1)))


def _member_without_acs_visited(model: Model) -> Formula:
    return and_(_visited(model), v.CAPABLE(v.H), not_(v.PATH_OK(v.H)))


def _bound_with_member_without_acs(model: Model) -> Formula:
    return _bound_with(model, not_(v.PATH_OK(v.X1)))


REFUSALS = {
    r.id: r
    for r in (
        Refusal(
            "second-table-bind", "A second table bind on a device returns -EBUSY.",
            "bind.enter", "table-not-bound", "EBUSY", _table_bound,
        ),
        Refusal(
            "same-space-twice", "Binding a device and an address space twice returns -EEXIST.",
            "bind.enter", "space-not-bound", "EEXIST", _space_bound,
        ),
        Refusal(
            "second-device-in-group",
            "A process bind on a device whose group has a second device returns -EINVAL.",
            "bind.enter", "group-is-singleton", "EINVAL", _has_group_mate,
        ),
        Refusal(
            "unbind-unknown", "An unbind of what is not bound returns -ESRCH.",
            "unbind.enter", "bound", "ESRCH", _nothing_bound,
        ),
        Refusal(
            "caller-without-pasid",
            "A bind for a function without the PASID capability returns -EINVAL.",
            "bind.enter", "pasid-capable", "EINVAL", _caller_incapable,
        ),
        Refusal(
            "member-without-pasid",
            "A bind on a group with a member without the PASID capability returns -EINVAL.",
            "bind.visit", "member-pasid-capable", "EINVAL", _incapable_member_visited,
            never=_bound_with_incapable_member,
        ),
        Refusal(
            "path-without-acs",
            "A bind for a function with RR or UF off on its way up returns -EINVAL.",
            "bind.enter", "acs-path-rr-uf", "EINVAL", _path_without_acs,
        ),
        Refusal(
            "member-path-without-acs",
            "A bind on a group with a member with RR or UF off on its way up returns -EINVAL.",
            "bind.visit", "member-acs-path-rr-uf", "EINVAL", _member_without_acs_visited,
            never=_bound_with_member_without_acs,
        ),
    )
}
"""Claims that the transition system decides, by their names."""

ARGUMENT_REFUSALS = {
    r.id: r
    for r in (
        ArgumentRefusal(
            "pasid-bits",
            "A table bind with pasid_bits below 5 or above the host's returns -ERANGE.",
            "ERANGE", ("pasid-bits-fit",),
        ),
        ArgumentRefusal(
            "no-nesting", "A table bind on an IOMMU without nested translation returns -EINVAL.",
            "EINVAL", ("iommu-has-nesting",),
        ),
        ArgumentRefusal(
            "unknown-flag", "A bind with an unknown flag returns -EINVAL.",
            "EINVAL", ("one-known-flag", "known-process-flags"),
        ),
        ArgumentRefusal(
            "short-argsz", "A bind whose argsz ends before its payload returns -EINVAL.",
            "EINVAL", ("argsz-covers-header", "argsz-covers-payload"),
        ),
    )
}
"""Claims that the argument rules decide, by their names."""
