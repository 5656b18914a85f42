"""All readings of one description agree: sets, bits, finite z3, uninterpreted sorts."""

from __future__ import annotations

import random
from typing import Any

import pytest
import z3
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import (
    Instance,
    ReplayError,
    State,
    Step,
    apply,
    failing_guard,
    holds,
    initial_state,
    replay,
    witness,
)
from dmaproof.model.logic.smt import z3_of
from dmaproof.model.logic.system import System, action, initially, weakest_precondition
from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    And,
    Kind,
    Not,
    Or,
    Var,
    and_,
    exists,
    forall,
    free_vars,
    iff,
    implies,
    not_,
    or_,
    relations,
    substitute,
)

from . import strategies as make
from .strategies import MUTABLE, A, B, Closed, Names, truth, value

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
X, Y = Var("x", A), Var("y", B)


def quick(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, suppress_health_check=SLOW)


def bare(instance: Instance) -> GroundSystem:
    """The symbols of the random systems without actions, on an instance."""
    system = System("symbols", make.FNS, make.RELS, {}, {}, (), {})
    return GroundSystem(system, instance)


@st.composite
def structures(draw: Any) -> tuple[Instance, State]:
    instance = draw(make.instances())
    return instance, draw(make.states(instance))


@quick(80)
@given(structures(), make.formulas((), Names("q", unique=False), depth=4))
def test_a_closed_formula_has_one_truth(structure: Any, formula: Any) -> None:
    instance, state = structure
    expected = truth(formula, instance, state, {})
    assert holds(formula, instance, state, {}) is expected
    ground = bare(instance)
    packed = ground.pack(state)
    assert ground.compile_formula(formula)(packed) is expected
    bits = [z3.BoolVal(bool(packed >> i & 1)) for i in range(len(ground.bits))]
    assert z3.is_true(z3.simplify(z3_of(ground.ground(formula, {}), bits))) is expected


@quick(60)
@given(structures(), make.formulas((X, Y), Names("q", unique=False)), st.data())
def test_uninterpreted_sorts_closed_by_axioms_agree(
    structure: Any, formula: Any, data: Any
) -> None:
    instance, state = structure
    env = {v: data.draw(st.integers(0, len(instance.elements[v.sort]) - 1)) for v in (X, Y)}
    expected = truth(formula, instance, state, env)
    assert holds(formula, instance, state, env) is expected
    assert Closed(instance, state).truth(formula, env) is expected


@quick(80)
@given(structures())
def test_states_survive_packing(structure: Any) -> None:
    instance, state = structure
    ground = bare(instance)
    assert ground.unpack(ground.pack(state)) == state
    everything = (1 << len(ground.bits)) - 1
    assert ground.pack(ground.unpack(everything)) == everything


def successors_by_sets(system: System, instance: Instance, state: State) -> set[Any]:
    found = set()
    for act in system.actions:
        for args in instance.tuples(p.sort for p in act.params):
            if failing_guard(act, args, instance, state) is None:
                after = apply(act, args, instance, state)
                if after != state:
                    found.add((act.name, args, tuple(after[r] for r in MUTABLE)))
    return found


@quick(80)
@given(make.systems(), structures())
def test_bits_have_the_successors_of_sets(system: Any, structure: Any) -> None:
    instance, state = structure
    ground = GroundSystem(system, instance)
    found = {
        (*ground.describe(number), tuple(ground.unpack(after)[r] for r in MUTABLE))
        for number, after in ground.compile_successors()(ground.pack(state))
    }
    assert found == successors_by_sets(system, instance, state)
    assert ground.unpack(ground.initial) == initial_state(system, instance)


@quick(40)
@given(make.systems(), structures())
def test_one_solver_step_reaches_the_successors_of_sets_and_no_other(
    system: Any, structure: Any
) -> None:
    instance, state = structure
    ground = GroundSystem(system, instance)
    size = len(ground.bits)
    now, then = ([z3.Bool(f"{w}{i}") for i in range(size)] for w in ("now", "then"))
    steps = []
    for act in ground.actions:
        new = dict(act.updates)
        moves = [then[i] == (z3_of(new[i], now) if i in new else now[i]) for i in range(size)]
        steps.append(z3.And(z3_of(act.guard, now), *moves))
    solver = z3.Solver()
    solver.add(z3.Or(steps))

    def is_state(bits: list[Any], packed: int) -> Any:
        return z3.And([b if packed >> i & 1 else z3.Not(b) for i, b in enumerate(bits)])

    packed = ground.pack(state)
    solver.add(is_state(now, packed), z3.Not(is_state(then, packed)))
    expected = {
        ground.pack(dict(zip(MUTABLE, after, strict=True)))
        for _, _, after in successors_by_sets(system, instance, state)
    }
    for after in expected:
        assert solver.check(is_state(then, after)) == z3.sat
        solver.add(z3.Not(is_state(then, after)))
    assert solver.check() == z3.unsat


