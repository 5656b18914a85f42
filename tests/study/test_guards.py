"""Guards: the list of what each is needed for is complete and true."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from dmaproof.counterexamples.study import bind_guards, guards, guards_text
from dmaproof.counterexamples.study.guards import Finding, Needless, Prover
from dmaproof.engine.known import Known
from dmaproof.model.scenario import builtin

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guards.md"

FAMILIES = guards.families()


def found() -> list[Finding]:
    return [f for family in guards.families() for f in guards.kept(family) if not f.open]


def test_every_guard_of_every_family_is_listed_and_none_is_left_open() -> None:
    assert not guards.unfinished()
    every = guards.places()
    assert {f.place for f in found()} <= every.keys()
    assert {p.family for p in every} == {*guards.families()}


def test_the_document_is_what_was_found() -> None:
    assert DOCUMENT.read_text("utf-8") == guards_text.text()


def test_some_findings_stand() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    choose = random.Random(seed).sample
    needed = [f for f in found() if f.flip]
    for finding in choose(needed, 25):
        assert guards.problem(finding) == "", finding.place
    cheap = [f for f in found() if not f.flip and sum(len(n.clauses) for n in f.needless) < 20]
    for finding in choose(cheap, 4):
        assert guards.problem(finding) == "", finding.place
    runs = [f for f in bind_guards.kept() if f.flip]
    for run in choose(runs, min(2, len(runs))):
        assert bind_guards.problem(run) == "", run


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_findings_of_a_family_stand(family: str) -> None:
    for finding in guards.kept(family):
        assert guards.problem(finding) == "", finding.place


@pytest.mark.slow
def test_all_findings_of_bind_designs_stand() -> None:
    for finding in bind_guards.kept():
        assert finding.open or bind_guards.problem(finding) == "", finding


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_finding_is_found_again(family: str) -> None:
    """From nothing: what is needed is needed, and what is redundant is."""
    known, provers = Known(), {}
    for place, having in guards.places().items():
        if place.family == family:
            again = guards.examine(place, having, lambda d: provers.setdefault(
                d.name, Prover(d, known)))
            (kept,) = (f for f in guards.kept(family) if f.place == place)
            assert bool(again.flip) == bool(kept.flip), place
            assert not again.open, place


# -- what does not stand --------------------------------------------------------------------


def a_flip() -> Finding:
    return next(f for f in guards.kept("entry-update") if f.flip and len(f.flip.steps) > 5)


def test_a_run_that_is_cut_short_shows_nothing() -> None:
    finding = a_flip()
    assert finding.flip is not None
    cut = replace(finding, flip=replace(finding.flip, steps=finding.flip.steps[:-1]))
    assert "does not refute" in guards.problem(cut)
    twice = replace(finding, flip=replace(finding.flip, steps=finding.flip.steps[-1:]))
    assert guards.problem(twice)


def test_a_run_of_the_design_itself_shows_nothing() -> None:
    """The run has to need that the guard is gone."""
    finding = a_flip()
    other = next(f for f in guards.kept("entry-update")
                 if f.flip and f.place.action != finding.place.action)
    assert "does not run so" in guards.problem(replace(other, flip=finding.flip))


def test_a_guard_that_is_needed_is_not_redundant() -> None:
    finding = a_flip()
    assert finding.flip is not None
    for how in ("implied", "proved", "nothing"):
        claimed = replace(finding, flip=None,
                          needless=(Needless(finding.flip.design, how, ()),))
        assert guards.problem(claimed)
    prover = Prover(builtin(finding.flip.design), Known())
    clauses = prover.clauses
    assert guards.why_needed(Needless(finding.flip.design, "proved", clauses), finding.place)


def test_what_is_open_is_a_problem() -> None:
    finding = replace(a_flip(), flip=None, open=("r27-replace-handshake",))
    assert "no proof" in guards.problem(finding)


def test_findings_are_the_same_when_they_come_back() -> None:
    family = guards.kept("nesting")
    assert guards.findings_of(guards.data_of(family)) == family
    binds = bind_guards.kept()
    assert bind_guards.findings_of(bind_guards.data_of(binds)) == binds
