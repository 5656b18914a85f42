"""Random table images and requests for comparing with QEMU: mostly right, a little broken."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dmaproof.model.algebra import Image
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.requests import Request

SID = 0x18
TABLES = range(0x1000000, 0x1040000)
DATA = range(0x2000000, 0x2040000)
RAM = 64 << 20


@dataclass
class Machine:
    """A table image, its root, and input addresses that are worth asking for."""

    image: Image
    root: int
    scalable: bool
    addresses: list[int]


def machine(random: Random, scalable: bool) -> Machine:
    """Make a requester with a few mappings, then break something in every other image."""
    b = Builder(Image(ram=RAM), base=TABLES.start)
    aw = random.choice([1, 2, 2])
    top = b.frame()
    addresses = [random.choice([0xFEE00010, 0xFEE00000 - 4, 1 << 39, (1 << 47) + 0x1000, 1 << 48])]
    for _ in range(random.randint(1, 3)):
        addresses.append(_map(random, b, top, aw))
    if scalable:
        _scalable(random, b, top, aw)
    else:
        tt = random.choice([0] * 12 + [1, 2, 3])
        b.legacy(SID, top, random.choice([aw] * 16 + [0, 3, 5]), random.randint(1, 9), tt=tt,
                 fpd=random.choice([0] * 5 + [1]), present=random.choice([1] * 19 + [0]))
    for _ in range(random.choice([0, 0, 0, 0, 1, 2])):
        where = random.choice(sorted(b.image.words))
        b.image[where] ^= 1 << random.choice([*range(12), *range(40, 64), *range(64)])
    addresses.append(random.choice(list(DATA)[:: 0x1000]))
    return Machine(b.image, b.root, scalable, addresses)


def _map(random: Random, b: Builder, top: int, aw: int) -> int:
    rights = random.choice([3, 3, 3, 3, 3, 3, 1, 2, 0])
    level = random.choice([1, 1, 1, 2, 3])
    base = random.getrandbits(9 * (aw + 2)) << 12 & ~((1 << (3 + 9 * level)) - 1)
    frame = {1: random.choice(list(DATA)[:: 0x1000]), 2: 0x2000000, 3: 0}[level]
    if level == 1 and random.random() < 0.05:
        frame = random.choice([0xFEE00000, 0x5000000])
    if level == 3 and random.random() < 0.1:
        frame = 0xC0000000
    if not _free(b, top, aw + 2, base, level):
        return base
    b.second_stage(top, aw + 2, base, frame, rights, size_level=level,
                   table_rights=random.choice([3] * 16 + [1, 2]))
    offset = {1: 0, 2: random.randrange(0x40) << 12, 3: 0x2000000}[level]
    return base + offset + 4 * random.randrange(0x3FF)


def _free(b: Builder, table: int, level: int, iova: int, last: int) -> bool:
    """Whether no large page lies on the path to a new mapping."""
    while level > last:
        entry = b.image[b.index(table, level, iova)]
        if not entry:
            return True
        if entry & 0x80:
            return False
        table, level = entry & 0x000FFFFFFFFFF000, level - 1
    return not b.image[b.index(table, level, iova)]


def _scalable(random: Random, b: Builder, top: int, aw: int) -> None:
    rid_pasid = random.choice([0] * 6 + [3, 70])
    context = b.scalable(SID, pdts=random.choice([0, 1, 3]), dte=random.choice([0] * 5 + [1]),
                         paside=random.choice([0, 0, 1]), pre=random.choice([0] * 5 + [1]),
                         fpd=random.choice([0] * 5 + [1]), present=random.choice([1] * 19 + [0]))
    b.image[context + 8] = rid_pasid
    pgtt = random.choice([2] * 8 + [4, 4, 1, 3, 0, 5])
    b.pasid(context, rid_pasid, pgtt, random.randint(1, 9), second=top,
            aw=random.choice([aw] * 8 + [0, 3]), fpd=random.choice([0] * 5 + [1]),
            present=random.choice([1] * 19 + [0]))
    if random.random() < 0.1:
        b.image[b.image[context] & ~0xFFF] ^= random.choice([1, 2, 4])


def request(random: Random, m: Machine) -> Request:
    """Make a request near one of the interesting addresses."""
    mapped = m.addresses[1:-1]
    address = random.choice([*mapped * 4, *m.addresses])
    address ^= random.choice([0] * 12 + [0x1000, 1 << 21, 1 << 39])
    return Request(SID, address & ~3, write=random.random() < 0.6)
