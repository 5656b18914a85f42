"""Kept answers: whole or not at all, authentic, and never believed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.engine import cache as kept
from dmaproof.engine.cache import Cache, key_of
from dmaproof.engine.candidates import Clause
from dmaproof.engine.known import Known, answer_of, data_of, meaning
from dmaproof.engine.scenarios import Open, Proved, Run, goal_of
from dmaproof.model.logic.sets import Step
from dmaproof.model.logic.terms import FALSE
from dmaproof.model.scenario import Scenario, StudyDesign, load

BUG, FIXED = "r27-replace-in-place", "r27-replace-handshake"
CLAIM = "no-mixed-walk"


def scenario_of(name: str) -> Scenario:
    return load(name).scenario


@pytest.fixture(autouse=True)
def _fresh() -> None:
    kept._secret.cache_clear()


def entries(folder: Path) -> list[Path]:
    return [p for p in (folder / "answers").glob("*/*") if p.is_file()]


def test_what_was_put_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get(key_of(["x"])) is None
    cache.put(key_of(["x"]), {"a": [1, "ü"]})
    assert cache.get(key_of(["x"])) == {"a": [1, "ü"]}
    assert cache.get(key_of(["y"])) is None


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert key_of(["ab", "c"]) != key_of(["a", "bc"]) != key_of(["abc"])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_makes_an_entry_no_entry(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = Cache(folder)
        cache.put(key_of(["x"]), {"answer": "proved"})
        (path,) = entries(folder)
        whole = path.read_bytes()
        damaged = data.draw(st.one_of(
            st.integers(0, len(whole) - 1).map(lambda n: whole[:n]),
            st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)).map(
                lambda t: whole[: t[0]] + bytes([whole[t[0]] ^ t[1]]) + whole[t[0] + 1 :]),
            st.binary(max_size=40).map(lambda tail: whole + tail).filter(lambda b: b != whole),
            st.binary(max_size=200),
        ))
        path.write_bytes(damaged)
        assert cache.get(key_of(["x"])) is None
        cache.put(key_of(["x"]), {"answer": "proved"})
        assert cache.get(key_of(["x"])) == {"answer": "proved"}


def test_an_entry_moved_to_another_question_is_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(key_of(["x"]), "yes")
    (path,) = entries(tmp_path)
    other = cache._path(key_of(["y"]))
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(path.read_bytes())
    assert cache.get(key_of(["y"])) is None


def test_another_key_voids_all_entries(tmp_path: Path) -> None:
    Cache(tmp_path).put(key_of(["x"]), "yes")
    (tmp_path / "key").write_bytes(b"\0" * 32)
    kept._secret.cache_clear()
    assert Cache(tmp_path).get(key_of(["x"])) is None


def test_a_half_written_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    Cache(tmp_path).put(key_of(["x"]), "yes")
    assert Cache(tmp_path).get(key_of(["x"])) == "yes"
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_used_costs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below", None):
        cache = Cache(folder)
        cache.put("00", 1)
        assert cache.get("00") is None
        cache.tidy()


def test_writers_in_parallel_leave_whole_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    value = {"x": "y" * 50_000}
    seen: list[object] = []

    def work() -> None:
        for _ in range(20):
            cache.put(key_of(["x"]), value)
            seen.append(cache.get(key_of(["x"])))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [value] * 80
    assert not list(tmp_path.glob("**/.draft-*"))


def test_drafts_of_dead_runs_are_removed_once_old(tmp_path: Path) -> None:
    import os

    Cache(tmp_path).put(key_of(["x"]), 1)
    (folder,) = (tmp_path / "answers").iterdir()
    old, new = (folder / f".draft-{n}-{n * 8:016x}" for n in (1, 2))
    old.write_text("")
    new.write_text("")
    os.utime(old, (1, 1))
    Cache(tmp_path).tidy()
    assert (old.exists(), new.exists()) == (False, True)


# -- answers about scenarios ----------------------------------------------------------------


def test_names_of_designs_do_not_matter_but_every_step_does() -> None:
    one, other = scenario_of(BUG), scenario_of(FIXED)
    goal = goal_of(one.claims[CLAIM])
    data = load(BUG).model_dump(by_alias=True)
    same = StudyDesign.model_validate(data | {"name": "mine"}).scenario
    assert meaning(one, goal) == meaning(same, goal)
    assert meaning(one, goal) != meaning(other, goal)
    assert meaning(one, goal) != meaning(one, goal_of(one.claims["can-walk"]))
    smaller = replace(one, instances=())
    assert meaning(one, goal) != meaning(smaller, goal)


def test_answers_survive_being_written(tmp_path: Path) -> None:
    known = Known(Cache(tmp_path))
    for name in (BUG, FIXED):
        scenario = scenario_of(name)
        found, _ = known.settle(scenario, scenario.claims[CLAIM])
        assert isinstance(found, Proved | Run)
        data = json.loads(json.dumps(data_of(found)))
        again = answer_of(data, scenario.system)
        assert data_of(again) == data


def test_the_second_time_the_answer_is_kept(tmp_path: Path) -> None:
    known = Known(Cache(tmp_path), library=False)
    scenario = scenario_of(BUG)
    first, origin = known.settle(scenario, scenario.claims[CLAIM])
    assert origin == "engines"
    again, origin = known.settle(scenario, scenario.claims[CLAIM])
    assert origin == "cache"
    assert again == first


class Liar(Cache):
    """A cache with authentic entries that say what its master wants."""

    def __init__(self, answer: object) -> None:
        object.__setattr__(self, "folder", None)
        object.__setattr__(self, "answer", answer)

    def get(self, key: str) -> object:
        return self.answer  # type: ignore[attr-defined]

    def put(self, key: str, answer: object) -> None:
        pass


FORGED = [
    {"invariant": [], "by_hand": []},
    {"invariant": ["(not (exists ((e Entry)) (present e)))"], "by_hand": []},
    {"invariant": ["false"], "by_hand": []},
    {"invariant": ["nonsense ("], "by_hand": []},
    {"invariant": ["true"], "by_hand": [7]},
    {"world": 0, "steps": []},
    {"world": 0, "steps": [["setup.enter", 0, 0]]},
    {"world": 0, "steps": [["walk.high", 0, 0, 1]]},
    {"world": 0, "steps": [["no-such", 0]]},
    {"world": -1, "steps": []},
    {"world": 99, "steps": []},
    {"steps": 3}, {}, [], 7, "proved", {"invariant": None},
]


@pytest.mark.parametrize("forged", FORGED, ids=range(len(FORGED)))
@pytest.mark.parametrize("name", [BUG, FIXED])
def test_a_forged_answer_never_becomes_a_verdict(name: str, forged: object) -> None:
    scenario = scenario_of(name)
    found, origin = Known(Liar(forged)).settle(scenario, scenario.claims[CLAIM], 20)
    assert isinstance(found, Run if name == BUG else Proved | Open)
    assert origin != "cache"


def test_a_proof_without_one_of_its_clauses_is_no_proof() -> None:
    scenario = scenario_of(FIXED)
    claim = scenario.claims[CLAIM]
    found, _ = Known().settle(scenario, claim)
    assert isinstance(found, Proved)
    from dmaproof.engine.known import stands

    goal = goal_of(claim)
    assert stands(scenario, goal, found)
    for i in range(len(found.invariant)):
        less = Proved(found.invariant[:i] + found.invariant[i + 1 :])
        assert not stands(scenario, goal, less), found.invariant[i]
    assert not stands(scenario, goal, Proved((*found.invariant, Clause((FALSE,)))))
    assert not stands(scenario, goal, Run(0, (Step("setup.enter", (0, 0)),)))
