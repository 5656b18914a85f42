"""Refinement by two evaluations, confinement of guests, and teardown; see also test_mapping."""

from __future__ import annotations

import pytest
import z3

from dmaproof.model.vtd import programs
from dmaproof.model.vtd.invalidation import Command, Op, PagingTag, drops_paging
from dmaproof.model.vtd.obligations import check, satisfiable
from dmaproof.model.vtd.obligations_caches import teardown_drops
from dmaproof.model.vtd.obligations_tables import (
    frame_condition,
    identity,
    leaf_lands,
    pasid_type,
)
from dmaproof.model.vtd.requests import Kind

from .formats import (
    EXTENDED,
    FIRST,
    LEGACY,
    NESTED,
    PASS,
    SECOND,
    guest,
)
from .vocabulary import SID

LEVELS = [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]


def proved(obligation):
    assert satisfiable(obligation), "vacuous"
    assert check(obligation) is None


@pytest.mark.parametrize("level", LEVELS)
def test_legacy_slot(level):
    proved(frame_condition(LEGACY, SID, None, 1, level))
    proved(leaf_lands(LEGACY, SID, None, 1, level))


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2, 3])
def test_second_stage_slot(level):
    proved(frame_condition(SECOND, SID, None, 1, level))
    proved(leaf_lands(SECOND, SID, None, 1, level))


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2])
def test_first_stage_slot(level):
    proved(frame_condition(FIRST, SID, 5, 2, level))
    proved(leaf_lands(FIRST, SID, 5, 2, level))


def test_pass_through_is_identity():
    proved(identity(PASS, SID, None))


def test_extended_guest_is_confined():
    proved(guest(EXTENDED))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.UNTRANSLATED, Kind.TRANSLATION], ids=lambda k: k.value)
@pytest.mark.parametrize("registers", [NESTED, EXTENDED], ids=["nested", "extended"])
def test_guest_is_confined(registers, kind):
    obligation = guest(registers, kind=kind)
    proved(obligation)
    landed, written = (part.arg(0) for part in obligation.claim.children()[:2])
    obligation.hypotheses += [landed, written]
    assert satisfiable(obligation), "nothing lands"


def test_a_leaf_can_land():
    """The claim about leaves is not about nothing: some leaf lands, at every level."""
    for level in (1, 2, 3):
        obligation = leaf_lands(LEGACY, SID, None, 1, level)
        obligation.hypotheses.append(obligation.claim.arg(0))
        assert satisfiable(obligation)


@pytest.mark.parametrize("pgtt", [1, 2, 3, 4])
def test_teardown_drops_every_entry(pgtt):
    """Caches, entry by entry: what the rules remove for (requester, PASID), the bits drop."""
    obligations = teardown_drops(pgtt)
    assert len(obligations) == (7 if pgtt in (1, 3) else 3)
    for obligation in obligations:
        assert check(obligation) is None, obligation.name


@pytest.mark.parametrize(("op", "cache"), [
    (Op.PASID_CACHE_PASID, "PASID cache"), (Op.PASID_IOTLB_PASID, "IOTLB"),
    (Op.PASID_DEVICE_TLB, "device TLB"),
])
def test_teardown_without_a_flush_leaves_an_entry(op, cache, monkeypatch):
    """With one flush left out some entry survives: each command is needed."""
    def shortened(*arguments, **fields):
        return [s for s in programs.clear_pasid(*arguments, **fields)
                if not (isinstance(s, programs.Flush) and s.commands[0].op is op)]

    monkeypatch.setattr("dmaproof.model.vtd.obligations_caches.clear_pasid", shortened)
    survivors = {o.name for o in teardown_drops(1) if check(o) is not None}
    assert cache in survivors


def test_teardown_by_pasid_misses_nested_translations_of_the_domain():
    """Flushing a nested PASID by PASID alone is enough for it, yet not for second-stage entries."""
    tag = PagingTag(False, 1, 0, 2, 0)
    assert not drops_paging(Command(Op.PASID_IOTLB_PASID, did=1, pasid=5), tag)
    assert drops_paging(Command(Op.IOTLB_DOMAIN, did=1), tag)


def test_obligations_are_about_symbolic_memory():
    """The premise on the PASID type is a fact about memory, not a constant."""
    obligation = identity(PASS, SID, None)
    assert not z3.is_true(z3.simplify(z3.And(obligation.hypotheses)))
    assert pasid_type(4)(obligation.reads)
