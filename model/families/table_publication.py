"""A new table page: when its content is in memory, and when the pointer to it is.

The driver writes through the CPU's caches. A walker that does not snoop them (ECAP.C clear) reads
memory, where a written line arrives when it is flushed, or earlier, whenever the CPU evicts it.
What memory held before (another owner's data) is read as entries until then.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from dmaproof.model.families.programs import Work, program
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import Actor, Guard, Module, action, compose, insert
from dmaproof.model.logic.terms import Rel, Sort, Var, exists, forall, not_, or_
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can

LEAF = Sort("TablePage")  # such as the page of 64 PASID entries that a directory entry leads to
_L, _L1 = Var("page", LEAF), Var("page1", LEAF)

WRITTEN = Rel("zeroed", (LEAF,))  # the CPU has written the content
CONTENT = Rel("content_in_memory", (LEAF,))
LINKED = Rel("linked", (LEAF,))  # the CPU has written the pointer
POINTER = Rel("pointer_in_memory", (LEAF,))
USED = Rel("in_use", (LEAF,))
GARBAGE = Rel("walked_garbage", (LEAF,))
WALKED = Rel("walked", (LEAF,))


class Step(StrEnum):
    """A micro-step of adding a page."""

    WRITE_CONTENT = "zero-page"
    FLUSH_CONTENT = "clflush-page"
    WRITE_POINTER = "write-pointer"
    FLUSH_POINTER = "clflush-pointer"


class PublicationOptions(Options):
    """The program.

    Attributes:
        add: how a page is added.
        coherent: whether the walker snoops the CPU's caches (ECAP.C).
    """

    add: Annotated[tuple[Step, ...], Field(min_length=1, max_length=6)]
    coherent: bool = False


_WORK = {
    Step.WRITE_CONTENT: Work("zero-page", "The CPU zeroes {page}, in its cache",
                             (insert(WRITTEN, _L),)),
    Step.FLUSH_CONTENT: Work("clflush-page", "{page} is flushed to memory (clflush)",
                             (insert(CONTENT, _L, when=WRITTEN(_L)),)),
    Step.WRITE_POINTER: Work("write-pointer", "The CPU writes the pointer to {page}, in its cache",
                             (insert(LINKED, _L),)),
    Step.FLUSH_POINTER: Work("clflush-pointer", "The pointer to {page} is flushed to memory",
                             (insert(POINTER, _L, when=LINKED(_L)),)),
}


@rule("driver.table-page.order", "drivers/iommu/intel/pasid.c intel_pasid_get_entry; VT-d 6.9",
      "The content of a table page is in memory before a pointer to it can be")
def build(options: PublicationOptions) -> Scenario:
    """Pages are added one by one; written lines reach memory at any moment."""
    enter = Work("enter", "{page} is allocated; memory still holds its last owner's data",
                 (insert(USED, _L),), (Guard("page-free", not_(USED(_L))),))
    done = Work("return", "{page} is in use")
    add = program("add", (_L,), enter, [*(_WORK[s] for s in options.add), done])
    driver = Module("driver", rels=(WRITTEN, CONTENT, LINKED, POINTER, USED, *add.stages),
                    actions=add.actions)
    claims = [
        always("no-garbage", "no walk reads what a table page held before it was one",
               forall((_L1,), not_(GARBAGE(_L1))),
               "a walk took what was left in {page1} for entries"),
        can("can-walk", "a page that was added is walked", exists((_L,), WALKED(_L))),
    ]
    return Scenario(
        compose("table-publication", driver, _hardware(options)), {c.id: c for c in claims},
        (Instance({LEAF: ("page A",)}, {}, {}), Instance({LEAF: ("page A", "page B")}, {}, {})),
        frames=((_L,),), stages=(add.stages,), size=2,
    )


def _hardware(options: PublicationOptions) -> Module:
    write_backs = [
        action(f"cpu-cache.{name}", (_L,), [Guard("written", there(_L))], [insert(memory, _L)],
               Actor.HARDWARE, f"The CPU's cache evicts {says}: it is in memory now")
        for name, there, memory, says in (
            ("evict-page", WRITTEN, CONTENT, "the lines of {page}"),
            ("evict-pointer", LINKED, POINTER, "the pointer to {page}"))
    ]
    pointer, content = (LINKED, WRITTEN) if options.coherent else (POINTER, CONTENT)
    found = or_(POINTER(_L), pointer(_L))
    clean = or_(CONTENT(_L), content(_L))
    walk = action(
        "walk", (_L,), [Guard("pointer-seen", found)],
        [insert(WALKED, _L), insert(GARBAGE, _L, when=not_(clean))],
        Actor.HARDWARE, "A walk reads {page}, as far as it has come to memory",
    )
    return Module("hardware", rels=(WALKED, GARBAGE), actions=(*write_backs, walk))


FAMILY = Family("table-publication", "adding a table page that a walker may read from memory",
                PublicationOptions, build)
