"""The driver's address arithmetic: every lemma decided, replayed, and asked of a second solver."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmaproof.engine.second_solver import Answer, ask
from dmaproof.model.algebra import Image, IntCarrier
from dmaproof.model.vtd.invalidation import Command, Op, in_range
from dmaproof.model.vtd.lemmas import (
    LEMMAS,
    PFN_BITS,
    WHOLE,
    block_mask,
    decide,
    evaluate,
    log2_up,
    lowest_bit,
    pfsid_of,
    sized_address,
)

C = IntCarrier(Image())
REPLACED = sorted(n for n, x in LEMMAS.items() if x.fixed)
RIGHT = sorted(n for n, x in LEMMAS.items() if not x.fixed)


def test_each_formula_that_was_replaced_has_its_successor() -> None:
    assert sorted(LEMMAS[n].fixed for n in REPLACED) == RIGHT
    for name in REPLACED:
        assert LEMMAS[name].says == LEMMAS[LEMMAS[name].fixed].says


@pytest.mark.parametrize("name", REPLACED)
def test_the_old_formula_fails_and_the_new_one_does_not_on_those_numbers(name: str) -> None:
    found = decide(LEMMAS[name])
    assert found.result == "refuted"
    assert evaluate(LEMMAS[name], found.values) == (True, False)
    new = LEMMAS[LEMMAS[name].fixed]
    assert evaluate(new, {k: found.values.get(k, 0) for k in new.widths}) == (True, True)


@pytest.mark.parametrize("name", RIGHT)
def test_the_new_formula_holds_for_all_values(name: str) -> None:
    assert decide(LEMMAS[name]).result == "proved"


# cvc5 leaves flush-mask open for more than a minute: two symbolic shifts of symbolic masks.
BY_SIZE = ["svm-range", "piotlb-align"]  # with one symbolic shift: asked for each power of two


@pytest.mark.parametrize("name", [n for n in RIGHT if n not in {"flush-mask", *BY_SIZE}])
def test_cvc5_agrees(name: str) -> None:
    pytest.importorskip("cvc5")
    assert ask(decide(LEMMAS[name]).script, name, 90).answer is Answer.UNSAT


def up_to(order: int) -> tuple[int, int]:
    """The numbers of pages that are rounded up to 2^order."""
    return (1 << order >> 1) + 1, 1 << order


def test_the_sizes_are_all_there_are() -> None:
    assert up_to(0) == (1, 1)
    assert all(up_to(k)[1] + 1 == up_to(k + 1)[0] for k in range(PFN_BITS))


@pytest.mark.parametrize(("name", "order"), [
    pytest.param(name, order, marks=[] if order == 9 else pytest.mark.slow)
    for name in BY_SIZE for order in range(PFN_BITS + 1)
])
def test_cvc5_agrees_on_each_size(name: str, order: int) -> None:
    pytest.importorskip("cvc5")
    lemma, (low, high) = LEMMAS[name], up_to(order)
    sized = replace(
        lemma,
        assume=lambda c, v: lemma.assume(c, v) & (v["pages"] >= low) & (v["pages"] <= high),
    )
    assert ask(decide(sized).script, name, 90).answer is Answer.UNSAT


def test_the_example_of_the_mailing_list() -> None:
    pages = {"pfn": 0x17F, "pages": 3}
    assert evaluate(LEMMAS["flush-mask-2022"], {**pages, "page": 0x180}) == (True, False)
    assert block_mask(C, 0x17F, 3) == 8
    assert not in_range(Command(Op.IOTLB_PAGE, address=0x17F << 12, am=2), 0x180 << 12)


def test_no_answer_in_time_is_undecided() -> None:
    assert decide(LEMMAS["svm-range"], timeout_ms=1).result == "undecided"


def test_an_assumption_left_out_is_noticed() -> None:
    loose = replace(LEMMAS["flush-mask"], assume=lambda c, v: v["pages"] > 0)
    assert decide(loose).result == "refuted"


@given(st.integers(1, 1 << 51))
def test_logarithm(count: int) -> None:
    assert log2_up(C, count) == (count - 1).bit_length()


@given(st.integers(1, (1 << 64) - 1))
def test_lowest_bit(word: int) -> None:
    assert lowest_bit(C, word) == (word & -word).bit_length() - 1


@given(st.integers(0, (1 << 30)), st.integers(1, 1 << 12), st.data())
def test_the_block_covers_the_range_and_no_smaller_one_does(
    pfn: int, pages: int, data: st.DataObject
) -> None:
    mask = block_mask(C, pfn, pages)
    page = data.draw(st.integers(pfn, pfn + pages - 1))
    assert mask == WHOLE or pfn >> mask == page >> mask
    if mask:
        assert pfn >> (mask - 1) != (pfn + pages - 1) >> (mask - 1) or pages > 1 << (mask - 1)


@given(st.integers(0, 51), st.integers(0, (1 << 52) - 1))
def test_the_size_is_coded_by_the_lowest_zero(order: int, pfn: int) -> None:
    address = sized_address(C, pfn >> order << order, order) >> 12
    trailing = (address ^ (address + 1)).bit_length() - 1  # ones at the low end
    assert order == 0 or trailing == order - 1


@given(st.integers(0, 0xFFFF))
def test_pfsid_comes_back(pfsid: int) -> None:
    assert pfsid_of((pfsid & 0xF) << 12 | (pfsid >> 4) << 52) == pfsid
