"""Guards against vacuity: the built-in designs are alive, and what kills an action is caught."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from dmaproof.engine.driver import Driver
from dmaproof.engine.theorems import NotProved, Prover, Theorem
from dmaproof.engine.vacuity import Witnesses, check_vacuity
from dmaproof.model.design import Bind, Design, builtin_names, load
from dmaproof.model.logic.system import Guard
from dmaproof.model.logic.terms import FALSE, exists, forall, ne, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import find

DESIGNS = [(name, hot) for name in builtin_names() for hot in (False, True)]
IDS = [f"{name}{'+hot-add' if hot else ''}" for name, hot in DESIGNS]


def killed(model: Model, name: str) -> Model:
    """The model with an action that can never fire."""
    act = model.system.action(name)
    dead = replace(act, guards=(*act.guards, Guard("never", FALSE)))
    return replace(model, system=model.system.with_action(dead))


def with_axiom(model: Model, axiom: object) -> Model:
    axioms = {**model.system.axioms, "added": axiom}
    return replace(model, system=replace(model.system, axioms=axioms))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "hot"), DESIGNS, ids=IDS)
def test_no_built_in_theorem_is_empty(name: str, hot: bool) -> None:
    model = build(load(name), hot)
    witnesses = Witnesses(model)
    start = time.process_time()
    found = {p: check_vacuity(model, p, witnesses) for p in Premise}
    assert time.process_time() - start < 1.0  # 0.02 s on an idle computer
    assert {p: x.reason for p, x in found.items() if x} == {}
    for premise, vacuity in found.items():
        assert vacuity.met or premise is Premise.NOTHING_BINDABLE
        assert vacuity.bindable != (premise is Premise.NOTHING_BINDABLE)
        assert set(vacuity.excused) == set(vacuity.never)
    assert found[Premise.NONE].never == ()
    assert found[Premise.CLOSED_GROUPING].never == ()


def test_excuses_name_what_cannot_happen() -> None:
    model = build(load("sva-2018-vfio"))
    single = check_vacuity(model, Premise.ONE_FUNCTION)
    assert single.never == ("join.visit",)
    assert "before its first bind" in single.excused["join.visit"]
    nothing = check_vacuity(model, Premise.NOTHING_BINDABLE)
    assert "bind.enter" in nothing.excused
    assert "set-container" not in nothing.never


@pytest.mark.parametrize(
    ("name", "stride"), [("bind-2018-device", 5), ("sva-2018-core", 1), ("type1", 4)]
)
def test_every_action_is_watched(name: str, stride: int) -> None:
    model = build(load(name))
    for act in model.system.actions[::stride]:
        found = check_vacuity(killed(model, act.name), Premise.NONE)
        assert act.name in found.silent
        assert found.reason.startswith("vacuous: action ")


@pytest.mark.parametrize("premise", [Premise.ONE_FUNCTION, Premise.NOTHING_BINDABLE])
def test_an_excuse_needs_an_action_that_fires_elsewhere(premise: Premise) -> None:
    model = killed(build(load("sva-2018-vfio")), "join.visit")
    assert check_vacuity(model, premise).silent == ("join.visit",)


F, H = v.F1, v.H1


@pytest.mark.parametrize(
    ("axiom", "reason"),
    [
        (forall((F,), not_(v.CAPABLE(F))), "action bind.enter never fires"),
        (exists((F,), ne(F, F)), "no instance satisfies the axioms and the premise"),
        (forall((F,), exists((H,), ne(F, H))), ""),  # two functions at least: that is alive
        (forall((F,), v.PORTED(v.group(F))), ""),
    ],
)
def test_an_axiom_that_kills_an_action_is_caught(axiom: object, reason: str) -> None:
    model = with_axiom(build(load("bind-2018-group")), axiom)
    assert check_vacuity(model, Premise.CLOSED_GROUPING).reason.removeprefix("vacuous: ") == reason


def test_an_axiom_kills_a_design_of_single_functions() -> None:
    model = with_axiom(build(load("sva-2018-core")), forall((F,), v.PORTED(v.group(F))))
    assert check_vacuity(model, Premise.NONE).reason == "vacuous: action bind.enter never fires"


def test_a_premise_that_only_unbindable_machines_meet_is_caught() -> None:
    # Every action fires, but on functions that the premise's own words do not call bindable.
    model = build(load("bind-2018-device"))
    design = Design.model_validate(
        {**model.design.model_dump(by_alias=True), "guards": {"singleton": True}}
    )
    wrong = replace(model, design=design, scheme=replace(model.scheme, design=design))
    alive = check_vacuity(wrong, Premise.SINGLE_GROUP)
    assert alive.bindable
    crowd = with_axiom(wrong, forall((F,), exists((H,), ne(F, H))))
    assert "no function can be bound" in check_vacuity(crowd, Premise.SINGLE_GROUP).reason


# -- in the driver ---------------------------------------------------------------------------


@pytest.mark.parametrize("premise", [Premise.NONE, Premise.NO_EDGES])
def test_an_empty_theorem_is_no_theorem(
    premise: Premise, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = killed(build(load("sva-2018-core")), "bind.enter")
    prop = find("device-isolation")
    claimed = Theorem("sva-2018-core", prop.id, premise, False, ())
    monkeypatch.setattr(Prover, "prove", lambda *_: claimed)
    found = Driver.of(model).theorem(prop, premise)
    assert found == NotProved("vacuous: action bind.enter never fires", False)


def test_the_prover_alone_would_fall_for_it() -> None:
    model = killed(build(load("sva-2018-core")), "bind.enter")
    prop = find("device-isolation")
    prover = Prover(model, seconds=20, use_library=False)
    assert isinstance(prover.prove(prop, Premise.NONE), Theorem)
    assert isinstance(Driver(model, prover).theorem(prop, Premise.NONE), NotProved)
    assert isinstance(Driver.of(build(load("sva-2018-core"))).theorem(prop, Premise.NO_EDGES),
                      Theorem)


# -- designs of users ------------------------------------------------------------------------


@pytest.mark.parametrize("obj", ["device", "group", "container"])
@pytest.mark.parametrize(
    ("kind", "payload", "tables"),
    [("bind-2018", "table", ("object", "container")), ("sva-2018", "process", ("object",))],
)
@pytest.mark.parametrize("singleton", [False, True])
@pytest.mark.parametrize("ats", [False, True])
def test_sensible_designs_are_alive(
    obj: str, kind: str, payload: str, tables: tuple[str, ...], singleton: bool, ats: bool
) -> None:
    for table in tables:
        for guard in ("singleton_container", "acs_path"):
            design = Design.model_validate({
                "schema": "dmaproof/design/1", "name": "x", "title": "x", "year": 2018,
                "interface": {"kind": kind, "object": obj, "payload": payload, "table": table},
                "guards": {"singleton": singleton, guard: True},
                "bind": {"undo": singleton}, "fabric": {"ats": ats},
            })
            model = build(design)
            witnesses = Witnesses(model)
            assert [r for p in Premise if (r := check_vacuity(model, p, witnesses).reason)] == []


def test_type1_without_replay_attaches_nothing() -> None:
    # The loader refuses this design; the guard would catch it all the same.
    model = build(load("type1").model_copy(update={"bind": Bind(replay=False)}))
    reason = check_vacuity(model, Premise.NONE).reason
    assert reason == "vacuous: action pasid-cache.fill never fires"
