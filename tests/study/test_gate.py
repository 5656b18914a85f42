"""Comparisons of designs: every known pair in its direction, and what makes a pair differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmaproof.counterexamples import runs
from dmaproof.counterexamples import trace as traces
from dmaproof.counterexamples.gate import binds, claims
from dmaproof.counterexamples.gate.calls import differences, leads_out_of, telling
from dmaproof.counterexamples.gate.changes import (
    Change,
    Comparison,
    Relation,
    Shown,
    overall,
)
from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.known import Known
from dmaproof.model import design as files
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    action,
    compose,
    delete,
    insert,
)
from dmaproof.model.logic.terms import FALSE, TRUE, Formula, Kind, Rel, Sort, Var, exists, not_
from dmaproof.model.pcie.machines import machine
from dmaproof.model.scenario import StudyDesign, builtins, load, parse

PAIRS = [  # (bug, fixed)
    ("r27-replace-in-place", "r27-replace-handshake"),
    ("r25-zero-then-flush", "r25-clear-flush-zero"),
    ("r02-flush-before-clear", "teardown-7.0"),
]
"""Regressions whose fix is one of Linux 7.0, each refuted before and proved after."""


def compared(old: str, new: str) -> Comparison:
    return claims.compare(load(old), load(new), Known(), 20.0)


def replays(shown: Shown) -> bool:
    if shown.data["schema"] == runs.SCHEMA:
        return not runs.replayed(runs.parse(shown.data, "run"))
    return not traces.replayed(traces.parse(shown.data, "trace"))


@pytest.mark.parametrize(("bug", "fixed"), PAIRS)
def test_a_fix_strengthens_and_its_loss_weakens_with_a_run(bug: str, fixed: str) -> None:
    there, back = compared(bug, fixed), compared(fixed, bug)
    assert (there.relation, there.exit_code) == (Relation.STRENGTHENED, 0)
    assert (back.relation, back.exit_code) == (Relation.WEAKENED, 1)
    assert all(c.relation in (Relation.SAME, Relation.STRENGTHENED) for c in there.changes)
    for change in back.changes:
        if change.relation is Relation.WEAKENED:
            assert [s.side for s in change.runs] == ["new"]
            assert replays(change.runs[0])


@pytest.mark.parametrize("name", [PAIRS[0][0], PAIRS[0][1]])
def test_a_design_is_the_same_as_itself(name: str) -> None:
    found = compared(name, name)
    assert {c.relation for c in found.changes} == {Relation.SAME}
    assert (found.operations, found.notes, found.exit_code) == ((), (), 0)


def variant(name: str, **options: Any) -> StudyDesign:
    design = builtins()[name]
    data = design.model_dump(by_alias=True)  # a copy would take the built scenario along
    return StudyDesign.model_validate(
        data | {"name": "mine", "options": data["options"] | options}
    )


def test_two_bugs_of_their_own_are_incomparable() -> None:
    """Each violates the claim by calls that are harmless in the other; both runs are shown."""
    in_place = ["write-low", "write-high"]
    first = variant("r27-replace-handshake", replace=in_place)
    torn = ["clear-present", "write-low", "write-high", "flush"]
    second = variant("r27-replace-handshake", teardown=torn)
    found = claims.compare(first, second, Known(library=False), 20.0)
    (change,) = [c for c in found.changes if c.property == "no-mixed-walk"]
    assert change.relation is Relation.INCOMPARABLE
    assert [s.side for s in change.runs] == ["old", "new"]
    assert all(replays(s) for s in change.runs)
    assert found.exit_code == 1


def test_a_second_bug_weakens_what_is_broken_already() -> None:
    in_place = ["write-low", "write-high"]
    torn = ["clear-present", "write-low", "write-high", "flush"]
    one = variant("r27-replace-handshake", teardown=torn)
    both = variant("r27-replace-handshake", replace=in_place, teardown=torn)
    worse = claims.compare(one, both, Known(library=False), 20.0)
    (change,) = [c for c in worse.changes if c.property == "no-mixed-walk"]
    better = claims.compare(both, one, Known(library=False), 20.0)
    (back,) = [c for c in better.changes if c.property == "no-mixed-walk"]
    # Which run is the shortest decides whether the second bug is noticed; never the direction.
    assert change.relation in (Relation.SAME, Relation.WEAKENED)
    assert back.relation in (Relation.SAME, Relation.STRENGTHENED)


def test_designs_of_two_families_are_not_compared() -> None:
    other = next(n for n, d in builtins().items() if d.family != "entry-update")
    with pytest.raises(InputError):
        compared(PAIRS[0][0], other)


def test_without_time_nothing_is_called_same() -> None:
    design = variant("r27-replace-handshake")
    found = claims.compare(design, design, Known(library=False), 0.01)
    assert found.exit_code in (0, 3)
    for change in found.changes:
        if "undecided" in (change.old, change.new) and not change.ability:
            assert change.relation is Relation.UNDECIDED
            assert found.exit_code == 3


# -- bind designs ---------------------------------------------------------------------------

MACHINES = ("SS", "SW(off,on)", "SWR", "MF(off)")


def on_machines(old: str, new: str, *names: str) -> Comparison:
    chosen = [machine(n) for n in names or MACHINES]
    return binds.compare(files.load(old), files.load(new), chosen, Assumptions.of())


@pytest.fixture(scope="module")
def device_to_group() -> Comparison:
    return on_machines("bind-2018-device", "bind-2018-group")


def test_a_bind_on_the_group_is_weaker_for_devices(device_to_group: Comparison) -> None:
    assert (device_to_group.relation, device_to_group.exit_code) == (Relation.WEAKENED, 1)
    weaker = [c for c in device_to_group.changes if c.relation is Relation.WEAKENED]
    assert {c.property for c in weaker} == {"device-isolation"}
    assert {c.machine for c in weaker} == {"SWR", "MF(off)"}
    assert all(replays(s) for c in weaker for s in c.runs)
    assert all(c.runs for c in weaker)


def test_what_the_fabric_breaks_anyway_is_the_same(device_to_group: Comparison) -> None:
    (change,) = [c for c in device_to_group.changes
                 if (c.machine, c.property) == ("SW(off,on)", "device-isolation")
                 and not c.assumptions]
    assert (change.old, change.new, change.relation) == ("refuted", "refuted", Relation.SAME)


def test_an_operation_that_only_one_design_accepts_is_told(device_to_group: Comparison) -> None:
    (bind,) = [o for o in device_to_group.operations if o.call == "bind.enter"]
    assert (bind.kind, bind.errno, bind.guard) == ("newly allowed", "EBADF", "device-open")
    assert len(bind.calls) == 2


def test_the_way_back_strengthens() -> None:
    found = on_machines("bind-2018-group", "bind-2018-device", "SWR")
    assert (found.relation, found.exit_code) == (Relation.STRENGTHENED, 0)


@pytest.mark.parametrize(("old", "new", "relation", "kind"), [
    ("linux-7.0", "linux-7.0-no-acs-test", Relation.WEAKENED, "newly allowed"),
    ("linux-7.0-no-acs-test", "linux-7.0", Relation.STRENGTHENED, "newly refused"),
])
def test_the_acs_test_at_pasid_enable(
    old: str, new: str, relation: Relation, kind: str
) -> None:
    found = on_machines(old, new, "SS", "SW(off,off)")
    assert found.relation is relation
    (operation,) = found.operations
    assert (operation.kind, operation.guard) == (kind, "acs-path-rr-uf")
    lost = [c for c in found.changes if c.ability and c.relation is not Relation.SAME]
    assert lost, "binds are refused that were possible, or the reverse"
    for change in found.changes:
        if change.relation is Relation.WEAKENED:
            assert all(replays(s) for s in change.runs)


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "relation"), [
    ("bind-2018-device", "bind-2018-group", Relation.WEAKENED),
    ("bind-2018-group", "bind-2018-device", Relation.STRENGTHENED),
    ("linux-7.0", "linux-7.0-no-acs-test", Relation.WEAKENED),
    ("linux-7.0-no-acs-test", "linux-7.0", Relation.STRENGTHENED),
])
def test_pairs_on_every_built_in_machine(old: str, new: str, relation: Relation) -> None:
    from dmaproof.model.pcie.machines import names

    assert on_machines(old, new, *names()).relation is relation


# -- by calls -------------------------------------------------------------------------------

THING = Sort("Thing")
X = Var("x", THING)
OPEN, USED, STALE = Rel("open", (THING,)), Rel("used", (THING,)), Rel("stale", (THING,))
PROMISED = Rel("promised", (THING,), Kind.GHOST)
WORLD = Instance({THING: ("a", "b")}, {}, {})


def system(guard: Formula = TRUE, errno: str = "-EBUSY", *more: Action) -> Any:
    opens = action("open", (X,), [Guard("closed", not_(OPEN(X)), "-EBUSY")], [insert(OPEN, X)],
                   Actor.USER, "{x} is opened")
    uses = action("use", (X,), [Guard("is-open", OPEN(X), "-EBADF"), Guard("extra", guard, errno)],
                  [insert(USED, X), insert(PROMISED, X)], Actor.USER, "{x} is used")
    rots = action("rot", (X,), [Guard("used", USED(X))], [insert(STALE, X), delete(USED, X)],
                  Actor.KERNEL)
    return compose("toy", Module("toy", rels=(OPEN, USED, STALE, PROMISED),
                                 actions=(opens, uses, rots, *more)))


def test_an_extra_guard_is_a_newly_refused_call_after_the_shortest_run() -> None:
    (found,) = differences(system(), system(FALSE, "-EPERM"), WORLD, seconds=5)
    assert (found.call.action, found.allowed_by) == ("use", 0)
    assert (found.guard, found.errno) == ("extra", "-EPERM")
    assert [s.action for s in found.before] == ["open"]
    assert found.before[0].args == found.call.args


def test_a_guard_that_merely_waits_refuses_nothing() -> None:
    assert list(differences(system(), system(FALSE, ""), WORLD, seconds=5)) == []


def test_a_refusal_that_the_kernel_lifts_by_itself_is_none() -> None:
    """The kernel's own steps are taken on both sides before a call is called refused."""
    soon = Var("y", THING)
    rotten = exists((soon,), STALE(soon))
    old, new = system(), system(not_(rotten), "-EPERM")
    found = list(differences(old, new, WORLD, seconds=5))
    # Before the kernel's step the second use is accepted, so it is not refused for sure.
    assert [d.call.action for d in found] == []


