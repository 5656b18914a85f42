"""Which properties of which designs are theorems, under which premises, and which are not.

A property that is no theorem is refuted in a small world that satisfies the premise, so that a
failed inference is never taken for a refutation.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import pytest
import z3

from dmaproof.engine import library
from dmaproof.engine.candidates import Clause
from dmaproof.engine.explicit import search
from dmaproof.engine.induction import Clock
from dmaproof.engine.library import __main__ as regenerate
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.recheck import Claim, verified
from dmaproof.engine.theorems import NotProved, Prover, Theorem, safe_goal
from dmaproof.engine.worlds import SAMPLES
from dmaproof.model import design
from dmaproof.model.design import Step
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import holds
from dmaproof.model.logic.terms import FALSE, Not, Or, forall, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import PROPERTIES, applicable, find

MODELS = [(name, hot_add) for name in design.builtin_names() for hot_add in (False, True)]

# premise -> the premises it follows from, besides itself.
FOLLOWS_FROM: dict[str, set[str]] = {
    "none": {q.value for q in Premise} - {"none"},
    "closed_grouping": {"no_edges", "lone_groups", "one_group", "one_function", "single_group",
                        "single_function", "nothing_bindable"},
    "no_edges": {"lone_groups", "one_function", "single_function", "nothing_bindable"},
    "lone_groups": {"one_function", "single_function", "nothing_bindable"},
    "one_group": {"one_function", "single_group", "single_function", "nothing_bindable"},
    "one_function": {"single_function", "nothing_bindable"},
    "single_group": {"single_function"},
    "single_function": set(),
    "no_p2p": {"single_function", "nothing_bindable"},
    "p2p_in_group": {"single_group", "single_function"},
    "nothing_bindable": set(),
}

ALL, EDGE, GROUP, SELF = "none", "no_edges", "one_group", "one_function"
CLOSED, NEVER, ONE = "closed_grouping", "nothing_bindable", "single_function"
LONE = "lone_groups"
P2P = {"no_p2p"}

# The weakest premises under which each property is a theorem, on a static fabric. Every property
# that is not named is a theorem under nothing_bindable alone, where it has that premise.
STATIC = {
    "bind-2018-device": {
        "device-isolation": {EDGE}, "group-isolation": {CLOSED}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {EDGE}, "unbind-final": {ALL},
        "failed-call-changes-nothing": {ALL}, "no-misroute": P2P, "can-p2p-and-pasid": P2P,
    },
    "bind-2018-group": {
        "device-isolation": {LONE}, "group-isolation": {CLOSED}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {LONE}, "unbind-final": {ALL},
        "failed-call-changes-nothing": {ALL}, "no-misroute": P2P, "can-p2p-and-pasid": P2P,
    },
    "bind-2018-container": {
        "device-isolation": {SELF}, "group-isolation": {GROUP}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {SELF}, "unbind-final": {ALL},
        "uniform": {ALL}, "failed-call-changes-nothing": {ALL}, "no-misroute": P2P,
        "can-p2p-and-pasid": P2P,
    },
    "bind-2018-container-noreplay": {
        "device-isolation": {SELF}, "group-isolation": {GROUP}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {SELF}, "unbind-final": {ALL},
        "failed-call-changes-nothing": {ALL}, "no-misroute": P2P, "can-p2p-and-pasid": P2P,
        "uniform": {"single_group"},
    },
    "bind-2018-container-noundo": {
        "device-isolation": {ONE}, "group-isolation": {ONE}, "container-isolation": {ONE},
        "unbind-final": {ONE}, "failed-call-changes-nothing": {ONE},
        "container-separation": {CLOSED}, "levels-coincide": {SELF}, "uniform": {ALL},
        "no-misroute": P2P, "can-p2p-and-pasid": P2P,
    },
    "bind-2018-device-singleton": {
        "device-isolation": {CLOSED}, "group-isolation": {CLOSED}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {CLOSED}, "unbind-final": {ALL},
        "failed-call-changes-nothing": {ALL}, "no-misroute": {"no_p2p", "p2p_in_group"},
        "can-p2p-and-pasid": {"no_p2p", "p2p_in_group"},
    },
    "sva-2018-core": {
        "device-isolation": {CLOSED}, "group-isolation": {CLOSED}, "unbind-final": {ALL},
        "failed-call-changes-nothing": {ALL}, "no-misroute": {"no_p2p", "p2p_in_group"},
        "can-p2p-and-pasid": {"no_p2p", "p2p_in_group"},
    },
    "sva-2018-vfio": {
        "device-isolation": {GROUP}, "group-isolation": {GROUP}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {GROUP}, "unbind-final": {ALL},
        "uniform": {ALL}, "failed-call-changes-nothing": {ALL},
        "no-misroute": {"no_p2p", "p2p_in_group"}, "can-p2p-and-pasid": {"no_p2p", "p2p_in_group"},
    },
    "type1": {
        "device-isolation": {SELF}, "group-isolation": {GROUP}, "container-isolation": {CLOSED},
        "container-separation": {CLOSED}, "levels-coincide": {SELF}, "unbind-final": {ALL},
        "uniform": {ALL},
    },
}  # fmt: skip
_LINUX = {
    "device-isolation": {LONE}, "group-isolation": {CLOSED}, "unbind-final": {ALL},
    "failed-call-changes-nothing": {ALL}, "no-misroute": P2P, "can-p2p-and-pasid": P2P,
}
STATIC |= {"linux-7.0": _LINUX, "linux-7.0-no-acs-test": _LINUX}

# What hot-add takes away.
HOT_ADD = {
    "bind-2018-container-noreplay": {"uniform": set()},
    "bind-2018-device-singleton": {
        "device-isolation": {EDGE}, "levels-coincide": {EDGE}, "no-misroute": P2P,
        "can-p2p-and-pasid": P2P,
    },
    "bind-2018-container": {"uniform": set()},
    "bind-2018-container-noundo": {"uniform": set()},
    "sva-2018-core": {
        "device-isolation": {EDGE}, "no-misroute": P2P, "can-p2p-and-pasid": P2P,
    },
    "sva-2018-vfio": {
        "device-isolation": {SELF}, "levels-coincide": {SELF}, "uniform": set(),
        "no-misroute": P2P, "can-p2p-and-pasid": P2P,
    },
    "type1": {"uniform": set()},
}  # fmt: skip


def expected(name: str, hot_add: bool, prop: str) -> set[str]:
    """The premises under which a property is a theorem."""
    weakest = STATIC[name].get(prop, set())
    if hot_add:
        weakest = HOT_ADD.get(name, {}).get(prop, weakest)
    found = {NEVER, *weakest}
    for premise in weakest:
        found |= FOLLOWS_FROM[premise]
    return found & {p.value for p in find(prop).premises}


def questions(model: Model) -> list[tuple[str, Premise]]:
    return [(p.id, q) for p in PROPERTIES if not applicable(p, model) for q in p.premises]


@cache
def prover(name: str, hot_add: bool) -> Prover:
    return Prover(build(design.load(name), hot_add))


def named(model: tuple[str, bool]) -> str:
    return f"{model[0]}{'+hot-add' if model[1] else ''}"


# -- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_theorems_are_those_of_the_table(model: tuple[str, bool]) -> None:
    asked = prover(*model)
    found: dict[str, set[str]] = {}
    for prop, premise in questions(asked.model):
        answer = asked.prove(find(prop), premise)
        found.setdefault(prop, set())
        if isinstance(answer, Theorem):
            found[prop].add(premise.value)
        else:
            assert not answer.gave_up, (prop, premise, answer)
    assert found == {prop: expected(*model, prop) for prop in found}


REFUTED_BY_DEFAULT = [(name, False) for name in STATIC if not name.startswith("bind-2018-cont")]


def refute(name: str, hot_add: bool) -> None:
    """Find a run to a violation, in a world of the premise, for all that the table denies."""
    model = build(design.load(name), hot_add)
    left = {(p, q) for p, q in questions(model) if q.value not in expected(name, hot_add, p)}
    for world in sorted(SAMPLES, key=lambda w: len(w.functions)):
        instance = world.instance(2, 1, 1)
        targets = {
            f"{p} {q}": not_(safe_goal(find(p), model)) for p, q in sorted(left)
            if holds(premise_formula(q, model), instance, {}, {})
        }
        if targets:
            found = search(model.core, instance, targets, max_states=30_000)
            left -= {(p, q) for p, q in left if f"{p} {q}" in found.traces}
    assert not left


@pytest.mark.parametrize("model", REFUTED_BY_DEFAULT, ids=named)
def test_what_is_no_theorem_is_refuted_in_a_world_of_the_premise(model: tuple[str, bool]) -> None:
    refute(*model)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(set(MODELS) - set(REFUTED_BY_DEFAULT)), ids=named)
def test_what_is_no_theorem_is_refuted_everywhere(model: tuple[str, bool]) -> None:
    refute(*model)


@pytest.mark.parametrize("name", design.builtin_names())
def test_premises_follow_from_each_other_as_the_table_assumes(name: str) -> None:
    model = build(design.load(name))
    head = [*smtlib.signature(model.core), *smtlib.axioms(model.core)]
    for weak, strong in FOLLOWS_FROM.items():
        for other in strong:
            solver = z3.SimpleSolver()
            given = smtlib.assertion(premise_formula(Premise(other), model), "given")
            contrary = smtlib.assertion(not_(premise_formula(Premise(weak), model)), "contrary")
            solver.from_string("\n".join([*head, given, contrary]))
            assert solver.check() == z3.unsat, (other, weak)


# -- inference, without the library -------------------------------------------------------------


@pytest.mark.parametrize("name", ["bind-2018-device", "bind-2018-group"])
def test_inference_finds_what_the_library_knows(name: str) -> None:
    fresh = Prover(build(design.load(name)), use_library=False)
    for prop, premise in [
        ("device-isolation", EDGE), ("group-isolation", CLOSED), ("unbind-final", ALL),
        ("failed-call-changes-nothing", ALL),
    ]:
        found = fresh.prove(find(prop), Premise(premise))
        assert isinstance(found, Theorem) == (premise in expected(name, False, prop))


def test_invariants_are_minimal_for_z3() -> None:
    asked = prover("bind-2018-device", False)
    seen: set[str] = set()
    for prop, premise in questions(asked.model):
        found = asked.prove(find(prop), premise)
        if isinstance(found, NotProved) or prop in seen:
            continue
        seen.add(prop)  # the weakest premise of each property
        goal = safe_goal(find(prop), asked.model)
        for i in range(len(found.invariant)):
            rest = (*found.invariant[:i], *found.invariant[i + 1 :])
            assert verified(asked.model, [Claim(rest, premise, goal)], Clock.seconds(60)) == [False]


@pytest.mark.parametrize(
    ("steps", "final"),
    [
        ((Step.CLEAR, Step.FLUSH_PASID_CACHE, Step.FLUSH_IOTLB), True),
        ((Step.CLEAR, Step.FLUSH_IOTLB, Step.FLUSH_PASID_CACHE), False),
        ((Step.FLUSH_PASID_CACHE, Step.FLUSH_IOTLB, Step.CLEAR), False),
        ((Step.CLEAR, Step.FLUSH_IOTLB), False),
        ((Step.CLEAR, Step.FLUSH_PASID_CACHE), False),
    ],
)
def test_teardown_order_decides_unbind_final(steps: tuple[Step, ...], final: bool) -> None:
    base = design.load("bind-2018-device")
    teardown = base.teardown.model_copy(update={"steps": steps})
    model = build(base.model_copy(update={"name": "changed", "teardown": teardown}))
    found = Prover(model).prove(find("unbind-final"), Premise.NONE)
    assert isinstance(found, Theorem) == final


# -- the library --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_library_is_that_of_the_models(model: tuple[str, bool]) -> None:
    built = build(design.load(model[0]), model[1])
    known = library.hints(built)
    asked = {(p, q.value) for p, q in questions(built)}
    assert known.theorems, "the model changed: run python -m dmaproof.engine.library"
    assert set(known.theorems) | known.unproved == asked
    for clauses in known.theorems.values():
        for clause in clauses:
            assert library.clause_of(smtlib.Reader(built.core).formula(
                library.text_of(clause))) == clause


def test_library_is_verified_in_seconds() -> None:
    start = time.process_time()
    count = 0
    for model in MODELS:
        asked = Prover(build(design.load(model[0]), model[1]))
        for prop, premise in questions(asked.model):
            if premise.value in expected(*model, prop):
                assert isinstance(asked.prove(find(prop), premise), Theorem)
                count += 1
    assert count > 500
    assert time.process_time() - start < 20  # 5 s where nothing else runs


def test_hints_that_prove_nothing_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(design.load("bind-2018-device"))
    good = library.hints(model)
    key = ("device-isolation", EDGE)
    lies = [
        (),
        good.theorems[key][1:],
        (Clause((FALSE,)),),
        (Clause((Not(v.INFLUENCE(v.F1, v.H1)),)),),  # over facts alone: no action breaks it
        (Clause((Not(v.GRANTED(v.rid(v.F), v.P, v.S)),)),),  # variables of actions
        *((*good.theorems[key], Clause((Not(v.GRANTED(v.rid(v.F1), v.P1, v.S1)),))),),
    ]
    goal = safe_goal(find(key[0]), model)
    for lie in lies:
        assert verified(model, [Claim(lie, Premise(key[1]), goal)], Clock.seconds(60)) == [False]
    hints = replace(good, theorems={key: lies[1]})
    monkeypatch.setattr("dmaproof.engine.theorems.hints", lambda _: hints)
    found = Prover(model).prove(find(key[0]), Premise(key[1]))  # by inference
    assert isinstance(found, Theorem)
    assert set(found.invariant) != set(lies[1])


def test_one_bad_claim_does_not_cost_the_others() -> None:
    model = build(design.load("bind-2018-device"))
    good = library.hints(model).theorems
    goals = {k: safe_goal(find(k[0]), model) for k in good}
    claims = [Claim(c, Premise(k[1]), goals[k]) for k, c in good.items()]
    bad = replace(claims[0], clauses=claims[0].clauses[1:])
    answers = verified(model, [bad, *claims[1:4]], Clock.seconds(60))
    assert answers == [False, True, True, True]
    assert verified(model, [], Clock.seconds(1)) == []
    assert verified(model, claims[:2], Clock.seconds(-1)) == [False, False]


def test_a_changed_model_ignores_the_library() -> None:
    base = design.load("bind-2018-device")
    guards = base.guards.model_copy(update={"not_bound": False})
    changed = build(base.model_copy(update={"guards": guards}))
    assert library.hints(changed) is library.NOTHING
    renamed = build(base.model_copy(update={"name": "mine"}))
    assert library.hints(renamed).theorems  # the same system under another name
    found = Prover(renamed).prove(find("unbind-final"), Premise.NONE)
    assert isinstance(found, Theorem)
    assert found.name == "mine/unbind-final/none"


def test_damaged_files_of_the_library_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(design.load("bind-2018-device"))
    mark = library.fingerprint(model)
    good = library._files()[mark]
    for keys in ({"clauses": []}, {"clauses": 3}, {"clauses": ["(bad"]}, {"theorems": []},
                 {"unproved": None}):
        monkeypatch.setattr(library, "_files", lambda k=keys: {mark: {**good, **k}})
        assert library.hints(model) is library.NOTHING


@pytest.mark.slow
def test_regeneration_finds_the_same_theorems() -> None:
    model = build(design.load("bind-2018-device"))
    again = regenerate.entry(model)
    known = library._files()[library.fingerprint(model)]
    assert again["inference"] == known["inference"]
    assert again["unproved"] == known["unproved"]
    assert {p: set(q) for p, q in again["theorems"].items()} == {
        p: set(q) for p, q in known["theorems"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=named)
def test_every_invariant_is_minimal(model: tuple[str, bool]) -> None:
    built = build(design.load(model[0]), model[1])
    for (prop, premise), clauses in library.hints(built).theorems.items():
        goal = safe_goal(find(prop), built)
        for i in range(len(clauses)):
            claim = Claim((*clauses[:i], *clauses[i + 1 :]), Premise(premise), goal)
            assert verified(built, [claim], Clock.seconds(20)) == [False], (prop, premise, i)


def test_clauses_are_written_with_their_literals() -> None:
    stretch = Or((v.PASID_CACHE(v.R1, v.P1, v.S1), v.IOTLB(v.R1, v.P1, v.S1)))
    clause = Clause((Not(v.GRANTED(v.R1, v.P1, v.S1)), stretch))
    reader = smtlib.Reader(build(design.load("bind-2018-device")).core)
    assert library.clause_of(reader.formula(library.text_of(clause))) == clause
    assert reader.formula(smtlib.text(clause.closed)) == forall(clause.variables, clause.matrix)
