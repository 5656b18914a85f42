"""Second-stage paging, 3 to 5 levels (VT-d 3.7, 9.8; called second-level up to rev 3)."""

from __future__ import annotations

from typing import Final, NamedTuple

from dmaproof.model.algebra import MASK64, Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import TRANSLATION, Request

ACCESSED: Final = 1 << 8
DIRTY: Final = 1 << 9
PAGE_SIZE_BIT: Final = 1 << 7


class Codes(NamedTuple):
    """What a mode calls the conditions of the walk.

    Attributes:
        legacy: entries without rights end the walk silently; missing rights are told afterwards.
        top, lower, reserved, width, write, read: condition numbers.

    """

    legacy: bool
    top: int
    lower: int
    reserved: int
    width: int
    write: int
    read: int


LEGACY: Final = Codes(True, f.LCT_4_3, f.LSS_1, f.LSS_2, f.LGN_1_1, f.LGN_2, f.LGN_3)
SCALABLE: Final = Codes(False, f.SSS_4, f.SSS_1, f.SSS_3, f.SGN_5, f.SGN_6, f.SGN_7)


class Stage(NamedTuple):
    """Where one second-stage walk starts and how it behaves (words and conditions).

    Attributes:
        table: host-physical address of the top table.
        levels: number of levels, 3 to 5.
        flags: accessed/dirty updates are on (SSADE).
        snoop: page walks are snooped (SMPWC and PWSNP).

    """

    table: Word
    levels: Word
    flags: Cond
    snoop: Cond


@rule("vtd.second-stage.aw", "VT-d 9.3, 9.6", "AW 1, 2, 3 mean 3, 4, 5 levels; must be in SAGAW.")
def check_address_width(c: Carrier, r: Registers, aw: Word, fault: int) -> Word:
    """Block with *fault* if *aw* names no supported width; return the number of levels."""
    supported: Cond = False
    for levels in r.sagaw:
        supported = supported | (aw == levels - 2)
    c.fail(supported ^ True, fault)
    return aw + 2


def limit_bits(c: Carrier, r: Registers, levels: Word) -> Word:
    """Return min(MGAW, address width of *levels*) in bits."""
    bits: Word = r.second_stage_limit[r.levels[-1]]
    for n in r.levels[:-1]:
        bits = c.select(levels == n, r.second_stage_limit[n], bits)
    return bits


@rule(
    "vtd.second-stage.input-width", "VT-d 3.7, table 30 LGN.1.1 and SGN.5",
    "The input address must not exceed 2^min(MGAW, AGAW) - 1.",
)
def check_width(c: Carrier, r: Registers, codes: Codes, levels: Word, address: Word) -> None:
    """Block an input address that is too wide."""
    c.fail((address >> limit_bits(c, r, levels)) != 0, codes.width)


@rule(
    "vtd.second-stage.reserved", "VT-d 9.8",
    "51:HAW, size bits of a large page, PS where unsupported, bit 11 (SNP in a leaf if SC), and "
    "bit 62 while SSIRWE=0 are reserved in entries that grant a right.",
)
def reserved_masks(r: Registers, level: int) -> tuple[int, int]:
    """Return the reserved bits of a non-leaf and of a leaf entry at *level*."""
    common = r.beyond_haw & ((1 << 52) - 1)
    if not r.ssirwe:
        common |= 1 << 62
    leaf = common | (0 if r.sc else 1 << 11)
    table = common | 1 << 11
    if level in (2, 3):
        leaf |= ((1 << (12 + 9 * (level - 1))) - 1) & ~0xFFF
    if not maps_large(r, level):
        table |= PAGE_SIZE_BIT
    return table, leaf


def maps_large(r: Registers, level: int) -> bool:
    """Return whether an entry at *level* may map a large page (CAP.SSLPS)."""
    return (level == 2 and r.large_2m) or (level == 3 and r.large_1g)


