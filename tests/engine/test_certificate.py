"""Certificates: what cvc5 accepts, and that nothing else passes for a certificate."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.engine import certificate, second_solver
from dmaproof.engine.certificate import MANIFEST, certify, load, obligations, write
from dmaproof.engine.second_solver import Answer, ask
from dmaproof.engine.theorems import Prover, Theorem
from dmaproof.model import design
from dmaproof.model.errors import InputError
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import PROPERTIES, applicable, find

Key = tuple[str, bool, str, str]

SAMPLE: list[Key] = [
    ("bind-2018-device", False, "device-isolation", "no_edges"),
    ("bind-2018-group", False, "group-isolation", "closed_grouping"),
    ("bind-2018-container", False, "failed-call-changes-nothing", "none"),
    ("bind-2018-device", True, "unbind-final", "none"),
    ("type1", False, "container-separation", "closed_grouping"),
    ("sva-2018-core", False, "can-bind", "nothing_bindable"),
]
HERE = SAMPLE[0]


@cache
def prover(name: str, hot_add: bool) -> Prover:
    return Prover(build(design.load(name), hot_add))


@cache
def theorem(key: Key) -> tuple[Theorem, Model]:
    name, hot_add, prop, premise = key
    found = prover(name, hot_add).prove(find(prop), Premise(premise))
    assert isinstance(found, Theorem), (key, found)
    return found, prover(name, hot_add).model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good certificate, to be damaged."""
    write(*theorem(HERE), tmp_path / "certificate")
    return tmp_path / "certificate"


def refusal(folder: Path) -> str:
    """The message with which a folder is refused before any solver is asked."""
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# -- acceptance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SAMPLE, ids=lambda k: f"{k[0]}-{k[1]}-{k[2]}")
def test_sample_of_certificates_is_accepted(key: Key, tmp_path: Path) -> None:
    found, model = theorem(key)
    manifest = write(found, model, tmp_path)
    report = certify(tmp_path)
    assert report.result == "accepted", report.open
    assert set(report.replies) == set(manifest.files)
    assert len(report.replies) == 2 + len(model.core.actions)


@pytest.mark.slow
@pytest.mark.parametrize("hot_add", [False, True])
@pytest.mark.parametrize("name", design.builtin_names())
def test_every_certificate_is_accepted(name: str, hot_add: bool, tmp_path: Path) -> None:
    checked = 0
    for key in _all_theorems(name, hot_add):
        found, model = theorem(key)
        write(found, model, tmp_path)
        report = certify(tmp_path)
        assert report.result == "accepted", (found.name, report.open)
        checked += 1
    assert checked


def _all_theorems(name: str, hot_add: bool) -> Iterator[Key]:
    asked = prover(name, hot_add)
    for prop in PROPERTIES:
        if not applicable(prop, asked.model):
            for premise in prop.premises:
                if isinstance(asked.prove(prop, premise), Theorem):
                    yield name, hot_add, prop.id, premise.value


def test_the_same_theorem_gives_the_same_bytes(tmp_path: Path) -> None:
    found, model = theorem(HERE)
    for name in ("one", "two"):
        write(found, model, tmp_path / name)
    write(found, model, tmp_path / "two")  # replaces what is there
    files = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}


def test_an_older_certificate_is_replaced_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    write(*theorem(SAMPLE[2]), tmp_path)
    write(*theorem(HERE), tmp_path)
    assert load(tmp_path).manifest.theorem == theorem(HERE)[0].name
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        write(*theorem(HERE), tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError):
        write(*theorem(HERE), tmp_path / "file")


