"""What an evaluation reads decides it, in every format: so a write elsewhere changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import z3

from dmaproof.model.vtd import obligations
from dmaproof.model.vtd.obligations import check
from dmaproof.model.vtd.obligations_locality import locality
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind

from .broken import swapped
from .formats import FORMATS, wide
from .vocabulary import DT, PRS


def unit(name):
    """The widest unit of a format, with device TLBs and page requests."""
    r = wide(FORMATS[name]).registers
    return Registers(r.cap, r.ecap | DT | PRS, r.rtaddr, haw=52)


# Formats that differ in their premises only are one: locality has no premises.
UNITS = ["legacy", "scalable second stage", "scalable first stage", "nested, first stage",
         "extended nested, first level"]
CASES = [
    pytest.param(name, kind, tagged, id=f"{name}, {kind.value}, {'' if tagged else 'no '}PASID",
                 marks=pytest.mark.slow if "nested" in name and kind in (
                     Kind.UNTRANSLATED, Kind.TRANSLATION) else ())
    for name in UNITS for kind in Kind for tagged in (False, True)
]


@pytest.mark.parametrize(("name", "kind", "tagged"), CASES)
def test_outcomes_depend_on_what_is_read(name, kind, tagged):
    obligation = locality(unit(name), kind, tagged=tagged)
    blocked = name == "legacy" and (tagged or kind is Kind.PAGE)
    assert (len(obligation.claim.children()) > 9) or blocked
    assert check(obligation) is None


@pytest.mark.parametrize("name", ["legacy", "scalable first stage"])
def test_a_read_that_goes_unnoticed_is_seen(name):
    """If the entries of level 1 count as not read, outcomes depend on more than what is read."""
    def unnoticed(self, address, fault):
        value = original(self, address, fault)
        if self.reads[-1].level == 1:
            self.reads[-1] = replace(self.reads[-1], runs=z3.BoolVal(False))
        return value

    original = obligations.TracingCarrier.read
    with swapped(obligations.TracingCarrier, "read", unnoticed):
        broken = locality(unit(name), Kind.UNTRANSLATED, tagged=name != "legacy")
    assert check(broken) is not None
