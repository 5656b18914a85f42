"""The engine against the VT-d of a running QEMU 7.2: random tables, then stale state."""

from __future__ import annotations

import os
import random as randomness

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dmaproof.model.algebra import Image
from dmaproof.model.vtd import entries
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.caches import Hardware
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import translate

from .deviations import DEVIATIONS, predict
from .qemu import BINARY, Qemu
from .random_tables import DATA, RAM, SID, TABLES, machine, request

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        BINARY is None and not os.environ.get("DMAPROOF_REQUIRE_ORACLES"),
        reason="qemu-system-x86_64 is not installed",
    ),
]
CASES = int(os.environ.get("DMAPROOF_ORACLE_CASES", "800"))
SEED = int(os.environ.get("DMAPROOF_ORACLE_SEED", str(randomness.randrange(1 << 32))))
PER_IMAGE = 8
VERSION = "7.2"


@pytest.fixture(scope="module")
def units():
    """One QEMU of each kind for all tests."""
    with Qemu(False) as legacy, Qemu(True) as scalable:
        yield {False: legacy, True: scalable}


def registers_of(qemu, m):
    return Registers(qemu.cap, qemu.ecap, m.root | int(m.scalable) << 10)


def expected(p, second, write):
    """(landing address, fault code) of the test engine's access; see `Qemu.dma`."""
    inside = p.hpa if p.hpa in DATA else None
    if write:
        return inside, p.code
    # A read is followed by a write: the first recorded fault stays. After a read that landed, the
    # write hits the cached page, and lacks its right silently.
    if not p.blocked and second.blocked:
        p.used.add("iotlb-hit-silent")
        return None, None
    code = p.code if p.code is not None else second.code
    return (inside if not p.blocked and not second.blocked else None), code


def unsafe(*predictions):
    """Whether an access would land in the tables (or anywhere in RAM but the data pages)."""
    return any(p.hpa is not None and p.hpa < RAM and p.hpa not in DATA for p in predictions)


def story(m, q, expected_, found):
    """What a reader of a failed comparison needs."""
    image = {hex(a): hex(v) for a, v in sorted(m.image.words.items()) if v}
    return f"{q}\nexpected {expected_}\nfound {found}\nimage {image}"


def compare(qemu, m, q, counts):
    """Issue one request and compare it with the prediction; count what it met."""
    r = registers_of(qemu, m)
    write = Request(q.sid, q.address, write=True)
    p, second = predict(m.image, r, q, VERSION), predict(m.image, r, write, VERSION)
    if unsafe(p, second):
        return
    seen = qemu.dma(q.address, DATA, write=q.write)
    hpa, code = expected(p, second, q.write)
    assert seen.code == code, story(m, q, p, seen)
    if q.write or (not p.blocked and not second.blocked):
        assert seen.hpa == hpa, story(m, q, p, seen)
    if seen.code is not None:
        assert seen.address == q.address & ~0xFFF, story(m, q, p, seen)
    plain = translate(m.image, r, q)
    agrees = plain.code == p.code if plain.recorded else p.code is None
    assert agrees or p.used or second.used, story(m, q, p, plain)
    counts["cases"] += 1
    counts["landed"] += not p.blocked
    for name in p.used:
        assert name in DEVIATIONS and VERSION in DEVIATIONS[name].versions
        counts[name] = counts.get(name, 0) + 1


