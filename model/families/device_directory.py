"""A device directory of another IOMMU (RISC-V's DDT and PDT): change the entry, then flush.

The same contract as VT-d's V1 on another machine: an entry of the directory that was present and is
changed stays in the directory cache and in the IOTLB until both are invalidated.
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
from dmaproof.model.logic.terms import (
    Eq,
    Kind,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    ne,
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can
from dmaproof.model.vfio.vocabulary import FUNCTION, SPACE

F, S, NEW = Var("f", FUNCTION), Var("s", SPACE), Var("new", SPACE)
_X, _T, _N = Var("x", FUNCTION), Var("t", SPACE), Var("n", SPACE)

ENTRY = Rel("directory_entry", (FUNCTION, SPACE))
CACHED = Rel("directory_cache", (FUNCTION, SPACE))
IOTLB = Rel("iotlb", (FUNCTION, SPACE))
GRANT = Rel("grant", (FUNCTION, SPACE), Kind.GHOST)

_SOURCE = "RISC-V IOMMU 6.2, 6.3; drivers/iommu/riscv/iommu.c"


class Step(StrEnum):
    """A micro-step of a change of domain."""

    WRITE = "write"
    FLUSH_DIRECTORY = "flush-directory"  # IODIR.INVAL_DDT or INVAL_PDT, IOFENCE
    FLUSH_IOTLB = "flush-iotlb"  # IOTINVAL, IOFENCE


class DirectoryOptions(Options):
    """The program.

    Attributes:
        change: the order.
    """

    change: Annotated[tuple[Step, ...], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _complete(self) -> DirectoryOptions:
        if len(set(self.change)) != len(self.change):
            raise ValueError("change names a step twice")
        if Step.WRITE not in self.change:
            raise ValueError("change has to write the entry")
        return self


@rule("riscv.iommu.invalidate-after-change", _SOURCE,
      "After a change of DDT or PDT, IODIR.INVAL and IOTINVAL, each fenced, drop what was cached.")
def _step(step: Step) -> list[Update]:
    match step:
        case Step.WRITE:
            return [Update(ENTRY, (_X, _T), insert=and_(Eq(_X, F), Eq(_T, NEW)),
                           delete=Eq(_X, F))]
        case Step.FLUSH_DIRECTORY:
            return [delete_where(CACHED, (_X, _T), Eq(_X, F))]
        case Step.FLUSH_IOTLB:
            return [delete_where(IOTLB, (_X, _T), Eq(_X, F))]


def build(options: DirectoryOptions) -> Scenario:
    """The system under some options."""
    places = [Rel(f"change_{i}_{s.value.replace('-', '_')}", (FUNCTION, SPACE))
              for i, s in enumerate(options.change)]
    busy = or_(*(p(F, _N) for p in places))
    acts: list[Action] = [
        action("change.enter", (F, NEW), [
            Guard("not-locked", forall((_N,), not_(busy))),
            Guard("another", not_(ENTRY(F, NEW)))],
            [insert(places[0], F, NEW), insert(GRANT, F, NEW)], Actor.USER,
            "{f} is to be attached to {new}"),
        action("directory.fill", (F, S), [Guard("entry-found", ENTRY(F, S))],
               [insert(CACHED, F, S)], Actor.HARDWARE, "The directory cache holds {f}'s entry"),
        action("iotlb.fill", (F, S), [Guard("entry-found", or_(ENTRY(F, S), CACHED(F, S)))],
               [insert(IOTLB, F, S)], Actor.HARDWARE, "The IOTLB holds a way of {f} to {s}"),
        action("iotlb.evict", (F, S), [Guard("held", IOTLB(F, S))], [delete(IOTLB, F, S)],
               Actor.HARDWARE, "The IOTLB evicts a translation of {f}"),
    ]
    for i, step in enumerate(options.change):
        last = i + 1 == len(places)
        onward = [] if last else [insert(places[i + 1], F, NEW)]
        revoked = [delete_where(GRANT, (_X, _T), and_(Eq(_X, F), ne(_T, NEW)))] if last else []
        acts.append(action(
            f"change.{step.value}", (F, NEW), [Guard("next-step", places[i](F, NEW))],
            [delete(places[i], F, NEW), *onward, *revoked, *_step(step)], Actor.KERNEL,
            f"The change of {{f}} to {{new}}: {step.value.replace('-', ' ')}"))
    module = Module("directory", rels=(ENTRY, CACHED, IOTLB, GRANT, *places), actions=tuple(acts))
    reach = or_(ENTRY(_X, _T), CACHED(_X, _T), IOTLB(_X, _T))
    claims = [
        always("change-final", "when a change has returned, nothing old is reached",
               forall((_X, _T), implies(reach, GRANT(_X, _T))),
               "{x} reaches {t}, which it was attached to before"),
        can("can-change", "a change is made and used", exists((_X, _T, _N), and_(
            ne(_T, _N), IOTLB(_X, _T), GRANT(_X, _N)))),
    ]
    world = Instance({FUNCTION: ("A",), SPACE: ("s1", "s2")}, {}, {})
    return Scenario(compose("device-directory", module), {c.id: c for c in claims}, (world,),
                    frames=((F, S, NEW),), stages=(tuple(places),), size=3)


FAMILY = Family("device-directory", "changing a device's domain on a RISC-V IOMMU",
                DirectoryOptions, build)
