"""The numbered test vectors without cache state, as data: image, registers, request, want."""

from __future__ import annotations

from dmaproof.model.vtd.requests import Kind, Request

from .vocabulary import (
    CAP_BASE,
    DT,
    ECS,
    EXTENDED,
    FULL,
    NWFS,
    OUTSIDE,
    PAGE_AT,
    PASID,
    PRS,
    PSS,
    PT,
    RPS,
    SC,
    SCALABLE,
    SID,
    SSIRWS,
    A,
    G,
    V,
    add,
    extended_nested,
    legacy,
    nested,
    new,
    path,
    process,
    read,
    remap,
    scalable,
    tagged,
    write,
)

# ------------------------------------------------------------------------------------------ legacy


def _legacy_walks():
    b, *_ = legacy()
    add("1", b, 0, write(A), hpa=PAGE_AT)
    add("2", b, 0, read(A + 8), hpa=PAGE_AT + 8)
    b, *_ = legacy(iova=0x3456789000, aw=1)
    add("3", b, 0, write(0x3456789000), hpa=PAGE_AT)
    add("4", b, 0, write(1 << 39), code=4, recorded=True)
    b, *_ = legacy()
    add("5", b, 0, write(1 << 48), code=4, recorded=True)
    last = (1 << 39) - 16
    b, *_ = legacy(iova=last & ~0xFFF, aw=1)
    add("6", b, 0, write(last), hpa=PAGE_AT + 0xFF0)
    for aw in (0, 3, 4, 5, 6, 7):
        b, _, top = legacy()
        b.legacy(SID, top, aw)
        add(f"7-{aw}", b, 0, write(A), code=3, recorded=True)
    for number, level, bad in (("8", 2, "10"), ("9", 3, "11")):
        size = 1 << (3 + 9 * level)
        base = 0x40000000
        b, leaf, _ = legacy(iova=base, hpa=0x80000000, size_level=level)
        add(number, b, 0, write(base + 0x1234567 % size), hpa=0x80000000 + 0x1234567 % size)
        b.image[leaf] |= 1 << (12 if level == 2 else 21)
        add(bad, b, 0, write(base), code=0xC, recorded=True)
    b, _, top = legacy()
    b.image[path(b, top, A)[0]] |= 1 << 7
    add("12", b, 0, write(A), code=0xC, recorded=True)
    b, *_ = legacy(extra=1 << 7)
    add("13", b, 0, write(A), hpa=PAGE_AT)


def _legacy_rights():
    b, *_ = legacy(rights=1)
    add("14-read", b, 0, read(A), hpa=PAGE_AT)
    add("14-write", b, 0, write(A), code=5, recorded=True)
    b, *_ = legacy(rights=2)
    add("15-write", b, 0, write(A), hpa=PAGE_AT)
    add("15-read", b, 0, read(A), code=6, recorded=True)
    add("15-atomic", b, 0, write(A, atomic=True), code=6)
    add("15-zlr", b, 0, read(A, zero_length=True), cap=CAP_BASE | 1 << 22, hpa=PAGE_AT)
    add("15-nozlr", b, 0, read(A, zero_length=True), code=6)
    b, leaf, top = legacy()
    b.image[leaf] = 0
    add("16-write", b, 0, write(A), code=5)
    add("16-read", b, 0, read(A), code=6)
    b.image[path(b, top, A)[0]] = 0
    add("17-write", b, 0, write(A), code=5)
    add("17-read", b, 0, read(A), code=6)
    for number, right, request, code in (("18", 1, write(A), 5), ("19", 2, read(A), 6)):
        b, _, top = legacy()
        where = path(b, top, A)[1]
        b.image[where] = b.image[where] & ~3 | right
        add(number, b, 0, request, code=code, recorded=True)


