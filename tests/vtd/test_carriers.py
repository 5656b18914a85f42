"""The carriers agree: random tables and requests, concrete against bulk and symbolic."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.model.algebra import FlatPages, Image, SymbolicMemory, Term, Truth, cond_z3, word_z3
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome, translate

from .vocabulary import CAP_BASE, DT, EXTENDED, FULL, PT, SC, SSIRWS

FRAMES = 12
BASE = 0x10000
SIDS = (0x18, 0x98)
FLAGS = ("write", "with_pasid", "atomic", "zero_length", "execute", "privileged", "no_write",
         "dword")


def capabilities(draw, mode):
    cap = CAP_BASE | draw(st.sampled_from([0, 1 << 22, 1 << 56, 1 << 60, 1 << 10]))
    ecap = {0: PT | draw(st.sampled_from([0, DT, SC | DT])), 1: FULL, 2: EXTENDED}[mode]
    if mode == 1:
        ecap &= ~draw(st.sampled_from([0, 0, 0, 1 << 46, 1 << 47, 1 << 26, 1 << 49, 1 << 48,
                                      1 << 6]))
        ecap |= draw(st.sampled_from([0, 0, SSIRWS, 3 << 52, 1 << 33]))
    return cap, ecap


@st.composite
def machines(draw):
    """Tables in twelve frames whose pointers point at one another, with some bits flipped."""
    mode = draw(st.sampled_from([0, 1, 1, 1, 2]))
    builder = Builder(Image(ram=BASE + (FRAMES + 4) * 0x1000), base=BASE)
    frames = [builder.frame() for _ in range(FRAMES)]
    frame = st.sampled_from([*frames, 0x900000])
    image = builder.image
    index = st.integers(0, 1)
    for where in frames:
        for _ in range(draw(st.integers(0, 3))):
            stage = draw(st.sampled_from([3, 3, 7, 7, 1, 2, 0x83, 0x87, 0x67, 0x303, 5]))
            image[where + 8 * draw(index)] = draw(frame) | stage
    second, first, table = draw(frame), draw(frame), draw(frame)
    aw = draw(st.sampled_from([1, 2, 2, 3]))
    for sid in SIDS:
        if mode == 0:
            builder.legacy(sid, second, aw, tt=draw(st.sampled_from([0, 0, 1, 2])))
        elif mode == 1:
            context = builder.scalable(sid, directory=table, paside=1,
                                       dte=draw(index), rid_pasid=draw(st.sampled_from([0, 7, 7])))
            for pasid in (0, 1):
                image[table] = frames[0] | 1
                pgtt = draw(st.sampled_from([1, 2, 3, 3, 4, 0]))
                builder.pasid(context, pasid, pgtt, second=second, aw=aw, first=first, pwsnp=1,
                              **{n: draw(index) for n in ("sre", "wpe", "eafe", "ssade")})
        else:
            builder.put(table, entries.extended_pasid(first, 1), entries.extended_pasid(second))
            builder.extended(sid, second, aw, paside=1, neste=draw(index), ere=draw(index),
                             t=draw(st.sampled_from([0, 1, 2, 4, 5])), pasid_table=table, nxe=1)
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from(sorted(image.words)))
        image[where] ^= 1 << draw(st.integers(0, 63))
    cap, ecap = capabilities(draw, mode)
    rtaddr = builder.root | mode << 10 | draw(st.sampled_from([0, 0, 1 << 7]))
    return image, Registers(cap, ecap, rtaddr, haw=46)


@st.composite
def requests(draw, kind):
    address = draw(st.sampled_from([0, 1 << 12, 1 << 21, 1 << 39, 1 << 47, 0xFEE00000, 1 << 50]))
    request = Request(
        draw(st.sampled_from(SIDS)), address + draw(st.integers(0, 0x3FFF)),
        pasid=draw(st.sampled_from([1, 1, 0, 2, 64, 1 << 19])), kind=kind,
        **{name: draw(st.booleans()) for name in FLAGS},
    )
    if kind is Kind.TRANSLATION:
        request.write = draw(st.sampled_from([False] * 7 + [True]))
    return request


FIELDS = ("fault", "hpa", "readable", "writable", "bits", "interrupt", "recorded")
KINDS = st.sampled_from([Kind.UNTRANSLATED, Kind.UNTRANSLATED, Kind.TRANSLATION, Kind.TRANSLATED])


def view(outcome):
    """What is comparable of a concrete outcome."""
    if outcome.fault:
        return outcome.fault, outcome.recorded
    if not (outcome.readable or outcome.writable or outcome.interrupt):
        return outcome.fault, outcome.recorded, False  # nothing was mapped: no address to compare
    return (outcome.fault, outcome.recorded, outcome.hpa, outcome.readable, outcome.writable,
            outcome.bits, outcome.interrupt)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bulk_agrees(data):
    """Eight random requests in one batch, each as the concrete carrier decides it."""
    image, registers = data.draw(machines())
    kind = data.draw(KINDS)
    batch = [data.draw(requests(kind)) for _ in range(8)]
    lanes = {n: np.array([getattr(q, n) for q in batch], dtype=np.uint64)
             for n in ("sid", "address", "pasid")}
    lanes |= {n: np.array([getattr(q, n) for q in batch]) for n in FLAGS}
    for memory in (FlatPages(image, 8), sparse(image)):
        bulk = translate(memory, registers, Request(kind=kind, **lanes))
        for i, request in enumerate(batch):
            def lane(value, i=i):
                return value[i].item() if isinstance(value, np.ndarray) else value

            single = translate(image, registers, request)
            got = Outcome(*(lane(getattr(bulk, n)) for n in FIELDS), [], kind, registers.mode)
            assert view(got) == view(single)
            flags = [(int(a), int(b)) for rows, where, bits in bulk.updates
                     for row, a, b in zip(rows, where, bits, strict=True) if row == i]
            assert flags == [(a, b) for _, a, b in single.updates]


def sparse(image):
    """The same memory with its pages looked up instead of laid out flat."""
    memory = FlatPages(Image(image.words, 1 << 40), 8)
    memory.ram = image.ram
    return memory


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_symbolic_agrees(data):
    """Any address, PASID and flags: the solver finds the outcome of the concrete carrier."""
    image, registers = data.draw(machines())
    kind = data.draw(KINDS)
    solver, values = z3.Solver(), {}
    for name in ("sid", "address", "pasid"):
        values[name] = Term(z3.BitVec(name, 64))
    for name in FLAGS:
        values[name] = Truth(z3.Bool(name))
    outcome = translate(SymbolicMemory.of(image), registers, Request(kind=kind, **values))
    for _ in range(2):
        request = data.draw(requests(kind))
        want = translate(image, registers, request)
        solver.push()
        solver.add(*(values[n].z == getattr(request, n) for n in ("sid", "address", "pasid")))
        solver.add(*(values[n].z == getattr(request, n) for n in FLAGS))
        same = [word_z3(outcome.fault) == want.fault,
                cond_z3(outcome.recorded) == bool(want.recorded)]
        if not want.fault:
            if want.readable or want.writable or want.interrupt:
                same += [word_z3(outcome.hpa) == want.hpa, word_z3(outcome.bits) == want.bits]
            same += [cond_z3(getattr(outcome, n)) == bool(getattr(want, n))
                     for n in ("readable", "writable", "interrupt")]
        solver.add(z3.Not(z3.And(same)))
        assert solver.check() == z3.unsat
        solver.pop()


def test_symbolic_values_cannot_be_branched_on():
    with pytest.raises(TypeError, match="symbolic"):
        bool(Term(z3.BitVec("x", 64)) == 1)
    with pytest.raises(TypeError, match="symbolic"):
        bool(Term(z3.BitVec("x", 64)))


def test_concrete_carrier_imports_neither_z3_nor_numpy():
    code = (
        "import sys\n"
        "from dmaproof.model.vtd.builder import Builder\n"
        "from dmaproof.model.vtd.registers import Registers\n"
        "from dmaproof.model.vtd.requests import Request\n"
        "from dmaproof.model.vtd.translate import translate\n"
        "b = Builder()\n"
        "top = b.frame()\n"
        "b.second_stage(top, 4, 0, 0x5000)\n"
        "b.legacy(0, top)\n"
        "o = translate(b.image, Registers(0x2f0602, 0, b.root), Request(0, 0))\n"
        "assert o.hpa == 0x5000, o\n"
        "print([m for m in ('z3', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
