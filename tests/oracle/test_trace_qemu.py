"""Traces without PASID on a running QEMU: it lands, or blocks, what the engine says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from bits.support import Run, design, found, trace
from bits.test_bits import RECORDINGS, all_traces

from dmaproof.counterexamples.bits import on_qemu, qemu
from dmaproof.counterexamples.bits.landing import Ending, NotReproduced, Seen
from dmaproof.counterexamples.bits.on_qemu import (
    Beside,
    beside_qemu,
    obstacle,
    replay_on_qemu,
    requesters,
    started,
)
from dmaproof.counterexamples.bits.qemu import BINARY, NotStarted, Qemu, Topology
from dmaproof.counterexamples.bits.unit import Tables
from dmaproof.counterexamples.expected import changed
from dmaproof.counterexamples.trace import Trace
from dmaproof.model.design import load
from dmaproof.model.pcie.machines import load as load_machine
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.topology import Machine

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        BINARY is None and not os.environ.get("DMAPROOF_REQUIRE_ORACLES"),
        reason="qemu-system-x86_64 is not installed",
    ),
]

CASES = [
    ("SS", "device-isolation"), ("SS", "group-isolation"), ("SS", "can-bind"),
    ("BR", "device-isolation"), ("AL2", "device-isolation"), ("SWG", "device-isolation"),
    ("MF(off)", "device-isolation"), ("SW(off,off)", "container-isolation"),
    ("SW(off,off)", "container-separation"),
]
BOTH = pytest.mark.parametrize("tables", [Tables.LEGACY, Tables.SCALABLE])


@pytest.fixture(scope="module")
def running():
    """One QEMU of each kind, with a device at every requester id of the cases."""
    wires = {w.rid for case in CASES for w in requesters(trace("type1", *case))}
    wires |= {0x0100, 0x0200}
    with Qemu(False, "", sorted(wires)) as legacy, Qemu(True, "", sorted(wires)) as scalable:
        yield {Tables.LEGACY: legacy, Tables.SCALABLE: scalable}


@BOTH
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_reproduces(case: tuple[str, str], tables: Tables, running) -> None:
    one = trace("type1", *case)
    assert obstacle(one) == ""
    done, beside = replay_on_qemu(one, running[tables], tables=tables)
    assert (done.result, done.reason) == ("reproduced", "")
    assert beside.compared == done.end.requests
    assert beside.compared


@BOTH
def test_a_stale_iotlb_entry(tables: Tables, running) -> None:
    """Unmap without IOTLB flush: QEMU lets the request through, too."""
    stale = found(changed(load("type1"), "no-iotlb-flush"), machine("S"), "unbind-final")
    done, beside = replay_on_qemu(stale, running[tables], tables=tables)
    assert (done.result, done.reason) == ("reproduced", "")
    assert [q.source for q in beside.compared] == ["the IOTLB"]


MAPPED = ["set-container: group 1, C1", "join.visit: A, C1", "join.return: group 1",
          "map: A, C1, s1", "iotlb.fill: rid(A), no PASID, s1"]
UNMAPPED = ["unmap.enter: A, C1, s1", "unmap.clear: C1, s1", "unmap.flush-pasid-cache: C1, s1",
            "unmap.flush-iotlb: C1, s1", "unmap.return: C1, s1"]
LEFT = ["unset-container: group 1, C1", "leave.clear: group 1", "leave.flush-pasid-cache: group 1",
        "leave.flush-iotlb: group 1", "leave.return: group 1"]


def follow(emulator: Qemu, tables: Tables, lines: list[str]) -> tuple[Run, Beside]:
    """Take steps on the rules, the engine and QEMU."""
    beside = Beside(emulator)
    run = Run(design("type1"), machine("S"), tables, registers=beside.registers)
    beside.booted(run.gamma)
    for line in lines:
        name, _, rest = line.partition(":")
        act = run.model.system.action(name)
        values = [a.strip() for a in rest.split(",")]
        note = run.take(name, *values)
        args = {p.name: run.instance.elements[p.sort].index(a)
                for p, a in zip(act.params, values, strict=True)}
        beside.stepped(run.gamma, name, args, note)
        run.gamma.host.memory.taken()
        assert run.differences == []
    return run, beside


def asked(run: Run) -> Seen:
    """The request of A for s1, as the tables answer it now."""
    end = Ending(run.gamma, run.alpha, {}, {}, [])
    wire = run.gamma.places.wires[0][0]
    return Seen(requests=[end.by_tables(wire, 0, 0)])


@BOTH
@pytest.mark.parametrize("lines", [[*MAPPED, *UNMAPPED], [*MAPPED, *UNMAPPED, *LEFT]],
                         ids=["unmapped", "left"])
def test_a_correct_teardown_blocks_there_too(lines, tables: Tables, running) -> None:
    run, beside = follow(running[tables], tables, lines)
    seen = asked(run)
    assert seen.requests[0].hpa is None
    assert seen.requests[0].condition
    beside.ended(run.gamma, seen)
    assert beside.compared == seen.requests


# -- one thing broken -----------------------------------------------------------------------


def test_a_flush_that_qemu_does_not_get(running, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's IOTLB keeps the entry that the engine's lost: the two differ at the end."""
    run, beside = follow(running[Tables.LEGACY], Tables.LEGACY, MAPPED)
    monkeypatch.setattr(Beside, "after", lambda self, unit, status, serial: None)
    for line in UNMAPPED[:2]:
        name, _, values = line.partition(":")
        run.take(name, *(a.strip() for a in values.split(",")))
        beside.stepped(run.gamma, name, {}, "")
        run.gamma.host.memory.taken()
    with pytest.raises(NotReproduced, match="has outcome 0x2000128, not fault"):
        beside.ended(run.gamma, asked(run))