def _legacy_reserved():
    for bit in (2, 3, 8, 9, 10, *range(52, 62), 63):
        b, *_ = legacy(extra=1 << bit)
        add(f"20-{bit}", b, 0, write(A), hpa=PAGE_AT)
    b, *_ = legacy(extra=1 << 62)
    add("21", b, 0, write(A), code=0xC)
    b, *_ = legacy(extra=1 << 11)
    add("22-noSC", b, 0, write(A), code=0xC)
    add("22-SC", b, 0, write(A), ecap=PT | SC, hpa=PAGE_AT)
    for bit in (11, 62, 48):
        b, _, top = legacy()
        b.image[path(b, top, A)[1]] |= 1 << bit
        add(f"23-{bit}", b, 0, write(A), ecap=PT | SC, code=0xC)
    b, leaf, _ = legacy()
    b.image[leaf] = 1 << 62 | 1 << 51 | 1 << 11
    add("24-write", b, 0, write(A), code=5)
    add("24-read", b, 0, read(A), code=6)


def _legacy_entries():
    b, *_ = legacy()
    b.image[b.root] &= ~1
    add("25", b, 0, write(A), code=1, recorded=True)
    for name, offset, bits in (("low", 0, 2), ("high", 8, 1), ("haw", 0, 1 << 48)):
        b, *_ = legacy()
        b.image[b.root + offset] |= bits
        add(f"26-{name}", b, 0, write(A), code=0xA, recorded=True)
    b, *_ = legacy()
    b.image[b.root] = OUTSIDE | 1
    add("27", b, 0, write(A), code=9, recorded=True)
    for fpd in (0, 1):
        b, _, top = legacy()
        b.legacy(SID, top, fpd=fpd, present=0)
        add(f"28-{fpd}", b, 0, write(A), code=2, recorded=not fpd)
    b, leaf, top = legacy(fpd=1)
    b.image[leaf] = 0
    add("29", b, 0, write(A), code=5, recorded=False)
    b.image[b.root] &= ~1
    add("30", b, 0, write(A), code=1, recorded=True)
    for half, bit, code in ((0, 4, 0xB), (0, 11, 0xB), (0, 48, 0xB), (8, 7, 0xB), (8, 24, 0xB),
                            (8, 63, 0xB), (8, 3, None), (8, 4, None), (8, 5, None), (8, 6, None)):
        b, _, top = legacy()
        b.image[b.legacy(SID, top) + half] |= 1 << bit
        want = {"hpa": PAGE_AT} if code is None else {"code": code, "recorded": True}
        add(f"31-{half}-{bit}", b, 0, write(A), **want)
    b, _, top = legacy()
    b.image[b.legacy(SID, top, fpd=1)] |= 1 << 4
    add("32", b, 0, write(A), code=0xB, recorded=False)
    b, _, top = legacy()
    b.legacy(SID, OUTSIDE)
    add("33", b, 0, write(A), code=3, recorded=True)
    b, _, top = legacy()
    b.image[path(b, top, A)[0]] = OUTSIDE | 3
    add("34", b, 0, write(A), code=7, recorded=True)


