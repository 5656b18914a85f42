"""Systems: what they refuse, how modules compose, how mutants are made."""

from __future__ import annotations

import pytest

from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import (
    Instance,
    ReplayError,
    Step,
    apply,
    failing_guard,
    initial_state,
    replay,
)
from dmaproof.model.logic.smt import Uninterpreted
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    System,
    Update,
    action,
    compose,
    delete,
    delete_where,
    initially,
    insert,
    insert_where,
    weakest_precondition,
)
from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    Eq,
    Fn,
    Formula,
    Kind,
    Rel,
    Sort,
    Var,
    and_,
    exists,
    forall,
    not_,
    or_,
)

NODE, COLOUR = Sort("Node"), Sort("Colour")
N, M = Var("n", NODE), Var("m", NODE)
K = Var("k", COLOUR)
NEXT = Fn("next", (NODE,), NODE)
ROOT = Fn("root", (), NODE)
EDGE = Rel("edge", (NODE, NODE), Kind.STATIC)
SEEN = Rel("seen", (NODE,))
OPEN = Rel("open", (NODE,))
TINT = Rel("tint", (NODE, COLOUR))
WHO = Rel("who", (NODE,), Kind.GHOST)
SYMBOLS = Module("symbols", (NEXT, ROOT), (EDGE, SEEN, OPEN, TINT, WHO))
LINE = Instance(
    {NODE: ("n0", "n1", "n2"), COLOUR: ("red", "blue")},
    {NEXT: {(0,): 1, (1,): 2, (2,): 2}, ROOT: {(): 0}},
    {EDGE: frozenset({(0, 1), (1, 2)})},
)


