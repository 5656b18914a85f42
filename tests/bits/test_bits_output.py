"""What `trace replay --bits` shows, word for word, and its exit codes and JSON.

DMAPROOF_GOLDEN=1 writes the golden files anew; read the difference.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from cli.support import complaint, run

from dmaproof.counterexamples.bits import on_qemu, show
from dmaproof.counterexamples.bits.on_qemu import OnQemu, obstacle
from dmaproof.counterexamples.bits.replay import replay_on_bits
from dmaproof.counterexamples.expected import changed
from dmaproof.counterexamples.trace import Trace
from dmaproof.model import rules
from dmaproof.model.design import load
from dmaproof.model.pcie.machines import machine
from dmaproof.model.vtd.invalidation import Op

from .support import found, trace

GOLDEN = Path(__file__).parent / "golden"

SHOWN = {
    "bits-extended": ("bind-2018-device", "SWR", "device-isolation"),
    "bits-scalable": ("sva-2018-vfio", "SS", "group-isolation"),
    "bits-legacy": ("type1", "BR", "device-isolation"),
    "bits-stale": ("bind-2018-container-noundo", "SS", "unbind-final"),
    "bits-changed": ("bind-2018-container-noundo", "SS", "failed-call-changes-nothing"),
    "bits-uniform": ("bind-2018-container-noreplay", "SS", "uniform"),
}


@pytest.fixture
def written(tmp_path: Path):
    """Writes a trace and returns the file's name."""

    def write(one: Trace) -> str:
        path = tmp_path / "trace.json"
        path.write_text(one.dump(), "utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", SHOWN)
def test_golden(name: str, written) -> None:
    result = run("trace", "replay", "--bits", written(trace(*SHOWN[name])))
    path = GOLDEN / f"{name}.txt"
    # Which rules decide, and what they cite, is the engine's business: see the test below.
    lines = [x for x in result.stdout.splitlines() if not x.startswith("     decided by: ")]
    seen = "\n".join([*lines, f"--- exit code {result.exit_code}", ""])
    if os.environ.get("DMAPROOF_GOLDEN"):
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


def test_rules_are_cited(written) -> None:
    result = run("trace", "replay", "--bits", written(trace(*SHOWN["bits-legacy"])))
    (line,) = [x for x in result.stdout.splitlines() if x.startswith("     decided by: ")]
    cited = re.findall(r"([a-z0-9.-]+) \[(.*?)\]", line)
    assert ("vtd.legacy.context-entry", rules.find("vtd.legacy.context-entry").source) in cited
    assert all(rules.find(name).source == source for name, source in cited)


def test_no_golden_file_is_left_over() -> None:
    assert {p.stem for p in GOLDEN.glob("*.txt")} == set(SHOWN)


def test_json(written) -> None:
    one = trace("bind-2018-container-noundo", "SS", "unbind-final")
    result = run("trace", "replay", "--bits", "--json", written(one))
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert (data["schema"], data["result"], data["tables"]) == (
        "dmaproof/bits/1", "reproduced", "extended")
    assert [step["action"] for step in data["steps"]] == [step.action for step in one.steps]
    events = [e for step in data["steps"] for e in step["events"]]
    assert {e["event"] for e in events} == {"write", "descriptor", "fill"}
    for event in events:
        if event["event"] == "write":
            assert re.fullmatch(r"0x[0-9a-f]+", event["new"])
            assert event["what"]
        if event["event"] == "descriptor":
            assert rules.find(event["rule"]).source == event["source"]
    (request,) = data["end"]["requests"]
    assert (request["requester_id"], request["pasid"], request["by"]) == (
        "0000:01:00.0", 1, "cached table entries")
    assert int(request["hpa"], 16) & ~0xFFF == int(data["spaces"]["s1"]["page"], 16)


def test_json_of_a_hop_names_rules_and_path(written) -> None:
    one = trace("bind-2018-device", "SWR", "device-isolation")
    data = json.loads(run("trace", "replay", "--bits", "--json", written(one)).stdout)
    (edge,) = data["end"]["edges"]
    assert (edge["channel"], edge["path"][0]) == ("peer-to-peer", edge["source"])
    (request,) = data["end"]["requests"]
    names = [rule["name"] for rule in request["rules"]]
    assert "vtd.extended.nested-pasid-table" in names
    assert all(rules.find(rule["name"]).source == rule["source"] for rule in request["rules"])


def test_undecided_is_exit_code_3(written) -> None:
    what = changed(load("type1"), "no-pasid-cache-flush")
    file = written(found(what, machine("S"), "unbind-final"))
    result = run("trace", "replay", "--bits", file)
    assert result.exit_code == 3
    assert "undecided: replay-failed: " in result.stdout
    data = json.loads(run("trace", "replay", "--bits", "--json", file).stdout)
    assert (data["result"], data["reason"].split(":")[0]) == ("undecided", "replay-failed")
    assert run("trace", "replay", file).exit_code == 0, "the rules reproduce it"


