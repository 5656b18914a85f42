"""The table formats that proofs are about: registers, who asks, and where the slot is."""

from __future__ import annotations

from dataclasses import replace

from dmaproof.model.algebra import cond_z3
from dmaproof.model.vtd import entries
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.obligations_confinement import confinement
from dmaproof.model.vtd.obligations_mapping import Format
from dmaproof.model.vtd.obligations_tables import pasid_type
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.walks import FIRST as FIRST_STAGE
from dmaproof.model.vtd.walks import SECOND as SECOND_STAGE

from .vocabulary import DT, ECS, ERS, FSTS, NEST, PASID, PRS, PSS, PT, SID, SMPWC, SMTS, SRS, SSTS

CAP = 2 | 0b100 << 8 | 47 << 16 | 3 << 34  # 4 levels; 2 MiB and 1 GiB pages
# 3 to 5 levels, chosen by the tables; 1 GiB pages and 5 levels in the first stage too.
WIDE_CAP = 2 | 0b1110 << 8 | 56 << 16 | 3 << 34 | 1 << 56 | 1 << 60
ROOT, TOP = 0x1000, 0x9000
LEGACY = Registers(CAP, 0, ROOT, haw=48)
SECOND = Registers(CAP, SMTS | SSTS, ROOT | 1 << 10, haw=48)
FIRST = Registers(CAP, SMTS | FSTS | PASID | PSS | SMPWC | SRS, ROOT | 1 << 10, haw=48)
NESTED = Registers(
    CAP, SMTS | FSTS | SSTS | NEST | PASID | PSS | SMPWC | SRS, ROOT | 1 << 10, haw=48)
PASS = Registers(CAP, SMTS | PT, ROOT | 1 << 10, haw=48)
EXTENDED = Registers(CAP, PT | DT | ECS | NEST | PASID | PRS | SRS | ERS, ROOT | 2 << 10, haw=48)


def neste(value):
    """Premise: NESTE of the extended context entry has this value."""
    def facts(reads):
        entry = next(r for r in reads if r.fault == f.LCT_1)
        return [cond_z3(((entry.value >> 10) & 1) == value)]

    return facts


FORMATS = {form.name: form for form in (
    Format("legacy", LEGACY, SID, None, SECOND_STAGE),
    Format("scalable second stage", SECOND, SID, None, SECOND_STAGE, pasid_type(2)),
    Format("scalable first stage", FIRST, SID, 5, FIRST_STAGE, pasid_type(1)),
    Format("nested, first stage", NESTED, SID, 5, FIRST_STAGE, pasid_type(3), nested=True),
    Format("nested, second stage", NESTED, SID, 5, SECOND_STAGE, pasid_type(3), nested=True),
    Format("extended second level", EXTENDED, SID, None, SECOND_STAGE),
    Format("extended first level", EXTENDED, SID, 5, FIRST_STAGE, neste(0)),
    Format("extended nested, first level", EXTENDED, SID, 5, FIRST_STAGE, neste(1), nested=True),
    Format("extended nested, second level", EXTENDED, SID, 5, SECOND_STAGE, neste(1), nested=True),
)}


def wide(form):
    """The format on a unit of every width, with 52 host address bits."""
    r = form.registers
    return replace(form, registers=Registers(WIDE_CAP, r.ecap, r.rtaddr, haw=52))


def nested_host(*, ats=0):
    """Root, context, directory and PASID entry of PASID 5, as the host wrote them."""
    words = {ROOT: 0x2001, 0x3000: 0x4001}
    for n, word in enumerate(entries.scalable_context(0x3000, paside=1, dte=ats)):
        words[0x2000 + 32 * SID + 8 * n] = word
    # The guest chooses FSPTPTR; the host writes the rest.
    entry = entries.pasid(3, 1, second=TOP, aw=2, pwsnp=1)
    for n in (0, 1, 3, 4, 5, 6, 7):
        words[0x4000 + 64 * 5 + 8 * n] = entry[n]
    return words


def extended_host(*, ats=0):
    """Root entry and extended context entry with PASIDE and NESTE; PASIDPTR is the guest's."""
    q0, q1, _, q3 = entries.extended_context(TOP, 2, 1, t=ats, paside=1, neste=1)
    where = 0x2000 + 32 * SID
    return {ROOT: 0x2001, where: q0, where + 8: q1, where + 24: q3}


def guest(registers, *, kind=Kind.UNTRANSLATED, **fields):
    """The confinement obligation of a guest that writes its own tables; ATS only where asked."""
    import z3

    from dmaproof.model.algebra import Term, Truth

    write = False if kind is Kind.TRANSLATION else Truth(z3.Bool("guest.write"))
    request = Request(
        SID, Term(z3.BitVec("guest.address", 64)), write, 5, True, kind,
        privileged=Truth(z3.Bool("guest.privileged")),
    )
    ats = int(kind is Kind.TRANSLATION)
    host = nested_host(ats=ats) if registers is NESTED else extended_host(ats=ats)
    if ats:
        registers = Registers(registers.cap, registers.ecap | DT, registers.rtaddr, haw=48)
    return confinement(registers, request, TOP, host, **fields)