def built(*actions: Action, **more: object) -> System:
    return compose("built", SYMBOLS, Module("more", actions=actions, **more))  # type: ignore[arg-type]


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Action("a", (), (Guard("g", SEEN(N)),)), "guard g leaves n free"),
        (lambda: Action("a", (), (), (insert(SEEN, N),)), "update of seen: n free"),
        (lambda: Action("a", (N,), (), (insert(SEEN, N), delete(SEEN, N))), "two updates of one"),
        (lambda: Action("a", (N,), (), (Update(SEEN, (N,), TRUE),)), "hides parameter n"),
        (lambda: Action("a", (N, Var("n", COLOUR))), "two parameters of one name"),
        (lambda: Update(EDGE, (N, M), TRUE), "edge is static"),
        (lambda: Update(SEEN, (K,), TRUE), "wrong sorts"),
        (lambda: Update(SEEN, (N, M), TRUE), "wrong sorts"),
        (lambda: Update(Rel("pair", (NODE, NODE)), (N, N), TRUE), "stands for two arguments"),
        (lambda: insert(SEEN, K), "seen takes"),
        (lambda: insert(TINT, N), "tint takes"),
        (lambda: delete(TINT, N), "tint takes"),
        (lambda: insert(SEEN, N).after((K,)), "seen takes"),
    ],
)
def test_malformed_actions_are_type_errors(wrong: object, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Module("x", axioms={"all-seen": forall((N,), SEEN(N))}), "all-seen constrains mutable"),
        (Module("x", axioms={"mixed": exists((N,), or_(EDGE(N, N), WHO(N)))}), "relations: who"),
        (Module("x", axioms={"loose": EDGE(N, N)}), "axiom loose is not closed"),
        (Module("x", axioms={"far": exists((N,), Rel("far", (NODE,), Kind.STATIC)(N))}), "far"),
        (Module("x", initial={SEEN: ((N,), OPEN(N))}), "given by static relations"),
        (Module("x", initial={SEEN: ((N,), EDGE(N, M))}), "leaves m free"),
        (Module("x", initial={SEEN: ((K,), TRUE)}), "wrong sorts"),
        (Module("x", initial={EDGE: ((N, M), TRUE)}), "no mutable relation"),
        (Module("x", initial={Rel("far", ()): ((), TRUE)}), "no mutable relation"),
        (Module("x", actions=(Action("a", (), (), (insert(Rel("far", ())),)),)), "undeclared far"),
        (Module("x", actions=(Action("a", (N,), (Guard("g", Eq(N, Fn("top", (), NODE)())),)),)),
         "undeclared top"),
    ],
)
def test_malformed_systems_are_type_errors(module: Module, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        compose("wrong", SYMBOLS, module)


def test_no_refusal_rests_on_a_ghost() -> None:
    refuses = action("a", (N,), [Guard("g", WHO(N), "EPERM")], actor=Actor.USER)
    with pytest.raises(TypeError, match="guard g reads ghost who"):
        built(refuses)
    waits = action("a", (N,), [Guard("g", WHO(N))], actor=Actor.KERNEL)
    with pytest.raises(TypeError, match="guard g reads ghost who"):
        built(waits)
    with pytest.raises(TypeError, match="seen depends on ghost who"):
        built(action("a", (N,), updates=[insert(SEEN, N, when=WHO(N))]))
    # The user may know for whom it made its calls, and bookkeeping may read bookkeeping.
    built(action("a", (N,), [Guard("g", WHO(N))], [delete_where(WHO, (M,), WHO(M))], Actor.USER))


def test_two_actions_of_one_name_are_an_error() -> None:
    act = action("a", (), updates=[insert_where(SEEN, (N,), TRUE)])
    with pytest.raises(TypeError, match="two actions are called a"):
        System("s", (), (SEEN,), {}, {}, (act, act), {})


# -- composition -----------------------------------------------------------------------------


def test_modules_join_guards_in_order_and_updates_at_once() -> None:
    first = action("go", (N,), [Guard("one", TRUE)], [insert(SEEN, N), insert(OPEN, N)],
                   Actor.USER, "goes to {n}")
    second = action("go", (N,), [Guard("two", SEEN(N)), Guard("one", not_(OPEN(N)))],
                    [delete_where(SEEN, (M,), TRUE)])
    system = compose("both", SYMBOLS, Module("x", actions=(first,)), Module("y", actions=(second,)))
    act = system.action("go")
    assert [g.name for g in act.guards] == ["one", "two", "one"]
    assert (act.actor, act.says) == (Actor.USER, "goes to {n}")
    assert [u.rel for u in act.updates] == [SEEN, OPEN]
    state = {**initial_state(system, LINE), SEEN: frozenset({(0,), (1,)})}
    after = apply(act, (1,), LINE, state)
    # What one module inserts the other does not delete.
    assert after[SEEN] == {(1,)}
    assert after[OPEN] == {(1,)}
    assert system.module_of[SEEN] == "symbols"


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (Module("x", (Fn("c", (), NODE),)), Module("y", (Fn("c", (), COLOUR),)), "function c"),
        (Module("x", rels=(Rel("r", ()),)), Module("y", rels=(Rel("r", (NODE,)),)), "relation r"),
        (Module("x", rels=(Rel("r", ()),)), Module("y", rels=(Rel("r", (), Kind.GHOST),)), "r is"),
        (Module("x", axioms={"a": TRUE}), Module("y", axioms={"a": FALSE}), "axiom a"),
        (Module("x", initial={SEEN: ((N,), TRUE)}), Module("y", initial={SEEN: ((N,), FALSE)}),
         "initial content of seen"),
        (Module("x", actions=(action("a", (N,)),)), Module("y", actions=(action("a", (M,)),)),
         "disagree on its parameters"),
    ],
)
def test_modules_that_disagree_are_type_errors(first: Module, second: Module, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        compose("wrong", SYMBOLS, first, second)


def test_modules_may_repeat_what_they_agree_on() -> None:
    same = Module("again", SYMBOLS.fns, SYMBOLS.rels, {"a": TRUE}, {SEEN: ((N,), Eq(N, ROOT()))})
    system = compose("twice", SYMBOLS, same, same)
    assert system.rels == SYMBOLS.rels
    assert system.sorts == (COLOUR, NODE)


# -- steps -----------------------------------------------------------------------------------

WALK = action(
    "walk", (N, M),
    [Guard("edge", EDGE(N, M), "ENOENT"), Guard("here", SEEN(N), "EINVAL"),
     Guard("not-there", not_(SEEN(M)))],
    [delete(SEEN, N), insert(SEEN, M), insert(OPEN, M, when=OPEN(N))],
    Actor.USER, "walks from {n} to {m}",
)
TOKEN = built(WALK, initial={SEEN: ((N,), Eq(N, ROOT()))})


def test_updates_read_the_state_before() -> None:
    swap = action("swap", (), updates=[
        Update(SEEN, (N,), OPEN(N), not_(OPEN(N))), Update(OPEN, (M,), SEEN(M), not_(SEEN(M)))
    ])
    state = {**initial_state(TOKEN, LINE), SEEN: frozenset({(0,)}), OPEN: frozenset({(2,)})}
    after = apply(swap, (), LINE, state)
    assert (after[SEEN], after[OPEN]) == ({(2,)}, {(0,)})
    assert state[SEEN] == {(0,)}
    ground = GroundSystem(built(swap), LINE)
    ((_, packed),) = ground.compile_successors()(ground.pack(state))
    assert ground.unpack(packed) == after


def test_the_first_failing_guard_is_named() -> None:
    state = initial_state(TOKEN, LINE)
    assert state[SEEN] == {(0,)}
    names = {
        args: getattr(failing_guard(WALK, args, LINE, state), "name", None)
        for args in [(0, 1), (1, 2), (0, 2)]
    }
    assert names == {(0, 1): None, (1, 2): "here", (0, 2): "edge"}


def test_a_run_replays_state_by_state() -> None:
    states = replay(TOKEN, LINE, [Step("walk", (0, 1)), Step("walk", (1, 2))])
    assert [s[SEEN] for s in states] == [{(0,)}, {(1,)}, {(2,)}]
    assert replay(TOKEN, LINE, []) == [initial_state(TOKEN, LINE)]


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (Step("fly", (0,)), "step 2: built has no action fly"),
        (Step("walk", (1,)), r"step 2: walk does not take \(1,\)"),
        (Step("walk", (1, 2, 0)), "step 2: walk does not take"),
        (Step("walk", (1, 3)), "step 2: walk does not take"),
        (Step("walk", (-1, 0)), "step 2: walk does not take"),
        (Step("walk", (0, 1)), "step 2: walk is refused by guard here"),
        (Step("walk", (1, 0)), "step 2: walk is refused by guard edge"),
    ],
)
def test_replay_says_which_step_is_wrong_and_why(step: Step, says: str) -> None:
    with pytest.raises(ReplayError, match=says):
        replay(TOKEN, LINE, [Step("walk", (0, 1)), step])