def _legacy_types():
    b, _, top = legacy()
    b.legacy(SID, top, tt=1)
    add("35-noDT", b, 0, write(A), code=3)
    add("35-DT", b, 0, write(A), ecap=PT | DT, hpa=PAGE_AT)
    b.legacy(SID, top, tt=3)
    add("36", b, 0, write(A), ecap=PT | DT, code=3)
    b.legacy(SID, OUTSIDE, tt=2)
    add("37", b, 0, write(A), hpa=A)
    add("37-noPT", b, 0, write(A), ecap=0, code=3)
    add("37-width", b, 0, write(1 << 48), code=4, recorded=True)
    b.legacy(SID, OUTSIDE, tt=2, aw=0)
    add("37-AW", b, 0, write(A), code=3)
    b.legacy(SID, top, tt=0)
    ats = read(A, kind=Kind.TRANSLATION)
    add("38", b, 0, ats, ecap=PT | DT, code=0xD, recorded=True, answer="unsupported request")
    add("38-translated", b, 0, write(A, kind=Kind.TRANSLATED), ecap=PT | DT, code=0xD)
    b, leaf, _ = legacy(tt=1)
    add("39-rw", b, 0, ats, ecap=PT | DT, hpa=PAGE_AT, readable=True, writable=True)
    b.image[leaf] = 0
    add("39", b, 0, ats, ecap=PT | DT, code=None, recorded=False, readable=False, writable=False)
    b, *_ = legacy(tt=1)
    add("39-NW", b, 0, read(A, kind=Kind.TRANSLATION, no_write=True), ecap=PT | DT | NWFS,
        hpa=PAGE_AT, readable=True, writable=False)
    add("39-NW-ignored", b, 0, read(A, kind=Kind.TRANSLATION, no_write=True), ecap=PT | DT,
        hpa=PAGE_AT, readable=True, writable=True)
    message = read(0xFEE00010, kind=Kind.TRANSLATION)
    add("39-message", b, 0, message, ecap=PT | DT, code=None, readable=False, writable=True)
    b, *_ = legacy()
    add("39-message-TT", b, 0, message, ecap=PT | DT, code=0xD)
    b, *_ = legacy(hpa=0xFEE00000)
    add("40", b, 0, write(A), code=0xE, recorded=True)
    b, *_ = legacy(iova=0x40000000, hpa=0xC0000000, size_level=3)
    add("41", b, 0, write(0x40000000), hpa=0xC0000000)
    b, *_ = legacy(iova=0xFEE00000)
    add("42", b, 0, write(0xFEE00010), interrupt=True, code=None)
    add("42-read", b, 0, read(0xFEE00010), code=0x29, recorded=True)
    add("42-16", b, 0, write(0xFEE00010, dword=False), code=0x29)
    b = new()
    top = b.frame()
    b.second_stage(top, 4, A, PAGE_AT)
    b.legacy(0x0310, top)
    add("44-own", b, 0, Request(0x0300, A, write=True), code=2, recorded=True)
    b.legacy(0x0300, top)
    add("44-alias", b, 0, Request(0x0300, A, write=True), hpa=PAGE_AT)


# ---------------------------------------------------------------------------------------- scalable


def _scalable_root_context():
    b, *_ = scalable()
    add("46", b, 1, write(A), ecap=SCALABLE, hpa=PAGE_AT)
    b, *_ = scalable(sid=0x0080)
    add("47", b, 1, Request(0x80, A, write=True), ecap=SCALABLE, hpa=PAGE_AT)
    add("48", b, 1, write(A), ecap=SCALABLE, code=0x39, recorded=True)
    for bits in (2, 1 << 48):
        b, *_ = scalable()
        b.image[b.root] |= bits
        add(f"49-{bits:x}", b, 1, write(A), ecap=SCALABLE, code=0x3A, recorded=True)
    b, *_ = scalable()
    b.image[b.root + 8] = 0xFFE | 1 << 60
    add("50", b, 1, write(A), ecap=SCALABLE, hpa=PAGE_AT)
    b, context, *_ = scalable()
    b.image[context] &= ~1
    add("51", b, 1, write(A), ecap=SCALABLE, code=0x41, recorded=True)
    for offset, bits in ((0, 1 << 7), (0, 1 << 8), (8, 1 << 21), (16, 1), (0, 1 << 5), (0, 1 << 6)):
        b, context, *_ = scalable()
        b.image[context + offset] |= bits
        add(f"52-{offset}-{bits:x}", b, 1, write(A), ecap=SCALABLE, code=0x42, recorded=True)
    for name, offset, bits in (("DTE", 0, 4), ("PRE", 0, 16), ("RID", 8, 5)):
        b, context, *_ = scalable()
        b.image[context + offset] |= bits
        add(f"53-{name}", b, 1, write(A), ecap=SCALABLE, code=0x42)
    b, context, *_ = scalable()
    b.image[context + 8] |= 0x12345
    add("54", b, 1, write(A), ecap=SCALABLE | RPS, code=0x43, recorded=True)
    b, context, *_ = scalable()
    b.image[context] |= 16
    add("55", b, 1, write(A), ecap=SCALABLE | DT | PRS, code=0x43)


