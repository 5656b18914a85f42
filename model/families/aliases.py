"""Requester ids that several functions share: aliases behind bridges, by quirk, and VMD's children.

What a function sends can arrive under other ids than its own: the id of a bridge above it, one that
a quirk names, or that of the real device it belongs to. Every such id needs the function's entry,
and an id that two functions share must outlive the one that leaves first.
"""

from __future__ import annotations

from typing import Literal

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    Update,
    action,
    compose,
    delete,
    delete_where,
    insert,
    insert_where,
)
from dmaproof.model.logic.terms import (
    Eq,
    Formula,
    Kind,
    Rel,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    ne,
    not_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can
from dmaproof.model.vfio.vocabulary import FUNCTION, RID, SPACE

F, G, S, NEW = Var("f", FUNCTION), Var("g", FUNCTION), Var("s", SPACE), Var("new", SPACE)
_X, _Y, _R, _T, _W = (
    Var("x", FUNCTION), Var("y", FUNCTION), Var("r", RID), Var("t", SPACE), Var("w", SPACE)
)

OWN = Rel("own_id", (FUNCTION, RID), Kind.STATIC)
ALIAS = Rel("arrives_as", (FUNCTION, RID), Kind.STATIC)  # its own id among them
ENTRY = Rel("entry", (RID, SPACE))  # context entry, and what it leads to
DOMAIN = Rel("attached_to", (FUNCTION, SPACE))

_CONTEXT = "drivers/iommu/intel/iommu.c domain_context_mapping"


class AliasOptions(Options):
    """What differs between kernels.

    Attributes:
        attach: how the entry of an alias is set that is present: it is kept (``keep``), reset
            together with nothing written for the alias (``reset``), or the attach fails (``busy``).
        detach: which entries a function takes with it: those that no other attached function needs
            (``last``), or all of its ids (``all``).
        exchange: binding a guest's table changes the entry of the ``own`` id or of ``all`` ids.
        restore: what an unbind of a guest's table rebuilds: ``own`` or ``all``.
        copies: the entry of an alias is that of the ``function``, or of the ``sibling`` that has
            the alias as its own id.
    """

    attach: Literal["keep", "reset", "busy"] = "keep"
    detach: Literal["last", "all"] = "last"
    exchange: Literal["own", "all"] = "all"
    restore: Literal["own", "all"] = "all"
    copies: Literal["function", "sibling"] = "function"


def _shared(function: Term, requester: Term) -> Formula:
    """Another attached function arrives under a requester id, too."""
    other = and_(ALIAS(_Y, requester), DOMAIN(_Y, _W), ne(_Y, function))
    return not_(forall((_Y, _W), not_(other)))


@rule("linux.alias.every-id", f"{_CONTEXT}; drivers/pci/search.c pci_for_each_dma_alias",
      "Every requester id that a function's requests arrive under gets the function's entry.")
def _set(options: AliasOptions, space: Term) -> list[Update]:
    """Set the entries of f's ids."""
    mine = and_(ALIAS(F, _R), Eq(_T, space))
    if options.attach == "reset":
        own = and_(OWN(F, _R), Eq(_T, space))
        return [Update(ENTRY, (_R, _T), insert=own, delete=ALIAS(F, _R))]
    if options.copies == "sibling":
        foreign = and_(ALIAS(F, _R), not_(OWN(F, _R)),
                       exists((_Y,), and_(OWN(_Y, _R), DOMAIN(_Y, _T))))
        own = and_(OWN(F, _R), Eq(_T, space))
        return [insert_where(ENTRY, (_R, _T), own), insert_where(ENTRY, (_R, _T), foreign)]
    if options.exchange == "own":  # only then can an entry that is kept lead elsewhere
        mine = and_(mine, forall((_W,), implies(ENTRY(_R, _W), Eq(_W, space))))
    return [insert_where(ENTRY, (_R, _T), mine)]


def _attach(options: AliasOptions) -> list[Action]:
    together = forall((_X, _R, _T), implies(
        and_(ALIAS(_X, _R), ALIAS(F, _R), DOMAIN(_X, _T)), Eq(_T, S)))
    guards = [
        Guard("not-attached", forall((_T,), not_(DOMAIN(F, _T)))),
        Guard("same-domain-as-sharers", together, "-EINVAL", "drivers/iommu/iommu.c (one group)"),
    ]
    if options.attach == "busy":
        free = forall((_R, _T), not_(and_(ALIAS(F, _R), ENTRY(_R, _T))))
        guards.append(Guard("entries-free", free, "-EBUSY",
                            "drivers/iommu/intel/pasid.c intel_pasid_setup_second_level"))
    gone: Formula = ALIAS(F, _R)
    if options.detach == "last":
        gone = and_(gone, not_(_shared(F, _R)))
    return [
        action("attach", (F, S), guards, [*_set(options, S), insert(DOMAIN, F, S)], Actor.USER,
               "{f} is attached to {s}"),
        action("detach", (F, S), [Guard("attached", DOMAIN(F, S))],
               [delete(DOMAIN, F, S), delete_where(ENTRY, (_R, _T), gone)], Actor.USER,
               "{f} is detached"),
    ]


@rule("linux.bind-2018.aliases", "iommu/vt-d: add bind_pasid_table function, v4 04/22",
      "Binding a guest's table changes the own requester id's entry; unbind rebuilds that one.")
def _exchange(options: AliasOptions) -> list[Action]:
    alone = forall((_R,), implies(ALIAS(F, _R), not_(_shared(F, _R))))
    ids = ALIAS(F, _R) if options.exchange == "all" else OWN(F, _R)
    back = ALIAS(F, _R) if options.restore == "all" else OWN(F, _R)
    moves = [delete(DOMAIN, F, S), insert(DOMAIN, F, NEW)]
    guards = [Guard("attached", DOMAIN(F, S)), Guard("shares-no-id", alone, "-EINVAL"),
              Guard("another", ne(S, NEW))]
    return [
        action("bind_table", (F, S, NEW), guards,
               [*moves, Update(ENTRY, (_R, _T), insert=and_(ids, Eq(_T, NEW)), delete=ids)],
               Actor.USER, "{f} is to use the guest's table {new} instead of {s}"),
        action("unbind_table", (F, S, NEW), guards,
               [*moves, Update(ENTRY, (_R, _T), insert=and_(back, Eq(_T, NEW)),
                               delete=ALIAS(F, _R))],
               Actor.USER, "The guest's table {s} of {f} is unbound: back to {new}"),
    ]


def build(options: AliasOptions) -> Scenario:
    """The system under some options."""
    module = Module(
        "aliases", rels=(OWN, ALIAS, ENTRY, DOMAIN),
        actions=(*_attach(options), *_exchange(options)),
        axioms={"own-id-is-one": forall((_X, _R), implies(OWN(_X, _R), ALIAS(_X, _R)))})
    # A, with an id by quirk; B and D behind a bridge, whose id both have; E has D's id as alias.
    # Three spaces, so that a call can speak of one that is neither the old nor the new.
    quirk = Instance({FUNCTION: ("A",), RID: ("A", "A.quirk"), SPACE: ("s1", "s2", "s3")}, {},
                     {OWN: frozenset({(0, 0)}), ALIAS: frozenset({(0, 0), (0, 1)})})
    bridge = Instance(
        {FUNCTION: ("B", "D"), RID: ("B", "D", "bridge"), SPACE: ("s1", "s2")}, {},
        {OWN: frozenset({(0, 0), (1, 1)}),
         ALIAS: frozenset({(0, 0), (1, 1), (0, 2), (1, 2)})})
    sibling = Instance(
        {FUNCTION: ("E", "real device"), RID: ("E", "real"), SPACE: ("s1", "s2")}, {},
        {OWN: frozenset({(0, 0), (1, 1)}), ALIAS: frozenset({(0, 0), (1, 1), (0, 1)})})
    together = forall((_X, _Y, _R, _T, _W), implies(
        and_(ALIAS(_X, _R), ALIAS(_Y, _R), DOMAIN(_X, _T), DOMAIN(_Y, _W)), Eq(_T, _W)))
    return Scenario(compose("aliases", module), {c.id: c for c in _claims()},
                    (quirk, bridge, sibling),
                    frames=((F, _R, S), (F, S, NEW), (F, _R, S, NEW)), invariants=(together,),
                    size=3)


def _claims() -> list[Claim]:
    held = exists((_X,), and_(ALIAS(_X, _R), DOMAIN(_X, _T)))
    return [
        always("aliases-agree", "every id of an attached function leads to what it is attached to",
               forall((_X, _R, _T, _W), implies(
                   and_(DOMAIN(_X, _T), ALIAS(_X, _R), ENTRY(_R, _W)), Eq(_W, _T))),
               "{x} is attached to {t}, and its requests as {r} reach {w}"),
        always("attached-translates", "no id of an attached function is blocked",
               forall((_X, _R, _T), implies(
                   and_(DOMAIN(_X, _T), ALIAS(_X, _R)), ENTRY(_R, _T))),
               "{x} is attached to {t}, and its requests as {r} are blocked"),
        always("nothing-left", "an id leads to nothing that none of its functions is attached to",
               forall((_R, _T), implies(ENTRY(_R, _T), held)),
               "{r} leads to {t}, to which no function behind it is attached"),
        can("can-attach-both", "two functions that share an id are attached",
            exists((_X, _Y, _R, _T), and_(ne(_X, _Y), ALIAS(_X, _R), ALIAS(_Y, _R),
                                          DOMAIN(_X, _T), DOMAIN(_Y, _T)))),
        can("can-translate", "a function's requests are translated",
            exists((_X, _R, _T), and_(DOMAIN(_X, _T), ALIAS(_X, _R), ENTRY(_R, _T)))),
    ]


FAMILY = Family("aliases", "requester ids that functions share", AliasOptions, build)
