"""The vocabulary of the numbered test vectors: constants, requests, and the list they go to."""

from __future__ import annotations

from dataclasses import dataclass

from dmaproof.model.algebra import Image
from dmaproof.model.vtd.builder import Builder
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request

SID = 0x0018
PAGE_AT = 0x2000000
RAM = 1 << 40
OUTSIDE = 1 << 41  # below HAW, above the memory

CAP_BASE = 2 | 0b110 << 8 | 47 << 16 | 3 << 34 | 1 << 39
PT, DT, SC, PASID, SMTS, SSTS = 1 << 6, 1 << 2, 1 << 7, 1 << 40, 1 << 43, 1 << 46
NEST, PRS, ERS, SRS, EAFS, PSS = 1 << 26, 1 << 29, 1 << 30, 1 << 31, 1 << 34, 19 << 35
SSADS, FSTS, SMPWC, RPS, SSIRWS, ECS = 1 << 45, 1 << 47, 1 << 48, 1 << 49, 1 << 57, 1 << 24
NWFS = 1 << 33
FULL = PT | DT | PASID | SMTS | SSTS | NEST | PRS | SRS | EAFS | PSS | SSADS | FSTS | SMPWC | RPS


@dataclass
class Case:
    """One vector: *want* maps field names of the outcome to the value, or to a set of them."""

    number: str
    image: Image
    registers: Registers
    request: Request
    want: dict[str, object]


CASES: list[Case] = []


def add(number, builder, mode, request, *, cap=CAP_BASE, ecap=PT, version=0x10, flags=0, **want):
    """Register a case; *want*: hpa=, code=, recorded=, interrupt=, answer=, codes=, updates=..."""
    registers = Registers(cap, ecap, builder.root | mode << 10 | flags, version=version, haw=48)
    CASES.append(Case(number, builder.image.copy(), registers, request, want))


def new() -> Builder:
    return Builder(Image(ram=RAM))


def read(address, **fields):
    return Request(SID, address, **fields)


def write(address, **fields):
    return Request(SID, address, write=True, **fields)

A = 0x123456000
SCALABLE = SMTS | SSTS | PT
V = 0x7F0012345000
G = 0x10000000  # guest-physical = host-physical + G in these cases
EXTENDED = PT | DT | ECS | NEST | PASID | PRS | SRS | ERS


def legacy(iova=0x123456000, hpa=PAGE_AT, rights=3, aw=2, size_level=1, extra=0, **fields):
    """A requester with one mapping; returns (builder, leaf address, top table)."""
    b = new()
    top = b.frame()
    leaf = b.second_stage(top, aw + 2, iova, hpa, rights, size_level=size_level)
    b.image[leaf] |= extra
    b.legacy(SID, top, aw, **fields)
    return b, leaf, top


def path(b, top, iova, levels=4):
    """Addresses of the entries along the walk, top first."""
    out, table = [], top
    for level in range(levels, 0, -1):
        where = b.index(table, level, iova)
        out.append(where)
        table = b.image[where] & 0x000FFFFFFFFFF000
    return out


def scalable(iova=A, hpa=PAGE_AT, rights=3, aw=2, sid=SID, pgtt=2, size_level=1, **fields):
    """A requester with PASID 0; returns (builder, context, PASID entry, leaf, top)."""
    b = new()
    top = b.frame()
    leaf = b.second_stage(top, aw + 2, iova, hpa, rights, size_level=size_level)
    context = b.scalable(sid)
    entry = b.pasid(context, 0, pgtt, second=top, aw=aw, **fields)
    return b, context, entry, leaf, top


def tagged(pasid, address=A, **fields):
    return Request(SID, address, pasid=pasid, with_pasid=True, **fields)


def process(pasid=5, address=V, page=PAGE_AT, rights=7, size_level=1, ctx=None, **fields):
    """A requester with a first-stage PASID; returns (builder, context, entry, leaf, top)."""
    b = new()
    top = b.frame()
    leaf = b.first_stage(top, 4, address, page, rights, size_level=size_level)
    context = b.scalable(SID, **({"paside": 1} | (ctx or {})))
    fields = {"pwsnp": 1, "sre": 1} | fields
    entry = b.pasid(context, pasid, 1, first=top, **fields)
    return b, context, entry, leaf, top


def nested(address=V, page=PAGE_AT, aw=2, pasid=5, size_level=1, second=True, **fields):
    """First-stage tables at guest-physical addresses; returns (builder, entry, path, top)."""
    b = new()
    top, second_top = b.frame(), b.frame()
    leaf = b.first_stage(top, 4, address, page + G, 7, size_level=size_level, offset=G)
    table, walk = top, []
    for level in range(4, size_level - 1, -1):
        where = b.index(table, level, address)
        walk.append(where)
        table = (b.image[where] & 0x000FFFFFFFFFF000) - G
    assert walk[-1] == leaf
    for where in walk:
        b.second_stage(second_top, aw + 2, (where & ~0xFFF) + G, where & ~0xFFF)
    if second:
        b.second_stage(second_top, aw + 2, page + G, page)
    context = b.scalable(SID, paside=1)
    entry = b.pasid(context, pasid, 3, first=top + G, second=second_top, aw=aw, pwsnp=1, sre=1,
                    **fields)
    return b, entry, walk, second_top


def remap(b, second_top, hpa, rights, aw=2):
    """Change the rights of the second-stage mapping of the page that holds *hpa*."""
    return b.second_stage(second_top, aw + 2, (hpa & ~0xFFF) + G, hpa & ~0xFFF, rights)


def extended_nested():
    """T=0 with PASIDE and NESTE; PASID table and first level at guest-physical addresses."""
    b = new()
    first, second, table = b.frame(), b.frame(), b.frame()
    b.first_stage(first, 4, V, PAGE_AT + G, 7, offset=G)
    b.put(table + 8 * 5, (first + G) | 1 << 11 | 1)
    for frame in range(first, b.frame(), 0x1000):
        b.second_stage(second, 4, frame + G, frame)
    b.second_stage(second, 4, PAGE_AT + G, PAGE_AT)
    b.extended(SID, second, 2, t=0, paside=1, neste=1, pasid_table=table + G)
    return b, first, second, table
