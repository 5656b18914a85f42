"""Pass-through translation: the output address is the input address (VT-d 3.9)."""

from __future__ import annotations

from dmaproof.model.algebra import Carrier, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd.registers import Registers


@rule(
    "vtd.pass-through", "VT-d 3.9, table 30 LGN.1.3 and SGN.4.2",
    "A pass-through address must not exceed the host address width; all rights are granted.",
)
def check_width(c: Carrier, r: Registers, address: Word, fault: int) -> None:
    """Block an address beyond the host address width with *fault*."""
    c.fail((address >> r.haw) != 0, fault)


@rule(
    "vtd.translated-request", "VT-d 4.2.3, table 30 LGN.1.2 and SGN.4.1",
    "A translated request skips translation; its address must not exceed the host address width.",
)
def check_translated(c: Carrier, r: Registers, address: Word, fault: int) -> None:
    """Block a translated request beyond the host address width with *fault*."""
    c.fail((address >> r.haw) != 0, fault)
