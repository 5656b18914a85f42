"""Runs of scenarios: confirmed only as what they are, written, read back, replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmaproof.counterexamples import runs
from dmaproof.engine import scenarios
from dmaproof.engine.known import Known
from dmaproof.engine.scenarios import Run
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Step
from dmaproof.model.scenario import ClaimKind, StudyDesign, builtins, load

BUG, FIXED = "r27-replace-in-place", "r27-replace-handshake"


def candidate(design: StudyDesign, claim: str) -> Run:
    found, _ = Known().settle(design.scenario, design.scenario.claims[claim])
    assert isinstance(found, Run)
    return found


@pytest.fixture(scope="module")
def violation() -> runs.RunTrace:
    design = load(BUG)
    claim = design.scenario.claims["no-mixed-walk"]
    trace = runs.confirm(design, claim, candidate(design, claim.id), "violated")
    assert isinstance(trace, runs.RunTrace)
    return trace


def test_a_run_reads_as_sentences_and_ends_in_the_objects(violation: runs.RunTrace) -> None:
    text = "\n".join(line for line, _ in runs.lines(violation))
    assert "walk used the low chunk of new with the high chunk of old" in text
    assert violation.end.objects == {"e1": "E1", "v1": "new", "w1": "old"}
    assert not any("{" in step.says for step in violation.steps)


def test_a_run_survives_the_file_and_replays(violation: runs.RunTrace, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    runs.write(violation, path)
    assert runs.load(str(path)) == violation
    assert runs.replayed(runs.load(str(path))) == ""


def test_steps_that_are_not_needed_are_left_out(violation: runs.RunTrace) -> None:
    design = load(BUG)
    claim = design.scenario.claims["no-mixed-walk"]
    found = candidate(design, claim.id)
    walk = next(i for i, s in enumerate(found.steps) if s.action == "walk.low")
    idle = [Step("walk.low", (0, 0)), Step("walk.high", (0, 0, 0))]  # the old content, unmixed
    longer = Run(found.world, (*found.steps[:walk - 2], *idle, *found.steps[walk - 2:]))
    trace = runs.confirm(design, claim, longer, "violated")
    assert isinstance(trace, runs.RunTrace)
    assert len(trace.steps) == len(violation.steps)


def test_a_run_of_the_bug_is_rejected_for_the_fix() -> None:
    claim = load(FIXED).scenario.claims["no-mixed-walk"]
    found = runs.confirm(load(FIXED), claim, candidate(load(BUG), claim.id), "violated")
    assert isinstance(found, runs.Rejected)


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_run_that_ends_elsewhere_is_rejected(cut: int) -> None:
    design = load(BUG)
    claim = design.scenario.claims["no-mixed-walk"]
    found = candidate(design, claim.id)
    shorter = Run(0, found.steps[:cut] if cut <= 0 else found.steps[cut:])
    assert isinstance(runs.confirm(design, claim, shorter, "violated"), runs.Rejected)
    assert isinstance(runs.confirm(design, claim, Run(7, found.steps), "violated"), runs.Rejected)


def test_what_a_run_shows_is_not_taken_on_faith() -> None:
    design = load(BUG)
    claims = design.scenario.claims
    always, can = claims["no-mixed-walk"], claims["can-walk"]
    for claim, shows in ((always, "happens"), (can, "violated"), (always, "refused")):
        found = runs.confirm(design, claim, candidate(design, claim.id), shows)  # type: ignore[arg-type]
        assert isinstance(found, runs.Rejected), shows


def _refusals() -> list[tuple[str, str]]:
    return [
        (name, claim.id) for name, design in builtins().items()
        for claim in design.scenario.claims.values() if claim.kind is ClaimKind.REFUSED
    ]


def test_refused_calls_are_made_and_refused_as_claimed() -> None:
    some = _refusals()[:12]
    assert some, "no scenario claims an errno"
    for name, identifier in some:
        design = load(name)
        claim = design.scenario.claims[identifier]
        assert claim.when is not None
        found = scenarios.reach(design.scenario, claim.when)
        assert found is not None
        trace = runs.confirm(design, claim, found, "refused")
        assert isinstance(trace, runs.RunTrace), trace
        assert (trace.end.errno, trace.end.call) == (claim.errno, claim.action)
        assert runs.replayed(trace) == ""


def test_a_refusal_with_another_errno_is_no_refusal() -> None:
    from dataclasses import replace

    name, identifier = _refusals()[0]
    design = load(name)
    claim = design.scenario.claims[identifier]
    assert claim.when is not None
    found = scenarios.reach(design.scenario, claim.when)
    assert found is not None
    other = replace(claim, errno="-EOVERFLOW")
    assert isinstance(runs.confirm(design, other, found, "refused"), runs.Rejected)


def _changed(trace: runs.RunTrace, *path: Any, to: Any) -> runs.RunTrace:
    data = json.loads(trace.dump())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return runs.parse(data, "run.json")


@pytest.mark.parametrize(("path", "to"), [
    (("steps", 0, "args", "new"), "new"),
    (("steps", 1, "action"), "setup.flush"),
    (("steps", 2, "changed"), {}),
    (("end", "objects", "v1"), "old"),
    (("end", "says"), "all is well"),
    (("end", "shows"), "happens"),
    (("design", "options", "replace"), ["clear-present", "flush", "write-low", "write-high",
                                        "set-present"]),
])
def test_an_edited_run_does_not_reproduce(
    violation: runs.RunTrace, path: tuple[Any, ...], to: Any
) -> None:
    assert runs.replayed(_changed(violation, *path, to=to))


@pytest.mark.parametrize(("path", "to", "said"), [
    (("claim",), "no-such", "no-mixed-walk"),
    (("design", "family"), "nowhere", "family"),
    (("design", "options", "setup"), ["fly"], "design"),
    (("world", "elements", "Content"), [], "Content"),
])
def test_a_run_that_contradicts_itself_is_bad_input(
    violation: runs.RunTrace, path: tuple[Any, ...], to: Any, said: str
) -> None:
    with pytest.raises(InputError) as error:
        runs.replayed(_changed(violation, *path, to=to))
    assert said in str(error.value)
