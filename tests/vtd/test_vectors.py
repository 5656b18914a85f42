"""Test vectors 1 to 88, each with its number, in the three carriers."""

from __future__ import annotations

import numpy as np
import pytest
import z3

from dmaproof.model.algebra import (
    FlatPages,
    SymbolicMemory,
    Term,
    Truth,
    cond_z3,
    word_z3,
)
from dmaproof.model.vtd import faults
from dmaproof.model.vtd.recording import FaultLog, split
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import translate

from . import cases  # noqa: F401  (registers the vectors)
from .vocabulary import CASES, A, legacy, write

NAMES = [case.number for case in CASES]
DATA = ("sid", "address", "pasid")
FLAGS = ("write", "with_pasid", "atomic", "zero_length", "execute", "privileged", "no_write",
         "dword")


def fields(outcome, want):
    """The fields of a concrete outcome that *want* names, in its form."""
    found = {}
    for key in want:
        if key == "condition":
            found[key] = outcome.condition and outcome.condition.name
        elif key == "answer":
            found[key] = outcome.answer and outcome.answer.value
        elif key == "updates":
            found[key] = [(address, bits) for _, address, bits in outcome.updates]
        else:
            found[key] = getattr(outcome, key)
    return found


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_concrete(case):
    outcome = translate(case.image, case.registers, case.request)
    want = dict(case.want)
    if "codes" in want:
        assert outcome.code in want.pop("codes")
    if "hpa" in want:
        assert outcome.condition is None
    assert fields(outcome, want) == want


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_bulk(case):
    """Three lanes: the case between two requests that fault early."""
    lanes = {n: np.array([0xFFFF, getattr(case.request, n), 0x8000], dtype=np.uint64) for n in DATA}
    for name in FLAGS:
        lanes[name] = np.array([False, bool(getattr(case.request, name)), True])
    if case.request.kind.name == "TRANSLATION":
        lanes["write"][2] = case.request.write
    outcome = translate(
        FlatPages(case.image, 3), case.registers, Request(kind=case.request.kind, **lanes)
    )
    want = translate(case.image, case.registers, case.request)

    def lane(value):
        return value[1] if isinstance(value, np.ndarray) else value

    assert lane(outcome.fault) == want.fault
    assert lane(outcome.recorded) == want.recorded
    if not want.fault:
        got = [lane(v) for v in (outcome.hpa, outcome.readable, outcome.writable, outcome.bits,
                                 outcome.interrupt)]
        assert got == [want.hpa, want.readable, want.writable, want.bits, want.interrupt]
    updates = [
        (int(a), int(b)) for rows, addresses, bits in outcome.updates
        for row, a, b in zip(rows, addresses, bits, strict=True) if row == 1
    ]
    assert updates == [(a, b) for _, a, b in want.updates]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_symbolic(case):
    """All fields symbolic, constrained to the vector: every model agrees with the concrete one."""
    solver = z3.Solver()
    values = {}
    for name in DATA:
        variable = z3.BitVec(name, 64)
        solver.add(variable == getattr(case.request, name))
        values[name] = Term(variable)
    for name in FLAGS:
        flag = z3.Bool(name)
        solver.add(flag == bool(getattr(case.request, name)))
        values[name] = Truth(flag)
    request = Request(kind=case.request.kind, **values)
    outcome = translate(SymbolicMemory.of(case.image), case.registers, request)
    want = translate(case.image, case.registers, case.request)
    same = [word_z3(outcome.fault) == want.fault, cond_z3(outcome.recorded) == bool(want.recorded)]
    if not want.fault:
        same += [word_z3(outcome.hpa) == want.hpa, word_z3(outcome.bits) == want.bits]
        for name in ("readable", "writable", "interrupt"):
            same.append(cond_z3(getattr(outcome, name)) == bool(getattr(want, name)))
    assert solver.check() == z3.sat
    solver.add(z3.Not(z3.And(same)))
    assert solver.check() == z3.unsat


def test_43_split_at_page_boundary():
    """16 bytes over two pages mapped apart; then the second page unmapped."""
    builder, _, top = legacy(hpa=0x5000000)
    leaf = builder.second_stage(top, 4, A + 0x1000, 0x9000000)
    registers = CASES[0].registers
    pieces = list(split(write(A + 0xFF8), 16))
    assert [(q.address, size) for q, size in pieces] == [(A + 0xFF8, 8), (A + 0x1000, 8)]
    landed = [translate(builder.image, registers, q).hpa for q, _ in pieces]
    assert landed == [0x5000FF8, 0x9000000]
    builder.image[leaf] = 0
    outcomes = [translate(builder.image, registers, q) for q, _ in pieces]
    assert [o.code for o in outcomes] == [None, 5]


def test_45_one_record_overflow():
    """Two requesters fault with one record: the first is kept, PFO is set."""
    builder, leaf, top = legacy()
    builder.legacy(0x20, top)
    builder.image[leaf] = 0
    log, registers = FaultLog(registers=1), CASES[0].registers
    requests = [write(A), Request(0x20, A + 0x10, write=True)]
    outcomes = [translate(builder.image, registers, q) for q in requests]
    assert [log.log(o, q) for o, q in zip(outcomes, requests, strict=True)] == [True, False]
    assert log.overflow and log.pending and log.first == 0
    low, high = log.records[0]
    assert low == A and high & 0xFFFF == 0x18 and high >> 32 & 0xFF == 5 and not high >> 62 & 1
    log.clear(0)
    assert not log.log(outcomes[1], requests[1]), "PFO still loses faults"
    log.clear_overflow()
    assert log.log(outcomes[1], requests[1])


def test_45_compression():
    """With compression a second fault of the requester is dropped without overflow."""
    builder, leaf, _ = legacy()
    builder.image[leaf] = 0
    log, registers = FaultLog(registers=2, compress=True), CASES[0].registers
    outcome = translate(builder.image, registers, write(A))
    assert [log.log(outcome, write(A)) for _ in range(3)] == [True, False, False]
    assert not log.overflow and log.index == 1


def test_every_number_is_covered():
    """Vectors 1 to 88 all have a case (43 and 45 are the tests above)."""
    numbers = {name.split("-")[0] for name in NAMES}
    missing = {str(n) for n in range(1, 89)} - numbers
    assert missing == {"43", "45"}


def test_every_condition_has_a_case():
    """Each condition the engine knows is the outcome of some case."""
    met = {translate(c.image, c.registers, c.request).fault for c in CASES}
    names = {faults.CONDITIONS[n].name for n in range(1, len(faults.CONDITIONS)) if n not in met}
    assert names == set()