@pytest.mark.parametrize("scalable", [False, True], ids=["legacy", "scalable"])
def test_random_tables(units, scalable, capsys):
    """Random images; hypothesis shrinks a failure to the smallest image that shows it."""
    qemu = units[scalable]
    counts = {"cases": 0, "landed": 0}

    @seed(SEED)
    @settings(max_examples=max(1, CASES // (4 * PER_IMAGE)), deadline=None, database=None,
              phases=[Phase.generate, Phase.shrink],
              suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(random):
        m = start(qemu, random, scalable)
        for _ in range(PER_IMAGE):
            compare(qemu, m, request(random, m), counts)

    check()
    with capsys.disabled():
        print(f"\n  seed {SEED}: {counts}", end="")
    assert counts["cases"] > CASES // 8


@pytest.mark.parametrize("scalable", [False, True], ids=["legacy", "scalable"])
def test_many_random_tables(units, scalable, capsys):
    """Many images from plain random numbers (DMAPROOF_ORACLE_CASES); prints seed and reduction."""
    qemu = units[scalable]
    random = randomness.Random(SEED)
    counts = {"cases": 0, "landed": 0}
    while counts["cases"] < CASES // 2:
        m = start(qemu, random, scalable)
        for _ in range(PER_IMAGE):
            q = request(random, m)
            try:
                compare(qemu, m, q, counts)
            except AssertionError:
                pytest.fail(f"seed {SEED}: {q} on {reduced(qemu, m, q)}")
    with capsys.disabled():
        print(f"\n  seed {SEED}: {counts}", end="")
    assert counts["landed"] > counts["cases"] // 8


def start(qemu, random, scalable):
    """Make a machine and load it into the guest."""
    m = machine(random, scalable)
    qemu.load(m.image.words, TABLES)
    qemu.set_root(m.root | int(scalable) << 10)
    return m


def reduced(qemu, m, q):
    """Drop quadwords while the mismatch stays; return what is left of the image."""
    words = dict(m.image.words)
    for address in sorted(words):
        value = m.image.words.pop(address)
        qemu.load(m.image.words, TABLES)
        try:
            compare(qemu, m, q, {"cases": 0, "landed": 0})
        except AssertionError:
            continue
        m.image.words[address] = value
    return {hex(a): hex(v) for a, v in sorted(m.image.words.items())}


class Stale:
    """One requester with two domains to choose from; every change is made here and in QEMU."""

    def __init__(self, qemu, random):
        self.qemu, self.random = qemu, random
        b = Builder(Image(ram=RAM), base=TABLES.start)
        self.tops = {1: b.frame(), 2: b.frame()}
        self.iovas = [0x123456000, 0x123457000, 0x40000000]
        self.leaves = []
        for did, top in self.tops.items():
            for iova in self.iovas:
                leaf = b.second_stage(top, 4, iova, self.page(), 3)
                self.leaves.append((leaf, did, iova))
        self.context = b.legacy(SID, self.tops[1], 2, 1)
        qemu.load(b.image.words, TABLES)
        qemu.set_root(b.root)
        watched = [Request(SID, iova, write=True) for iova in self.iovas]
        self.hardware = Hardware(b.image, Registers(qemu.cap, qemu.ecap, b.root), watched)

    def page(self):
        return self.random.choice(list(DATA)[:: 0x1000])

    def step(self):
        """Change a leaf or the context entry, or flush something."""
        kind = self.random.choice(["leaf", "leaf", "context", "page", "domain", "flush-context"])
        did = self.random.choice([1, 2])
        if kind == "leaf":
            leaf, _, _ = self.random.choice(self.leaves)
            value = self.random.choice([0, self.page() | 3, self.page() | 3, self.page() | 1])
            self.qemu.store(leaf, value)
            self.hardware.write(leaf, value)
        elif kind == "context":
            words = entries.legacy_context(self.tops[did], 2, did)
            self.qemu.store(self.context, *words)
            self.hardware.write_pair(self.context, *words)
        elif kind == "page":
            iova, am = self.random.choice(self.iovas), self.random.choice([0, 0, 1])
            self.qemu.flush_page(did, iova, am)
            self.hardware.invalidate(Command(Op.IOTLB_PAGE, did=did, address=iova, am=am))
        elif kind == "domain":
            self.qemu.flush_domain(did)
            self.hardware.invalidate(Command(Op.IOTLB_DOMAIN, did=did))
        else:
            self.qemu.flush_context(SID, did)
            self.hardware.invalidate(Command(Op.CONTEXT_DEVICE, sid=SID, did=did))
        return kind

    def access(self):
        """Do one DMA; return (seen, legal outcomes, outcome without any cache)."""
        iova = self.random.choice(self.iovas)
        q = Request(SID, iova, write=True)
        legal = self.hardware.outcomes(q)
        fresh = translate(self.hardware.image, self.hardware.registers, q)
        return self.qemu.dma(iova, DATA, flush=False), legal, fresh


def test_stale_state(units, capsys):
    """Sequences of writes, flushes and accesses: QEMU shows one of the legal outcomes, always."""
    random = randomness.Random(SEED)
    counts = {"accesses": 0, "stale": 0, "silent": 0, "several legal": 0}
    for _ in range(max(1, CASES // 100)):
        machine_ = Stale(units[False], random)
        history = []
        for _ in range(12):
            history.append(machine_.step())
            seen, legal, fresh = machine_.access()
            codes = {f.CONDITIONS[f.number_of(o.condition)].code for o in legal if o.condition}
            counts["accesses"] += 1
            counts["several legal"] += len(legal) > 1
            if seen.hpa is not None:
                assert seen.hpa in {o.hpa for o in legal}, (SEED, history, seen, legal)
                counts["stale"] += fresh.fault != 0 or fresh.hpa != seen.hpa
            elif seen.code is None:  # deviation iotlb-hit-silent
                assert 5 in codes, (SEED, history, seen, legal)
                counts["silent"] += 1
            else:
                assert seen.code in codes, (SEED, history, seen, legal)
    with capsys.disabled():
        print(f"\n  seed {SEED}: {counts}", end="")
    assert counts["stale"] and counts["several legal"]