def test_calls_that_promise_nothing_do_not_tell_runs_apart() -> None:
    assert telling(system()) == {"use"}
    assert telling(compose("none", Module("none", rels=(OPEN,), actions=(
        action("open", (X,), [], [insert(OPEN, X)], Actor.USER),)))) == {"open"}


@given(st.lists(st.sampled_from(["use"]), max_size=2))
def test_a_violation_needs_its_calls(made: list[str]) -> None:
    from dmaproof.model.logic.sets import Step

    goal = not_(exists((X,), STALE(X)))
    calls = [Step(name, (0,)) for name in made]
    assert leads_out_of(system(), WORLD, goal, calls, telling(system())) is bool(made)


# -- joining --------------------------------------------------------------------------------

RELATIONS = st.lists(st.sampled_from(list(Relation)), max_size=6)


@given(RELATIONS)
def test_the_whole_is_no_better_than_its_parts(parts: list[Relation]) -> None:
    changes = tuple(Change("p", "says", r, "", "", "") for r in parts)
    found = Comparison("a", "b", changes, ())
    assert found.relation is overall(parts)
    if Relation.WEAKENED in parts or Relation.INCOMPARABLE in parts:
        assert found.exit_code == 1
    elif Relation.UNDECIDED in parts:
        assert found.exit_code == 3
    else:
        assert found.exit_code == 0
    assert overall(parts) is overall(parts[::-1])


@given(RELATIONS)
def test_abilities_never_decide(parts: list[Relation]) -> None:
    changes = tuple(Change("p", "says", r, "", "", "", ability=True) for r in parts)
    found = Comparison("a", "b", changes, ())
    assert (found.relation, found.exit_code) == (Relation.SAME, 0)


def test_a_file_with_another_name_is_the_same_design() -> None:
    text = """
schema = "dmaproof/design/2"
name = "mine"
title = "mine"
year = 2026
family = "entry-update"
[options]
"""
    options = builtins()["r27-replace-handshake"].options
    text += "\n".join(f"{k} = {v!r}".replace("'", '"') for k, v in options.items())
    mine = parse(text, "mine.toml")
    found = claims.compare(load("r27-replace-handshake"), mine, Known(), 20.0)
    assert {c.relation for c in found.changes} == {Relation.SAME}
