"""First-stage paging, 4 and 5 levels, the x86 long-mode format (VT-d 3.6, 9.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dmaproof.model.algebra import MASK64, Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import ats
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import TRANSLATION, Request

PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
PAGE_SIZE_BIT: Final = 1 << 7
EXTENDED_ACCESSED: Final = 1 << 10
EXECUTE_DISABLE: Final = 1 << 63


class Entry(NamedTuple):
    """Where a first-stage entry lies once its own address is translated.

    Attributes:
        address: host-physical address of the entry.
        writable: hardware may update flags there.

    """

    address: Word
    writable: Cond


# (carrier, registers, entry address as written, is in the top table, stage values) -> Entry
Locate = Callable[..., Entry]


class First(NamedTuple):
    """What the request and the PASID entry say about one first-stage walk.

    Attributes:
        table: address of the top table (guest-physical when nested).
        levels: 4 or 5.
        privileged: supervisor request.
        wpe: write protection counts for supervisor requests.
        eafe: the extended-accessed flag is on.
        snoop: page walks are snooped, so that flags can be updated.
        write: the access would write (sets D).
        nxe: rev 2.x: execute-disable is not reserved.

    """

    table: Word
    levels: Word
    privileged: Cond
    wpe: Cond
    eafe: Cond
    snoop: Cond
    write: Cond
    nxe: Cond


def host_entry(
    c: Carrier, r: Registers, address: Word, top: Cond, *_: Word
) -> Entry:
    """Locate a first-stage entry whose address is host-physical already."""
    c.fail((address >= c.ram) & top, f.SFS_4)
    return Entry(address, True)


@rule(
    "vtd.first-stage.canonical", "VT-d 3.6, table 30 SGN.1",
    "Address bits 63:47 (63:56 with 5 levels) must all be equal.",
)
def check_canonical(c: Carrier, r: Registers, levels: Word, address: Word) -> None:
    """Block an address that is not canonical."""
    upper = address >> 47
    bad = (upper != 0) & (upper != 0x1FFFF)
    if r.fs5lp:
        wide = address >> 56
        bad5 = (wide != 0) & (wide != 0xFF)
        bad = ((levels == 4) & bad) | ((levels == 5) & bad5)
    c.fail(bad, f.SGN_1)


@rule(
    "vtd.first-stage.reserved", "VT-d 9.7",
    "51:HAW, PS at level 4 and 5 (and 3 without FS1GP), and size bits above PAT of a large page "
    "are reserved in present entries.",
)
def reserved_masks(r: Registers, level: int) -> tuple[int, int]:
    """Return the reserved bits of a non-leaf and of a leaf entry at *level*."""
    common = r.beyond_haw & ((1 << 52) - 1)
    table = leaf = common
    if level in (2, 3):
        leaf |= ((1 << (12 + 9 * (level - 1))) - 1) & ~0x1FFF
    if not maps_large(r, level):
        table |= PAGE_SIZE_BIT
    return table, leaf


def maps_large(r: Registers, level: int) -> bool:
    """Return whether an entry at *level* may map a large page."""
    return level == 2 or (level == 3 and r.fs1gp)


@rule(
    "vtd.first-stage.entry", "VT-d 9.7, 3.6, table 30 SFS.1-5",
    "An entry needs P=1 and no reserved bit; nested, its address must not exceed min(MGAW, AW); a "
    "leaf is at level 1 or has PS=1.",
)
def step(
    c: Carrier, r: Registers, locate: Locate, nest: tuple[Any, ...], nested_bits: Word, level: int,
    first: First, address: Word, table: Word, user: Cond, writable: Cond, executable: Cond,
) -> tuple[Any, ...]:
    """Process one entry: (table, U/S, R/W, not XD, walk ends, output address, page bits)."""
    bits = 3 + 9 * level
    where = locate(c, r, table | ((address >> bits) & 511) << 3, first.levels == level, *nest)
    entry = c.read(where.address, f.SFS_1)
    c.fail((entry & PRESENT) == 0, f.SFS_2)
    leaf, reserved = _shape(c, r, level, entry)
    bad = (entry & reserved) != 0
    if r.mode is Mode.EXTENDED:
        bad = bad | ((first.nxe ^ True) & ((entry & EXECUTE_DISABLE) != 0))
        executable = executable & ((entry & EXECUTE_DISABLE) == 0)
    c.fail(bad, f.SFS_3)
    frame = entry & r.address
    if nested_bits is not None:
        c.fail((frame >> nested_bits) != 0, f.SFS_5)
    user = user & ((entry & USER) != 0)
    c.fail((first.privileged ^ True) & (user ^ True), f.SGN_2)
    writable = writable & ((entry & WRITABLE) != 0)
    granted = writable | (first.privileged & (first.wpe ^ True))
    _flags(c, where, entry, first.eafe, first.snoop, leaf & first.write & granted)
    if leaf is False:
        return frame, user, writable, executable, leaf, 0, bits
    offset = (1 << bits) - 1
    target = (frame & (MASK64 ^ offset)) | (address & offset)
    return frame, user, writable, executable, leaf, target, bits


def _shape(c: Carrier, r: Registers, level: int, entry: Word) -> tuple[Cond, Word]:
    """Return whether the entry is a leaf, and its reserved bits."""
    table_reserved, leaf_reserved = r.first_stage_reserved[level]
    if level == 1:
        return True, leaf_reserved
    if not maps_large(r, level):
        return False, table_reserved
    leaf = (entry & PAGE_SIZE_BIT) != 0
    return leaf, c.select(leaf, leaf_reserved, table_reserved)


@rule(
    "vtd.first-stage.flags", "VT-d 3.6.2, table 30 SFS.8-10",
    "A (and EA) is set in every entry used and D in the leaf of a write; that needs a snooped page "
    "walk and, nested, second-stage write right on the table.",
)
def _flags(
    c: Carrier, where: Entry, entry: Word, eafe: Cond, snoop: Cond, dirty: Cond
) -> None:
    wanted = c.select(dirty, DIRTY, 0) | c.select(eafe, EXTENDED_ACCESSED, 0) | ACCESSED
    missing = wanted & (entry ^ wanted)
    needed = missing != 0
    c.fail(needed & (snoop ^ True), f.SFS_9)
    if where.writable is not True:
        c.fail(needed & (where.writable ^ True), f.SFS_8)
    failed = c.unwritable(where.address)
    if failed is not False:
        c.fail(needed & failed, f.SFS_10)
    c.update(needed, where.address, missing)


@rule(
    "vtd.first-stage.walk", "VT-d 3.6",
    "The walk indexes nine address bits a level, from bit 39 (48 with 5 levels) down to bit 12.",
)
def walk(
    c: Carrier, r: Registers, first: First, address: Word, locate: Locate = host_entry,
    nested_bits: Word = None, nest: tuple[Word, ...] = (),
) -> tuple[Word, Cond, Cond, Word]:
    """Translate *address*: (output address, W, not execute-disabled, page size in bits).

    Args:
        c: the evaluation.
        r: registers.
        first: the walk's parameters.
        address: input address, canonical.
        locate: how the address of an entry becomes host-physical (`nested.locate`).
        nested_bits: width to which addresses in entries are limited; None: not nested.
        nest: words that *locate* needs.

    """
    if not r.first_stage_reserved:
        r.first_stage_reserved.update({n: reserved_masks(r, n) for n in range(1, 6)})
    levels = first.levels
    state: tuple[Any, ...] = (first.table, True, True, True, False, 0, 12)
    if c.caching:
        levels, state, locate = c.resume_first(levels, address, state, locate)
    for level in range(5 if r.fs5lp else 4, 0, -1):
        running = (levels >= level) & (state[4] ^ True)
        state = c.when(
            running, step, r, locate, nest, nested_bits, level, first, address,
            state[0], state[1], state[2], state[3], otherwise=state,
        )
        if c.caching and running:
            locate = c.note_first(level, address, state, locate)
    _, _, writable, executable, _, target, bits = state
    return target, writable | (first.privileged & (first.wpe ^ True)), executable, bits


def sets_dirty(r: Registers, q: Request) -> Cond:
    """Return whether a granted access of this request sets the dirty flag."""
    if q.kind is TRANSLATION:
        return ats.asks_write(r, q)
    return q.write | q.atomic


@rule(
    "vtd.first-stage.rights", "VT-d 3.6.1, table 30 SGN.2, SGN.6",
    "User requests need U/S=1 at every level, writes R/W=1 at every level (supervisor: if WPE=1); "
    "any present page may be read.",
)
def check_rights(c: Carrier, q: Request, write_right: Cond) -> None:
    """Block a write without right; reads never lack one here."""
    if q.kind is not TRANSLATION:
        c.fail((q.write | q.atomic) & (write_right ^ True), f.SGN_6)
