"""The family `shared-pf`: the entries of a virtual function's own requester id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.scenarios.base import Handler, Objects, note
from dmaproof.counterexamples.bits.scenarios.spaces import SpaceBits
from dmaproof.model.families import shared_pf as family

_CONTROL = "PASID Enable is a register of the physical function"


class Bits(SpaceBits):
    """What the owner of the physical function does is not in any table."""

    entry, landed_in = family.ENTRY, family.LANDED
    stutters: ClassVar[Mapping[str, str]] = {"pf.enable": _CONTROL, "pf.disable": _CONTROL}
    unseen: ClassVar[Mapping[str, str]] = {
        "availability": f"{_CONTROL}; the entry goes on leading to what was bound",
    }

    def gamma(self) -> Mapping[str, Handler]:
        """Bindings, and requests under the function's own id."""
        return {"bind": self.bind, "unbind": self.unbind,
                "request": lambda m: self.ask(self.wires[m["f"]], m, m["f"])}

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show where a request of the function landed."""
        if (o["x"], o["t"]) not in self.landed:
            raise NotReproduced("no request of the function landed there")
        says = "never bound for it" if claim == "integrity" else "as bound"
        note(seen, self.landed[o["x"], o["t"]], says)


BITS = Bits
