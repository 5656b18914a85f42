"""Translation caches as explicit state, and the set of legal outcomes (VT-d 6.1, 6.2). Concrete.

Hardware fills a cache whenever the tables (or an outer cache) give the entry, and evicts at any
time. `Caches` therefore holds every entry that hardware *may* hold now, for the requests that are
watched; an outcome is legal if some choice between held entries and memory, at each lookup, yields
it. An entry leaves the set only when an invalidation must drop it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Final, Literal, NamedTuple

from dmaproof.model.algebra import Blocked, Image, IntCarrier, Value
from dmaproof.model.rules import rule
from dmaproof.model.vtd import ats
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.first_stage import Entry as FirstEntry
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome, evaluate

_SECOND_FAULTS: Final = frozenset({
    f.LSS_2, f.LGN_2, f.LGN_3, f.SSS_2, f.SSS_3, f.SGN_6, f.SGN_7,
})
_MAX_RUNS: Final = 200_000


class Held(NamedTuple):
    """One entry of a cache: its invalidation tags and what it holds (*fault*: with CM=1 only)."""

    tag: Any
    value: Any
    fault: int = 0


class Legal(NamedTuple):
    """One legal outcome: an address (*condition* empty), or the name of the condition."""

    hpa: int | None
    condition: str = ""


class Way(NamedTuple):
    """One way in which hardware may process a request.

    Attributes:
        legal: the outcome.
        entries: (cache, entry) that it may keep afterwards.
        source: what gave it: "memory", "entries" (a cached table entry at least), or "iotlb".

    """

    legal: Legal
    entries: tuple[tuple[str, Held], ...]
    source: Literal["memory", "entries", "iotlb"]


@dataclass
class Caches:
    """Every entry hardware may hold.

    Attributes:
        context, pasid, iotlb, paging, device: sets of entries, one per cache.

    """

    context: set[Held] = field(default_factory=set)
    pasid: set[Held] = field(default_factory=set)
    iotlb: set[Held] = field(default_factory=set)
    paging: set[Held] = field(default_factory=set)
    device: set[Held] = field(default_factory=set)

    def size(self) -> int:
        """Return the number of entries in all caches."""
        return sum(map(len, (self.context, self.pasid, self.iotlb, self.paging, self.device)))

    def copy(self) -> Caches:
        """Return an independent copy."""
        return Caches(*({*part} for part in self._parts()))

    def merge(self, other: Caches) -> None:
        """Add the entries of *other*."""
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            mine.update(theirs)

    def _parts(self) -> tuple[set[Held], ...]:
        return self.context, self.pasid, self.iotlb, self.paging, self.device

    def drop(self, carrier: IntCarrier, command: Command, *, legacy: bool) -> None:
        """Remove what *command* must drop."""
        def keep(part: set[Held], drops: Callable[[Any], bool]) -> set[Held]:
            return {held for held in part if not drops(held.tag)}

        self.context = keep(
            self.context, lambda t: inv.drops_context(carrier, command, t, legacy=legacy)
        )
        self.pasid = keep(self.pasid, lambda t: inv.drops_pasid(command, t))
        self.iotlb = keep(self.iotlb, lambda t: inv.drops_iotlb(command, t))
        self.paging = keep(self.paging, lambda t: inv.drops_paging(command, t))
        self.device = keep(self.device, lambda t: inv.drops_device(carrier, command, t))


class _Locate:
    """Locates first-stage entries; notes the host address of each table it passes."""

    def __init__(self, carrier: CachingCarrier, inner: Callable[..., Any], *, host: bool) -> None:
        self.carrier, self.inner, self.host = carrier, inner, host
        self.pending: tuple[Any, ...] | None = None

    def __call__(
        self, c: IntCarrier, r: Registers, address: int, top: bool, *nest: Value
    ) -> FirstEntry:
        if self.host:  # the cached entry already held the host address of this table
            self.host = False
            return FirstEntry(address, True)
        entry: FirstEntry = self.inner(c, r, address, top, *nest)
        if self.pending is not None:
            tag, user, writable, executable = self.pending
            value = (entry.address & ~0xFFF, user, writable, executable)
            self.carrier.fill("paging", Held(tag, value))
            self.pending = None
        return entry


class CachingCarrier(IntCarrier):
    """The concrete carrier with one answer, given by *script*, at each cache lookup."""

    caching = True

    def __init__(self, hardware: Hardware, script: tuple[int, ...]) -> None:
        super().__init__(hardware.image)
        self.caches = hardware.caches
        self.cm = hardware.registers.cm
        self.mode = hardware.registers.mode
        self.script = script
        self.memo = hardware.memo
        self.trace: list[tuple[int, int]] = []
        self.filled: list[tuple[str, Held]] = []
        self.did, self.pgtt, self.number = 0, inv.LEGACY_PGTT, 0

    def explore(self, walk: Callable[..., Any], *values: Value) -> Value:
        """Return one of the distinct results of a second-stage walk.

        Choosing among results instead of lookups keeps nested walks from multiplying.
        """
        key = (walk, self.did, self.number, *values)
        if key not in self.memo:
            self.memo[key] = self._all_results(walk, values)
        results = self.memo[key]
        at = len(self.trace)
        pick = self.script[at] if at < len(self.script) else 0
        self.trace.append((pick, len(results)))
        result = results[pick]
        if isinstance(result, int):
            raise Blocked(result)
        return result

    def _all_results(self, walk: Callable[..., Any], values: tuple[Any, ...]) -> list[Any]:
        outer = self.script, self.trace
        results: dict[Any, None] = {}
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            self.script, self.trace = scripts.pop(), []
            try:
                results[walk(self, *values)] = None
            except Blocked as stop:
                results[stop.fault] = None
            scripts.extend(_others(self.script, self.trace))
        self.script, self.trace = outer
        return list(results)

    def fill(self, cache: str, held: Held) -> None:
        """Note that hardware may cache *held*."""
        self.filled.append((cache, held))

    def choose(self, options: list[Held]) -> Held | None:
        """Return one of *options*, or None for memory."""
        at = len(self.trace)
        pick = self.script[at] if at < len(self.script) else 0
        self.trace.append((pick, len(options) + 1))
        return options[pick - 1] if pick else None

    def _cached(
        self, cache: str, options: list[Held], tag_of: Callable[[Any], Any], bad_tag: Value,
        load: Callable[[], Any],
    ) -> Value:
        held = self.choose(options)
        if held is None:
            before = self.suppressed
            self.suppressed = False
            try:
                value = load()
            except Blocked as stop:
                if self.cm:
                    self.fill(cache, Held(bad_tag, self.suppressed, stop.fault))
                self.suppressed |= before
                raise
            self.fill(cache, Held(tag_of(value), (value, self.suppressed)))
            self.suppressed |= before
            return value
        if held.fault:
            self.suppressed |= held.value
            raise Blocked(held.fault)
        value, suppressed = held.value
        self.suppressed |= suppressed
        return value

    @rule(
        "vtd.caches.context", "VT-d 6.2.2",
        "The context cache is looked up by source id; with CM=1 a legacy entry that faults is held "
        "under DID 0.",
    )
    def context(self, load: Callable[..., Any], registers: Registers, sid: int) -> Value:
        """Return a cached context entry of *sid*, or fetch it."""
        options = sorted((h for h in self.caches.context if inv.serves_context(h.tag, sid)),
                         key=repr)
        words = self._cached(
            "context", options, lambda w: inv.context_tag(self.mode, sid, w),
            inv.ContextTag(sid, 0), lambda: load(self, registers, sid),
        )
        self.did = inv.context_tag(self.mode, sid, words).did
        return words

    @rule(
        "vtd.caches.pasid", "VT-d 6.2.3",
        "The PASID cache is looked up by source id and PASID and tagged with the DID in the entry; "
        "with CM=1 an entry that faults is held under DID 0.",
    )
    def pasid_entry(
        self, load: Callable[..., Any], registers: Registers, low: int, sid: int, pasid: int
    ) -> Value:
        """Return a cached PASID entry, or fetch directory and entry."""
        options = sorted(
            (h for h in self.caches.pasid if inv.serves_pasid(h.tag, sid, pasid)), key=repr
        )
        words = self._cached(
            "pasid", options, lambda w: inv.pasid_tag(sid, pasid, w),
            inv.PasidTag(sid, pasid, 0), lambda: load(self, registers, low, pasid),
        )
        self.did, self.number = inv.pasid_tag(sid, pasid, words).did, pasid
        self.pgtt = words[0] >> 6 & 7
        return words

    @rule(
        "vtd.caches.extended-pasid", "rev 2.x 6.2.2; drivers/iommu/intel-svm.c (4.4 to 4.20)",
        "Extended mode has the PASID cache too: looked up by source id and PASID, tagged with the "
        "DID of the context entry; a PASID's translations are tagged with it.",
    )
    def extended_pasid_entry(
        self, load: Callable[..., Any], registers: Registers, context: Value, sid: int, pasid: int
    ) -> Value:
        """Return a cached rev 2.x PASID entry, or fetch it."""
        nested = bool(context.q0 & 1 << 10)
        options = sorted(
            (h for h in self.caches.pasid if inv.serves_pasid(h.tag, sid, pasid)), key=repr
        )
        entry = self._cached(
            "pasid", options, lambda _: inv.PasidTag(sid, pasid, self.did),
            inv.PasidTag(sid, pasid, 0), lambda: load(self, registers, context, pasid),
        )
        self.pgtt, self.number = (3 if nested else 1), pasid
        return entry

    def _paging(self, first: bool, address: int) -> list[Held]:
        pasid = self.number if first else 0
        return sorted((
            h for h in self.caches.paging
            if h.tag.first == first and inv.serves_paging(h.tag, self.did, pasid, address)
        ), key=repr)

    def _paging_tag(self, first: bool, level: int, address: int) -> inv.PagingTag:
        page = address >> (3 + 9 * level) << (3 + 9 * level)
        return inv.PagingTag(first, self.did, self.number if first else 0, level, page)

    @rule(
        "vtd.caches.paging", "VT-d 6.2.5",
        "A walk may start below any cached upper entry of its DID (and PASID); an entry holds the "
        "rights so far and is made only from entries without fault.",
    )
    def resume_second(
        self, levels: int, address: int, state: tuple[Any, ...]
    ) -> tuple[int, tuple[Any, ...]]:
        """Start at the top, or below a cached second-stage entry."""
        options = [h for h in self._paging(False, address) if h.tag.level <= levels]
        held = self.choose(options) if options else None
        if held is None:
            return levels, state
        table, may_read, may_write = held.value
        return held.tag.level - 1, (table, may_read, may_write, False, 0, 12)

    def note_second(self, level: int, address: int, state: tuple[Any, ...]) -> None:
        """Cache a non-leaf second-stage entry that was just used."""
        if level > 1 and not state[3] and state[0]:
            tag = self._paging_tag(False, level, address)
            self.fill("paging", Held(tag, state[:3]))

    def resume_first(
        self, levels: int, address: int, state: tuple[Any, ...], locate: Callable[..., Any]
    ) -> tuple[int, tuple[Any, ...], Callable[..., Any]]:
        """Start at the top, or below a cached first-stage or combined entry."""
        options = [h for h in self._paging(True, address) if h.tag.level <= levels]
        held = self.choose(options) if options else None
        if held is None:
            return levels, state, _Locate(self, locate, host=False)
        table, user, writable, executable = held.value
        start = (table, user, writable, executable, False, 0, 12)
        return held.tag.level - 1, start, _Locate(self, locate, host=True)

    def note_first(
        self, level: int, address: int, state: tuple[Any, ...], locate: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Remember a non-leaf first-stage entry; it is cached once its table is located."""
        if isinstance(locate, _Locate) and level > 1 and not state[4] and state[5:] != (0, 12):
            tag = self._paging_tag(True, level, address)
            locate.pending = (tag, *state[1:4])
        return locate


