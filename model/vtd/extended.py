"""Extended mode (ECS) of rev 2.0 to 2.5: the tables that the 2018 bind patches program.

The mode was withdrawn in rev 3.0; no implementation of it runs today. Confirmed by the driver of
that time and by header files: all layouts, the values of T, the 2^(PTS + 5) entries of the
one-level PASID table, and that NESTE=1 makes PASIDPTR guest-physical (rev 2.x 3.8). Not confirmed:
the fault codes of requests-with-PASID, which `Outcome.unconfirmed` marks. Second-level execute
rights (SLEE) are not modelled: an execute request needs only the read right there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from dmaproof.model.algebra import MASK64, Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import ats, first_stage, interrupt_range, nested, pass_through, second_stage
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.first_stage import First
from dmaproof.model.vtd.legacy import Landing
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import PAGE_REQUEST, TRANSLATED, TRANSLATION, UNTRANSLATED, Request
from dmaproof.model.vtd.second_stage import Stage

_CODES: Final = "the fault codes: no published table has those of requests-with-PASID in rev 2.x"
T_HOST: Final = 0
T_HOST_DTLB: Final = 1
T_PASS: Final = 2
T_GUEST: Final = 4
T_GUEST_DTLB: Final = 5
PASIDE: Final = 1 << 11
NESTE: Final = 1 << 10


class Context(NamedTuple):
    """Quadwords 0 to 2 of a checked extended context entry."""

    q0: Word
    q1: Word
    q2: Word


@rule(
    "vtd.extended.root-entry", "rev 2.x 9.2",
    "Extended root entry: lower half for devices 0-15, upper half for devices 16-31.",
)
def root_entry(c: Carrier, r: Registers, sid: Word) -> Word:
    """Return the address of the extended context table of the requester's half."""
    half = c.read((((sid >> 8) << 4) | ((sid >> 7) & 1) << 3) + r.root, f.LRT_1)
    c.fail((half & 1) == 0, f.LRT_2)
    c.fail((half & r.root_reserved) != 0, f.LRT_3)
    return half & r.address


def _reserved(r: Registers) -> tuple[int, int, int, int]:
    without = ((9, r.prs), (10, r.nest), (11, r.pasid))
    q0 = sum(1 << bit for bit, has in without if not has) | r.beyond_haw
    q1 = 0xF << 28 | 0x88888888 << 32 | (0xFFFF & ~r.domain_mask) << 8
    return q0, q1, 0xFF0 | r.beyond_haw, 0xFFF | r.beyond_haw


@rule(
    "vtd.extended.context-entry", "rev 2.x 9.4",
    "Extended context entry: 32 bytes; T 0 and 1 host, 2 pass-through, 4 and 5 guest (with "
    "PASIDE); 1 and 5 need ECAP.DT, 2 ECAP.PT.",
)
def context_entry(c: Carrier, r: Registers, sid: Word) -> Context:
    """Return the requester's extended context entry, checked."""
    where = root_entry(c, r, sid) | (sid & 0x7F) << 5
    q0, q1 = c.read(where, f.LCT_1), c.read(where + 8, f.LCT_1)
    q2, q3 = c.read(where + 16, f.LCT_1), c.read(where + 24, f.LCT_1)
    c.suppress((q0 & 2) != 0)
    c.fail((q0 & 1) == 0, f.LCT_2)
    m0, m1, m2, m3 = _reserved(r)
    c.fail(((q0 & m0) | (q1 & m1) | (q2 & m2) | (q3 & m3)) != 0, f.LCT_3)
    second_stage.check_address_width(c, r, q1 & 7, f.LCT_4_1)
    t = (q0 >> 2) & 7
    good = (t == T_HOST) | ((t == T_GUEST) & ((q0 & PASIDE) != 0))
    if r.dt:
        good = good | (t == T_HOST_DTLB) | ((t == T_GUEST_DTLB) & ((q0 & PASIDE) != 0))
    if r.pt:
        good = good | (t == T_PASS)
    c.fail(good ^ True, f.LCT_4_2)
    return Context(q0, q1, q2)