@quick(80)
@given(make.systems(), structures(), make.formulas((X, Y), Names("q")), st.data())
def test_weakest_precondition_is_truth_after_the_step(
    system: Any, structure: Any, formula: Any, data: Any
) -> None:
    instance, state = structure
    act = data.draw(st.sampled_from(system.actions))
    env = {
        v: data.draw(st.integers(0, len(instance.elements[v.sort]) - 1))
        for v in (X, Y, *act.params)
    }
    before = weakest_precondition(act, formula)
    args = tuple(env[p] for p in act.params)
    after = truth(formula, instance, apply(act, args, instance, state), env)
    assert truth(before, instance, state, env) is after
    assert free_vars(before) <= {X, Y, *act.params}


@quick(25)
@given(make.systems(), structures(), make.formulas((), Names("q"), depth=2), st.data())
def test_weakest_precondition_over_uninterpreted_sorts(
    system: Any, structure: Any, formula: Any, data: Any
) -> None:
    instance, state = structure
    act = data.draw(st.sampled_from(system.actions))
    env = {
        v: data.draw(st.integers(0, len(instance.elements[v.sort]) - 1)) for v in act.params
    }
    after = apply(act, tuple(env[p] for p in act.params), instance, state)
    closed = Closed(instance, state)
    fires = failing_guard(act, tuple(env[p] for p in act.params), instance, state) is None
    assert closed.truth(act.guard, env) is fires
    before = weakest_precondition(act, formula)
    assert closed.truth(before, env) is truth(formula, instance, after, {})


@quick(80)
@given(make.systems(), structures(), make.formulas((), Names("q")))
def test_initially_is_truth_in_the_initial_state(
    system: Any, structure: Any, formula: Any
) -> None:
    instance, garbage = structure
    first = initially(system, formula)
    assert all(r.kind is Kind.STATIC for r in relations(first))
    expected = truth(formula, instance, initial_state(system, instance), {})
    assert truth(first, instance, garbage, {}) is expected


@quick(80)
@given(structures(), make.formulas((X, Y), Names("q", unique=False)), st.data())
def test_substitution_is_evaluation_at_the_value(structure: Any, formula: Any, data: Any) -> None:
    instance, state = structure
    env = {v: data.draw(st.integers(0, len(instance.elements[v.sort]) - 1)) for v in (X, Y)}
    mapping = {X: make.G(X, Y), Y: make.F(X)}
    moved = {v: value(t, instance, env) for v, t in mapping.items()}
    replaced = substitute(formula, mapping)
    assert truth(replaced, instance, state, env) is truth(formula, instance, state, moved)


@quick(80)
@given(structures(), st.tuples(*[make.formulas((), Names("q", unique=False), depth=2)] * 3))
def test_constructors_mean_what_they_say(structure: Any, parts: Any) -> None:
    instance, state = structure
    a, b, c = (truth(p, instance, state, {}) for p in parts)
    p, q, r = parts

    def of(formula: Any) -> bool:
        return truth(formula, instance, state, {})

    assert of(and_(p, And((q, r)), q)) is (a and b and c)
    assert of(or_(p, Or((q, r)), p)) is (a or b or c)
    assert of(not_(Not(p))) is a
    assert of(not_(p)) is (not a)
    assert of(implies(p, q)) is (not a or b)
    assert of(iff(p, q)) is (a == b)
    assert of(forall((X,), p)) is a
    assert of(exists((X, Y), p)) is a


@quick(80)
@given(structures(), make.formulas((X, Y), Names("q")))
def test_a_witness_is_one_and_is_found_when_there_is_one(structure: Any, formula: Any) -> None:
    instance, state = structure
    found = witness(formula, (X, Y), instance, state)
    assert (found is not None) is truth(exists((X, Y), formula), instance, state, {})
    if found is not None:
        assert truth(formula, instance, state, found)


