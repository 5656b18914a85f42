"""Bind and unbind of a guest's PASID table, extended mode: every write, every cache entry."""

from __future__ import annotations

import pytest

from dmaproof.model.vtd import obligations_guest_table as guest_table
from dmaproof.model.vtd import programs
from dmaproof.model.vtd.obligations import check, satisfiable
from dmaproof.model.vtd.programs import Write

from .broken import swapped
from .formats import EXTENDED

WRITES = {True: 2, False: 6}
BOTH = pytest.mark.parametrize("bind", [True, False], ids=["bind", "unbind"])


@BOTH
def test_each_write_changes_what_it_should_and_nothing_of_others(bind):
    found = guest_table.writes(EXTENDED, bind=bind)
    assert len(found) == WRITES[bind] + 5  # a root entry's half, four quadwords of a context entry
    for obligation in found:
        assert satisfiable(obligation), obligation.name
        assert check(obligation) is None, obligation.name


@BOTH
def test_flushes_of_2018_reach_all_but_the_pasid_cache_and_the_device_tlb(bind):
    found = guest_table.flushes(bind=bind)
    kept = {name for name, obligation in found.items() if check(obligation) is not None}
    assert kept == {"PASID cache", "device TLB"}
    assert len(found) == 7


def test_a_pointer_that_comes_first_is_seen():
    """The other order is not what was posted (nor is it torn)."""
    def pointer_first(*arguments):
        control, pointer, *rest = programs.bind_guest_table(*arguments)
        return [pointer, control, *rest]

    with swapped(guest_table, "bind_guest_table", pointer_first):
        first, last, *_ = guest_table.writes(EXTENDED, bind=True)
    assert check(first) is not None
    assert check(last) is None


def test_an_unbind_that_leaves_the_entry_present_is_seen():
    def hasty(*arguments):
        return [s for s in programs.unbind_guest_table(*arguments) if isinstance(s, Write)][4:]

    with swapped(guest_table, "unbind_guest_table", hasty):
        assert check(guest_table.writes(EXTENDED, bind=False)[0]) is not None


def test_a_write_to_the_next_entry_is_seen():
    def astray(context, *rest):
        return programs.bind_guest_table(context + 32, *rest)

    with swapped(guest_table, "bind_guest_table", astray):
        found = guest_table.writes(EXTENDED, bind=True)
    assert any(check(o) is not None for o in found[2:])