def test_a_trace_that_the_rules_refuse_is_exit_code_1(written) -> None:
    data = trace("type1", "SS", "device-isolation").model_dump(by_alias=True)
    del data["steps"][1]
    file = written(Trace.model_validate(data))
    for extra in ((), ("--bits",)):
        result = run("trace", "replay", *extra, file)
        assert result.exit_code == 1
        assert "does not reproduce" in result.stdout


def test_other_tables_and_machine(written) -> None:
    file = written(trace("type1", "SS", "device-isolation"))
    result = run("trace", "replay", "--bits", "--tables", "scalable", file)
    assert result.exit_code == 0
    assert "on scalable tables" in result.stdout
    assert run("trace", "replay", "--bits", "--machine", "SS", file).exit_code == 0
    assert "no function" in complaint(run("trace", "replay", "--bits", "--machine", "BR",
                                          written(trace("bind-2018-device", "MF(off)",
                                                        "no-misroute"))))


def test_bad_options(written) -> None:
    file = written(trace("type1", "SS", "device-isolation"))
    assert run("trace", "replay", "--tables", "legacy", file).exit_code == 2
    assert run("trace", "replay", "--bits", "--tables", "wide", file).exit_code == 2
    assert "cannot hold" in complaint(
        run("trace", "replay", "--bits", "--tables", "extended", file))
    assert complaint(run("trace", "replay", "--bits", "nowhere.json"))
    assert complaint(run("trace", "replay", "--bits", "--machine", "nowhere", file))


def test_check_with_bits(tmp_path: Path) -> None:
    result = run("check", "--bits", "--design", "sva-2018-core", "--machine", "SW(off,on)",
                 "--property", "device-isolation", "--json", "--out", str(tmp_path))
    assert result.exit_code == 1
    (verdict,) = json.loads(result.stdout)["verdicts"]
    assert verdict["result"] == "refuted"
    assert run("trace", "replay", "--bits", verdict["trace"]).exit_code == 0


def test_every_command_has_a_rule_and_words() -> None:
    assert set(show._RULE_OF) == set(Op)
    for name in show._RULE_OF.values():
        assert rules.find(name)


# -- QEMU -----------------------------------------------------------------------------------


def test_without_qemu(written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_qemu, "BINARY", None)
    for one in (trace("type1", "SS", "device-isolation"),
                trace("bind-2018-device", "SWR", "device-isolation")):
        text = complaint(run("trace", "replay", "--qemu", written(one)))
        assert "qemu-system-x86_64 is not installed" in text
        assert "install qemu-system-x86" in text


@pytest.mark.parametrize(("one", "reason"), [
    (("bind-2018-device", "SWR", "device-isolation"), "carry a PASID"),
    (("sva-2018-core", "SS", "can-bind"), "carry a PASID"),
])
def test_what_qemu_cannot_express(one, reason: str, written, monkeypatch) -> None:
    monkeypatch.setattr(on_qemu, "BINARY", "/there")
    result = run("trace", "replay", "--qemu", written(trace(*one)))
    assert result.exit_code == 3
    assert reason in result.stdout
    assert "QEMU: not expressible: " in result.stdout
    data = json.loads(run("trace", "replay", "--qemu", "--json", written(trace(*one))).stdout)
    assert data["result"] == "reproduced"
    assert (data["qemu"]["result"], data["qemu"]["requests"]) == ("undecided", [])


def test_obstacles() -> None:
    stale = changed(load("type1"), "no-device-tlb-flush")
    assert "no device TLB" in obstacle(
        found(stale, machine("S"), "unbind-final", ats_honest="on"))
    plain = trace("type1", "SS", "device-isolation")
    assert obstacle(plain) == ""
    evicting = plain.model_copy(update={"steps": [
        *plain.steps, plain.steps[0].model_copy(update={"action": "iotlb.evict"})]})
    assert "evicts nothing" in obstacle(evicting)


def test_what_qemu_said_is_shown() -> None:
    one = trace("type1", "SS", "device-isolation")
    done = replay_on_bits(one)
    said = OnQemu("", "QEMU 7.2", tuple(done.end.requests))
    text = [line for line, _ in show.lines(one, done, said)]
    assert text[-2].strip() == "QEMU reproduces it: QEMU 7.2"
    assert text[-1].strip().startswith("DMA of 0000:")
    bad = [line for line, _ in show.lines(one, done, OnQemu("replay-failed: QEMU: nowhere"))]
    assert bad[-1].strip() == "QEMU: replay-failed: QEMU: nowhere"
