"""What families have in common whose actions set entries up and take them down, and flush in order.

Which entries an action changes is the rule's own statement; it is not written a second time. What
is written here is the rest: which bytes, in which order, with which descriptors (the driver's
programs), what the bytes stand for afterwards, and where requests land.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Handler,
    Lookup,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board, PageTable
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf

Place = tuple[Bdf, int | None]
"""A requester id and a PASID (None: without)."""


@dataclass(frozen=True)
class Shot:
    """A request that shows a claim.

    Attributes:
        prefix: variables that say who sends it, and with which PASID.
        goal: variable of what it lands in; "" if it is to be blocked.
        says: what that means.
        rel: the relation whose entries are meant (None: the first of the family).
    """

    prefix: tuple[str, ...]
    goal: str
    says: str
    rel: Rel | None = None


class EntryBits(BitsOfFamily):
    """Entries at places, each of which leads to one page table; at one address in all of them.

    Attributes:
        following: the relations of entries.
        shots: the requests that show each claim.
        places: for each relation, where the entry of each prefix of a row lies.
        goals: the page table of each goal.
        page: the page that each goal leads to.
    """

    following: ClassVar[tuple[Rel, ...]] = ()
    shots: ClassVar[Mapping[str, tuple[Shot, ...]]] = {}

    places: dict[Rel, dict[Row, Place]]
    goals: dict[int, PageTable]
    page: dict[int, int]

    def boot(self) -> Board:
        """No entry is present; the page tables are there."""
        board = self.machine()
        self.goals, self.page = {}, {}
        for goal, name in self.goal_names():
            self.goals[goal] = self.table(board, name)
            self.page[goal] = board.page()
            board.map(self.goals[goal], VIRTUAL, self.page[goal])
        system = self.scenario.system
        self.places = {rel: dict(self.places_of(board, rel)) for rel in self.following
                       if rel in system.rels}
        return board

    # -- what a family says -----------------------------------------------------------------

    def machine(self) -> Board:
        """Return the machine."""
        return Board()

    @abstractmethod
    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Yield what entries can lead to, with its name."""

    @abstractmethod
    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Plug the requesters in and yield where the entries of a relation lie."""

    def table(self, board: Board, name: str) -> PageTable:
        """Make the page table of a goal."""
        return board.page_table(name, first=True)

    def split(self, row: Row) -> tuple[Row, int]:
        """Return the prefix that says where an entry lies, and the goal."""
        return row[:-1], row[-1]

    def join(self, prefix: Row, goal: int) -> Row | None:
        """Return the row of an entry, None if none has that goal there."""
        return (*prefix, goal)

    def senders(self, rel: Rel, prefix: Row) -> Iterator[Place]:
        """Yield whose requests an entry translates."""
        yield self.places[rel][prefix]

    def others(self) -> Mapping[str, Handler]:
        """Return what executes actions that do more than change entries."""
        return {}

    # -- gamma and alpha --------------------------------------------------------------------

    @staticmethod
    def did(goal: int) -> int:
        """Return the domain id of a page table."""
        return 0x10 + goal

    def gamma(self) -> Mapping[str, Handler]:
        """Every action that is no stutter may change entries."""
        found: dict[str, Handler] = {
            act.name: self.follow for act in self.scenario.system.actions
            if act.name not in self.stutters
        }
        return found | dict(self.others())

    def follow(self, m: Moment) -> str:
        """Take the entries down that an action removes, then set those up that it adds."""
        changed = False
        for rel in self.places:
            for row in sorted(m.removed(rel)):
                prefix, _ = self.split(row)
                self.board.tear_down(*self.places[rel][prefix])
                changed = True
            for row in sorted(m.added(rel)):
                prefix, goal = self.split(row)
                self.board.enter(*self.places[rel][prefix], self.goals[goal], self.did(goal))
                changed = True
        return "" if changed else "no entry changes"

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the entry at every place."""
        found: dict[Rel, set[Row]] = {rel: set() for rel in self.places}
        for rel, places in self.places.items():
            for prefix, place in places.items():
                entry = self.board.read_entry(*place)
                for goal, table in self.goals.items():
                    row = self.join(prefix, goal)
                    if entry == (self.did(goal), table) and row is not None:
                        found[rel].add(row)
        return found

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of everybody whom an entry serves, for the one address."""
        for rel, places in self.places.items():
            rows = [self.split(row) for row in state[rel]]
            for prefix in places:
                goals = {goal for other, goal in rows if other == prefix}
                names = self._names(rel, prefix)
                for wire, pasid in self.senders(rel, prefix):
                    yield Lookup(wire, self.board.request(wire, pasid),
                                 frozenset(self.page[g] for g in goals), frozenset(), names)

    def _names(self, rel: Rel, prefix: Row) -> str:
        return ", ".join(
            self.name(sort, e) for sort, e in zip(rel.sorts, prefix, strict=False))

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue the requests of the claim."""
        if claim not in self.shots:
            raise NotReproduced(f"no request shows {claim}")
        for shot in self.shots[claim]:
            rel = shot.rel or next(iter(self.places))
            prefix = tuple(o[name] for name in shot.prefix)
            wire, pasid = next(self.senders(rel, prefix))
            if shot.goal:
                note(seen, self.board.lands(wire, pasid, self.page[o[shot.goal]]), shot.says)
            else:
                note(seen, self.board.blocked(wire, pasid), shot.says)
