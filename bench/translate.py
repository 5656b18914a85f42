"""Translations per second: numpy, int and QEMU on the same tables, and the symbolic engine.

Scalable mode, 4-level second stage, every request walked from the root table on, no cache::

    python bench/translate.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import z3

from dmaproof.model.algebra import FlatPages, Image, SymbolicMemory, Term, word_z3
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import translate

CAP = 2 | 0b110 << 8 | 47 << 16 | 3 << 34 | 1 << 39
ECAP = 1 << 43 | 1 << 46 | 1 << 6
NESTED_CAP = 2 | 0b100 << 8 | 47 << 16 | 3 << 34
NESTED_ECAP = ECAP | 1 << 47 | 1 << 26 | 1 << 40 | 19 << 35 | 1 << 48 | 1 << 31
RAM = 64 << 20
DATA = 0x2000000
REQUESTERS = (0x18, 0x98, 0x300, 0x4FF)
BATCH = 16384
BATCHES = 64


def tables() -> tuple[Image, Registers, list[int]]:
    """Return four requesters with 16 MiB mapped at scattered addresses, and what is mapped."""
    rng = random.Random(1)
    b = Builder(Image(ram=RAM), base=0x1000000)
    top = b.frame()
    regions = [rng.getrandbits(27) << 21 for _ in range(8)]
    iovas = []
    for region in regions:
        for page in range(512):
            b.second_stage(top, 4, region | page << 12, DATA + (rng.randrange(64) << 12))
            iovas.append(region | page << 12)
    for sid in REQUESTERS:
        b.pasid(b.scalable(sid), 0, 2, second=top, aw=2)
    return b.image, Registers(CAP, ECAP, b.root | 1 << 10), iovas


def best(run: Callable[[], None], times: int = 5) -> float:
    """Return the least processor time of *run* in seconds, after one warm-up.

    Processor time: the rate is one core's, whatever else the machine does.
    """
    run()
    spent = []
    for _ in range(times):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent)


def bulk_rate(image: Image, registers: Registers, iovas: list[int]) -> float:
    rng = np.random.default_rng(2)
    memory = FlatPages(image, BATCH)
    pages = np.array(iovas, dtype=np.uint64)
    sids = np.array(REQUESTERS, dtype=np.uint64)
    batches = [
        Request(
            rng.choice(sids, BATCH),
            rng.choice(pages, BATCH) + rng.integers(0, 4096, BATCH, dtype=np.uint64),
            write=rng.integers(0, 2, BATCH).astype(bool),
        )
        for _ in range(BATCHES)
    ]

    def run() -> None:
        for request in batches:
            outcome = translate(memory, registers, request)
            assert not outcome.fault.any()

    return BATCH * BATCHES / best(run)


def single_rate(image: Image, registers: Registers, iovas: list[int]) -> float:
    rng = random.Random(3)
    requests = [
        Request(rng.choice(REQUESTERS), rng.choice(iovas) + 4 * rng.randrange(1024),
                write=rng.random() < 0.5)
        for _ in range(20000)
    ]

    def run() -> None:
        for request in requests:
            assert not translate(image, registers, request).fault

    return len(requests) / best(run, 3)


def qemu_rate(image: Image, registers: Registers, iovas: list[int]) -> float | None:
    from dmaproof.counterexamples.bits.qemu import BINARY, Qemu

    if BINARY is None:
        return None
    with Qemu(True) as qemu:
        qemu.load(image.words, range(0x1000000, 0x1000000 + 0x100000))
        qemu.set_root(registers.rtaddr)
        count, chunk = 20000, []
        rng = random.Random(4)
        start = time.perf_counter()
        for number in range(count):
            chunk += [*qemu.flush(), *qemu.access(rng.choice(iovas), 4, 2)]
            if number % 64 == 63:
                qemu.batch(chunk)
                chunk = []
        return count / (time.perf_counter() - start)


def symbolic_seconds() -> tuple[float, str]:
    """Build nested translation over arbitrary memory and find a request that lands at a page."""
    start = time.process_time()
    registers = Registers(NESTED_CAP, NESTED_ECAP, 0x1000 | 1 << 10, haw=48)
    address, sid = z3.BitVec("address", 64), 0x18
    request = Request(sid, Term(address), pasid=5, with_pasid=True, write=True)
    outcome = translate(SymbolicMemory(ram=RAM), registers, request)
    solver = z3.Solver()
    solver.add(word_z3(outcome.fault) == 0, z3.LShR(word_z3(outcome.hpa), 12) == 0x2345)
    memory = z3.Array("memory", z3.BitVecSort(64), z3.BitVecSort(64))
    # PASID entry: nested, 4 levels on both sides.
    solver.add(z3.Extract(8, 6, memory[_pasid_entry(memory)]) == 3)
    found = solver.check()
    return time.process_time() - start, str(found)


def _pasid_entry(memory: z3.ArrayRef) -> z3.BitVecRef:
    pointer = z3.BitVecVal((1 << 48) - 0x1000, 64)
    context = (memory[z3.BitVecVal(0x1000, 64)] & pointer) + (0x18 << 5)
    directory = memory[context] & pointer
    return (memory[directory] & pointer) + (5 << 6)


def main() -> None:
    image, registers, iovas = tables()
    print(f"numpy    {bulk_rate(image, registers, iovas):12,.0f} translations/s")
    print(f"int      {single_rate(image, registers, iovas):12,.0f} translations/s")
    rate = qemu_rate(image, registers, iovas)
    print("QEMU     not installed" if rate is None else f"QEMU     {rate:12,.0f} DMAs/s (flushed)")
    seconds, found = symbolic_seconds()
    print(f"symbolic {seconds:12.2f} s for 4-level nested, built and solved ({found})")


if __name__ == "__main__":
    main()
