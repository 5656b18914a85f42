"""Rows of the study: what is read, what is refused, which jobs they make."""

from __future__ import annotations

import re

import pytest

from dmaproof.counterexamples.expected import rows as matrix_rows
from dmaproof.counterexamples.study.runner import jobs_of
from dmaproof.counterexamples.study.table import Table, check_claims, rank, read, table
from dmaproof.model.errors import InputError

ROW = """
[[row]]
id = "P47"
part = "one"
design = "r27-replace-in-place"
claim = "no-mixed-walk"
expected = "refuted"
says = "It can."
"""
LEMMA = """
[[row]]
id = "R14"
part = "mask"
lemma = "flush-mask"
expected = "proved"
says = "It covers."
"""


def test_every_row_asks_about_something_there_is() -> None:
    check_claims(table().rows)


def test_parts_are_unique_and_every_row_has_its_id() -> None:
    names = [(r.id, r.part) for r in table().rows]
    assert len(set(names)) == len(names)
    assert {i for r in matrix_rows() for i in r.claims} <= set(table().ids)


def test_ids_are_in_the_order_people_expect() -> None:
    assert sorted(["R10", "P9", "C10", "P10", "R2", "C8b", "C8a", "U1"], key=rank) == [
        "C8a", "C8b", "C10", "P9", "P10", "R2", "R10", "U1"]


def test_kinds_are_told_by_their_keys() -> None:
    found = read({"a.toml": ROW, "b.toml": LEMMA})
    assert [r.kind for r in found] == ["scenario", "lemma"]


@pytest.mark.parametrize(("text", "said"), [
    (ROW.replace('part = "one"\n', ""), "part"),
    (ROW + 'colour = "red"\n', "colour"),
    (ROW.replace("refuted", "maybe"), "expected"),
    (ROW.replace("r27-replace-in-place", "r27-replace-in-plaice"), "r27-replace-in-place"),
    (ROW.replace('"P47"', '"47"'), "id"),
    (LEMMA.replace("flush-mask", "flush-maks"), "flush-mask"),
    (ROW + ROW, "taken"),
    ("row = 3", "row"),
    ("row = [", "not a file of rows"),
    ("row = [1, 2]", "not a file of rows"),
])
def test_bad_rows_are_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        read({"mine.toml": text})
    assert "mine.toml" in str(error.value)
    assert said in str(error.value)


def test_a_part_in_two_files_names_both() -> None:
    with pytest.raises(InputError) as error:
        read({"a.toml": ROW, "b.toml": ROW})
    assert re.search(r"b\.toml.*a\.toml", str(error.value), re.DOTALL)


def test_a_claim_that_a_design_does_not_make_is_named() -> None:
    with pytest.raises(InputError) as error:
        check_claims(read({"a.toml": ROW.replace("no-mixed-walk", "no-mixed-walks")}))
    assert "no-mixed-walk" in str(error.value)


def test_rows_are_chosen_by_id_in_any_case_or_by_the_number_of_the_slice() -> None:
    assert table().only(["p5"]).ids == ["P5"]
    six = table().only(["6"])
    assert six.ids == ["C6", "P2", "F4"]
    assert {m.number for m in six.matrix} == {6}
    both = table().only(["P5", "6"])
    assert both.ids == ["C6", "P2", "P5", "F4"]


def test_an_unknown_row_is_refused_with_what_is_near() -> None:
    with pytest.raises(InputError) as error:
        table().only(["P4x7"])
    assert "P47" in str(error.value)


def test_a_question_that_several_rows_share_is_asked_once() -> None:
    twin = ROW.replace('"P47"', '"R27"')
    (job,) = jobs_of(Table(read({"a.toml": ROW + twin}), ()))
    assert (job.name, job.parts) == ("r27-replace-in-place", ("no-mixed-walk",))


def test_the_jobs_of_the_slice_ask_every_check_of_every_design() -> None:
    asked = {(job.name, part) for job in jobs_of(Table((), table().matrix)) for part in job.parts}
    wanted = {
        (name, (row.id, place))
        for row in matrix_rows() for place, check in enumerate(row.check)
        for name in getattr(check, "designs", ("",))
    }
    assert asked == wanted
