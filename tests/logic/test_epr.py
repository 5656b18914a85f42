"""The fragment check names what leaves EPR, and lets stratified formulas pass."""

from __future__ import annotations

import pytest
import z3

from dmaproof.model.logic.epr import leaves_epr
from dmaproof.model.logic.smt import Uninterpreted
from dmaproof.model.logic.terms import (
    Eq,
    Fn,
    Formula,
    Rel,
    Sort,
    Var,
    and_,
    exists,
    forall,
    iff,
    implies,
    not_,
)

FUNCTION, RID, GROUP = Sort("Function"), Sort("Rid"), Sort("Group")
F, H = Var("f", FUNCTION), Var("h", FUNCTION)
R, S = Var("r", RID), Var("s", RID)
G = Var("g", GROUP)
X = Var("x", Sort("Space"))
RID_OF, RGROUP = Fn("rid", (FUNCTION,), RID), Fn("rgroup", (RID,), GROUP)
HOME = Fn("home", (), FUNCTION)
TAB = Rel("tab", (RID,))
BOUND = Rel("bound", (FUNCTION,))
FNS = (RID_OF, RGROUP, HOME)

EVERY_RID_HAS_A_FUNCTION = forall((R,), exists((F,), Eq(RID_OF(F), R)))


def test_a_cycle_is_named_with_its_culprits() -> None:
    found = leaves_epr(FNS, [("stratified", forall((F,), TAB(RID_OF(F)))),
                             ("surjective", EVERY_RID_HAS_A_FUNCTION)])
    assert found is not None
    assert set(found.cycle) == {RID, FUNCTION}
    assert found.cycle[0] == found.cycle[-1]
    assert set(found.culprits) == {"function rid", "surjective"}
    path = " -> ".join(map(str, found.cycle))
    assert path in ("Rid -> Function -> Rid", "Function -> Rid -> Function")
    assert str(found) == f"leaves EPR: {path}, because of {', '.join(found.culprits)}"


@pytest.mark.parametrize(
    "formula",
    [
        forall((F,), exists((R,), and_(BOUND(F), TAB(R)))),  # in the direction of rid
        forall((F,), exists((G,), Eq(RGROUP(RID_OF(F)), G))),
        exists((F,), forall((R,), implies(TAB(R), Eq(RID_OF(F), R)))),  # a constant, no function
        not_(forall((R,), exists((S,), not_(Eq(R, S))))),  # exists-forall once negated
        forall((F, H), implies(BOUND(F), BOUND(H))),
    ],
)
def test_stratified_alternation_passes(formula: Formula) -> None:
    assert leaves_epr(FNS, [("claim", formula)]) is None


@pytest.mark.parametrize(
    "formula",
    [
        forall((R,), exists((S,), not_(Eq(R, S)))),  # one sort needs ever new elements
        not_(exists((R,), forall((F,), not_(Eq(RID_OF(F), R))))),  # the same by negation
        forall((G,), exists((R,), Eq(RGROUP(R), G))),
        forall((R,), iff(TAB(R), exists((F,), Eq(RID_OF(F), R)))),
        forall((R,), forall((X,), exists((F,), and_(Eq(RID_OF(F), R), Eq(X, X))))),
    ],
)
def test_cycles_are_found_under_negation_and_through_one_sort(formula: Formula) -> None:
    assert leaves_epr(FNS, [("claim", formula)]) is not None


def test_formulas_close_a_cycle_together() -> None:
    down = forall((F,), exists((R,), and_(BOUND(F), TAB(R))))
    up = forall((R,), exists((F,), and_(TAB(R), BOUND(F))))
    assert leaves_epr((), [("down", down)]) is None
    assert leaves_epr((), [("up", up)]) is None
    found = leaves_epr((), [("down", down), ("up", up)])
    assert found is not None
    assert set(found.culprits) == {"down", "up"}
    # Negated, each is an exists-forall and harmless.
    assert leaves_epr((), [("down", not_(down)), ("up", not_(up))]) is None


def test_functions_alone_can_leave_the_fragment() -> None:
    owner = Fn("owner", (RID,), FUNCTION)
    found = leaves_epr((RID_OF, owner), [])
    assert found is not None
    assert set(found.culprits) == {"function rid", "function owner"}
    successor = leaves_epr((Fn("next", (RID,), RID),), [])
    assert successor is not None
    assert successor.cycle == (RID, RID)


def test_inside_the_fragment_z3_answers() -> None:
    """What the check lets pass is decided: here a satisfiable set with an alternation."""
    claims = [
        forall((F,), exists((R,), and_(BOUND(F), TAB(R), Eq(RID_OF(F), R)))),
        forall((R,), implies(TAB(R), not_(Eq(RGROUP(R), RGROUP(RID_OF(HOME())))))),
    ]
    assert leaves_epr(FNS, [(str(i), c) for i, c in enumerate(claims)]) is None
    reading, solver = Uninterpreted(), z3.Solver()
    solver.set("timeout", 10_000)
    solver.add(reading.formula(claims[0], {}))
    assert solver.check() == z3.sat
    solver.add(reading.formula(claims[1], {}))
    assert solver.check() == z3.unsat
