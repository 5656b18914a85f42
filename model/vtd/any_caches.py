"""Symbolic evaluation of a request whose lookups may be answered by arbitrary held entries (z3).

A lookup uses one entry of a cache at most. So a request under *any* contents of the caches is a
request under one arbitrary context entry, one arbitrary PASID entry and one arbitrary
paging-structure entry, each of which is used or not; the tags decide whether it may be (the lookup
rules of `invalidation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dmaproof.model.algebra import Cond, SymbolicMemory, Term, Truth, Value, Word, cond_z3
from dmaproof.model.vtd import extended, pasid, scalable
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.obligations import TracingCarrier
from dmaproof.model.vtd.registers import Mode, Registers


class Source(Enum):
    """Where a lookup is answered from."""

    MEMORY = "memory"
    HELD = "a held entry"
    ANY = "either"


@dataclass(frozen=True)
class Lookup:
    """One lookup of an evaluation.

    Attributes:
        runs: z3 condition: the lookup happened and what it gave passed the checks.
        held: z3 condition: a held entry answered it.
        words: the quadwords it gave.
    """

    runs: Any
    held: Any
    words: tuple[Word, ...]


def _word(name: str) -> Term:
    import z3

    return Term(z3.BitVec(name, 64))


def _flag(name: str) -> Truth:
    import z3

    return Truth(z3.Bool(name))


class AnyCaches(TracingCarrier):
    """The symbolic carrier with caches.

    Attributes:
        contexts, entries: lookups of context and PASID entries that the evaluation made.
        held_context, held_entry, held_paging: tags of the arbitrary entries.
        used_paging: z3 condition: the walk began below the held paging-structure entry.
        did, pgtt, number: tags of what the request fills, as `caches.CachingCarrier` has them.
    """

    caching = True

    def __init__(
        self, memory: SymbolicMemory, registers: Registers, *, context: Source = Source.ANY,
        entry: Source = Source.ANY, paging: tuple[bool, int] | None = None,
    ) -> None:
        """Start an evaluation.

        Args:
            memory: arbitrary memory.
            registers: state of the unit.
            context: where context entries come from.
            entry: where PASID entries come from.
            paging: stage (first: true) and level of a held paging-structure entry; None: none.
        """
        import z3

        super().__init__(memory)
        self.mode = registers.mode
        self._sources = {"context": context, "entry": entry}
        self._paging = paging
        self.contexts: list[Lookup] = []
        self.entries: list[Lookup] = []
        self.held_context = inv.ContextTag(_word("context.sid"), _word("context.did"))
        self.held_entry = inv.PasidTag(
            _word("entry.sid"), _word("entry.pasid"), _word("entry.did")
        )
        first, level = paging or (False, 2)
        self.held_paging = inv.PagingTag(
            first, _word("paging.did"), _word("paging.pasid"), level, _word("paging.page")
        )
        self.used_paging: Any = z3.BoolVal(False)
        self.did: Word = 0
        self.pgtt: Word = inv.LEGACY_PGTT
        self.number: Word = 0

    def _lookup(
        self, name: str, serves: Cond, count: int, load: Callable[..., Any], *values: Value
    ) -> tuple[Word, ...]:
        """Return the words of a held entry, or what *load* fetches (a word or several)."""
        source = self._sources[name]
        used: Cond = source is not Source.MEMORY
        if source is Source.ANY:
            used = _flag(f"{name}.used")
        if used is not False:
            self.fail(used & (serves ^ True), _NOT_SERVED)
        held = tuple(_word(f"{name}.{n}") for n in range(count))

        def step(c: AnyCaches, *arguments: Value) -> tuple[Any, ...]:
            found = load(c, *arguments)
            return tuple(found) if isinstance(found, tuple) else (found,)

        words = self.when(used ^ True, step, *values, otherwise=held)
        found = self.contexts if name == "context" else self.entries
        found.append(Lookup(cond_z3(self._open), cond_z3(used), words))
        return words

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step*; what it does to the caches' use is over with it."""
        before = self.caching
        try:
            return super().when(condition, step, *values, otherwise=otherwise)
        finally:
            self.caching = before

    def context(self, load: Callable[..., Value], registers: Registers, sid: Word) -> Value:
        """Look a context entry up."""
        count = 3 if self.mode is Mode.EXTENDED else 2
        serves = inv.serves_context(self.held_context, sid)
        words = self._lookup("context", serves, count, load, registers, sid)
        self.did = inv.context_tag(self.mode, sid, words).did
        if self.mode is Mode.EXTENDED:
            return extended.Context(*words)
        return scalable.Context(*words) if self.mode is Mode.SCALABLE else words

    def pasid_entry(
        self, load: Callable[..., Value], registers: Registers, low: Word, sid: Word, number: Word
    ) -> Value:
        """Look a scalable-mode PASID entry up."""
        serves = inv.serves_pasid(self.held_entry, sid, number)
        words = self._lookup("entry", serves, 3, load, registers, low, number)
        self.did, self.number = inv.pasid_tag(sid, number, words).did, number
        self.pgtt = (words[0] >> 6) & 7
        return pasid.Entry(*words)

    def extended_pasid_entry(
        self, load: Callable[..., Value], registers: Registers, context: Value, sid: Word,
        number: Word,
    ) -> Value:
        """Look a PASID entry of rev 2.x up."""
        serves = inv.serves_pasid(self.held_entry, sid, number)
        words = self._lookup("entry", serves, 1, load, registers, context, number)
        self.pgtt = self.select((context.q0 & extended.NESTE) != 0, pasid.NESTED, pasid.FIRST)
        self.number = number
        return words[0]

    def explore(self, walk: Callable[..., Value], *values: Value) -> Value:
        """Walk the second stage, once."""
        try:
            return walk(self, *values)
        finally:
            self.caching = True

    def resume_second(
        self, levels: Word, address: Word, state: tuple[Any, ...]
    ) -> tuple[Word, tuple[Any, ...]]:
        """Start at the top, or below the held entry."""
        self.caching = False  # the rest of this walk is one of memory
        if self._paging is None or self._paging[0]:
            return levels, state
        return self._resume(levels, address, state, 0, 2)

    def resume_first(
        self, levels: Word, address: Word, state: tuple[Any, ...], locate: Callable[..., Value]
    ) -> tuple[Word, tuple[Any, ...], Callable[..., Value]]:
        """Start at the top, or below the held entry."""
        self.caching = False
        if self._paging is None or not self._paging[0]:
            return levels, state, locate
        return *self._resume(levels, address, state, self.number, 3), locate

    def _resume(
        self, levels: Word, address: Word, state: tuple[Any, ...], number: Word, rights: int
    ) -> tuple[Word, tuple[Any, ...]]:
        import z3

        tag = self.held_paging
        serves = inv.serves_paging(tag, self.did, number, address) & (levels >= tag.level)
        used = _flag("paging.used")
        self.fail(used & (serves ^ True), _NOT_SERVED)
        self.used_paging = z3.Or(self.used_paging, cond_z3(self._open & used))
        held: list[Any] = [_word("paging.table")]
        held += [_flag(f"paging.right.{n}") for n in range(rights)]
        start = tuple(
            self.select(used, new, old) for new, old in zip(held, state, strict=False)
        )
        return self.select(used, tag.level - 1, levels), (*start, *state[len(held):])


_NOT_SERVED = 1
"""Condition number with which an evaluation ends that would use an entry its tags do not serve."""
