"""Updates of a table entry that hardware may be walking: torn fetches and the Present bit.

An entry is wider than what hardware fetches at once (128 bits, VT-d 9.6: a PASID-table entry has
four such chunks; here a low one, which carries Present, and a high one). A walk fetches the low
chunk, then the high one; what it used is *mixed* when the chunks come from different contents.
Context entries (VT-d 9.3) have a chunk of 128 bits in legacy mode, which the driver wrote as two
quadwords, so the same holds of them one level down.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

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
    """

    setup: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]
    replace: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]
    teardown: Annotated[tuple[Write, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _once(self) -> EntryOptions:
        for name in ("setup", "replace", "teardown"):
            steps = getattr(self, name)
            if len(set(steps)) != len(steps):
                raise ValueError(f"{name} names a step twice")
        return self


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
def _program(
    name: str, steps: tuple[Write, ...], *, present: bool
) -> tuple[list[Action], list[Rel]]:
    """A program as actions, and the relations that say where a running call stands."""
    places = [Rel(f"{name}_{i}_{s.value.replace('-', '_')}", (ENTRY, CONTENT))
              for i, s in enumerate(steps)]
    fits = PRESENT(E) if present else not_(PRESENT(E))
    begin = [Guard("entry-present" if present else "entry-not-present", fits, "-EBUSY"),
             Guard("entry-not-locked", not_(BUSY(E)))]
    acts = [action(f"{name}.enter", (E, NEW), begin, [insert(places[0], E, NEW), insert(BUSY, E)],
                   Actor.USER, f"A {name} of {{e}} to {{new}} begins")]
    for i, step in enumerate(steps):
        guards = [Guard("next-step", places[i](E, NEW))]
        if step is Write.FLUSH:
            guards.append(Guard("walks-ended", forall((_V1,), not_(FETCHED(E, _V1))),
                                source="VT-d 6.5.2"))
        last = i + 1 == len(steps)
        moved = [delete(places[i], E, NEW),
                 *([delete(BUSY, E)] if last else [insert(places[i + 1], E, NEW)])]
        acts.append(action(f"{name}.{step.value}", (E, NEW), guards, [*moved, *_write(step)],
                           Actor.KERNEL, f"The {name} of {{e}}: {step.value.replace('-', ' ')}"))
    return acts, places



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
        [delete(FETCHED, E, V), insert(CACHED, E, V, W)], Actor.HARDWARE,
        "The walk fetches the high chunk of {e}: fields of {w}",
    )
    return Module("walker", rels=(FETCHED, CACHED), actions=(fetch, rest))


def build(options: EntryOptions) -> Scenario:
    """The system: one driver program at a time on an entry, walks at any moment."""
    parts = [_program("setup", options.setup, present=False),
             _program("replace", options.replace, present=True),
             _program("teardown", options.teardown, present=True)]
    driver = Module(
        "driver", rels=(PRESENT, LOW, HIGH, BUSY, *(r for _, places in parts for r in places)),
        actions=tuple(a for acts, _ in parts for a in acts),
    )
    mixed: Formula = forall((_E1, _V1, _W1), implies(CACHED(_E1, _V1, _W1), Eq(_V1, _W1)))
    claims = [
        always("no-mixed-walk", "no walk combines the chunks of two contents", mixed,
               "a walk used the low chunk of {v1} with the high chunk of {w1}"),
        can("can-walk", "an entry can be set up and walked",
            exists((_E1, _V1), CACHED(_E1, _V1, _V1))),
    ]
    world = Instance({ENTRY: ("entry",), CONTENT: ("old", "new")}, {}, {})
    return Scenario(
        compose("entry-update", driver, _hardware()), {c.id: c for c in claims}, (world,),
        frames=((E, V), (E, V, W)), stages=tuple(tuple(places) for _, places in parts),
    )


FAMILY = Family("entry-update", "changing a table entry that hardware may be walking",
                EntryOptions, build)