# -- mutants and reductions ------------------------------------------------------------------


def test_a_guard_or_an_update_can_be_left_out() -> None:
    free = WALK.without_guard("edge")
    assert [g.name for g in free.guards] == ["here", "not-there"]
    assert replay(TOKEN.with_action(free), LINE, [Step("walk", (0, 2))])[-1][SEEN] == {(2,)}
    copies = TOKEN.with_action(WALK.without_update("seen"))
    assert replay(copies, LINE, [Step("walk", (0, 1))])[-1][SEEN] == {(0,)}
    for wrong in (
        lambda: WALK.without_guard("edges"),
        lambda: WALK.without_update("tint"),
        lambda: TOKEN.with_action(action("fly", ())),
        lambda: TOKEN.action("fly"),
        lambda: TOKEN.rel("wings"),
    ):
        with pytest.raises(KeyError):
            wrong()


def test_forgetting_a_relation_drops_its_guards_and_updates() -> None:
    paint = action("paint", (N, K), [Guard("seen", SEEN(N)), Guard("plain", not_(TINT(N, K)))],
                   [insert(TINT, N, K)])
    system = built(WALK, paint, initial={SEEN: ((N,), Eq(N, ROOT()))})
    less = system.without_relations(frozenset([SEEN]))
    assert SEEN not in less.rels
    assert SEEN not in less.initial
    assert SEEN not in less.module_of
    assert [g.name for g in less.action("paint").guards] == ["plain"]
    assert [g.name for g in less.action("walk").guards] == ["edge"]
    # An action that changes nothing any more is gone.
    gone = system.without_relations(frozenset([TINT]))
    assert [a.name for a in gone.actions] == ["walk"]


