"""What is said of a pair of designs, property by property, operation by operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

SCHEMA: Final = "dmaproof/diff/1"


class Relation(StrEnum):
    """How the new design stands to the old one."""

    SAME = "same"
    STRENGTHENED = "strengthened"
    WEAKENED = "weakened"
    INCOMPARABLE = "incomparable"  # each violates the property in a way the other does not
    UNDECIDED = "undecided"
    GAINED = "gained"  # something has become possible: no question of isolation
    LOST = "lost"  # something is no longer possible


HARMFUL = (Relation.WEAKENED, Relation.INCOMPARABLE)


@dataclass(frozen=True)
class Shown:
    """A run that shows something of one side.

    Attributes:
        side: ``old`` or ``new``: the design it is a run of.
        lines: it in sentences.
        data: it as JSON data, as `dmaproof trace` reads it.
    """

    side: str
    lines: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One property, on one machine.

    Attributes:
        property: identifier of the property or claim.
        says: the property in one sentence.
        machine: where ("" for designs of the study, whose proofs hold anywhere).
        assumptions: those that differ from the defaults.
        old, new: results for either design (``-`` where it makes no such claim).
        reason: why, in one sentence.
        ability: the property says what can be done, not what cannot: losing it is no harm.
        runs: what shows it.
    """

    property: str
    says: str
    relation: Relation
    old: str
    new: str
    reason: str
    machine: str = ""
    assumptions: dict[str, str] = field(default_factory=dict)
    ability: bool = False
    runs: tuple[Shown, ...] = ()

    def data(self) -> dict[str, Any]:
        """The change as JSON data."""
        return {
            "property": self.property, "machine": self.machine, "assumptions": self.assumptions,
            "relation": self.relation.value, "old": self.old, "new": self.new,
            "says": self.says, "reason": self.reason,
            "traces": [{"side": r.side, "lines": list(r.lines), "trace": r.data}
                       for r in self.runs],
        }


@dataclass(frozen=True)
class Operation:
    """A call that one design accepts and the other refuses, after the same calls.

    Attributes:
        call: its name.
        allowed_by: ``old`` or ``new``.
        says: the call in a sentence.
        errno, guard: what the other design returns, and by which guard.
        machine: the world in which the run takes place.
        calls: those before it, in sentences; both designs accept them.
    """

    call: str
    allowed_by: str
    says: str
    errno: str
    guard: str
    machine: str
    calls: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``newly allowed`` or ``newly refused``."""
        return "newly allowed" if self.allowed_by == "new" else "newly refused"

    def data(self) -> dict[str, Any]:
        """The operation as JSON data."""
        return {
            "operation": self.call, "change": self.kind, "says": self.says, "errno": self.errno,
            "guard": self.guard, "machine": self.machine, "run": list(self.calls),
        }


@dataclass(frozen=True)
class Comparison:
    """All that is said of a pair of designs.

    Attributes:
        old, new: names of the designs.
        changes: property by property.
        operations: what is newly refused or allowed.
        notes: what the comparison does not cover.
    """

    old: str
    new: str
    changes: tuple[Change, ...]
    operations: tuple[Operation, ...]
    notes: tuple[str, ...] = ()

    @property
    def relation(self) -> Relation:
        """How the new design as a whole stands to the old one."""
        return overall(c.relation for c in self.changes if not c.ability)

    @property
    def exit_code(self) -> int:
        """0 same or strengthened, 1 weakened or incomparable, 3 undecided."""
        found = [c.relation for c in self.changes if not c.ability]
        if any(r in HARMFUL for r in found):
            return 1
        return 3 if Relation.UNDECIDED in found else 0

    def data(self) -> dict[str, Any]:
        """The comparison as JSON data."""
        return {
            "schema": SCHEMA, "old": self.old, "new": self.new, "relation": self.relation.value,
            "changes": [c.data() for c in self.changes],
            "operations": [o.data() for o in self.operations], "notes": list(self.notes),
        }


def overall(relations: Iterable[Relation]) -> Relation:
    """Join relations of parts into one of the whole."""
    found = set(relations)
    if Relation.INCOMPARABLE in found or found >= {Relation.WEAKENED, Relation.STRENGTHENED}:
        return Relation.INCOMPARABLE
    for relation in (Relation.WEAKENED, Relation.UNDECIDED, Relation.STRENGTHENED):
        if relation in found:
            return relation
    return Relation.SAME
