"""What QEMU's VT-d does differently from the specification: named entries, and the model of it.

`predict` runs the engine of the project with the entries switched on that apply to a version of
QEMU, and says which of them mattered. Where none did, QEMU must do what the specification says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dmaproof.model.algebra import Blocked, Image, IntCarrier
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import interrupt_range
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.scalable import context_entry
from dmaproof.model.vtd.translate import evaluate


@dataclass(frozen=True)
class Deviation:
    """One named deviation.

    Attributes:
        versions: QEMU versions that show it.
        legal: the specification allows it, but hardware may also do otherwise.
        what: the difference.
        source: where it is documented or was observed.
    """

    versions: tuple[str, ...]
    legal: bool
    what: str
    source: str


BOTH = ("7.2", "10.2")
_INTEL_IOMMU = "hw/i386/intel_iommu.c"
DEVIATIONS: dict[str, Deviation] = {
    "legacy-codes": Deviation(
        BOTH, False, "scalable mode reports legacy codes for root, context and second stage",
        f"{_INTEL_IOMMU} vtd_iova_to_slpte, vtd_dev_to_context_entry"),
    "single-pasid-code": Deviation(
        ("7.2",), False, "every directory and PASID-entry problem is 58h",
        f"{_INTEL_IOMMU} VTD_FR_PASID_TABLE_INV; split by 'Use the latest fault reasons' (2025)"),
    "pgtt-any": Deviation(
        ("7.2",), False, "PGTT 1 and 3 are accepted and walk SSPTPTR as second stage",
        f"{_INTEL_IOMMU} vtd_pe_type_check; fixed by 'Make pasid entry type check accurate'"),
    "aw-pass-through": Deviation(
        BOTH, False, "PGTT=4 needs a valid AW", f"{_INTEL_IOMMU} vtd_get_pe_in_pasid_leaf_table"),
    "no-pasid-entry-reserved": Deviation(
        BOTH, False, "reserved bits of PASID entries are not checked", f"{_INTEL_IOMMU} vtd_pe_*"),
    "no-directory-reserved": Deviation(
        BOTH, False, "reserved bits of directory entries are not checked",
        f"{_INTEL_IOMMU} vtd_get_pe_from_pasid_table"),
    "no-paside": Deviation(
        BOTH, False, "PASIDE is not checked", f"{_INTEL_IOMMU} vtd_do_iommu_translate"),
    "no-rid-pasid-clash": Deviation(
        BOTH, False, "a PASID equal to RID_PASID is not refused",
        f"{_INTEL_IOMMU} vtd_do_iommu_translate"),
    "no-pdts": Deviation(
        BOTH, False, "a PASID beyond the directory reads on", f"{_INTEL_IOMMU} vtd_get_pasid_dire"),
    "context-capabilities": Deviation(
        BOTH, False, "DTE, PASIDE, PRE and RID_PASID are allowed without their capability",
        f"{_INTEL_IOMMU} VTD_SM_CONTEXT_ENTRY_RSVD_VAL0"),
    "rid-pasid-honoured": Deviation(
        ("7.2",), False, "RID_PASID is used although ECAP.RPS=0",
        f"{_INTEL_IOMMU} VTD_CE_GET_RID2PASID"),
    "both-root-halves": Deviation(
        ("7.2",), False, "reserved bits of the absent half of a root entry are checked",
        f"{_INTEL_IOMMU} vtd_root_entry_rsvd_bits_check"),
    "pasid-p-ignored": Deviation(
        ("10.2",), False, "the type of a PASID entry is checked, its Present bit is not",
        "seen in the recordings"),
    "pasid-0-first": Deviation(
        BOTH, False, "the entry of RID_PASID is checked at context fetch for every request",
        f"{_INTEL_IOMMU} vtd_dev_to_context_entry"),
    "canonical-by-aw": Deviation(
        ("10.2",), False, "the canonical width follows AW instead of FSPM",
        f"{_INTEL_IOMMU} vtd_iova_fl_check_canonical"),
    "snoop-not-needed": Deviation(
        ("10.2",), False, "flags are updated although page walks are not snooped",
        f"{_INTEL_IOMMU} vtd_iova_to_flpte"),
    "wanted-right-first": Deviation(
        BOTH, True, "the wanted right is checked in every entry, before its reserved bits",
        f"{_INTEL_IOMMU} vtd_iova_to_slpte"),
    "fpd-not-present": Deviation(
        BOTH, False, "FPD of a directory or PASID entry that is not used does not count",
        f"{_INTEL_IOMMU} vtd_ce_get_pasid_fpd"),
    "fpd-not-reserved": Deviation(
        BOTH, False, "FPD does not suppress Bh", f"{_INTEL_IOMMU} vtd_qualified_faults"),
    "fpd-not-58h": Deviation(
        ("7.2",), False, "FPD does not suppress 58h, which stands for qualified conditions too",
        f"{_INTEL_IOMMU} vtd_qualified_faults"),
    "msi-page": Deviation(
        BOTH, False, "a page that overlaps the interrupt range faults as a whole",
        f"{_INTEL_IOMMU} vtd_iova_to_slpte"),
    "msi-code": Deviation(
        BOTH, False, "a scalable-capable unit reports 87h for legacy tables",
        f"{_INTEL_IOMMU} s->scalable_mode"),
    "msi-silent": Deviation(
        BOTH, False, "illegal accesses to the interrupt range vanish without a fault",
        f"{_INTEL_IOMMU} vtd_mem_ir_ops"),
    "pass-through-width": Deviation(
        BOTH, False, "pass-through is not bounded by HAW",
        f"{_INTEL_IOMMU} vtd_do_iommu_translate"),
    "iotlb-hit-silent": Deviation(
        BOTH, False, "an IOTLB hit with too few rights blocks without a record",
        "softmmu/memory.c address_space_translate_iommu"),
    "flush-more": Deviation(
        BOTH, True, "context domain flush, page flush in a large page and a full IOTLB drop more",
        f"{_INTEL_IOMMU} vtd_context_cache_invalidate"),
}

_CODES_72 = {f.SPD_1: 0x58, f.SPD_2: 0x58, f.SPD_3: 0x58, f.SPT_1: 0x58, f.SPT_2: 0x58,
             f.SPT_3: 0x58, f.SPT_4_1: 0x58, f.SPT_4_2: 0x58, f.SPT_4_3: 0x58, f.SPT_4_4: 0x58}
_LEGACY = {f.SRT_1: 8, f.SRT_2: 1, f.SRT_3: 0xA, f.SCT_1: 9, f.SCT_2: 2, f.SCT_3: 0xB,
           f.SSS_1: 7, f.SSS_3: 0xC, f.SSS_4: 3, f.SGN_5: 4, f.SGN_6: 5, f.SGN_7: 6}
_IGNORED = {
    f.SPT_3: "no-pasid-entry-reserved", f.SPD_3: "no-directory-reserved", f.SCT_6: "no-paside",
    f.SCT_9: "no-rid-pasid-clash", f.SCT_7: "no-pdts", f.SCT_10: "no-paside",
    f.SCT_4_1: "context-capabilities", f.SCT_4_2: "context-capabilities",
    f.LGN_1_3: "pass-through-width", f.SGN_4_2: "pass-through-width", f.SFS_9: "snoop-not-needed",
}
_WALK = (f.SFS_1, f.SFS_2, f.SFS_3, f.SFS_4, f.SGN_1, f.SGN_2, f.SGN_6, f.SGN_8)


@dataclass
class Prediction:
    """What QEMU does: it lands at *hpa*, blocks with *code*, or sends an interrupt.

    Attributes:
        hpa: landing address; None when blocked or an interrupt.
        code: recorded fault code; None when nothing is recorded.
        blocked: the access does not land.
        used: deviations that made a difference.
    """

    hpa: int | None = None
    code: int | None = None
    blocked: bool = False
    used: set[str] = field(default_factory=set)


class QemuCarrier(IntCarrier):
    """The concrete carrier with the checks that QEMU does not make left out."""

    def __init__(self, image: Image, version: str, wanted: int) -> None:
        super().__init__(image)
        self.ignored = dict(_IGNORED)
        if version == "10.2":
            self.ignored[f.SPT_2] = "pasid-p-ignored"
        self.used: set[str] = set()
        self._wanted = wanted
        self._version = version
        self._recent = False

    def fail(self, condition, fault):
        if not condition:
            return
        if fault in self.ignored:
            self.used.add(self.ignored[fault])
            return
        raise Blocked(fault)

    def read(self, address, fault):
        entry = super().read(address, fault)
        if fault in (f.LSS_1, f.SSS_1) and not entry & self._wanted:
            self.used.add("wanted-right-first")
            raise Blocked(f.LGN_2 if self._wanted == 2 else f.LGN_3)
        if fault == f.SFS_1:
            self._first_stage(entry)
        return entry

    def _first_stage(self, entry):
        """QEMU checks the rights of an entry before its reserved bits."""
        if entry & 1 and not entry & 4:
            self.used.add("wanted-right-first")
            raise Blocked(f.SGN_2)
        if entry & 1 and self._wanted == 2 and not entry & 2:
            self.used.add("wanted-right-first")
            raise Blocked(f.SGN_6)

    def suppress(self, condition):
        self.suppressed |= self._recent
        self._recent = bool(condition)

    def silent(self, fault):
        """Whether FPD suppresses *fault* in QEMU."""
        if self._version == "7.2" and fault in _CODES_72:
            if self.suppressed or self._recent:
                self.used.add("fpd-not-58h")
            return False
        if fault in (f.SPD_2, f.SPT_2, f.SPT_4_1, f.SPT_4_2) and self._recent:
            self.used.add("fpd-not-present")
        else:
            self.suppressed |= self._recent
        if fault in (f.LCT_3, f.SCT_3):
            if self.suppressed:
                self.used.add("fpd-not-reserved")
            return False
        return self.suppressed and f.CONDITIONS[fault].qualified


def _pasid_entry(image: Image, registers: Registers, sid: int, pasid: int | None):
    """The PASID entry as QEMU finds it, for the checks it makes elsewhere; None if unreachable."""
    c = QemuCarrier(image, "10.2", 0)
    c.ignored |= dict.fromkeys((f.SCT_2, f.SCT_3), "x")
    try:
        low, high = context_entry(c, registers, sid)
        number = pasid if pasid is not None else (high & 0xFFFFF if registers.rps else 0)
        directory = c.read((low & registers.address) + 8 * (number >> 6), f.SPD_1)
        if not directory & 1:
            return None
        where = (directory & registers.address) + 64 * (number & 63)
        return tuple(c.read(where + 8 * i, f.SPT_1) for i in range(3))
    except Blocked:
        return None


def adapt(registers: Registers, version: str) -> Registers:
    """Return the registers with QEMU's own idea of what is supported."""
    r = Registers(registers.cap, registers.ecap, registers.rtaddr, version=registers.version,
                  haw=registers.haw)
    low, high = r.scalable_context_reserved
    # Bits 8:5, qword 1 above RID_PASID and the rest of the entry are all that is checked.
    r.scalable_context_reserved = (low & ~0x1C, high & ~0xFFFFF)
    if version == "7.2":
        r.rps, r.fsts, r.nest, r.ssts = True, True, True, True
    return r


