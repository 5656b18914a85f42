"""Guards: the list of what each is needed for is complete and true."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from dmaproof.counterexamples.study import bind_guards, guards, guards_by_hand, guards_text
from dmaproof.counterexamples.study.guards import Finding, Needless, Prover
from dmaproof.engine.known import Known
from dmaproof.model.scenario import builtin

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guards.md"

FAMILIES = guards.families()


def found() -> list[Finding]:
    return [f for family in guards.families() for f in guards.kept(family)]


def test_every_guard_of_every_family_is_listed_and_none_is_left_open() -> None:
    assert not guards.unfinished()
    every = guards.places()
    assert {f.place for f in found()} <= every.keys()
    assert {p.family for p in every} == {*guards.families()}


def test_every_guard_of_every_bind_design_is_listed_and_none_is_left_open() -> None:
    assert not bind_guards.unfinished()
    assert {(f.action, f.guard) for f in bind_guards.kept()} <= bind_guards.places().keys()


def test_what_is_missing_or_open_is_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    binds = bind_guards.kept()
    first, needless = binds[0], next(f for f in binds if len(f.needless) > 1)
    rest = [f for f in binds if f not in (first, needless)]
    for changed in ([], [replace(first, flip=None, open=("type1",)),
                         replace(needless, needless=needless.needless[1:])]):
        monkeypatch.setattr(bind_guards, "kept", lambda found=changed: [*rest, *found])
        assert {*bind_guards.unfinished()} == {(f.action, f.guard) for f in (first, needless)}
    family = guards.kept("nesting")
    monkeypatch.setattr(
        guards, "kept",
        lambda name, kept=guards.kept: family[1:] if name == "nesting" else kept(name),
    )
    assert guards.unfinished() == {"nesting": [family[0].place]}


def test_what_is_written_by_hand_is_what_proves() -> None:
    for (design, action, guard), clauses in guards_by_hand.BY_HAND.items():
        (found,) = (f for f in guards.kept(builtin(design).family)
                    if (f.place.action, f.place.guard) == (action, guard))
        (why,) = (n for n in found.needless if n.design == design)
        scenario = guards.mutant(builtin(design).scenario, action, guard)
        assert len(why.clauses) == len(clauses(scenario)), found.place
        assert guards.problem(found) == "", found.place


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
        assert bind_guards.problem(finding) == "", finding


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_finding_is_found_again(family: str) -> None:
    """From nothing: what is needed is needed, and what is redundant is."""
    known = Known()
    provers: dict[str, Prover] = {}
    for place, having in guards.places().items():
        if place.family == family:
            again = guards.examine(place, having, lambda d: provers.setdefault(
                d.name, Prover(d, known)))
            (kept,) = (f for f in guards.kept(family) if f.place == place)
            assert bool(again.flip) == bool(kept.flip), place
            assert not again.open, place


def test_a_bind_design_does_not_need_what_its_clauses_or_one_by_hand_do_without() -> None:
    place = "unset-container", "work-ended"
    model = bind_guards.mutant("bind-2018-device", *place)
    (hand,) = guards_by_hand.of_bind(*place, model)
    own = bind_guards.needless("bind-2018-device", *place)
    assert own
    assert all(hand in clauses for clauses in own.values())
    found = next(f for f in bind_guards.kept() if (f.action, f.guard) == place)
    assert dict(found.needless)["bind-2018-device"].keys() == own.keys()
    weak = {k: tuple(c for c in clauses if c != hand) for k, clauses in own.items()}
    assert bind_guards.problem(replace(found, needless=(("bind-2018-device", weak),)))


@pytest.mark.slow
def test_a_needed_guard_of_a_bind_design_is_found_again() -> None:
    place = "set-container", "group-is-singleton"
    assert bind_guards.needless("sva-2018-vfio", *place) is None
    assert bind_guards.flip("sva-2018-vfio", *place, bind_guards.THOROUGH)


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