class Hardware:
    """A remapping unit with caches, its memory, and the requests whose fate is watched.

    Args:
        image: memory; written through `write` only.
        registers: state of the unit.
        watched: requests that devices may issue at any time, and so fill caches.

    """

    def __init__(self, image: Image, registers: Registers, watched: Iterable[Request]) -> None:
        self.image, self.registers = image, registers
        self.watched = list(watched)
        self.caches = Caches()
        self.memo: dict[Any, list[Any]] = {}
        self._settle()

    def write(self, address: int, *words: int) -> None:
        """Software writes quadwords; devices may run between any two of them."""
        for offset, word in enumerate(words):
            self.image[address + 8 * offset] = word
            self._settle()

    def write_pair(self, address: int, low: int, high: int) -> None:
        """Software writes 16 bytes at once; hardware never sees half of it."""
        self.image[address] = low
        self.image[address + 8] = high
        self._settle()

    @rule(
        "vtd.caches.set-root", "VT-d 11.4.4.1, 6.6",
        "Setting the root pointer drops nothing unless CAP.ESRTPS=1.",
    )
    def set_root(self, registers: Registers) -> None:
        """Make new register values effective (GCMD.SRTP)."""
        self.registers = registers
        if registers.esrtps:
            self.caches = Caches(device=self.caches.device)
        self._settle()

    def invalidate(self, command: Command) -> None:
        """Process one command to its end (a wait or fence follows it)."""
        self._drop(command)
        self._settle()

    @rule(
        "vtd.caches.unordered", "VT-d 6.5.2.12",
        "Commands without a wait or fence between them may be processed in any order that respects "
        "the order of the caches, and caches may be refilled between them.",
    )
    def invalidate_unordered(self, commands: Iterable[Command]) -> None:
        """Process several commands that no wait or fence separates, given in queue order."""
        queued = list(commands)
        start, after = self.caches, Caches()
        for order in permutations(range(len(queued))):
            if any(
                second < first and inv.waits_for(queued[first], queued[second])
                for n, first in enumerate(order) for second in order[n + 1:]
            ):
                continue
            self.caches = start.copy()
            for n in order:
                self.invalidate(queued[n])
            after.merge(self.caches)
        self.caches = after
        self._settle()

    def _drop(self, command: Command) -> None:
        legacy = self.registers.mode is not Mode.SCALABLE
        self.caches.drop(IntCarrier(self.image), command, legacy=legacy)

    def outcomes(self, request: Request) -> set[Legal]:
        """Return every legal outcome of a concrete request now."""
        return {way.legal for way in self.ways(request)}

    def ways(self, request: Request) -> Iterator[Way]:
        """Yield every way in which a concrete request may be processed now."""
        for carrier, outcome in self._runs(request):
            entries = (*carrier.filled, *self._results(carrier, outcome, request))
            cached = any(pick for pick, _ in carrier.trace)
            yield Way(_legal(outcome), entries, "entries" if cached else "memory")
        for held in self._hits(request):
            legal = _of_iotlb(held, request, self.registers)
            yield Way(legal, _answered(held, request, self.registers), "iotlb")

    def keep(self, entries: Iterable[tuple[str, Held]]) -> None:
        """Put entries that a way offers into their caches."""
        for cache, held in entries:
            getattr(self.caches, cache).add(held)

    @rule(
        "vtd.caches.device-tlb", "VT-d 4.2, 6.3",
        "A device may use any translation it was given, as a translated request, until it is "
        "invalidated in the device.",
    )
    def device_outcomes(self, request: Request) -> set[Legal]:
        """Return every legal outcome of an access by a device with a device TLB (ATS)."""
        legal = set()
        for held in self.caches.device:
            if not inv.serves_device(held.tag, request):
                continue
            hpa, may_read, may_write = held.value
            if may_write if request.write else may_read:
                translated = Request(
                    request.sid, hpa | request.address & 0xFFF, request.write,
                    kind=Kind.TRANSLATED,
                )
                legal |= self.outcomes(translated)
        return legal

    def _runs(self, request: Request) -> Iterator[tuple[CachingCarrier, Outcome]]:
        """Yield every evaluation of *request*, one for each way to answer the lookups."""
        scripts: list[tuple[int, ...]] = [()]
        self.memo.clear()
        count = 0
        while scripts:
            script = scripts.pop()
            carrier = CachingCarrier(self, script)
            outcome = evaluate(carrier, self.registers, request)
            scripts.extend(_others(script, carrier.trace))
            count += 1
            if count > _MAX_RUNS:
                raise RuntimeError("too many combinations of cached entries for one request")
            yield carrier, outcome

    def _hits(self, request: Request) -> Iterator[Held]:
        if request.kind is Kind.TRANSLATED or (
            not request.with_pasid and request.address >> 20 == 0xFEE
        ):
            return
        for held in self.caches.iotlb:
            tag = held.tag
            if inv.serves_iotlb(tag, request) and (
                held.value[3] == (request.with_pasid and request.privileged)
            ):
                yield held

    def _settle(self) -> None:
        """Fill whatever the watched requests can fill, until nothing is new."""
        while True:
            before = self.caches.size()
            for request in self.watched:
                for way in list(self.ways(request)):
                    self.keep(way.entries)
            if self.caches.size() == before:
                return

    @rule(
        "vtd.caches.iotlb", "VT-d 6.1, 6.2.4",
        "A translation that succeeds may be cached under source id, PASID, address, DID and PGTT; "
        "with CM=1 also one that fails in the second stage.",
    )
    def _results(
        self, carrier: CachingCarrier, outcome: Outcome, q: Request
    ) -> Iterator[tuple[str, Held]]:
        if outcome.interrupt or q.kind in (Kind.TRANSLATED, Kind.PAGE):
            return
        page = q.address & ~0xFFF
        if outcome.fault:
            if self.registers.cm and outcome.fault in _SECOND_FAULTS and carrier.pgtt != 1:
                yield iotlb_entry(carrier, q, page, (0, False, False), outcome.fault)
            return
        if not (outcome.readable or outcome.writable):
            return
        if q.kind is Kind.TRANSLATION and ats.is_message(q):
            return  # U=1: of no use for a translated request
        value = (outcome.hpa & ~0xFFF, outcome.readable, outcome.writable)
        if q.kind is Kind.TRANSLATION:
            yield "device", Held(device_tag(q), value)
        # A reduced answer (NW=1) says nothing about the page's own rights.
        if q.kind is not Kind.TRANSLATION or ats.asks_write(self.registers, q):
            yield iotlb_entry(carrier, q, page, value, 0)