def _probe(image: Image, registers: Registers, request: Request, version: str):
    """Run the engine with QEMU's omissions: (carrier, outcome)."""
    carrier = QemuCarrier(image, version, 2 if request.write else 1)
    return carrier, evaluate(carrier, registers, request)


def predict(image: Image, registers: Registers, request: Request, version: str) -> Prediction:
    """Say what QEMU does with an untranslated request after all caches were flushed."""
    p = Prediction()
    if not request.with_pasid and interrupt_range.inside(request.address):
        if not request.write:
            p.used.add("msi-silent")
        p.code, p.hpa, p.blocked = None, None, True
        return p
    r = adapt(registers, version)
    fault, carrier, outcome = 0, None, None
    if r.mode is Mode.SCALABLE:
        fault, carrier = _context_checks(image, r, request, version, p)
    if not fault:
        seen_image = _as_second_stage(image, r, request, p) if version == "7.2" else image
        carrier, outcome = _probe(seen_image, r, request, version)
        fault = outcome.fault
        if version == "7.2" and fault != f.SGN_5 and _far_table(seen_image, r, request):
            p.used.add("no-pasid-entry-reserved")
            fault = f.SSS_4
        first = version != "7.2" and r.mode is Mode.SCALABLE
        if first and (not fault or fault in _WALK):
            fault = _canonical(image, r, request, p) or fault
    if not fault and outcome is not None:
        fault = _msi(r, p, outcome)
    p.used |= carrier.used
    if fault:
        p.blocked = True
        p.code = None if carrier.silent(fault) else _code(r, registers, fault, request, version, p)
        p.used |= carrier.used
    else:
        p.hpa = outcome.hpa
    return p