def second_of(r: Registers, context: Context) -> Stage:
    """Return the second level an extended context entry describes."""
    return Stage(context.q0 & r.address, (context.q1 & 7) + 2, False, True)


def translate(c: Carrier, r: Registers, q: Request) -> Landing:
    """Process a request in extended mode."""
    context = c.context(context_entry, r, q.sid) if c.caching else context_entry(c, r, q.sid)
    t = (context.q0 >> 2) & 7
    if q.kind is not UNTRANSLATED:
        c.fail(((t == T_HOST_DTLB) | (t == T_GUEST_DTLB)) ^ True, f.LCT_5)
    if q.kind is TRANSLATED:
        pass_through.check_translated(c, r, q.address, f.LGN_1_2)
        interrupt_range.check_output(c, q, q.address, 12, True, f.LGN_4)
    if q.kind in (TRANSLATED, PAGE_REQUEST):
        return q.address, True, True, 12, False
    if q.kind is UNTRANSLATED:
        return _translated(c, r, q, context)
    special, answer = ats.message(r, q)
    return c.when(special ^ True, _translated, r, q, context, otherwise=answer)


def _translated(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    landing: Landing = (q.address, True, True, 12, False)
    landing = c.when(q.with_pasid, _with_pasid, r, q, context, otherwise=landing)
    landing = c.when(q.with_pasid ^ True, _without_pasid, r, q, context, otherwise=landing)
    if q.kind is TRANSLATION:
        landing = (*landing[:2], landing[2] & ats.asks_write(r, q), *landing[3:])
    mapped = landing[1] | landing[2]
    interrupt_range.check_output(c, q, landing[0], landing[3], mapped, f.LGN_4)
    return landing


@rule(
    "vtd.extended.without-pasid", "rev 2.x 3.4, 9.4",
    "Requests-without-PASID use the second level in host mode and pass through otherwise.",
)
def _without_pasid(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    host = ((context.q0 >> 2) & 7) <= T_HOST_DTLB
    identity: Landing = (q.address, True, True, 12, False)
    c.fail((host ^ True) & ((q.address >> r.haw) != 0), f.LGN_1_3)
    return c.when(host, _second, r, q, context, otherwise=identity)


def _second(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    stage, codes = second_of(r, context), second_stage.LEGACY
    second_stage.check_width(c, r, codes, stage.levels, q.address)
    target, may_read, may_write, bits = second_stage.walk(c, r, codes, stage, q.address, q.write)
    second_stage.check_rights(c, r, codes, q, may_read, may_write)
    return target, may_read, may_write, bits, False


@rule(
    "vtd.extended.with-pasid", "rev 2.x 3.6, 9.4",
    "Requests-with-PASID need PASIDE=1 and no pass-through, and use the first level, nested on the "
    "second level if NESTE=1; execute requests need ERE, and SMEP=0 if privileged.",
    _CODES,
)
def _with_pasid(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    passes = ((context.q0 >> 2) & 7) == T_PASS
    c.fail(((context.q0 & PASIDE) == 0) | passes, f.X_PASIDE)
    smep = q.privileged & ((context.q1 & 1 << 24) != 0)
    c.fail(q.execute & (((context.q1 & 1 << 26) == 0) | smep), f.X_ERE)
    c.fail((q.pasid >> ((context.q2 & 0xF) + 5)) != 0, f.X_RANGE)
    blocked: Landing = (0, False, False, 12, False)
    if not r.nest:
        return _first(c, r, q, context)
    neste = (context.q0 & NESTE) != 0
    landing = c.when(neste ^ True, _first, r, q, context, otherwise=blocked)
    return c.when(neste, _nested, r, q, context, otherwise=landing)


def host_entry(c: Carrier, r: Registers, context: Context, pasid: Word) -> Word:
    """Return the checked PASID-table entry of a table at a host-physical address."""
    return _checked(c, (context.q2 & r.address) + (pasid << 3), r.beyond_haw)


def nested_entry(c: Carrier, r: Registers, context: Context, pasid: Word) -> Word:
    """Return the checked PASID-table entry of a table at a guest-physical address."""
    address = (context.q2 & r.address) + (pasid << 3)
    return _checked(c, locate_pasid_entry(c, r, context, address), 0)


def _first(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    first = _pasid_entry(c, r, q, context, host_entry)
    first_stage.check_canonical(c, r, 4, q.address)
    target, may_write, executable, bits = first_stage.walk(c, r, first, q.address)
    _check_execute(c, q, context, executable)
    first_stage.check_rights(c, q, may_write)
    return target, True, may_write, bits, False


@rule(
    "vtd.extended.nested-pasid-table", "rev 2.x 3.8",
    "NESTE=1: PASIDPTR is guest-physical, so the PASID-table entry is read through the "
    "second level.",
    _CODES,
)
def locate_pasid_entry(c: Carrier, r: Registers, context: Context, address: Word) -> Word:
    """Return the host-physical address of a PASID-table entry given by guest-physical address."""
    codes, stage = second_stage.LEGACY, second_of(r, context)
    second_stage.check_width(c, r, codes, stage.levels, address)
    host, may_read, _, _ = second_stage.walk(c, r, codes, stage, address, False)
    c.fail(may_read ^ True, f.X_PT_READ)
    return host


def _nested(c: Carrier, r: Registers, q: Request, context: Context) -> Landing:
    first = _pasid_entry(c, r, q, context, nested_entry)
    first_stage.check_canonical(c, r, 4, q.address)
    codes, stage = second_stage.LEGACY, second_of(r, context)
    limit = second_stage.limit_bits(c, r, stage.levels)
    c.fail((first.table >> limit) != 0, f.SPT_4_4)
    dirty = first_stage.sets_dirty(r, q)
    target, may_read, may_write, executable, bits = nested.walk(
        c, r, codes, first, stage, q.address, dirty
    )
    _check_execute(c, q, context, executable)
    second_stage.check_rights(c, r, codes, q, may_read, may_write)
    return target, may_read, may_write, bits, False


@rule(
    "vtd.extended.pasid-entry", "rev 2.x 9.5",
    "PASID-table entry: 8 bytes; P, 2:1 and 10:5 reserved, SRE 11, FLPTPTR 63:12.",
    _CODES,
)
def _checked(c: Carrier, where: Word, beyond: int) -> Word:
    entry = c.read(where, f.X_PT_ACCESS)
    c.fail((entry & 1) == 0, f.X_PT_PRESENT)
    c.fail((entry & (0x7E6 | beyond)) != 0, f.X_PT_RESERVED)
    return entry


def _pasid_entry(
    c: Carrier, r: Registers, q: Request, context: Context, load: Callable[..., Word]
) -> First:
    if c.caching:
        entry = c.extended_pasid_entry(load, r, context, q.sid, q.pasid)
    else:
        entry = load(c, r, context, q.pasid)
    c.fail(q.privileged & ((entry & 1 << 11) == 0), f.X_SRE)
    q1 = context.q1
    nxe, wpe, eafe = (q1 & 1 << 4) != 0, (q1 & 1 << 5) != 0, (q1 & 1 << 25) != 0
    # Accesses to first-level tables are always snooped in rev 2.x (3.8.3).
    return First(
        entry & (MASK64 ^ 0xFFF), 4, q.privileged, wpe, eafe, True,
        first_stage.sets_dirty(r, q), nxe,
    )


@rule(
    "vtd.extended.execute", "rev 2.x 3.6.2",
    "With NXE=1 an execute request needs XD=0 at every level.",
    _CODES,
)
def _check_execute(c: Carrier, q: Request, context: Context, executable: Cond) -> None:
    c.fail(q.execute & (executable ^ True), f.X_NX)