def test_forgetting_what_others_depend_on_is_an_error() -> None:
    copy = action("copy", (), updates=[
        Update(SEEN, (N,), or_(OPEN(N), exists((K,), TINT(N, K)))), insert_where(OPEN, (N,), TRUE)
    ])
    system = built(copy)
    with pytest.raises(ValueError, match=r"copy: seen depends on open$"):
        system.without_relations(frozenset([OPEN]))
    less = system.without_relations(frozenset([OPEN, SEEN]))
    assert less.actions == ()


# -- transformations of formulas -------------------------------------------------------------


def test_weakest_precondition_of_an_insertion() -> None:
    assert weakest_precondition(WALK, TINT(N, K)) == TINT(N, K)
    x = Var("x", NODE)
    assert weakest_precondition(WALK, SEEN(x)) == or_(
        Eq(x, M), and_(SEEN(x), not_(Eq(x, N)))
    )
    always = action("all", (), updates=[insert_where(SEEN, (N,), TRUE)])
    assert weakest_precondition(always, forall((x,), SEEN(x))) == TRUE


def test_weakest_precondition_refuses_capture() -> None:
    with pytest.raises(ValueError, match="walk: n is a parameter and bound"):
        weakest_precondition(WALK, forall((N,), SEEN(N)))
    inner = action("near", (), updates=[Update(SEEN, (N,), exists((M,), EDGE(N, M)))])
    with pytest.raises(ValueError, match="captured"):
        weakest_precondition(inner, forall((M,), SEEN(M)))


def test_initially_knows_what_starts_empty() -> None:
    x = Var("x", NODE)
    assert initially(TOKEN, OPEN(x)) == FALSE
    assert initially(TOKEN, WHO(x)) == FALSE
    assert initially(TOKEN, not_(exists((x,), OPEN(x)))) == TRUE
    assert initially(TOKEN, forall((x,), or_(SEEN(x), EDGE(x, x)))) == forall(
        (x,), or_(Eq(x, ROOT()), EDGE(x, x))
    )


# -- instances and constants -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"elements": {NODE: ("n0", "n1", "n2")}}, "no Colour"),
        ({"functions": {ROOT: {(): 0}}}, r"next\(0,\) has no value"),
        ({"functions": {**LINE.functions, ROOT: {(): 3}}}, r"root\(\) has no value"),
        ({"facts": {EDGE: frozenset({(2, 2)})}}, "violates axiom no-loop"),
        ({"facts": {SEEN: frozenset({(0,)})}}, "seen is not static"),
        ({"facts": {EDGE: frozenset({(0, 7)})}}, r"edge\(0, 7\) is about no element"),
        ({"facts": {EDGE: frozenset({(0,)})}}, r"edge\(0,\) is about no element"),
    ],
)
def test_an_instance_that_does_not_fit_is_an_error(change: dict[str, object], says: str) -> None:
    system = built(axioms={"no-loop": forall((N,), not_(EDGE(N, N)))})
    parts = {"elements": LINE.elements, "functions": LINE.functions, "facts": LINE.facts}
    LINE.check(system)
    with pytest.raises(ValueError, match=says):
        Instance(**{**parts, **change}).check(system)  # type: ignore[arg-type]


def test_a_variable_is_never_taken_for_a_constant() -> None:
    """z3 would silently identify a parameter called `root` with the constant symbol `root`."""
    root = Var("root", NODE)
    formula: Formula = Eq(root, ROOT())
    reading = Uninterpreted()
    with pytest.raises(ValueError, match="root of sort Node"):
        reading.formula(formula, reading.constants((root,), ""))
    other = Uninterpreted()
    other.formula(exists((N,), Eq(N, ROOT())), {})
    with pytest.raises(ValueError, match="root of sort Node"):
        other.constants((root,), "")
    assert "sk!root" in str(other.constants((root,), "sk!"))


def test_a_quantifier_never_captures_a_constant() -> None:
    reading = Uninterpreted()
    free = Var("n!1", NODE)
    env = reading.constants((free,), "")
    with pytest.raises(ValueError, match="n!1 of sort Node"):
        reading.formula(exists((N,), and_(SEEN(N), not_(SEEN(free)))), env)
