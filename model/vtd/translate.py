"""The translation engine: memory, registers and a request in, an outcome out.

`translate` is written once and runs in three carriers; the memory decides which: an `Image` gives
the concrete engine, a `SymbolicMemory` the symbolic one, `FlatPages` the bulk one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dmaproof.model.algebra import Carrier, Cond, FlatPages, Image, SymbolicMemory, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import extended, interrupt_range, legacy, scalable
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.faults import Answer, Condition
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import PAGE_REQUEST, TRANSLATION, UNTRANSLATED, Kind, Request

Memory = Image | SymbolicMemory | FlatPages

_BLOCKED: Final = (0, False, False, 12, False)
_LEGACY: Final = Mode.LEGACY
_SCALABLE: Final = Mode.SCALABLE
_REFUSED: Final = {
    Mode.BAD_ABORT: f.RTA_1_1, Mode.BAD_RESERVED: f.RTA_1_2, Mode.BAD_SCALABLE: f.RTA_1_3,
    Mode.ABORT: f.RTA_4,
}
_QUALIFIED: Final = [int(row.qualified) for row in f.CONDITIONS]
_HAS_RECORD: Final = [int(n not in (0, f.UR_AT)) for n in range(len(f.CONDITIONS))]
_ATS_RECORD: Final = [
    # SFS.10 alone is both told to the device and recorded.
    int(has and (row.answer in (Answer.UR, Answer.CA) or row.name == "SFS.10"))
    for has, row in zip(_HAS_RECORD, f.CONDITIONS, strict=True)
]


@dataclass(slots=True, eq=False)
class Outcome:
    """What the unit does with a request.

    Attributes:
        fault: number of the condition that blocks it (`faults.condition`), 0 if none does.
        hpa: output address; meaningless where *fault* is not 0 or no right is granted.
        readable, writable: rights of the translation, as a translation request is told them.
        bits: log2 of the size of the page the translation covers.
        interrupt: the request became an interrupt request and touches no memory.
        recorded: a fault record is due (a full record register may still lose it: `recording`).
        updates: accessed/dirty flags that hardware sets: (condition or lanes, address, bits).
        kind, mode: of the request and of the unit.

    """

    fault: Word
    hpa: Word
    readable: Cond
    writable: Cond
    bits: Word
    interrupt: Cond
    recorded: Cond
    updates: list[tuple[Any, Word, Word]]
    kind: Kind
    mode: Mode

    @property
    def condition(self) -> Condition | None:
        """The condition that blocks a concrete request, or None."""
        return f.condition(self.fault) if self.fault else None

    @property
    def code(self) -> int | None:
        """Fault reason of a concrete outcome; None without fault or if unconfirmed."""
        return None if self.unconfirmed or not self.fault else f.condition(self.fault).code

    @property
    def unconfirmed(self) -> bool:
        """Whether a concrete outcome has a code of rev 2.x that no published table confirms."""
        if self.mode is not Mode.EXTENDED or not self.fault:
            return False
        return f.condition(self.fault).name[0] not in "LR"

    @property
    def answer(self) -> Answer | None:
        """How a concrete translation request is completed; None: with the translation."""
        return f.condition(self.fault).answer if self.fault else None


@rule("vtd.translate", "VT-d 3.3, 3.4", "Every request is remapped by the tables of its requester.")
def translate(memory: Memory, registers: Registers, request: Request) -> Outcome:
    """Process *request* (one, or one per lane) as a unit without any cached translation does.

    Args:
        memory: where the tables lie; its type selects the carrier.
        registers: state of the unit.
        request: addresses in bytes; words and conditions of the memory's carrier or Python ints.

    """
    return evaluate(memory.carrier(), registers, request)


def evaluate(c: Carrier, registers: Registers, request: Request) -> Outcome:
    """Process *request* in a carrier that was started already."""
    landing = c.run(_admit, registers, request, blocked=_BLOCKED)
    hpa, readable, writable, bits, interrupt = landing
    return Outcome(
        c.fault, hpa, readable, writable, bits, interrupt, _recorded(c, request), c.updates,
        request.kind, registers.mode,
    )


def _recorded(c: Carrier, q: Request) -> Cond:
    table = _ATS_RECORD if q.kind is TRANSLATION else _HAS_RECORD
    due = c.lookup(table, c.fault) != 0
    return due & ((c.suppressed & (c.lookup(_QUALIFIED, c.fault) != 0)) ^ True)


@rule(
    "vtd.request-kind", "VT-d 4.2, 3.3",
    "A translation request that writes is unsupported; with TES=0 untranslated requests pass and "
    "all others are unsupported.",
)
def _admit(c: Carrier, r: Registers, q: Request) -> legacy.Landing:
    if q.kind is TRANSLATION:
        c.fail(q.write, f.UR_AT)
    if not r.enabled:
        c.fail(q.kind is not UNTRANSLATED, f.UR_AT)
        return q.address, True, True, 12, False
    if q.kind is not UNTRANSLATED or q.with_pasid is True:
        return _remap(c, r, q)
    inside = (q.with_pasid ^ True) & interrupt_range.inside(q.address)
    if inside is False:
        return _remap(c, r, q)
    landing = c.when(
        inside, interrupt_range.take_request, q.address, q.write, q.atomic, q.dword, q.zero_length,
        otherwise=_BLOCKED,
    )
    return c.when(inside ^ True, _remap, r, q, otherwise=landing)


@rule(
    "vtd.rtaddr", "VT-d 11.4.5, table 30 RTA",
    "RTADDR must name a supported mode; legacy mode knows neither PASID nor page requests nor "
    "SSIRWE; from version 8 on execute requests are refused.",
)
def _remap(c: Carrier, r: Registers, q: Request) -> legacy.Landing:
    if r.mode is not _SCALABLE and r.mode in _REFUSED:
        c.fail(True, _REFUSED[r.mode])
        return _BLOCKED
    if r.mode is _LEGACY:
        c.fail(q.with_pasid, f.RTA_2)
        c.fail(q.kind is PAGE_REQUEST, f.RTA_3)
        if r.ssirwe:  # not told of requests with PASID and page requests
            c.fail(True, f.RTA_1_4)
        return legacy.translate(c, r, q)
    if r.major >= 8:
        c.fail(q.with_pasid & q.execute, f.RTA_5)
    if r.mode is _SCALABLE:
        return scalable.translate(c, r, q)
    return extended.translate(c, r, q)