def test_the_manifest_tells_the_whole_claim(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    assert data["schema"] == "dmaproof/certificate/1"
    assert data["theorem"] == "bind-2018-device/device-isolation/no_edges"
    assert data["design"]["teardown"]["steps"][0] == "clear"
    assert set(data["files"]) == {p.name for p in folder.iterdir()} - {MANIFEST}
    assert "consecution-unbind.clear.smt2" in data["files"]
    script = (folder / "consecution-unbind.clear.smt2").read_text()
    assert "(set-info :status unsat)" in script
    assert "(define-fun table_pointer.after ((clear.r Rid)) Bool" in script


# -- minimality and sensitivity -----------------------------------------------------------------


@pytest.mark.parametrize("key", [HERE, SAMPLE[3]], ids=lambda k: k[2])
def test_no_clause_can_be_dropped(key: Key, tmp_path: Path) -> None:
    found, model = theorem(key)
    assert len(found.invariant) > 3
    for i in range(len(found.invariant)):
        rest = (*found.invariant[:i], *found.invariant[i + 1 :])
        assert _rejected(model, replace(found, invariant=rest)), found.invariant[i]


@pytest.mark.slow
@pytest.mark.parametrize("name", design.builtin_names())
def test_no_clause_of_any_theorem_can_be_dropped(name: str) -> None:
    """Thirty of the clauses; z3 is asked about all of them in test_theorems."""
    drops = [
        (key, i)
        for key in _all_theorems(name, False)
        for i in range(len(theorem(key)[0].invariant))
    ]
    for key, i in random.Random(1).sample(drops, 30):
        found, model = theorem(key)
        rest = (*found.invariant[:i], *found.invariant[i + 1 :])
        invariant = [c.closed for c in rest]
        scripts = obligations(model, find(found.property), found.premise, invariant)
        answers = (ask(s, n, 3.0).answer for n, s in scripts.items())
        assert any(a is not Answer.UNSAT for a in answers), (found.name, i)


def _rejected(model: Model, found: Theorem, seconds: float = 3.0) -> list[str]:
    """The obligations that cvc5 refutes (stronger than: does not accept)."""
    invariant = [c.closed for c in found.invariant]
    scripts = obligations(model, find(found.property), found.premise, invariant)
    return [n for n, s in scripts.items() if ask(s, n, seconds).answer is Answer.SAT]


# Updates of bind-2018-device without which its certificate for device isolation is wrong.
NEEDED = {
    ("bind.enter", "binding"): False,  # a bind that never starts harms nobody
    ("unbind.enter", "bound"): False,  # the object stays busy for ever
    ("unbind.clear", "table_pointer"): True,
    ("unbind.flush-pasid-cache", "pasid_cache"): True,
    ("unbind.flush-iotlb", "iotlb"): True,
    ("unbind.return", "table_entry"): True,
    ("unbind.return", "grant"): False,  # what stays granted may be reached
    ("table.write", "grant"): True,
    ("table.write", "table_entry"): False,
}


@pytest.mark.parametrize(("change", "needed"), NEEDED.items(), ids=str)
def test_an_update_left_out_is_refused_and_where_it_matters_cvc5_says_so(
    change: tuple[str, str], needed: bool, folder: Path
) -> None:
    name, rel = change
    found, model = theorem(HERE)
    changed = model.system.with_action(model.system.action(name).without_update(rel))
    other = replace(model, system=changed)
    invariant = [c.closed for c in found.invariant]
    scripts = obligations(other, find(found.property), found.premise, invariant)
    file = f"consecution-{name}.smt2"
    if file in scripts:  # an action without updates is no action
        (folder / file).write_text(scripts[file])
        assert "differs from the obligation of this model" in refusal(folder)
    assert bool(_rejected(other, found)) == needed


def test_another_design_needs_another_certificate(folder: Path, tmp_path: Path) -> None:
    found, _ = theorem(HERE)
    steps = ("clear", "flush-iotlb", "flush-pasid-cache")
    data = design.load("bind-2018-device").model_dump(by_alias=True)
    wrong = design.Design.model_validate(
        {**data, "name": "wrong-order", "teardown": {"steps": steps}}
    )
    write(replace(found, design="wrong-order"), build(wrong), tmp_path / "wrong")
    report = certify(tmp_path / "wrong", solver_seconds=3.0)
    assert report.result == "rejected"
    assert report.open


# -- refusals -----------------------------------------------------------------------------------


def test_missing_extra_and_damaged_files_are_refused(folder: Path) -> None:
    script = folder / "safety.smt2"
    good = script.read_bytes()
    for bad in (b"", good[: len(good) // 2], good[:-1], good + b"\n", b"\x00\xff" * 99,
                good.replace(b"(assert", b"(assert ", 1), good.replace(b"\n", b"\r\n")):
        script.write_bytes(bad)
        assert "safety.smt2" in refusal(folder)
    script.unlink()
    assert "is missing" in refusal(folder)
    script.mkdir()
    assert "safety.smt2" in refusal(folder)
    script.rmdir()
    script.write_bytes(good)
    load(folder)
    for name in ("consecution-more.smt2", ".hidden", "manifest.json.bak"):
        (folder / name).write_bytes(good)
        assert "no part of this certificate" in refusal(folder)
        (folder / name).unlink()


def test_what_is_no_folder_of_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "nothing", tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError):
            load(bad)


def test_a_manifest_of_another_claim_is_refused(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    edits: list[tuple[dict[str, Any], str]] = [
        ({"property": "no-such"}, "no property is called"),
        ({"property": "group-isolation"}, "claims theorem"),
        ({"property": "uniform"}, "uniform"),
        ({"premise": "closed_grouping"}, "claims theorem"),
        ({"premise": "whatever"}, "key premise"),
        ({"hot_add": True}, "claims theorem"),
        ({"hot_add": "no"}, "key hot_add"),
        ({"theorem": "everything"}, "claims theorem"),
        ({"schema": "dmaproof/certificate/2"}, "key schema"),
        ({"comment": "x"}, "key comment"),
        ({"invariant": data["invariant"][1:]}, "differs from the obligation"),
        ({"invariant": ["false"]}, "differs from the obligation"),
        ({"invariant": ["(forall ((F Function)) (bound G))"]}, "clause 1 of the invariant"),
        ({"invariant": [1]}, "key invariant"),
        ({"design": {**data["design"], "guards": {"not_bound": False}}}, "not the built-in"),
        ({"design": {**data["design"], "name": "mine"}}, "claims theorem"),
        ({"design": {}}, "key design"),
        ({"files": {}}, "in the manifest or the model, not in both"),
        ({"files": dict.fromkeys(data["files"], "0" * 64)}, "another hash"),
        ({"files": {**data["files"], "../../x": ""}}, "in the manifest or the model"),
    ]
    for keys, message in edits:
        (folder / MANIFEST).write_text(json.dumps({**data, **keys}))
        with pytest.raises(InputError, match=message):
            load(folder)
    text = json.dumps(data).encode()
    for bad in (b"", text[:-1], text[: len(text) // 3], b"[]", b"null", b"\xff\xfe", b"[" * 9999,
                b"{" + b" " * (certificate.MAX_BYTES + 1) + b"}"):
        (folder / MANIFEST).write_bytes(bad)
        assert MANIFEST in refusal(folder)


def test_an_edited_design_under_a_name_of_its_own_is_checked_like_any_other(tmp_path: Path) -> None:
    data = design.load("bind-2018-device").model_dump(by_alias=True)
    mine = design.Design.model_validate({**data, "name": "mine"})
    found, _ = theorem(HERE)
    write(replace(found, design="mine"), build(mine), tmp_path)
    assert certify(tmp_path).result == "accepted"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    if isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _places(inner, (*path, i))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("shared")
    write(*theorem(HERE), folder)
    return folder, (folder / MANIFEST).read_text()


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_no_mutated_manifest_escapes(shared: tuple[Path, str], data: st.DataObject) -> None:
    folder, good = shared
    value = json.loads(good)
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from([p for p in _places(value) if p]))
        inner = value
        for step in path:
            inner = inner[step]
        change = data.draw(st.sampled_from(["replace", "drop", "copy"]))
        if change == "drop":
            del inner[last]
        elif change == "copy":
            inner[last] = data.draw(st.sampled_from([v for _, v in _leaves(json.loads(good))]))
        else:
            inner[last] = data.draw(VALUES)
    try:
        (folder / MANIFEST).write_text(json.dumps(value))
        load(folder)
    except InputError:
        return
    assert load(folder).manifest.theorem == json.loads(good)["theorem"]


def _leaves(value: Any) -> list[tuple[tuple[Any, ...], Any]]:
    found = []
    for path in _places(value):
        inner = value
        for step in path:
            inner = inner[step]
        found.append((path, inner))
    return found


def test_no_flipped_byte_passes(shared: tuple[Path, str]) -> None:
    folder, good = shared
    rng = random.Random(5)
    for _ in range(40):
        data = bytearray(good.encode())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / MANIFEST).write_bytes(bytes(data))
        try:
            again = load(folder).manifest
        except InputError:
            continue
        # Only words that no obligation depends on may differ: a design's title, source or year.
        before = json.loads(good)
        same = {**again.model_dump(mode="json", by_alias=True)}
        for text in (before, same):
            text["design"] = {k: v for k, v in text["design"].items()
                              if k not in ("title", "source", "year")}
        assert same == before


# -- the second solver --------------------------------------------------------------------------


def test_answers() -> None:
    script = "(set-logic UF)(declare-fun a () Bool)(assert a){}(check-sat)"
    assert ask(script.format("(assert (not a))"), "x", 5).answer is Answer.UNSAT
    assert ask(script.format(""), "x", 5).answer is Answer.SAT
    for bad in ("", "(check-sat", "(assert nothing)(check-sat)", script.format("(check-sat)"),
                "(set-logic UF)(assert false)", '(echo "unsat")'):
        reply = ask(bad, "x", 5)
        assert reply.answer is not Answer.UNSAT or "echo" in bad
    assert ask(script.format(""), "x", 0).answer is Answer.UNKNOWN


def test_undecided_is_not_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert certify(folder, solver_seconds=0.0).result == "undecided"
    reply = second_solver.Reply(Answer.SAT, "mbqi", "", 0.0)
    monkeypatch.setattr(certificate, "ask", lambda *_: reply)
    report = certify(folder)
    assert report.result == "rejected"
    assert len(report.open) == len(report.replies)


def test_without_cvc5_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvc5", None)
    with pytest.raises(InputError, match=r"pip install 'dmaproof\[certify\]'"):
        certify(folder)


def test_progress_names_every_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = second_solver.Reply(Answer.UNSAT, "mbqi", "", 0.0)
    monkeypatch.setattr(certificate, "ask", lambda *_: reply)
    told: list[str] = []
    certify(folder, progress=told.append)
    assert told == list(load(folder).obligations)