def _context_checks(image, r, request, version, p):
    """What QEMU checks when it fetches a scalable context entry: also the entry of RID_PASID."""
    carrier = QemuCarrier(image, version, 0)
    try:
        if version == "7.2":
            _both_halves(carrier, r, request.sid, p)
        low, high = context_entry(carrier, r, request.sid)
        plain = Registers(r.cap, r.ecap, r.rtaddr, haw=r.haw).scalable_context_reserved
        if low & plain[0]:
            p.used.add("context-capabilities")
        if high & plain[1]:
            p.used.add("rid-pasid-honoured")
        own = Request(request.sid, 0x1000, write=False)
        number = None
    except Blocked as stop:
        return stop.fault, carrier
    carrier.suppress(False)
    fault = _entry_check(image, r, own.sid, number, version, p)
    if fault and request.with_pasid:
        p.used.add("pasid-0-first")
    return fault, carrier


def _both_halves(carrier, r, sid, p):
    where = r.root + 16 * (sid >> 8)
    low, high = carrier.read(where, f.SRT_1), carrier.read(where + 8, f.SRT_1)
    mine = (high if sid & 0x80 else low)
    if mine & 1 and (low | high) & r.root_reserved and not mine & r.root_reserved:
        p.used.add("both-root-halves")
        raise Blocked(f.SRT_3)


