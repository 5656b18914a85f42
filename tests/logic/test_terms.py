"""Terms and formulas: sorts, printing, substitution."""

from __future__ import annotations

import pytest

from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    And,
    Atom,
    Eq,
    Fn,
    Kind,
    Or,
    Quantified,
    Rel,
    Sort,
    Var,
    and_,
    exists,
    forall,
    free_vars,
    functions,
    iff,
    implies,
    ne,
    not_,
    or_,
    relations,
    substitute,
    substitute_term,
)

FUNCTION, RID = Sort("Function"), Sort("Rid")
F, G = Var("f", FUNCTION), Var("g", FUNCTION)
R = Var("r", RID)
RID_OF = Fn("rid", (FUNCTION,), RID)
HOME = Fn("home", (), FUNCTION)
BOUND = Rel("bound", (FUNCTION,))
TAB = Rel("tab", (RID, FUNCTION), Kind.STATIC)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BOUND(R),
        BOUND,
        lambda: BOUND(F, G),
        lambda: TAB(F, R),
        lambda: RID_OF(R),
        lambda: RID_OF(F, G),
        lambda: Eq(F, R),
        lambda: ne(F, R),
        lambda: Eq(RID_OF(F), HOME()),
    ],
)
def test_wrong_sorts_are_type_errors(wrong: object) -> None:
    with pytest.raises(TypeError):
        wrong()  # type: ignore[operator]


def test_a_substitution_of_another_sort_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="f is a Function, r a Rid"):
        substitute(BOUND(F), {F: R})


@pytest.mark.parametrize("quantify", [forall, exists])
def test_capture_is_refused(quantify: object) -> None:
    formula = quantify((G,), TAB(RID_OF(F), G))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"\['g'\] would be captured"):
        substitute(formula, {F: G})
    # Deeper down, and inside of a term.
    with pytest.raises(ValueError, match="captured"):
        substitute(not_(and_(BOUND(F), formula)), {F: G})
    owner = Fn("owner", (RID,), FUNCTION)
    with pytest.raises(ValueError, match=r"\['r'\] would be captured"):
        substitute(quantify((R,), Eq(R, RID_OF(F))), {F: owner(R)})  # type: ignore[operator]


def test_substitution_leaves_bound_variables_alone() -> None:
    formula = and_(BOUND(F), exists((F,), TAB(RID_OF(F), G)))
    assert substitute(formula, {F: HOME()}) == and_(
        BOUND(HOME()), exists((F,), TAB(RID_OF(F), G))
    )
    # A replacement that does not occur free below cannot be captured.
    assert substitute(exists((G,), BOUND(G)), {F: G}) == exists((G,), BOUND(G))


def test_substitution_happens_at_once() -> None:
    assert substitute(TAB(RID_OF(F), G), {F: G, G: F}) == TAB(RID_OF(G), F)
    assert substitute_term(RID_OF(F), {F: G}) == RID_OF(G)


def test_constructors_fold() -> None:
    p, q = BOUND(F), BOUND(G)
    assert and_() == TRUE
    assert or_() == FALSE
    assert and_(p, TRUE, and_(q, p)) == And((p, q))
    assert and_(p, FALSE) == FALSE
    assert or_(p, FALSE, or_(q, p)) == Or((p, q))
    assert or_(p, TRUE) == TRUE
    assert and_(p, p) == p
    assert not_(not_(p)) == p
    assert not_(TRUE) == FALSE
    assert implies(TRUE, p) == p
    assert implies(p, TRUE) == TRUE
    assert iff(p, TRUE) == p
    assert forall((), p) == p
    assert forall((F,), TRUE) == TRUE
    assert exists((F,), p) == Quantified(False, (F,), p)


def test_free_variables_and_symbols() -> None:
    formula = and_(BOUND(F), forall((G,), implies(BOUND(G), TAB(RID_OF(HOME()), G))), ne(F, G))
    assert free_vars(formula) == {F, G}
    assert free_vars(forall((F, G), formula)) == frozenset()
    assert relations(formula) == {BOUND, TAB}
    assert functions(formula) == {RID_OF, HOME}
    assert functions(Eq(F, HOME())) == {HOME}


def test_formulas_print_as_sentences() -> None:
    formula = forall((F,), implies(BOUND(F), exists((G,), and_(ne(F, G), TAB(RID_OF(F), G)))))
    assert str(formula) == (
        "forall f: Function. not bound(f) or "
        "(exists g: Function. f != g and tab(rid(f), g))"
    )
    assert str(Atom(Rel("flag", ()), ())) == "flag()"
    assert str(And(())) == "true"
    assert str(Or(())) == "false"
