"""The interrupt address range FEE0_0000h to FEEF_FFFFh (VT-d 3.14, 3.15)."""

from __future__ import annotations

from typing import Final

from dmaproof.model.algebra import Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.requests import TRANSLATION, Request

RANGE: Final = 0xFEE00000


def inside(address: Word) -> Cond:
    """Return whether *address* lies in the interrupt address range."""
    return (address >> 20) == RANGE >> 20


@rule(
    "vtd.interrupt-range.input", "VT-d 3.14",
    "Without PASID the range is never DMA-remapped: a write of one DWORD is an interrupt request, "
    "a zero-length read passes, anything else is blocked.",
)
def take_request(
    c: Carrier, address: Word, write: Cond, atomic: Cond, dword: Cond, zero_length: Cond
) -> tuple[Word, Cond, Cond, Word, Cond]:
    """Handle an untranslated request without PASID whose address is in the range."""
    interrupt = write & dword & (atomic ^ True)
    empty = zero_length & (write ^ True) & (atomic ^ True)
    c.fail((interrupt | empty) ^ True, f.IR_9)
    return address, empty, interrupt, 12, interrupt


@rule(
    "vtd.interrupt-range.output", "VT-d 3.15, table 30 LGN.4 and SGN.8",
    "An output address (of a translation request: the result range) in the range is a fault.",
)
def check_output(
    c: Carrier, q: Request, address: Word, bits: Word, mapped: Cond, fault: int
) -> None:
    """Block output in the range; *mapped* is whether a translation request got any right."""
    if q.kind is TRANSLATION:
        size = c.select(bits > 20, bits, 20)
        c.fail(mapped & (((address ^ RANGE) >> size) == 0), fault)
    else:
        c.fail(inside(address), fault)
