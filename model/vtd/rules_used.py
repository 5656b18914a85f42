"""Which cited rules decided a concrete request.

The engine itself keeps no record: that would slow every translation. The request is run once more
under a profiler, which sees each function that implements a rule.
"""

from __future__ import annotations

import sys
from types import FrameType

from dmaproof.model.algebra import Image, Value
from dmaproof.model.rules import all_rules
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import Outcome, translate


def rules_used(
    image: Image, registers: Registers, request: Request
) -> tuple[Outcome, tuple[str, ...]]:
    """Translate a concrete request; return the outcome and the rules used, first use first."""
    by_place = {rule.where: rule.name for rule in all_rules()}
    used: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: Value) -> None:
        if event == "call":
            place = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
            if place in by_place:
                used[by_place[place]] = None

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        outcome = translate(image, registers, request)
    finally:
        sys.setprofile(before)
    return outcome, tuple(used)
