"""Page-table pages that are unlinked, freed and used again while paging structures are cached.

A walk leaves pointers to table pages in the paging-structure caches, and follows them without
looking at the tables above again (VT-d 6.2.5). A table page may serve several address spaces: the
kernel half of every process bound by SVA, or one domain in all its places. A flush reaches the
address spaces that are listed when it runs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from dmaproof.model.families.hardware import evict, fill
from dmaproof.model.families.programs import Program, Work, program
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    Update,
    action,
    compose,
    delete,
    delete_where,
    insert,
)
from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    Eq,
    Kind,
    Rel,
    Sort,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio import vocabulary as v

TABLE_PAGE = Sort("TablePage")
K, T = v.S, Var("t", TABLE_PAGE)
K1, T1 = v.S1, Var("t1", TABLE_PAGE)

LINKED = Rel("linked", (TABLE_PAGE,))  # the tables lead to the page
FREED = Rel("reused", (TABLE_PAGE,))  # the page belongs to somebody else, who writes into it
LIVE = Rel("entry_live", (v.SPACE,))  # a PASID-table entry leads to the address space
LISTED = Rel("listed", (v.SPACE,))  # flushes visit it
MOVING = Rel("moving", (v.SPACE,))  # a bind or an unbind runs
STRUCTURE = Rel("paging_structure_cache", (v.SPACE, TABLE_PAGE))
OWNED = Rel("owned", (TABLE_PAGE,), Kind.GHOST)  # until the call that takes the page out returns


class Take(StrEnum):
    """A micro-step of taking a page out of the tables."""

    UNLINK = "unlink"
    FLUSH = "flush-with-structures"
    FLUSH_LEAVES = "flush-leaves-only"
    FREE = "free"


class Bind(StrEnum):
    """A micro-step of making an address space usable."""

    ENTRY = "set-up-entry"
    LIST = "list"


class PageOptions(Options):
    """The programs.

    Attributes:
        take: how a table page is taken out and freed.
        bind: how an address space gets its entry and its place on the list.
        lock: whether a flush waits for binds and unbinds that are under way.
        sva: whether a bind is allowed at all.
        page: what traces call a table page.
    """

    take: Annotated[tuple[Take, ...], Field(min_length=1, max_length=6)]
    bind: Annotated[tuple[Bind, ...], Field(min_length=1, max_length=4)]
    lock: bool = True
    sva: Literal["allowed", "refused"] = "allowed"
    page: Literal["kernel page-table page", "page-table page"] = "page-table page"


@rule("driver.table-page.free", "VT-d 6.2.5, 6.5.3.3; mm/pgtable-generic.c",
      "A page-table page is flushed from the paging-structure caches before it is used again")
def _take(o: PageOptions) -> Program:
    enter = Work("enter", f"{{t}}, a {o.page} without entries, is to be freed",
                 guards=(Guard("linked", LINKED(T)),))
    listed = delete_where(STRUCTURE, (K1, T1), and_(Eq(T1, T), LISTED(K1)))
    quiet = Guard("list-not-locked", forall((K1,), not_(MOVING(K1))),
                  source="drivers/iommu/iommu-sva.c iommu_sva_lock")
    works: dict[Take, Work] = {
        Take.UNLINK: Work("unlink", "The entry that leads to {t} is cleared", (delete(LINKED, T),)),
        Take.FLUSH: Work("flush-with-structures",
                         "The IOTLB and the paging structures of every listed space are flushed",
                         (listed,), (quiet,) if o.lock else ()),
        Take.FLUSH_LEAVES: Work("flush-leaves-only",
                                "The IOTLB is flushed with IH=1: paging structures may stay"),
        Take.FREE: Work("free", "{t} is freed; its next owner writes into it", (insert(FREED, T),)),
    }
    done = Work("return", "The call that took {t} out returns", (delete(OWNED, T),))
    return program("take", (T,), enter, [*(works[s] for s in o.take), done])


def _bind(o: PageOptions) -> tuple[Program, Program]:
    begin = Work(
        "enter", "A bind of {s} begins", (insert(MOVING, K),),
        (Guard("sva-allowed", TRUE if o.sva == "allowed" else FALSE, "-EOPNOTSUPP",
               "drivers/iommu/iommu-sva.c iommu_sva_bind_device"),
         Guard("not-bound", not_(LIVE(K))), Guard("not-locked", not_(MOVING(K)))),
    )
    works = {Bind.ENTRY: Work("set-up-entry", "An entry leads to {s}", (insert(LIVE, K),)),
             Bind.LIST: Work("list", "{s} is put on the list", (insert(LISTED, K),))}
    bound = Work("return", "{s} is bound", (delete(MOVING, K),))
    leave = Work("enter", "An unbind of {s} begins", (insert(MOVING, K),),
                 (Guard("bound", LIVE(K), "-EINVAL"), Guard("not-locked", not_(MOVING(K)))))
    own: Update = delete_where(STRUCTURE, (K1, T1), Eq(K1, K))
    back = [
        Work("clear", "The entry of {s} is cleared", (delete(LIVE, K),)),
        Work("flush", "Everything of {s} is flushed", (own,)),
        Work("unlist", "{s} is taken off the list", (delete(LISTED, K),)),
        Work("return", "{s} is unbound", (delete(MOVING, K),)),
    ]
    return (program("bind", (K,), begin, [*(works[s] for s in o.bind), bound]),
            program("unbind", (K,), leave, back))


def build(options: PageOptions) -> Scenario:
    """Table pages come and go, address spaces are bound and unbound, walks happen."""
    take, (bind, unbind) = _take(options), _bind(options)
    link = action(
        "link", (T,),
        [Guard("page-free", not_(or_(LINKED(T), FREED(T)))),
         Guard("no-call", not_(take.running(T)))],
        [insert(LINKED, T), insert(OWNED, T)], Actor.KERNEL,
        f"{{t}} becomes a {options.page}",
    )
    back = action("page.back", (T,), [Guard("reused", FREED(T)),
                                      Guard("no-call", not_(take.running(T)))],
                  [delete(FREED, T)], Actor.KERNEL, "The other owner of {t} frees it")
    parts = (take, bind, unbind)
    driver = Module(
        "driver", rels=(LINKED, FREED, LIVE, LISTED, MOVING, OWNED,
                        *(s for p in parts for s in p.stages)),
        actions=(link, back, *(a for p in parts for a in p.actions)),
    )
    caches = Module("caches", rels=(STRUCTURE,), actions=(
        fill(STRUCTURE, (K, T), and_(LIVE(K), LINKED(T)),
             "A walk for {s} caches the pointer to {t}"),
        evict(STRUCTURE, (K, T)),
    ))
    idle = {a.name: "no address space is ever bound"
            for a in (*bind.actions, *unbind.actions, *caches.actions)}
    return Scenario(
        compose("table-pages", driver, caches), {c.id: c for c in _claims(options, bind)},
        _worlds(), frames=((K, T),), stages=tuple(p.stages for p in parts), size=3,
        idle=idle if options.sva == "refused" else {},
    )


def _claims(o: PageOptions, bind: Program) -> list[Claim]:
    every = (K1, T1)
    found = [
        always("no-walk-through-freed", "no walk goes through a page that was freed",
               forall(every, implies(STRUCTURE(K1, T1), not_(FREED(T1)))),
               "a walk for {s1} goes through {t1}, which somebody else writes"),
        always("no-stale-structure", "after the call nothing cached leads to the page",
               forall(every, implies(STRUCTURE(K1, T1), OWNED(T1))),
               "a walk for {s1} still goes through {t1}, which was taken out"),
        can("can-walk", "a walk goes through the tables", exists((K, T), STRUCTURE(K, T))),
    ]
    if o.sva == "refused":
        quiet = and_(not_(LIVE(K)), not_(MOVING(K)))
        found.append(refused("errno-sva", "a bind of a process is refused", bind.actions[0],
                             quiet, "-EOPNOTSUPP"))
    return found


def _worlds() -> tuple[Instance, ...]:
    def world(spaces: int, pages: int) -> Instance:
        return Instance({v.SPACE: tuple(f"mm{i + 1}" for i in range(spaces)),
                         TABLE_PAGE: tuple(f"page {i + 1}" for i in range(pages))}, {}, {})

    return world(1, 1), world(2, 1), world(1, 2)


FAMILY = Family("table-pages", "page-table pages freed while paging structures are cached",
                PageOptions, build)
