"""Requests that arrive at the remapping unit (VT-d ch. 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from dmaproof.model.algebra import Cond, Value, Word


class Kind(Enum):
    """Kind of request. It is structure, not data: the same for every lane of a batch."""

    UNTRANSLATED = "untranslated"
    TRANSLATION = "translation request"
    TRANSLATED = "translated"
    PAGE = "page request"


# Bound once: in Python 3.11 looking up a member costs as much as a read from memory of the engine.
UNTRANSLATED: Final = Kind.UNTRANSLATED
TRANSLATION: Final = Kind.TRANSLATION
TRANSLATED: Final = Kind.TRANSLATED
PAGE_REQUEST: Final = Kind.PAGE


@dataclass(slots=True)
class Request:
    """One request, or one per lane.

    Attributes:
        sid: requester id, bus 15:8, device and function 7:0.
        address: byte address.
        write: the request writes (or asks for write access).
        pasid: 20-bit PASID; counts only where *with_pasid* holds.
        with_pasid: the request carries a PASID prefix.
        kind: address type, or page request.
        atomic: read and write in one.
        zero_length: read of no byte.
        execute: Execute-Requested (ER); only with PASID.
        privileged: Privileged-mode-Requested (PR); only with PASID.
        no_write: translation request that wants no write right (NW).
        dword: exactly four bytes long (decides in the interrupt range only).

    """

    sid: Word
    address: Word
    write: Cond = False
    pasid: Word = 0
    with_pasid: Cond = False
    kind: Kind = Kind.UNTRANSLATED
    atomic: Cond = False
    zero_length: Cond = False
    execute: Cond = False
    privileged: Cond = False
    no_write: Cond = False
    dword: Cond = True

    def lanes(self, rows: Value) -> Request:
        """Return the requests of the lanes *rows* (numpy carrier)."""
        values = {}
        for name in self.__slots__:
            value = getattr(self, name)
            values[name] = value[rows] if hasattr(value, "shape") else value
        return Request(**values)
