"""Answers to translation requests, in every mode (VT-d 4.2.3)."""

from __future__ import annotations

from typing import Any

from dmaproof.model.algebra import Cond
from dmaproof.model.rules import rule
from dmaproof.model.vtd import interrupt_range
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request


@rule(
    "vtd.translation-request.no-write", "VT-d 4.2.3, 4.2.3.1",
    "A translation request reads and writes, unless NW=1: then it sets no dirty flag and is "
    "granted no write. Without ECAP.NWFS the flag is ignored.",
)
def asks_write(r: Registers, q: Request) -> Cond:
    """Return whether a translation request asks for the right to write."""
    return q.no_write ^ True if r.nwfs else True


@rule(
    "vtd.translation-request.message", "VT-d 4.2.3, table 30 S.1, S.2",
    "A device may ask for the address of its message-signalled interrupts. Without PASID, once its "
    "entries are found to be right, that is no fault: the answer is write-only, for untranslated "
    "requests alone (U=1), and with NW=1 without any right.",
)
def message(r: Registers, q: Request) -> tuple[Cond, tuple[Any, ...]]:
    """Return whether a translation request is one of those, and what it is told then."""
    return is_message(q), (q.address, False, asks_write(r, q), 12, False)


def is_message(q: Request) -> Cond:
    """Return whether a translation request is for an address of messages."""
    return (q.with_pasid ^ True) & interrupt_range.inside(q.address)