@rule(
    "vtd.second-stage.entry", "VT-d 9.8, table 30 LSS and SSS",
    "An entry without rights ends the walk unchecked; reserved bits of others fault; rights are "
    "the AND over all levels; a leaf is at level 1 or has PS=1.",
)
def step(
    c: Carrier, r: Registers, codes: Codes, level: int, address: Word, write: Cond, flags: Cond,
    snoop: Cond, table: Word, read_right: Cond, write_right: Cond
) -> tuple[Word, Cond, Cond, Cond, Word, Word]:
    """Process the entry at *level*: (next table, R, W, walk ends, output address, page bits)."""
    bits = 3 + 9 * level
    where = table | ((address >> bits) & 511) << 3
    entry = c.read(where, codes.lower)
    rights = entry >> 61 if r.ssirwe else entry
    may_read, may_write = (rights & 1) != 0, (rights & 2) != 0
    present = may_read | may_write
    table_reserved, leaf_reserved, large = r.second_stage_reserved[level]
    if level == 1:
        leaf: Cond = True
        reserved = leaf_reserved
    elif large:
        leaf = (entry & PAGE_SIZE_BIT) != 0
        reserved = c.select(leaf, leaf_reserved, table_reserved)
    else:
        leaf = False
        reserved = table_reserved
    bad = (entry & reserved) != 0
    read_right = read_right & may_read
    write_right = write_right & may_write
    if codes.legacy:
        c.fail(present & bad, codes.reserved)
        ends = leaf | (present ^ True)
    else:
        c.fail(present ^ True, f.SSS_2)
        c.fail(bad, codes.reserved)
        c.fail((read_right | write_right) ^ True, f.SSS_2)
        ends = leaf
        if flags is not False:
            _flags(c, flags, snoop, entry, where, c.select(leaf & write & write_right, 1, 0))
    frame = entry & r.address
    if leaf is False:
        return frame, read_right, write_right, ends, 0, bits
    offset = (1 << bits) - 1
    target = (frame & (MASK64 ^ offset)) | (address & offset)
    return frame, read_right, write_right, ends, target, bits


@rule(
    "vtd.second-stage.flags", "VT-d 3.7.2, table 30 SSS.5, SSS.6",
    "With SSADE=1 hardware sets A in every entry used and D in the leaf of a write, which needs a "
    "snooped page walk.",
)
def _flags(c: Carrier, flags: Cond, snoop: Cond, entry: Word, where: Word, dirty: Word) -> None:
    wanted = (dirty << 9) | ACCESSED
    missing = wanted & (entry ^ wanted)
    needed = flags & (missing != 0)
    c.fail(needed & (snoop ^ True), f.SSS_5)
    failed = c.unwritable(where)
    if failed is not False:
        c.fail(needed & failed, f.SSS_6)
    c.update(needed, where, missing)


@rule(
    "vtd.second-stage.walk", "VT-d 3.7",
    "The walk indexes nine address bits a level, from bit 12 + 9 (levels - 1) down to bit 12.",
)
def walk(
    c: Carrier, r: Registers, codes: Codes, stage: Stage, address: Word, write: Cond
) -> tuple[Word, Cond, Cond, Word]:
    """Translate *address*: (output address, R, W, page size in bits). Blocks on any fault.

    In legacy mode missing rights do not block here; the caller tells them (`check_rights`).
    """
    if c.caching:
        found: tuple[Word, Cond, Cond, Word] = c.explore(_walk, r, codes, stage, address, write)
        return found
    return _walk(c, r, codes, stage, address, write)


def _walk(
    c: Carrier, r: Registers, codes: Codes, stage: Stage, address: Word, write: Cond
) -> tuple[Word, Cond, Cond, Word]:
    if not r.second_stage_reserved:
        r.second_stage_reserved.update(
            {n: (*reserved_masks(r, n), maps_large(r, n)) for n in range(1, 6)}
        )
    c.fail(stage.table >= c.ram, codes.top)
    levels, table = stage.levels, stage.table
    state: tuple[Word, ...] = (table, True, True, False, 0, 12)
    if c.caching:
        levels, state = c.resume_second(levels, address, state)
    for level in range(r.levels[-1], 0, -1):
        running = (levels >= level) & (state[3] ^ True)
        if running is True and c.direct:
            state = step(
                c, r, codes, level, address, write, stage.flags, stage.snoop, *state[:3]
            )
        else:
            state = c.when(
                running, step, r, codes, level, address, write, stage.flags, stage.snoop,
                state[0], state[1], state[2], otherwise=state,
            )
        if c.caching and running:
            c.note_second(level, address, state)
    _, read_right, write_right, _, target, bits = state
    return target, read_right, write_right, bits


def wants(q: Request) -> tuple[Cond, Cond]:
    """Return the rights a request needs: (read, write). A zero-length read still asks for read."""
    return (q.write ^ True) | q.atomic, q.write | q.atomic


@rule(
    "vtd.second-stage.rights", "VT-d 3.7.1, table 30 LGN.2, LGN.3",
    "A write or atomic needs W, a read or atomic R; a zero-length read passes on a write-only page "
    "if CAP.ZLR=1. A translation request is told the rights instead.",
)
def check_rights(
    c: Carrier, r: Registers, codes: Codes, q: Request, read_right: Cond, write_right: Cond
) -> None:
    """Block a request that lacks a right."""
    if q.kind is TRANSLATION:
        return
    needs_read, needs_write = wants(q)
    c.fail(needs_write & (write_right ^ True), codes.write)
    waived = (q.zero_length & write_right) if r.zlr else False
    c.fail(needs_read & (read_right ^ True) & (waived ^ True), codes.read)
