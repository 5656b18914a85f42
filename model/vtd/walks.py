"""Which walk a table read belongs to, for evaluations that watch the engine.

The engine hands every paging-structure entry to one of two step functions; a carrier that overrides
`when` learns from the step and its arguments which entry is next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dmaproof.model.algebra import Value, Word
from dmaproof.model.vtd import first_stage, second_stage

SECOND: Final = 1
FIRST: Final = 2
OTHER: Final = 3


class Place(NamedTuple):
    """An entry of a walk.

    Attributes:
        stage: `SECOND` or `FIRST`; `OTHER` for root, context, directory and PASID entries.
        level: level of the entry; for other tables the condition number of an inaccessible one.
        covered: input address of the walk (a number for other tables).
    """

    stage: int
    level: int
    covered: Word


def place_of(step: Callable[..., tuple[Any, ...]], values: tuple[Value, ...]) -> Place | None:
    """Return the entry that a guarded step processes, or None if it is no step of a walk."""
    if step is second_stage.step:
        return Place(SECOND, values[2], values[3])
    if step is first_stage.step:
        return Place(FIRST, values[4], values[6])
    return None
