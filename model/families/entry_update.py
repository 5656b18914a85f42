"""Updates of a table entry that hardware may be walking: torn fetches and the Present bit.

An entry is wider than what hardware fetches at once (128 bits, VT-d 9.6: a PASID-table entry has
four such chunks; here a low one, which carries Present, and a high one). A walk fetches the low
chunk, then the high one; what it used is *mixed* when the chunks come from different contents.
Context entries (VT-d 9.3) have a chunk of 128 bits in legacy mode, which the driver wrote as two
quadwords, so the same holds of them one level down; in scalable mode they have two chunks.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

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
from dmaproof.model.logic.terms import Eq, Formula, Rel, Sort, Var, exists, forall, implies, not_
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can

ENTRY = Sort("Entry")  # a PASID-table or context entry
CONTENT = Sort("Content")  # one complete setting of all fields

E, NEW = Var("e", ENTRY), Var("new", CONTENT)
V, W = Var("v", CONTENT), Var("w", CONTENT)
_E1, _V1, _W1 = Var("e1", ENTRY), Var("v1", CONTENT), Var("w1", CONTENT)

PRESENT = Rel("present", (ENTRY,))
LOW, HIGH = Rel("low", (ENTRY, CONTENT)), Rel("high", (ENTRY, CONTENT))
FETCHED = Rel("fetched_low", (ENTRY, CONTENT))  # a walk that has the low chunk, not the high one
BUSY = Rel("busy", (ENTRY,))  # the driver's lock on the entry
TARGET = Rel("target", (ENTRY, CONTENT))  # a call runs that is to leave this content
CACHED = Rel("cached", (ENTRY, CONTENT, CONTENT))  # (low, high) as a walk used them


class Write(StrEnum):
    """A micro-step of an update."""

    CLEAR_PRESENT = "clear-present"
    FLUSH = "flush"  # invalidate, then wait: walks under way have ended (VT-d 6.5.2)
    WRITE_LOW = "write-low"  # all fields of the low chunk but Present
    WRITE_HIGH = "write-high"
    SET_PRESENT = "set-present"


class EntryOptions(Options):
    """The programs.

    Attributes:
        setup: from an entry that is not present.
        replace: on an entry that is present.
        teardown: on an entry that is present; the new content is that of a zeroed entry.
        entry: how traces name the entry.
    """

    setup: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]
    replace: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]
    teardown: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]
    entry: Literal["PASID", "context", "scalable context"] = "PASID"

    @model_validator(mode="after")
    def _once(self) -> EntryOptions:
        for name in ("setup", "replace", "teardown"):
            steps = getattr(self, name)
            if len(set(steps)) != len(steps):
                raise ValueError(f"{name} names a step twice")
        return self


_SAYS = {
    Write.CLEAR_PRESENT: "Present is cleared",
    Write.FLUSH: "the caches are flushed; walks under way have ended",
    Write.WRITE_LOW: "the fields of the low chunk are written",
    Write.WRITE_HIGH: "the fields of the high chunk are written",
    Write.SET_PRESENT: "Present is set",
}


def _write(step: Write) -> list[Update]:
    def exchange(chunk: Rel) -> list[Update]:
        old = Var(f"{chunk.name}.old", CONTENT)
        gone = delete_where(chunk, (_E1, old), Eq(_E1, E))
        return [gone, insert(chunk, E, NEW)]

    match step:
        case Write.CLEAR_PRESENT:
            return [delete(PRESENT, E)]
        case Write.SET_PRESENT:
            return [insert(PRESENT, E)]
        case Write.WRITE_LOW:
            return exchange(LOW)
        case Write.WRITE_HIGH:
            return exchange(HIGH)
        case Write.FLUSH:
            return [delete_where(CACHED, (_E1, V, W), Eq(_E1, E))]


@rule("vtd.entry-update.order", "VT-d 6.5.3.3; drivers/iommu/intel/pasid.c",
      "An entry is changed only while Present is clear and the caches are flushed")
def _program(name: str, steps: tuple[Write, ...], what: str, *, present: bool) -> Program:
    fits = PRESENT(E) if present else not_(PRESENT(E))
    begin = Work(
        "enter", f"A {name} of {what} {{e}} to content {{new}} begins",
        (insert(TARGET, E, NEW), insert(BUSY, E)),
        (Guard("entry-present" if present else "entry-not-present", fits, "-EBUSY"),
         Guard("entry-not-locked", not_(BUSY(E)))),
    )
    works = []
    for i, step in enumerate(steps):
        guards = [Guard("own-target", TARGET(E, NEW))]
        if step is Write.FLUSH:  # the wait descriptor ends only when walks under way have
            guards.append(Guard("walks-ended", forall((_V1,), not_(FETCHED(E, _V1))),
                                source="VT-d 6.5.2"))
        updates = _write(step)
        if i + 1 == len(steps):
            updates += [delete(TARGET, E, NEW), delete(BUSY, E)]
        works.append(Work(step.value, f"The {name} of {what} {{e}}: {_SAYS[step]}",
                          tuple(updates), tuple(guards)))
    return program(name, (E,), begin, works, carried=(NEW,))


def _hardware() -> Module:
    fetch = action(
        "walk.low", (E, V),
        [Guard("present", PRESENT(E)), Guard("content", LOW(E, V))],
        [insert(FETCHED, E, V)], Actor.HARDWARE,
        "A walk fetches the low chunk of {e}: Present, fields of {v}",
    )
    rest = action(
        "walk.high", (E, V, W),
        [Guard("under-way", FETCHED(E, V)), Guard("content", HIGH(E, W))],
        [insert(CACHED, E, V, W)], Actor.HARDWARE,
        "The walk fetches the high chunk of {e}: fields of {w}",
    )
    end = action(
        "walk.end", (E, V), [Guard("under-way", FETCHED(E, V))], [delete(FETCHED, E, V)],
        Actor.HARDWARE, "The last walk that holds the low chunk {v} of {e} ends",
    )
    return Module("walker", rels=(FETCHED, CACHED), actions=(fetch, rest, end))


def build(options: EntryOptions) -> Scenario:
    """The system: one driver program at a time on an entry, walks at any moment."""
    what = f"{options.entry} entry"
    parts = [_program("setup", options.setup, what, present=False),
             _program("replace", options.replace, what, present=True),
             _program("teardown", options.teardown, what, present=True)]
    driver = Module(
        "driver", rels=(PRESENT, LOW, HIGH, BUSY, TARGET, *(r for p in parts for r in p.stages)),
        actions=tuple(a for p in parts for a in p.actions),
    )
    mixed: Formula = forall((_E1, _V1, _W1), implies(CACHED(_E1, _V1, _W1), Eq(_V1, _W1)))
    claims = [
        always("no-mixed-walk", "no walk combines the chunks of two contents", mixed,
               "a walk used the low chunk of {v1} with the high chunk of {w1}"),
        can("can-walk", "an entry can be set up and walked",
            exists((_E1, _V1), CACHED(_E1, _V1, _V1))),
    ]
    world = Instance({ENTRY: ("E1",), CONTENT: ("old", "new")}, {}, {})
    return Scenario(
        compose("entry-update", driver, _hardware()), {c.id: c for c in claims}, (world,),
        frames=((E, V), (E, V, W)), stages=tuple(p.stages for p in parts),
    )


FAMILY = Family("entry-update", "changing a table entry that hardware may be walking",
                EntryOptions, build)