def random_run(system: System, instance: Instance, seed: int, length: int = 6) -> list[Step]:
    """A run of the system that the set reading allows."""
    rng, state, steps = random.Random(seed), initial_state(system, instance), []
    for _ in range(length):
        options = [
            (act, args)
            for act in system.actions
            for args in instance.tuples(p.sort for p in act.params)
            if failing_guard(act, args, instance, state) is None
        ]
        if not options:
            break
        act, args = rng.choice(options)
        state = apply(act, args, instance, state)
        steps.append(Step(act.name, args))
    return steps


@quick(60)
@given(make.systems(), make.instances(), st.integers(0, 1000), st.sampled_from(MUTABLE))
def test_forgetting_a_relation_keeps_every_run(
    system: Any, instance: Any, seed: int, rel: Any
) -> None:
    try:
        less = system.without_relations(frozenset([rel]))
    except ValueError:
        assume(False)
    assert rel not in less.rels
    steps = random_run(system, instance, seed)
    kept = {a.name for a in less.actions}
    after = replay(less, instance, [s for s in steps if s.action in kept])[-1]
    full = replay(system, instance, steps)[-1]
    assert dict(after) == {r: c for r, c in full.items() if r != rel}


@quick(60)
@given(make.systems(), make.instances(), st.integers(0, 1000), st.data())
def test_dropping_a_guard_keeps_every_run(
    system: Any, instance: Any, seed: int, data: Any
) -> None:
    guarded = [a for a in system.actions if a.guards]
    assume(guarded)
    act = data.draw(st.sampled_from(guarded))
    dropped = data.draw(st.sampled_from(act.guards))
    less = system.with_action(act.without_guard(dropped.name))
    steps = random_run(system, instance, seed)
    assert replay(less, instance, steps) == replay(system, instance, steps)


@quick(80)
@given(make.instances(), st.data())
def test_merged_updates_insert_before_they_keep(instance: Any, data: Any) -> None:
    state = data.draw(make.states(instance))
    rel = data.draw(st.sampled_from(MUTABLE))
    two = [data.draw(make.updates((X,), rel, Names(f"q{i}."))) for i in range(2)]
    act = action("both", (X,), updates=two)
    assert len(act.updates) == 1
    after = apply(act, (0,), instance, state)
    for args in instance.tuples(rel.sorts):
        env = {X: 0, **dict(zip(two[0].variables, args, strict=True))}
        inserted = any(truth(u.insert, instance, state, env) for u in two)
        deleted = any(truth(u.delete, instance, state, env) for u in two)
        assert (args in after[rel]) is (inserted or (args in state[rel] and not deleted))


@quick(60)
@given(make.systems(), make.instances(), st.integers(0, 1000))
def test_replay_names_the_guard_that_stops_a_run(system: Any, instance: Any, seed: int) -> None:
    steps = random_run(system, instance, seed)
    state = replay(system, instance, steps)[-1]
    for act in system.actions:
        for args in instance.tuples(p.sort for p in act.params):
            guard = failing_guard(act, args, instance, state)
            if guard is None:
                continue
            stopped = f"step {len(steps) + 1}: {act.name} is refused by guard {guard.name}"
            with pytest.raises(ReplayError, match=stopped):
                replay(system, instance, [*steps, Step(act.name, args)])
            before = act.guards[: act.guards.index(guard)]
            env = dict(zip(act.params, args, strict=True))
            assert all(truth(g.condition, instance, state, env) for g in before)
            assert not truth(guard.condition, instance, state, env)
            return


def test_a_guard_that_never_holds_grounds_to_nothing() -> None:
    raised = make.Update(make.FLAG, (), TRUE)
    never = action("never", (), [make.Guard("no", FALSE)], [raised])
    system = System("s", make.FNS, make.RELS, {}, {}, (never,), {})
    instance = Instance({A: ("a",), B: ("b",)}, {}, {})
    assert GroundSystem(system, instance).actions == []
    allowed = system.with_action(never.without_guard("no"))
    ground = GroundSystem(allowed, instance)
    assert ground.compile_successors()(0) == [(0, 1 << ground.bit_of[make.FLAG, ()])]
