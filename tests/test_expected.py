"""The table of expected verdicts comes out, its refutations replay, its page is up to date."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from dmaproof.counterexamples.expected import (
    ANY,
    Asker,
    ErrnoCheck,
    Found,
    Row,
    VerdictCheck,
    changed,
    complaints,
    ever_bound,
    parse,
    rows,
    run,
)
from dmaproof.counterexamples.expected_text import markdown
from dmaproof.counterexamples.refusals import Refused, settle_on
from dmaproof.counterexamples.trace import Trace, replayed
from dmaproof.counterexamples.verdict import Verdict
from dmaproof.model.design import Step, builtin_names, load
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import failing_guard, replay
from dmaproof.model.vfio.build import build
from dmaproof.properties.arguments import answer_to, can_refuse
from dmaproof.properties.base import Premise
from dmaproof.properties.errno import REFUSALS
from dmaproof.properties.routing import RoutingVerdict

ROOT = Path(__file__).resolve().parents[1]
ROWS = {r.id: r for r in rows()}
ASKER = Asker()


@cache
def answers(number: int) -> list[list[Found]]:
    return run(ROWS[number], ASKER)


def test_every_row_of_the_slice_is_there() -> None:
    assert list(ROWS) == list(range(1, 23))
    assert all(r.claims and r.says for r in ROWS.values())


@pytest.mark.parametrize("row", rows(), ids=lambda r: f"row{r.id}")
def test_a_row_comes_out(row: Row) -> None:
    wrong = [
        w
        for check, found in zip(row.check, answers(row.id), strict=True)
        for f in found
        for w in complaints(check, f)
    ]
    assert not wrong
    assert all(found for found in answers(row.id))


@pytest.mark.parametrize("row", rows(), ids=lambda r: f"row{r.id}")
def test_every_run_of_a_row_replays(row: Row) -> None:
    for check, found in zip(row.check, answers(row.id), strict=True):
        if not isinstance(check, VerdictCheck):
            continue
        for f in found:
            assert isinstance(f.answer, Verdict)
            theorem = f.answer.theorem != ""
            assert theorem != (f.trace is not None), f"{f.subject}: a theorem or a run, not both"
            if f.trace is not None:
                assert replayed(Trace.model_validate(json.loads(f.trace.dump()))) == "", f.subject
            else:
                assert f.scope == "any"


# -- what single rows add --------------------------------------------------------------------


def test_the_machines_without_edges_include_the_isolated_ones() -> None:
    found = {f.answer.machine for f in answers(1)[0] if isinstance(f.answer, Verdict)}
    assert {"S", "SS", "SW(on,on)"} <= found
    assert not found & {"SWR", "MF(off)", "SW(off,off)", "AL2"}


def test_row_8_shows_three_different_channels() -> None:
    traces = [f.trace for part in answers(8)[:3] for f in part]
    assert [t.violation.channels for t in traces if t] == [["peer-to-peer"], ["spoof"], ["alias"]]
    assert not any(ever_bound(t) for t in traces if t)


def test_a_bind_for_the_guilty_function_is_noticed() -> None:
    trace = answers(3)[0][0].trace
    assert trace is not None
    assert ever_bound(trace)  # in a shared container B's table is installed too


def test_row_16_refutes_because_of_the_late_group() -> None:
    (found,) = answers(16)[1]
    assert found.trace is not None
    assert not any(s.action.startswith("join.") for s in found.trace.steps)


def test_row_17_reports_the_unchecked_version() -> None:
    assert any("version unchecked" in f.reason for f in answers(17)[0])


def test_row_18_names_port_target_and_setting() -> None:
    (found,) = answers(18)[1]
    assert isinstance(found.answer, RoutingVerdict)
    difference = found.answer.difference
    assert difference is not None
    assert str(difference.port) in found.reason
    assert "ACS" in found.reason
    assert difference.prefixed.rung is None
    assert difference.plain.rung is not None


def test_row_22_each_call_is_refused_and_changes_nothing() -> None:
    seen = set()
    for check, found in zip(ROWS[22].check, answers(22), strict=True):
        assert isinstance(check, ErrnoCheck)
        for f in found:
            assert isinstance(f.answer, Refused)
            seen.add(f.answer.errno)
            assert f.answer.verdict.kind == "errno"
            if f.answer.call is None or f.answer.instance is None:
                continue
            model = build(load(f.answer.verdict.design))
            state = replay(model.system, f.answer.instance, f.answer.steps)[-1]
            act = model.system.action(f.answer.call.action)
            guard = failing_guard(act, f.answer.call.args, f.answer.instance, state)
            assert guard is not None  # so the call does not fire: the state stays
            assert guard.errno == f.answer.errno
    assert seen == {"EBUSY", "ERANGE", "EINVAL", "EEXIST", "ESRCH"}


@pytest.mark.parametrize(("bits", "host", "errno"), [
    (4, 20, "ERANGE"), (0, 20, "ERANGE"), (21, 20, "ERANGE"), (5, 20, None), (20, 20, None),
])
def test_row_22_both_ends_of_pasid_bits(bits: int, host: int, errno: str | None) -> None:
    witness = can_refuse("pasid-bits-fit").witness
    assert witness is not None
    ordinary = dict(witness.answers[0].arguments)
    answer = answer_to({**ordinary, "pasid_bits": bits}, {**witness.host, "pasid_bits": host})
    assert answer.outcome.errno == errno
    assert (answer.written is None) == (errno is not None)


@pytest.mark.parametrize(("claim", "design", "drop"), [
    ("second-table-bind", "bind-2018-device", "table-not-bound"),
    ("same-space-twice", "sva-2018-core", "space-not-bound"),
    ("second-device-in-group", "sva-2018-core", "group-is-singleton"),
    ("unbind-unknown", "sva-2018-core", "bound"),
    ("member-without-pasid", "bind-2018-group", "member-pasid-capable"),
])
def test_an_errno_claim_fails_without_its_guard(claim: str, design: str, drop: str) -> None:
    from dataclasses import replace

    model = build(load(design))
    refusal = REFUSALS[claim]
    weaker = model.system.action(refusal.action).without_guard(drop)
    mutant = replace(model, system=model.system.with_action(weaker))
    assert settle_on(refusal, mutant).verdict.result == "refuted"


# -- the table itself ------------------------------------------------------------------------


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "verdicts.md").read_text("utf-8")
    assert page == markdown(), "run python -m dmaproof.counterexamples.expected_text"


def test_stale_rows_cover_every_design() -> None:
    asked: dict[str, set[str]] = {}
    for check in ROWS[21].check:
        assert isinstance(check, VerdictCheck)
        for change in check.changes:
            asked.setdefault(change, set()).update(check.designs)
    every = {n for n in builtin_names() if load(n).year == 2018}
    assert every <= asked["no-iotlb-flush"]
    assert every <= asked["no-device-tlb-flush"]
    for change in ("no-pasid-cache-flush", "clear-last"):  # the row's note says why not type1
        assert every - {"type1"} == asked[change] & every


def test_a_change_is_told_by_the_name() -> None:
    design = changed(load("bind-2018-device"), "clear-last")
    assert design.name == "bind-2018-device+clear-last"
    assert design.teardown.steps[-1] is Step.CLEAR
    assert design.guards == load("bind-2018-device").guards


GOOD = """\
schema = "dmaproof/expected/1"
[[row]]
id = 1
claims = ["C1"]
says = "x"
[[row.check]]
designs = ["bind-2018-device"]
machines = ["SS"]
properties = ["device-isolation"]
result = "proved"
"""


def test_a_small_table_is_read() -> None:
    (row,) = parse(GOOD).row
    (check,) = row.check
    assert isinstance(check, VerdictCheck)
    assert check.machines != (ANY,)


@pytest.mark.parametrize(("old", "new"), [
    ("SS", "SSS"), ("device-isolation", "device-insulation"), ('"proved"', '"maybe"'),
    ("bind-2018-device", "bind-2081-device"), ("machines", "machine"), ("id = 1", "id = -1"),
    ('machines = ["SS"]', 'machines = ["SS"]\nchanges = ["none"]'),
    ('machines = ["SS"]', 'machines = ["SS"]\nmeeting = "no_edges"'),
    ('machines = ["SS"]', 'machines = ["SS"]\nassume = { deputy = "perhaps" }'),
    ('machines = ["SS"]', 'machines = ["SS"]\nliterals = { depute = "on" }'),
    ('machines = ["SS"]', 'machines = ["SS"]\nsearch = true'),
    ("[[row]]", "[[row"), ("[[row.check]]", "check = 3\n[other]"),
])
def test_a_bad_table_is_refused(old: str, new: str) -> None:
    with pytest.raises(InputError):
        parse(GOOD.replace(old, new))


@pytest.mark.parametrize(("field", "value", "complaint"), [
    ("result", "refuted", "is proved"), ("scope", "machine", "has scope"),
    ("premise", Premise.CLOSED_GROUPING, "premise"),
    ("literals", {"deputy": "on"}, "does not rest"),
    ("steps", ("hot-add",), "no trace"), ("never_bound", True, "no trace"),
])
def test_an_unexpected_answer_is_complained_about(
    field: str, value: object, complaint: str
) -> None:
    check = ROWS[1].check[1]
    (found,) = answers(1)[1]
    assert complaints(check, found) == []
    assert complaint in " ".join(complaints(check.model_copy(update={field: value}), found))


@pytest.mark.parametrize(("field", "value", "complaint"), [
    ("channels", ("alias",), "uses channels"), ("steps", ("hot-add",), "does not take"),
])
def test_an_unexpected_run_is_complained_about(field: str, value: object, complaint: str) -> None:
    check = ROWS[8].check[0]
    (found,) = answers(8)[0]
    assert complaint in " ".join(complaints(check.model_copy(update={field: value}), found))