def _scalable_pasid():
    for name, change, code in (
        ("P", lambda v: v & ~1, 0x51), ("bit2", lambda v: v | 4, 0x52),
        ("outside", lambda v: v, 0x50),
    ):
        b, context, *_ = scalable()
        if name == "outside":
            b.scalable(SID, OUTSIDE)
        else:
            where = b.image[context] & ~0xFFF
            b.image[where] = change(b.image[where])
        add(f"56-{name}", b, 1, write(A), ecap=SCALABLE, code=code, recorded=True)
    for fpd in (0, 2):
        b, _, entry, *_ = scalable()
        b.image[entry] = b.image[entry] & ~1 | fpd
        add(f"57-{fpd}", b, 1, write(A), ecap=SCALABLE, code=0x59, recorded=not fpd)
    for bit in (5, 10, 11, *range(80, 87), *range(91, 96), 129, 256, 511):
        b, _, entry, *_ = scalable()
        b.image[entry + 8 * (bit // 64)] |= 1 << bit % 64
        add(f"58-{bit}", b, 1, write(A), ecap=SCALABLE, code=0x5A, recorded=True)
    for number, pgtt in (("59-0", 0), ("59-5", 5), ("59-6", 6), ("59-7", 7), ("60", 1), ("61", 3)):
        b, *_ = scalable(pgtt=pgtt)
        add(number, b, 1, write(A), ecap=SCALABLE, code=0x5B, recorded=True)
    for aw in (0, 3):
        b, context, _, _, top = scalable()
        b.pasid(context, 0, 2, second=top, aw=aw)
        add(f"62-{aw}", b, 1, write(A), ecap=SCALABLE, code=0x5B)
        b.pasid(context, 0, 4, second=top, aw=aw)
        add(f"63-{aw}", b, 1, write(A), ecap=SCALABLE, hpa=A)
    add("63-width", b, 1, write(1 << 48), ecap=SCALABLE, code=0x83, recorded=True)
    add("63-range", b, 1, write(0xFEE00000, pasid=0, with_pasid=False, dword=True),
        ecap=SCALABLE, interrupt=True, code=None)


def _scalable_walks():
    b, *_ = scalable(aw=1)
    add("64", b, 1, write(1 << 39), ecap=SCALABLE, code=0x84)
    b, _, _, leaf, _ = scalable()
    b.image[leaf] = 0
    add("65", b, 1, write(A), ecap=SCALABLE, code=0x79)
    b, *_ = scalable(rights=1)
    add("66", b, 1, write(A), ecap=SCALABLE, code=0x85, recorded=True)
    add("66-read", b, 1, read(A), ecap=SCALABLE, hpa=PAGE_AT)
    b, *_ = scalable(rights=2)
    add("67", b, 1, read(A), ecap=SCALABLE, code=0x86, recorded=True)
    b, _, _, leaf, top = scalable(rights=2)
    where = path(b, top, A)[2]
    b.image[where] = b.image[where] & ~3 | 1
    add("68-read", b, 1, read(A), ecap=SCALABLE, code=0x79)
    add("68-write", b, 1, write(A), ecap=SCALABLE, code=0x79)
    b, leaf, top = legacy(rights=2)
    where = path(b, top, A)[2]
    b.image[where] = b.image[where] & ~3 | 1
    add("68-legacy-read", b, 0, read(A), code=6)
    add("68-legacy-write", b, 0, write(A), code=5)
    b, leaf, _ = legacy(rights=1, extra=1 << 51)
    add("68b-read", b, 0, read(A), code=0xC)
    add("68b-write", b, 0, write(A), codes={0xC, 5})
    b, _, _, leaf, _ = scalable()
    b.image[leaf] |= 1 << 51
    add("69", b, 1, write(A), ecap=SCALABLE, code=0x7A)
    b, context, *_ = scalable()
    b.pasid(context, 0, 2, second=OUTSIDE, aw=2)
    add("70-top", b, 1, write(A), ecap=SCALABLE, code=0x7B)
    b, _, _, _, top = scalable()
    b.image[path(b, top, A)[0]] = OUTSIDE | 3
    add("70-lower", b, 1, write(A), ecap=SCALABLE, code=0x78)
    b, *_ = scalable(hpa=0xFEE00000)
    add("71", b, 1, write(A), ecap=SCALABLE, code=0x87, recorded=True)
    b, _, _, leaf, top = scalable()
    for where in path(b, top, A)[:3]:
        b.image[where] |= 3 << 61
    add("72-old", b, 1, write(A), ecap=SCALABLE | SSIRWS, flags=1 << 7, code=0x79)
    b.image[leaf] = b.image[leaf] & ~3 | 3 << 61
    add("72-new", b, 1, write(A), ecap=SCALABLE | SSIRWS, flags=1 << 7, hpa=PAGE_AT)


# ---------------------------------------------------------------- requests with PASID, first stage


def _with_pasid():
    b, *_ = process(ctx={"paside": 0})
    add("73", b, 1, tagged(5, V), ecap=FULL, code=0x45, recorded=True)
    b, *_ = process()
    add("74", b, 1, tagged(0x2000, V), ecap=FULL, code=0x46)
    add("74-PSS", b, 1, tagged(0x200, V), ecap=FULL & ~PSS | 8 << 35, code=0x89)
    b, *_ = process(ctx={"rid_pasid": 5})
    add("75", b, 1, tagged(5, V), ecap=FULL, code=0x48)
    b, *_ = legacy()
    add("76", b, 0, tagged(5), ecap=PT | PASID, code=0x31, recorded=True)
    add("76-page", b, 0, read(A, kind=Kind.PAGE), ecap=PT | DT | PRS, code=0x32, recorded=True)
    b, *_ = process()
    add("77", b, 1, tagged(5, 1 << 47), ecap=FULL, code=0x80, recorded=True)
    add("77-ok", b, 1, tagged(5, V, write=True), ecap=FULL, hpa=PAGE_AT)
    b, _, _, _, top = process()
    b.image[path(b, top, V)[1]] &= ~4
    add("78-user", b, 1, tagged(5, V), ecap=FULL, code=0x81, recorded=True)
    add("78-super", b, 1, tagged(5, V, privileged=True), ecap=FULL, hpa=PAGE_AT)
    b, *_ = process(sre=0)
    add("78-noSRE", b, 1, tagged(5, V, privileged=True), ecap=FULL, code=0x5D)
    for wpe in (0, 1):
        b, *_ = process(rights=5, wpe=wpe)
        want = {"code": 0x85} if wpe else {"hpa": PAGE_AT}
        add(f"79-{wpe}", b, 1, tagged(5, V, write=True, privileged=True), ecap=FULL, **want)
    b, _, _, leaf, top = process()
    b.image[path(b, top, V)[0]] |= 1 << 7
    add("80-PML4", b, 1, tagged(5, V), ecap=FULL, code=0x72, recorded=True)
    b, _, _, leaf, _ = process(address=0x40000000, page=0x80000000, size_level=2)
    add("80-2M", b, 1, tagged(5, 0x40123456), ecap=FULL, hpa=0x80123456)
    b.image[leaf] |= 1 << 13
    add("80-2M-13", b, 1, tagged(5, 0x40000000), ecap=FULL, code=0x72)
    b, _, _, leaf, _ = process()
    b.image[leaf] = b.image[leaf] & ~1 | 1 << 51
    add("80-P", b, 1, tagged(5, V), ecap=FULL, code=0x71)
    b, _, _, leaf, top = process(eafe=1)
    add("81", b, 1, tagged(5, V), ecap=FULL, hpa=PAGE_AT,
        updates=[(where, 0x420) for where in path(b, top, V)])
    b, _, _, leaf, top = process(eafe=0)
    add("81-write", b, 1, tagged(5, V, write=True), ecap=FULL, hpa=PAGE_AT,
        updates=[*((where, 0x20) for where in path(b, top, V)[:3]), (leaf, 0x60)])
    b, *_ = process(pwsnp=0)
    add("81-nosnoop", b, 1, tagged(5, V), ecap=FULL, code=0x90)
    add("ER", b, 1, tagged(5, V, execute=True), ecap=FULL, code=0x5C)
    add("ER8", b, 1, tagged(5, V, execute=True), ecap=FULL, version=0x80, code=0x34, recorded=True)


# ------------------------------------------------------------------------------------------ nested


def _nested():
    b, _, walk, second = nested()
    add("82-ok", b, 1, tagged(5, V + 5), ecap=FULL, hpa=PAGE_AT + 5)
    remap(b, second, walk[0], 2)
    add("82-top", b, 1, tagged(5, V), ecap=FULL, code=0x75, recorded=True)
    b, _, walk, second = nested()
    remap(b, second, walk[2], 2)
    add("82-lower", b, 1, tagged(5, V), ecap=FULL, code=0x76)
    remap(b, second, walk[2], 0)
    add("82-none", b, 1, tagged(5, V), ecap=FULL, code=0x79)
    b, _, walk, second = nested()
    remap(b, second, PAGE_AT, 1)
    add("83", b, 1, tagged(5, V, write=True), ecap=FULL, code=0x85)
    add("83-read", b, 1, tagged(5, V), ecap=FULL, hpa=PAGE_AT)
    remap(b, second, PAGE_AT, 2)
    add("83-noread", b, 1, tagged(5, V), ecap=FULL, code=0x86)
    b, _, walk, second = nested()
    remap(b, second, walk[1], 1)
    add("84", b, 1, tagged(5, V), ecap=FULL, code=0x77)
    b.image[walk[1]] |= 0x20
    add("84-A-set", b, 1, tagged(5, V), ecap=FULL, hpa=PAGE_AT)
    add("84-SSADE", nested(ssade=1)[0], 1, tagged(5, V), ecap=FULL, hpa=PAGE_AT)
    b, _, walk, second = nested(ssade=1)
    remap(b, second, walk[1], 1)
    add("84-SSADE-R", b, 1, tagged(5, V), ecap=FULL, code=0x76)
    b, _, walk, second = nested(aw=1)
    b.image[walk[3]] |= 1 << 39
    add("85", b, 1, tagged(5, V), ecap=FULL, code=0x74, recorded=True)
    b, entry, walk, second = nested(aw=1)
    b.image[entry + 16] |= 1 << 40
    add("85-FSPTPTR", b, 1, tagged(5, V), ecap=FULL, code=0x5B)
    b, _, walk, second = nested(address=0x40000000, page=0x3000000 - G + 0x20000000, size_level=2,
                                second=False)
    base = 0x3000000 + 0x20000000
    b.second_stage(second, 4, base + 0x5000, 0x9000000)
    b.second_stage(second, 4, base + 0x6000, 0x5555000)
    add("86-a", b, 1, tagged(5, 0x40005678), ecap=FULL, hpa=0x9000678, bits=12)
    add("86-b", b, 1, tagged(5, 0x40006678), ecap=FULL, hpa=0x5555678)
    for fs5lp, want in ((0, {"code": 0x5B}), (1, {"hpa": PAGE_AT})):
        b = new()
        top = b.frame()
        b.first_stage(top, 5, V, PAGE_AT)
        b.pasid(b.scalable(SID, paside=1), 5, 1, first=top, fspm=1, pwsnp=1)
        add(f"87-{fs5lp}", b, 1, tagged(5, V), ecap=FULL, cap=CAP_BASE | fs5lp << 60, **want)


# ----------------------------------------------------------------------------- extended (rev 2.x)


def _extended():
    b, first, second, table = extended_nested()
    add("88-ok", b, 2, tagged(5, V), ecap=EXTENDED, hpa=PAGE_AT)
    add("88-rid", b, 2, read(PAGE_AT + G), ecap=EXTENDED, hpa=PAGE_AT)
    remap(b, second, table, 0)
    add("88", b, 2, tagged(5, V), ecap=EXTENDED, condition="X.PT.4", unconfirmed=True)
    b, first, second, table = extended_nested()
    b.extended(SID, second, 2, t=2, paside=1, neste=1, pasid_table=table + G)
    add("88-T2", b, 2, tagged(5, V), ecap=EXTENDED, condition="X.PASIDE")
    add("88-T2-rid", b, 2, read(A), ecap=EXTENDED, hpa=A)
    b.extended(SID, second, 2, t=4, paside=0, neste=1, pasid_table=table + G)
    add("88-T4", b, 2, read(A), ecap=EXTENDED, code=3)
    b.extended(SID, second, 2, t=4, paside=1, neste=0, pasid_table=table)
    b.put(table + 8 * 5, first | 1)
    add("88-range", b, 2, tagged(32, V), ecap=EXTENDED, condition="X.RANGE")
    add("88-absent", b, 2, tagged(6, V), ecap=EXTENDED, condition="X.PT.2")
    add("88-noECS", b, 2, tagged(6, V), ecap=EXTENDED & ~ECS, code=0x30, recorded=True)


# ------------------------------------------------------------------------------------ root address


def _rtaddr():
    b, *_ = legacy()
    add("RTA.1.3", b, 1, write(A), code=0x30, recorded=True)
    add("RTA.1.1", b, 3, write(A), code=0x30)
    add("RTA.4", b, 3, write(A), ecap=PT | 1 << 52, code=0x33)
    add("RTA.1.4", b, 0, write(A), ecap=PT | SSIRWS, flags=1 << 7, code=0x30)
    narrow = {"ecap": PT | SSIRWS | PRS, "flags": 1 << 7}
    add("RTA.1.4-PASID", b, 0, tagged(5, V), code=0x31, **narrow)
    add("RTA.1.4-page", b, 0, read(A, kind=Kind.PAGE), code=0x32, **narrow)
    b, context, *_ = process(ctx={"dte": 1, "pre": 1})
    add("SCT.8-ok", b, 1, tagged(5, V, kind=Kind.PAGE), ecap=FULL, code=None)
    add("translated-pasid", b, 1, tagged(5, V, kind=Kind.TRANSLATED), ecap=FULL, code=0x49)
    add("translated", b, 1, write(A, kind=Kind.TRANSLATED), ecap=FULL, hpa=A)
    add("translated-wide", b, 1, write(1 << 48, kind=Kind.TRANSLATED), ecap=FULL, code=0x83)
    add("translated-msi", b, 1, write(0xFEE00000, kind=Kind.TRANSLATED), ecap=FULL, code=0x87)
    ats = {"kind": Kind.TRANSLATION}
    add("ats", b, 1, tagged(5, V, **ats), ecap=FULL, hpa=PAGE_AT, readable=True, writable=True)
    add("ats-write", b, 1, tagged(5, V, write=True, **ats), ecap=FULL, condition="UR.AT")
    add("ats-absent", b, 1, tagged(6, V, **ats), ecap=FULL, code=0x59, recorded=False,
        answer="success with R=W=U=S=0")
    b.pasid(context, 0, 4)
    add("ats-pass-NW", b, 1, read(A, no_write=True, **ats), ecap=FULL | NWFS, hpa=A,
        readable=True, writable=False)
    add("ats-msi", b, 1, read(0xFEE00000, **ats), ecap=FULL, code=None, readable=False,
        writable=True)
    add("ats-msi-NW", b, 1, read(0xFEE00000, no_write=True, **ats), ecap=FULL | 1 << 33, code=None,
        readable=False, writable=False)
    add("SCT.8", process(ctx={"dte": 1})[0], 1, tagged(5, V, kind=Kind.PAGE), ecap=FULL, code=0x47)
    add("SCT.5", process()[0], 1, tagged(5, V, **ats), ecap=FULL, code=0x44)


def _unreachable_tables():
    """Tables outside memory, and the conditions that no numbered vector meets."""
    b, *_ = legacy(tt=1)
    add("LGN.1.2", b, 0, write(1 << 48, kind=Kind.TRANSLATED), ecap=PT | DT, code=4, recorded=True)
    b.root = OUTSIDE
    add("LRT.1", b, 0, write(A), code=8, recorded=True)
    add("SRT.1", b, 1, write(A), ecap=SCALABLE, code=0x38, recorded=True)
    b, *_ = scalable()
    b.image[b.root] = OUTSIDE | 1
    add("SCT.1", b, 1, write(A), ecap=SCALABLE, code=0x40, recorded=True)
    b, context, *_ = scalable()
    b.image[b.image[context] & ~0xFFF] = OUTSIDE | 1
    add("SPT.1", b, 1, write(A), ecap=SCALABLE, code=0x58, recorded=True)
    b, context, *_ = scalable()
    b.image[context] |= 1 << 6
    add("SCT.4.3", b, 1, write(A), ecap=FULL | 1 << 56, code=0x43, recorded=True)
    add("SCT.4.3-PASID", b, 1, tagged(5, V), ecap=FULL | 1 << 56, code=0x45, recorded=True)
    add("SCT.4.3-page", b, 1, tagged(5, V, kind=Kind.PAGE), ecap=FULL | 1 << 56, code=0x43)
    b, context, _, _, top = process()
    b.image[path(b, top, V)[1]] = OUTSIDE | 7
    add("SFS.1", b, 1, tagged(5, V), ecap=FULL, code=0x70, recorded=True)
    b.pasid(context, 5, 1, first=OUTSIDE, pwsnp=1)
    add("SFS.4", b, 1, tagged(5, V), ecap=FULL, code=0x73, recorded=True)
    b, *_ = scalable(ssade=1)
    add("SSS.5", b, 1, write(A), ecap=FULL, code=0x7C, recorded=True)
    b, _, _, leaf, _ = scalable(ssade=1, pwsnp=1)
    b.image.read_only = frozenset({leaf >> 12})
    add("SSS.6", b, 1, write(A), ecap=FULL, code=0x7D, recorded=True)
    b, _, _, leaf, _ = process()
    b.image.read_only = frozenset({leaf >> 12})
    add("SFS.10", b, 1, tagged(5, V), ecap=FULL, code=0x91, recorded=True)
    b, entry, _, leaf, top = scalable(ssade=1, pwsnp=1)
    b.image[entry] |= 1 << 2
    asked = read(A, kind=Kind.TRANSLATION, no_write=True)
    above = [(where, 0x100) for where in path(b, top, A)[:3]]
    add("SSADE-NW", b, 1, asked, ecap=FULL | NWFS, hpa=PAGE_AT, updates=[*above, (leaf, 0x100)])
    add("SSADE-NW-ignored", b, 1, asked, ecap=FULL, hpa=PAGE_AT, updates=[*above, (leaf, 0x300)])
    add("SSADE", b, 1, write(A), ecap=FULL, hpa=PAGE_AT,
        updates=[*((where, 0x100) for where in path(b, top, A)[:3]), (leaf, 0x300)])


def _extended_faults():
    b, first, second, table = extended_nested()
    add("X.ERE", b, 2, tagged(5, V, execute=True), ecap=EXTENDED, condition="X.ERE")
    b.put(table + 40, (first + G) | 1)
    add("X.SRE", b, 2, tagged(5, V, privileged=True), ecap=EXTENDED, condition="X.SRE")
    b.put(table + 40, (first + G) | 2 | 1)
    add("X.PT.3", b, 2, tagged(5, V), ecap=EXTENDED, condition="X.PT.3")
    b.extended(SID, second, 2, paside=1, pasid_table=OUTSIDE)
    add("X.PT.1", b, 2, tagged(5, V), ecap=EXTENDED, condition="X.PT.1")
    b = new()
    top, table = b.frame(), b.frame()
    leaf = b.first_stage(top, 4, V, PAGE_AT)
    b.put(table + 40, top | 1)
    b.extended(SID, 0, 2, t=4, paside=1, pasid_table=table, ere=1, nxe=1)
    add("X-execute", b, 2, tagged(5, V, execute=True), ecap=EXTENDED, hpa=PAGE_AT)
    b.image[leaf] |= 1 << 63
    add("X.NX", b, 2, tagged(5, V, execute=True), ecap=EXTENDED, condition="X.NX")
    add("X-read", b, 2, tagged(5, V), ecap=EXTENDED, hpa=PAGE_AT)
    b.extended(SID, 0, 2, t=4, paside=1, pasid_table=table, ere=1, nxe=0)
    add("X-no-NXE", b, 2, tagged(5, V), ecap=EXTENDED, condition="SFS.3", unconfirmed=True)


for build in (
    _legacy_walks, _legacy_rights, _legacy_reserved, _legacy_entries, _legacy_types,
    _scalable_root_context, _scalable_pasid, _scalable_walks, _with_pasid, _nested, _extended,
    _rtaddr, _unreachable_tables, _extended_faults,
):
    build()