def test_a_write_that_qemu_does_not_get(running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qemu, "store", lambda self, address, *words: None)
    done, beside = replay_on_qemu(trace("type1", "SS", "device-isolation"), running[Tables.LEGACY])
    assert done.result == "undecided"
    assert done.reason.startswith("replay-failed: QEMU")
    assert not beside.compared


def test_a_doorbell_that_qemu_does_not_hear(running, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Qemu.ring
    monkeypatch.setattr(Qemu, "ring", lambda self, tail: plain(self, 0))
    done, _ = replay_on_qemu(trace("type1", "SS", "device-isolation"), running[Tables.LEGACY])
    assert done.reason.startswith("replay-failed: QEMU's queue stands at 0x0")


# -- starting it ----------------------------------------------------------------------------


def test_as_the_command_does_it() -> None:
    one = trace("type1", "BR", "device-isolation")
    done, said = beside_qemu(one)
    assert (done.result, said.reason) == ("reproduced", "")
    assert said.version.startswith("QEMU emulator version")
    assert [str(q.wire) for q in said.compared] == ["0000:02:00.0"], "the bridge's id"


def test_ids_of_the_chipset_are_not_placed() -> None:
    with pytest.raises(ValueError, match="is a device of QEMU's chipset"):
        Topology([0x18, 0xF8])
    with pytest.raises(ValueError, match="no slot left"):
        Topology([bus << 8 for bus in range(1, 40)])


def without_function_0() -> Machine:
    """Two functions of a slot whose function 0 takes no part."""
    whole = machine("MF(off)")
    moved = {"A.0": 2, "A.1": 3}
    return Machine("no function 0", [
        replace(d, bdf=replace(d.bdf, function=moved.get(d.label, d.bdf.function)))
        for d in whole.devices
    ])


def test_a_function_without_a_function_0_in_its_slot() -> None:
    one = found(load("type1"), without_function_0(), "device-isolation")
    _, said = beside_qemu(one)
    assert said.reason == ""
    assert {str(q.wire)[-1] for q in said.compared} <= {"2", "3"}
    arguments = Topology([0x0103]).arguments()
    assert [a.split("addr=")[1] for a in arguments if "rocker" in a] == ["0x0.0", "0x0.3"]


def test_a_machine_that_cannot_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trace("type1", "SS", "device-isolation")
    monkeypatch.setattr(on_qemu, "Qemu", lambda *_: Topology([0]))
    with pytest.raises(NotReproduced, match="chipset"), started(one, Tables.LEGACY):
        pass
    _, said = beside_qemu(one)
    assert said.reason.startswith("not expressible: requester id 0x0000")


def test_qemu_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotStarted, match=r"QEMU did not start: .*no-such-option"):
        Qemu(False, ",no-such-option=on")
    monkeypatch.setattr(qemu, "BINARY", None)
    with pytest.raises(NotStarted, match="not installed"):
        Qemu(False)


# -- everything -----------------------------------------------------------------------------


def on_one_qemu(traces: list[Trace]) -> int:
    """Replay on a QEMU of each kind that has all requesters; return how many traces that were."""
    able = [one for one in traces if not obstacle(one)]
    wires = sorted({w.rid for one in able for w in requesters(one)})
    for tables in (Tables.LEGACY, Tables.SCALABLE):
        with Qemu(tables is Tables.SCALABLE, "", wires) as emulator:
            for one in able:
                done, beside = replay_on_qemu(one, emulator, tables=tables)
                assert (done.result, done.reason) == ("reproduced", ""), one.machine
                assert beside.compared
    return len(able)


@pytest.mark.slow
def test_every_trace_of_the_matrix_that_qemu_can_express(tmp_path: Path) -> None:
    traces = all_traces(tmp_path, [machine(n) for n in names()])
    assert on_one_qemu(traces) >= 40


@pytest.mark.slow
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings in {RECORDINGS}")
def test_traces_of_recorded_machines(tmp_path: Path) -> None:
    files = sorted(RECORDINGS.glob("kernel-6.1/*.lspci-xxxx.txt"))
    traces = all_traces(tmp_path, [load_machine(str(f)) for f in files])
    expressed = 0
    for one in traces:
        try:
            expressed += on_one_qemu([one])
        except ValueError as error:  # QEMU's own devices, which the recorded machines have too
            assert "chipset" in str(error)
    assert expressed > 30