def device_tag(q: Request) -> inv.DeviceTag:
    """Return the tag under which a device keeps the answer to its translation request."""
    return inv.DeviceTag(
        q.sid, q.with_pasid, q.pasid if q.with_pasid else 0, q.address & ~0xFFF
    )


def iotlb_entry(
    carrier: Value, q: Request, page: int, value: tuple[int, bool, bool], fault: int
) -> tuple[str, Held]:
    """Return what the IOTLB keeps of a request whose lookups *carrier* made."""
    tag = inv.IotlbTag(q.sid, q.with_pasid, carrier.number, carrier.did, carrier.pgtt, page)
    return "iotlb", Held(tag, (*value, q.with_pasid and q.privileged), fault)


@rule(
    "vtd.caches.answer", "VT-d 4.1, 6.5.3.3",
    "A translation request may be answered from the IOTLB, so a stale entry there refills the "
    "device TLB.",
)
def _answered(held: Held, q: Request, r: Registers) -> tuple[tuple[str, Held], ...]:
    """Return what a device keeps of an IOTLB entry that answers its translation request."""
    frame, may_read, may_write, _ = held.value
    if q.kind is not Kind.TRANSLATION or held.fault or not (may_read or may_write):
        return ()
    told = (frame, may_read, may_write and ats.asks_write(r, q))
    return (("device", Held(device_tag(q), told)),)