def _entry_check(image, r, sid, pasid, version, p):
    """Directory, type and width of a PASID entry as QEMU checks them; 0 or the condition."""
    c = QemuCarrier(image, version, 0)
    low, high = context_entry(c, r, sid)
    number = (high & 0xFFFFF if r.rps else 0) if pasid is None else pasid
    try:
        directory = c.read((low & r.address) + 8 * (number >> 6), f.SPD_1)
        if not directory & 1:
            return f.SPD_2
        if directory & r.beyond_haw:  # not checked, and not masked either
            p.used.add("no-directory-reserved")
            return f.SPT_1
        where = (directory & r.address) + 64 * (number & 63)
        q0, q1, q2 = (c.read(where + 8 * i, f.SPT_1) for i in range(3))
    except Blocked as stop:
        return stop.fault
    if version == "7.2" and not q0 & 1:
        return f.SPT_2
    if any(q & m for q, m in zip((q0, q1, q2), r.pasid_reserved, strict=False)):
        p.used.add("no-pasid-entry-reserved")
    pgtt, aw = q0 >> 6 & 7, q0 >> 2 & 7
    supported = {1: r.fsts, 2: r.ssts, 3: r.nest, 4: r.pt}
    if not supported.get(pgtt, False):
        if not q0 & 1:
            p.used.add("pasid-p-ignored")
        return f.SPT_4_2
    if r.ssts and aw + 2 not in r.sagaw:
        if pgtt == 4:
            p.used.add("aw-pass-through")
        return f.SPT_4_1
    if version != "7.2" and pgtt == 1 and q2 >> 2 & 3:
        return f.SPT_4_3
    return 0


def _as_second_stage(image, r, request, p):
    """The image with first-stage and nested PASID entries turned into second-stage ones."""
    if r.mode is not Mode.SCALABLE:
        return image
    c = QemuCarrier(image, "7.2", 0)
    low, high = context_entry(c, r, request.sid)
    number = request.pasid if request.with_pasid else high & 0xFFFFF
    directory = c.read((low & r.address) + 8 * (number >> 6), f.SPD_1)
    where = (directory & r.address) + 64 * (number & 63)
    q0 = c.read(where, f.SPT_1)
    if q0 >> 6 & 7 not in (1, 3):
        return image
    p.used.add("pgtt-any")
    changed = image.copy()
    changed[where] = q0 & ~(7 << 6) | 2 << 6
    return changed


def _far_table(image, r, request):
    """Whether a second-stage PASID entry points beyond HAW, which QEMU follows to no memory."""
    if r.mode is not Mode.SCALABLE:
        return False
    entry = _pasid_entry(image, r, request.sid, request.pasid if request.with_pasid else None)
    return entry is not None and entry[0] >> 6 & 7 == 2 and bool(entry[0] & r.beyond_haw)


def _canonical(image, r, request, p):
    """QEMU's canonical check of a first-stage request, with the width that AW names."""
    entry = _pasid_entry(image, r, request.sid, request.pasid if request.with_pasid else None)
    if entry is None or entry[0] >> 6 & 7 != 1:
        return 0
    width = 12 + 9 * ((entry[0] >> 2 & 7) + 2)
    upper = request.address >> (width - 1)
    if upper in (0, (1 << (65 - width)) - 1):
        return 0
    p.used.add("canonical-by-aw")
    return f.SGN_1


def _msi(r, p, outcome):
    if outcome.bits > 20:
        first = outcome.hpa >> outcome.bits << outcome.bits
        if first <= 0xFEEFFFFF and first + (1 << outcome.bits) > 0xFEE00000:
            p.used.add("msi-page")
            return f.SGN_8 if r.mode is Mode.SCALABLE else f.LGN_4
    return 0


def _code(r, registers, fault, request, version, p):
    if version == "7.2" and fault in _CODES_72:
        if _CODES_72[fault] != f.CONDITIONS[fault].code:
            p.used.add("single-pasid-code")
        return _CODES_72[fault]
    if fault == f.SSS_2:
        p.used.add("legacy-codes")
        return 5 if request.write else 6
    if r.mode is Mode.SCALABLE and fault in (f.LGN_2, f.LGN_3):
        p.used.add("legacy-codes")
    if fault == f.LGN_4 and registers.smts:
        p.used.add("msi-code")
        return 0x87
    if fault in _LEGACY and not (registers.fsts and fault in (f.SGN_6,)):
        p.used.add("legacy-codes")
        return _LEGACY[fault]
    return f.CONDITIONS[fault].code
