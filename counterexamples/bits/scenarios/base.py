"""What every family says of its bits: gamma, alpha, and the observation at the end.

*Gamma*: each action as writes, descriptors, fills and requests, or a stutter with a reason.
*Alpha*: the relations that the bytes stand for must be the rules' exactly; whatever a cache holds
must be covered by a relation of the rules, which may hold more (hardware may evict at any time).
*Observation*: a claim is judged in the state as the bits say it (`replay.Simulation.reading`), and
the family issues the request, or points at the bytes, that show it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, Seen
from dmaproof.counterexamples.bits.scenarios.board import Board, tagged
from dmaproof.model.logic.sets import Instance, State
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Rel, Sort
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.scenario import Options, Scenario
from dmaproof.model.vtd.requests import Request

Row = tuple[int, ...]
Objects = Mapping[str, int]
"""Elements that a claim is about, by variable."""


@dataclass(frozen=True)
class Moment:
    """One step of the rules, which the bits are to follow.

    Attributes:
        action: the action.
        args: its arguments by parameter, as elements.
        before, after: the states of the rules.
    """

    action: str
    args: Mapping[str, int]
    before: State
    after: State

    def __getitem__(self, parameter: str) -> int:
        return self.args[parameter]

    def added(self, rel: Rel) -> frozenset[Row]:
        """Return what the step adds to a relation."""
        return self.after[rel] - self.before[rel]

    def removed(self, rel: Rel) -> frozenset[Row]:
        """Return what the step takes out of a relation."""
        return self.before[rel] - self.after[rel]


@dataclass(frozen=True)
class Entry:
    """Something that a cache of the unit or of a device holds.

    Attributes:
        rel: the relation of the rules that has to cover it.
        rows: the tuples that it may stand for; one of them has to be there.
        says: it in words.
    """

    rel: Rel
    rows: frozenset[Row]
    says: str


@dataclass(frozen=True)
class Lookup:
    """A request that devices may send at any time, and where the rules let it land.

    Attributes:
        wire, request: the request.
        tables: the pages to which tables lead: these exactly.
        caches: further pages to which caches may lead.
        says: it in words.
    """

    wire: Bdf
    request: Request
    tables: frozenset[int]
    caches: frozenset[int]
    says: str


Handler = Callable[[Moment], str | None]
"""Executes an action; returns why nothing is written, if nothing is."""


class BitsOfFamily(ABC):
    """The bits of one scenario of a family.

    Attributes:
        stutters: actions that write nothing in any design of the family, with the reason.
        unseen: claims whose end is no VT-d state, with the reason.
        cached: the relations of caches.
        options: the design's options.
        instance: the world of the run.
        board: the machine.
    """

    stutters: ClassVar[Mapping[str, str]] = {}
    unseen: ClassVar[Mapping[str, str]] = {}
    cached: ClassVar[tuple[Rel, ...]] = ()

    def __init__(self, scenario: Scenario, options: Options, instance: Instance) -> None:
        self.scenario, self.instance = scenario, instance
        self.options: Any = options
        self.board = self.boot()
        self.board.memory.taken()
        self._handlers = dict(self.gamma())

    # -- what a family says -----------------------------------------------------------------

    @abstractmethod
    def boot(self) -> Board:
        """Return the machine as it is before the first step."""

    @abstractmethod
    def gamma(self) -> Mapping[str, Handler]:
        """Return what executes each action that is no stutter."""

    @abstractmethod
    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Return the relations that the bytes stand for (*state*: the rules', for bookkeeping)."""

    def held(self) -> Iterator[Entry]:
        """Yield what caches hold."""
        return iter(())

    def lookups(self, state: State) -> Iterator[Lookup]:
        """Yield requests, with where the rules let them land."""
        return iter(())

    @abstractmethod
    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show what a claim says of some objects, by requests or bytes, and note it in *seen*.

        Raises:
            NotReproduced: the bits do not show it.
        """

    # -- what the replay asks ---------------------------------------------------------------

    def handler(self, act: Action) -> Handler | str:
        """Return what executes an action, or why it is a stutter.

        Raises:
            NotReproduced: the action has no meaning on the bits.
        """
        for name in (act.name, re.sub(r"-\d+$", "", act.name)):
            if name in self._handlers:
                return self._handlers[name]
            if name in self.stutters:
                return self.stutters[name]
        raise NotReproduced(f"action {act.name} has no meaning on the bits")

    def step(self, act: Action, moment: Moment) -> str:
        """Execute an action; return why nothing is written, "" if something may be.

        Raises:
            NotReproduced: the action has no meaning on the bits.
        """
        found = self.handler(act)
        return found if isinstance(found, str) else found(moment) or ""

    # -- helpers ----------------------------------------------------------------------------

    def elements(self, sort: Sort) -> range:
        """Return the elements of a sort."""
        return self.instance.domain(sort)

    def name(self, sort: Sort, element: int) -> str:
        """Return the name of an element."""
        return self.instance.name(sort, element)

    def fact(self, rel: Rel, *row: int) -> bool:
        """Whether a static relation holds of some elements (False if the system has none such)."""
        return row in self.instance.facts.get(rel, ())


def note(seen: Seen, issued: Issued, text: str) -> None:
    """Keep a request, and what it shows: where it landed or what blocked it, and *text*."""
    pasid = issued.request.pasid if issued.request.with_pasid else None
    who = f"a {'write' if issued.request.write else 'read'} of {issued.wire}{tagged(pasid)}"
    if issued.hpa is None:
        says = f"{who} is blocked ({issued.condition}): {text}"
    else:
        by = "" if issued.source == "raw" else f" through {issued.source}"
        says = f"{who} lands at {issued.hpa:#x}{by}: {text}"
    seen.requests.append(issued)
    seen.says.append(says)


def covered(entries: Iterable[Entry], state: State) -> Iterator[str]:
    """Yield what caches hold and no tuple of the rules covers."""
    for entry in entries:
        if not entry.rows & state.get(entry.rel, frozenset()):
            yield f"{entry.says}, which {entry.rel.name} of the rules does not cover"
