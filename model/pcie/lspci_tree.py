"""The drawing of ``lspci -t``: which bridge leads to which buses."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dmaproof.model.pcie.topology import Bdf

_TOKEN = re.compile(
    r"\[(?:([0-9a-f]{4,8}):)?([0-9a-f]{2})(?:-([0-9a-f]{2}))?\]|([01][0-9a-f])\.([0-7])(?![0-9a-f])"
)
_DRAWN = re.compile(r"[-+\\|` ]*[-+\\`]-(?:\[|[01][0-9a-f]\.[0-7])|-\[[0-9a-f]{4,8}:[0-9a-f]{2}\]-")


def is_drawn(line: str) -> bool:
    """Whether *line* is part of a drawn tree."""
    return line[:1] in "-+\\|` " and _DRAWN.match(line) is not None


def bridges(lines: Iterable[str]) -> dict[Bdf, tuple[int, int]]:
    """Return secondary and subordinate bus of each bridge in a drawn tree.

    A bus stands in brackets, what is on it to the right of it and, in the lines below, from the
    same column on.
    """
    found: dict[Bdf, tuple[int, int]] = {}
    open_buses: list[tuple[int, int, int]] = []  # column, domain, bus
    for line in lines:
        last: Bdf | None = None
        end = 0
        for token in _TOKEN.finditer(line):
            column = token.start()
            if line[end:column].strip("-+\\|` "):
                break  # a name began: what looks like a token is part of it
            end = token.end()
            while open_buses and open_buses[-1][0] >= column:
                open_buses.pop()
            domain = open_buses[-1][1] if open_buses else 0
            if token[2] is not None:
                bus = int(token[2], 16)
                if token[1] is not None:
                    domain = int(token[1], 16)
                elif last is not None:
                    found[last] = (bus, int(token[3] or token[2], 16))
                open_buses.append((column, domain, bus))
                last = None
            elif open_buses:
                last = Bdf(domain, open_buses[-1][2], int(token[4], 16), int(token[5]))
    return found
