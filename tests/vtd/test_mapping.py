"""Mapping and unmapping one page, in every format, at every level, in arbitrary memory."""

from __future__ import annotations

import pytest

from dmaproof.model.vtd import obligations_mapping as mapping
from dmaproof.model.vtd.obligations import check, satisfiable
from dmaproof.model.vtd.requests import Kind

from .formats import FORMATS, wide

STEPS = {"leaf": mapping.leaf, "cleared": mapping.cleared, "table": mapping.table}


def levels(form, step):
    return form.leaf_levels if step == "leaf" else form.levels[1:] if step == "table" else (
        form.levels)


def quick(form, wide_unit, step, level):
    """By default: low levels of flat formats on the widest unit; a leaf and a table of nested."""
    if not form.nested:
        return wide_unit and level <= 2
    return not wide_unit and level <= 2 and (step, level) in {("leaf", 1), ("table", 2)}


CASES = [
    pytest.param(sized, step, level, id=f"{name}, {size}: {step} {level}",
                 marks=() if quick(form, sized is not form, step, level) else pytest.mark.slow)
    for name, form in FORMATS.items()
    for size, sized in (("4 levels", form), ("3-5 levels", wide(form)))
    for step in STEPS
    for level in levels(sized, step)
]


@pytest.mark.parametrize(("form", "step", "level"), CASES)
def test_a_write_to_the_slot_does_what_it_should(form, step, level):
    obligation = STEPS[step](form, level)
    assert satisfiable(obligation), "vacuous"
    assert check(obligation) is None


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if "nested, second" in name else ())
    for name in FORMATS
])
def test_no_other_walk_reads_the_slot(name):
    """Walks of any requester, PASID and address; with one tree for each top table."""
    form = wide(FORMATS[name])
    for kind in (Kind.UNTRANSLATED, Kind.TRANSLATION):
        assert check(mapping.indexed(form, kind)) is None
    for level in form.levels:
        obligations = mapping.undisturbed_by_index(form, level)
        assert len(obligations) >= len(form.levels) + 2  # each level, and the tables above
        for obligation in obligations:
            assert satisfiable(obligation), obligation.name
            assert check(obligation) is None, obligation.name


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == "legacy" else pytest.mark.slow)
    for name, form in FORMATS.items() if not form.nested
])
def test_the_same_without_forgetting_the_walks(name):
    form = FORMATS[name]
    for level in (1, 4):
        obligation = mapping.undisturbed(form, level)
        assert satisfiable(obligation)
        assert check(obligation) is None


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if form.nested else ())
    for name, form in FORMATS.items()
])
def test_a_leaf_can_land_and_can_lack_a_right(name):
    """The claim about leaves is about both ends: each of them is reached."""
    import z3

    from dmaproof.model.algebra import word_z3

    form = FORMATS[name]
    for fault in (0, None):
        obligation = mapping.leaf(form, 1)
        reached = mapping.Walks(form, "mapped").outcome.fault
        found = word_z3(reached) == 0
        obligation.hypotheses.append(found if fault == 0 else z3.Not(found))
        assert satisfiable(obligation)