def _others(script: tuple[int, ...], trace: list[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Yield the scripts that differ from a finished run at one lookup beyond *script*."""
    picks = tuple(pick for pick, _ in trace)
    for at in range(len(script), len(picks)):
        yield from ((*picks[:at], other) for other in range(1, trace[at][1]))


def _legal(outcome: Outcome) -> Legal:
    if outcome.fault:
        return Legal(None, f.condition(outcome.fault).name)
    return Legal(outcome.hpa, "interrupt" if outcome.interrupt else "")


def _of_iotlb(held: Held, q: Request, r: Registers) -> Legal:
    """Return what a hit gives: the address, or the missing right."""
    if held.fault:
        return Legal(None, f.condition(held.fault).name)
    frame, may_read, may_write, _ = held.value
    legacy = r.mode is not Mode.SCALABLE
    if (q.write or q.atomic) and not may_write:
        return Legal(None, "LGN.2" if legacy else "SGN.6")
    waived = q.zero_length and r.zlr and may_write
    if (not q.write or q.atomic) and not may_read and not waived:
        return Legal(None, "LGN.3" if legacy else "SGN.7")
    return Legal(frame | q.address & 0xFFF)


GLOBAL: Final = (
    Command(Op.CONTEXT_GLOBAL), Command(Op.PASID_CACHE_GLOBAL), Command(Op.IOTLB_GLOBAL)
)
