"""SMT-LIB text of formulas and systems: known texts, and reading back what was written."""

from __future__ import annotations

import contextlib

import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st
from logic.strategies import FNS, RELS, A, B, Names, formulas, instances, states, systems

from dmaproof.model import design
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.sets import holds
from dmaproof.model.logic.system import Module, compose
from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    And,
    Atom,
    Eq,
    Fn,
    Formula,
    Not,
    Or,
    Quantified,
    Rel,
    Sort,
    Var,
)
from dmaproof.model.vfio.build import build

PLAIN = compose("plain", Module("symbols", FNS, RELS))
READER = smtlib.Reader(PLAIN)
X, Y = Var("x", A), Var("y", B)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("in_container", "in_container"),
        ("free.s", "free.s"),
        ("sk!F", "sk!F"),
        ("2018", "|2018|"),
        ("a b", "|a b|"),
        ("exists", "|exists|"),
        ("", "||"),
    ],
)
def test_symbols_are_quoted_where_needed(name: str, written: str) -> None:
    assert smtlib.symbol(name) == written


@pytest.mark.parametrize("name", ["a|b", "a\\b", "true", "and", "Bool", "\u00e9", "a\nb"])
def test_names_that_cannot_be_symbols(name: str) -> None:
    with pytest.raises(ValueError):
        smtlib.symbol(name)


@pytest.mark.parametrize(
    ("source", "formula"),
    [
        ("true", TRUE),
        ("flag", Atom(RELS[2], ())),
        ("(not (edge x x))", Not(RELS[0](X, X))),
        ("(= (f x) base)", Eq(FNS[0](X), FNS[2]())),
        ("(forall ((z A)) (or (held z) (edge z x)))", Quantified(
            True, (Var("z", A),), Or((RELS[3](Var("z", A)), RELS[0](Var("z", A), X)))
        )),
        ("(exists ((|z| |A|)) ; words\n (held z))", Quantified(
            False, (Var("z", A),), RELS[3](Var("z", A))
        )),
    ],
)
def test_known_texts(source: str, formula: Formula) -> None:
    assert READER.formula(source, [X, Y]) == formula


@pytest.mark.parametrize(
    "source",
    [
        "", "(", ")", "flag flag", "(held)", "(held x x)", "(held y)", "(held z)", "(nothing x)",
        "x", "(x)", "()", "(())", "(and flag)", "(not)", "(= x y)", "(forall () flag)",
        "(forall ((z C)) flag)", "(forall ((z A) (z B)) flag)", "(forall ((z A)))", '"flag"',
        "(forall ((held A)) (held held))", "|flag", "(" * 5000, "(not " * 200 + "flag" + ")" * 200,
        "(held (f x))", "((held x))", "(or flag \x00)", "(let ((q flag)) q)",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(source: str) -> None:
    with pytest.raises(ValueError):
        READER.formula(source, [X, Y])


@given(formulas((X, Y), Names("q")))
def test_a_formula_read_back_is_written_the_same(formula: Formula) -> None:
    text = smtlib.text(formula)
    again = READER.formula(text, [X, Y])
    assert smtlib.text(again) == text
    assert READER.formula(smtlib.pretty(smtlib.sexp(formula)), [X, Y]) == again
    if _regular(formula):
        assert again == formula


@given(st.data())
def test_a_formula_read_back_means_the_same(data: st.DataObject) -> None:
    formula = data.draw(formulas((X, Y), Names("q")))
    instance = data.draw(instances())
    state = data.draw(states(instance))
    again = READER.formula(smtlib.text(formula), [X, Y])
    for x in instance.domain(A):
        for y in instance.domain(B):
            env = {X: x, Y: y}
            assert holds(formula, instance, state, env) == holds(again, instance, state, env)


def _regular(formula: Formula) -> bool:
    """Whether no conjunction or disjunction has fewer than two parts (text cannot show those)."""
    match formula:
        case Not(body) | Quantified(_, _, body):
            return _regular(body)
        case And(parts) | Or(parts):
            return len(parts) > 1 and all(map(_regular, parts))
    return True


@settings(max_examples=40)
@given(systems())
def test_a_random_system_is_a_legal_script(system: object) -> None:
    z3.SimpleSolver().from_string(smtlib.system_text(system))  # type: ignore[arg-type]


@given(st.text(alphabet="()|; \nabx=", max_size=40))
def test_any_text_reads_or_is_refused(source: str) -> None:
    with contextlib.suppress(ValueError):
        READER.formula(source, [X, Y])


@pytest.mark.parametrize("name", design.builtin_names())
def test_systems_of_designs_are_legal_and_their_axioms_and_premises_read_back(name: str) -> None:
    system = build(design.load(name)).core
    text = smtlib.system_text(system)
    assert text == smtlib.system_text(system)
    z3.SimpleSolver().from_string(text)
    reader = smtlib.Reader(system)
    for axiom in system.axioms.values():
        assert reader.formula(smtlib.text(axiom)) == axiom
    for act in system.actions:
        assert reader.formula(smtlib.text(act.guard), act.params) == act.guard


def test_pretty_lines_fit_and_say_the_same() -> None:
    system = build(design.load("sva-2018-vfio")).core
    for act in system.actions:
        expression = smtlib.sexp(act.guard)
        lines = smtlib.pretty(expression)
        assert smtlib.read(lines) == smtlib.read(smtlib.flat(expression))
        assert max(map(len, lines.split("\n"))) <= smtlib.WIDTH + 20  # closing parentheses


def test_symbols_that_would_be_confused_are_refused() -> None:
    here = Sort("Here")
    rel, other = Rel("r", (here,)), Rel("r.after", (here,))
    twice = Module("m", rels=(rel, other))
    with pytest.raises(ValueError, match=r"r\.after"):
        smtlib.system_text(compose("twice", twice))
    both = Module("m", fns=(Fn("r", (), here),), rels=(rel,))
    with pytest.raises(ValueError, match="called r"):
        smtlib.system_text(compose("both", both))
    assert smtlib.Reader(compose("one", Module("m", rels=(rel,)))).formula("false") == FALSE
