"""Nested translation: first stage over second stage (VT-d 3.8)."""

from __future__ import annotations

from dmaproof.model.algebra import Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import first_stage, second_stage
from dmaproof.model.vtd.first_stage import Entry, First
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.second_stage import Codes, Stage


@rule(
    "vtd.nested.table-read", "VT-d 3.8.1, table 30 SFS.6, SFS.7",
    "Every first-stage table is read through the second stage and needs R there (R and W if "
    "SSADE=1).",
)
def locate(
    c: Carrier, r: Registers, address: Word, top: Cond, table: Word, levels: Word, flags: Cond,
    snoop: Cond, codes: Codes,
) -> Entry:
    """Translate the guest-physical address of a first-stage entry."""
    stage = Stage(table, levels, flags, snoop)
    # With SSADE on, the read counts as an access that may write: it needs and marks both.
    host, may_read, may_write, _ = second_stage.walk(c, r, codes, stage, address, flags)
    denied = (may_read & (may_write | (flags ^ True))) ^ True
    c.fail(denied & top, f.SFS_6)
    c.fail(denied, f.SFS_7)
    c.fail((host >= c.ram) & top, f.SFS_4)
    return Entry(host, may_write)


@rule(
    "vtd.nested.walk", "VT-d 3.8",
    "The first-stage output is guest-physical and goes through the second stage; rights intersect; "
    "the smaller page size counts.",
)
def walk(
    c: Carrier, r: Registers, codes: Codes, first: First, stage: Stage, address: Word, write: Cond
) -> tuple[Word, Cond, Cond, Cond, Word]:
    """Translate *address*: (output address, R, W, not execute-disabled, page size in bits)."""
    limit = second_stage.limit_bits(c, r, stage.levels)
    guest, write_first, executable, bits = first_stage.walk(
        c, r, first, address, locate, limit, (*stage, codes)
    )
    host, may_read, may_write, bits_second = second_stage.walk(
        c, r, codes, stage, guest, write & write_first
    )
    bits = c.select(bits_second < bits, bits_second, bits)
    return host, may_read, may_write & write_first, executable, bits
