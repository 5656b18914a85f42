"""The driver's address arithmetic, as lemmas about all 64-bit values.

Which pages an invalidation has to name is arithmetic: round the length up to a power of two, align
the start, code the size into the low bits of an address. Each lemma is one formula of the driver
with what it must give, stated with the rules of `model.vtd.invalidation` and nothing of its own;
where the kernel once had another formula, that is a lemma too, expected to fail. Formulas are
written for all carriers: z3 decides them for every value, and the numbers that refute one are
replayed with Python ints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dmaproof.model.algebra import (
    MASK64,
    Carrier,
    Cond,
    Image,
    IntCarrier,
    SymbolicMemory,
    Term,
    Value,
    Word,
    Z3Carrier,
    cond_z3,
)
from dmaproof.model.rules import rule
from dmaproof.model.vtd.invalidation import (
    Command,
    DeviceTag,
    Op,
    drops_device,
    in_range,
)

PFN_BITS = 52
"""Width of a page frame number: 64-bit addresses, 4 KiB pages."""

_STEPS = 3000  # resource units of z3 in a millisecond, about

WHOLE = 64
"""The mask by which the driver asks for the whole domain: no naturally aligned block is enough."""


@dataclass(frozen=True)
class Lemma:
    """A formula of the driver and what it must give.

    Attributes:
        name: identifier.
        regression: the row of docs/regressions.md.
        says: the claim in one sentence.
        source: where the formula stands.
        widths: the variables and their widths in bits.
        assume: which values are meant.
        holds: the claim.
        fixed: the lemma about the formula that replaced this one ("" if it was right).
    """

    name: str
    regression: str
    says: str
    source: str
    widths: Mapping[str, int]
    assume: Callable[[Carrier, Mapping[str, Word]], Cond]
    holds: Callable[[Carrier, Mapping[str, Word]], Cond]
    fixed: str = ""


@dataclass(frozen=True)
class LemmaVerdict:
    """What became of a lemma.

    Attributes:
        result: ``proved`` (for all values of its variables), ``refuted`` or ``undecided``.
        values: the numbers that refute it; they were replayed with Python ints.
        reason: why it is undecided.
        script: the negation as SMT-LIB, unsatisfiable for a proof: any solver can be asked.
    """

    result: str
    values: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    script: str = ""


def evaluate(lemma: Lemma, values: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether the assumption and the claim hold for concrete values."""
    c = IntCarrier(Image())
    return bool(lemma.assume(c, values)), bool(lemma.holds(c, values))


def decide(lemma: Lemma, timeout_ms: int = 60_000) -> LemmaVerdict:
    """Decide a lemma for all values.

    Args:
        lemma: the lemma.
        timeout_ms: z3's time, in milliseconds of an idle machine: it is counted in z3's steps.
    """
    import z3

    c = Z3Carrier(SymbolicMemory())
    bits = {name: z3.BitVec(name, 64) for name in lemma.widths}
    words = {name: Term(bit) for name, bit in bits.items()}
    solver = z3.SolverFor("QF_BV")
    solver.set(rlimit=timeout_ms * _STEPS, timeout=10 * timeout_ms)
    for name, width in lemma.widths.items():
        if width < 64:
            solver.add(z3.ULT(bits[name], 1 << width))
    solver.add(cond_z3(lemma.assume(c, words)), z3.Not(cond_z3(lemma.holds(c, words))))
    script = f"(set-logic QF_BV)\n{solver.to_smt2()}"
    answer = solver.check()
    if answer == z3.unsat:
        return LemmaVerdict("proved", script=script)
    if answer != z3.sat:
        return LemmaVerdict("undecided", reason=f"z3 answers {solver.reason_unknown()}")
    model = _small(solver, bits)
    values = {
        name: model.eval(bit, model_completion=True).as_long() for name, bit in bits.items()
    }
    if evaluate(lemma, values) != (True, False):
        return LemmaVerdict("undecided", values, "replay-failed")
    return LemmaVerdict("refuted", values)


def _small(solver: Value, bits: Mapping[str, Value]) -> Value:
    """A model of a satisfiable solver whose numbers have few bits: people read it."""
    import z3

    found = solver.model()
    for width in range(1, PFN_BITS):
        bounds = [z3.ULT(bit, 1 << width) for bit in bits.values()]
        if solver.check(*bounds) == z3.sat:
            return solver.model()
    return found


# ------------------------------------------------------------------------------------- arithmetic


def log2_up(c: Carrier, count: Word) -> Word:
    """The smallest k with *count* <= 2^k (``ilog2(__roundup_pow_of_two(count))``)."""
    found: Word = 0
    for k in range(PFN_BITS):
        found = found + c.select(count > (1 << k), 1, 0)
    return found


def lowest_bit(c: Carrier, word: Word) -> Word:
    """The number of the lowest bit set, of a word that is not zero (``__ffs``)."""
    low = word & (((word ^ MASK64) + 1) & MASK64)
    found: Word = 0
    for k in range(63):
        found = found + c.select(low > (1 << k), 1, 0)
    return found


def _align_down(word: Word, order: Word) -> Word:
    return (word >> order) << order


def _pages(c: Carrier, v: Mapping[str, Word]) -> Cond:
    """A range of at least one page that does not leave the address space, and a page in it."""
    end = v["pfn"] + v["pages"]
    inside = (v["pfn"] <= v["page"]) & (v["page"] < end)
    return (v["pages"] > 0) & (end <= (1 << PFN_BITS)) & inside


_RANGE = {"pfn": PFN_BITS, "pages": PFN_BITS, "page": PFN_BITS}


def _names(mask: Word, pfn: Word, page: Word) -> Cond:
    """Whether a page command of 2^*mask* pages at *pfn* names a page, or all are flushed."""
    command = Command(Op.IOTLB_PAGE, address=pfn << 12, am=mask)
    return (mask == WHOLE) | in_range(command, page << 12)


@rule(
    "linux.flush.mask", "drivers/iommu/intel/iommu.c; VT-d 6.5.2.3",
    "An unaligned range is named by the aligned block that holds both of its ends.",
)
def block_mask(c: Carrier, pfn: Word, pages: Word) -> Word:
    """log2 of the pages of the aligned block that covers a range; `WHOLE` if there is none."""
    order = log2_up(c, pages)
    below = ((1 << order) + MASK64) & MASK64
    end = pfn + pages + MASK64 & MASK64  # the last page
    shared = ((pfn ^ end) ^ MASK64) & (below ^ MASK64)
    unaligned = c.select(shared == 0, WHOLE, lowest_bit(c, shared))
    return c.select((pfn & below) == 0, order, unaligned)


def _old_mask(c: Carrier, v: Mapping[str, Word]) -> Cond:
    return _names(log2_up(c, v["pages"]), v["pfn"], v["page"])


def _new_mask(c: Carrier, v: Mapping[str, Word]) -> Cond:
    return _names(block_mask(c, v["pfn"], v["pages"]), v["pfn"], v["page"])


def _start_rounded_up(c: Carrier, v: Mapping[str, Word]) -> Cond:
    order = log2_up(c, v["pages"])
    up = _align_down(v["pfn"] + (1 << order) + MASK64 & MASK64, order)
    return _names(order, up, v["pfn"])


def _start_rounded_down(c: Carrier, v: Mapping[str, Word]) -> Cond:
    order = log2_up(c, v["pages"])
    return _names(order, _align_down(v["pfn"], order), v["pfn"])


def _one_command(c: Carrier, v: Mapping[str, Word]) -> Cond:
    order = log2_up(c, v["pages"])
    return _names(order, _align_down(v["pfn"], order), v["page"])


def _aligned_chunks(c: Carrier, v: Mapping[str, Word]) -> Cond:
    """The loop from the start rounded down to the end rounded up passes a chunk with the page."""
    order = log2_up(c, v["pages"])
    start = _align_down(v["pfn"], order)
    end = _align_down(v["pfn"] + v["pages"] + (1 << order) + MASK64 & MASK64, order)
    chunk = _align_down(v["page"], order)
    passed = (start <= chunk) & (chunk < end)
    return passed & _names(order, chunk, v["page"])


# ------------------------------------------------------------------------------------- device TLB


def _dropped(c: Carrier, address: Word, sized: Cond, page: Word) -> Cond:
    command = Command(Op.PASID_DEVICE_TLB, address=address, sized=sized, sid=0, pasid=1)
    return drops_device(c, command, DeviceTag(0, True, 1, page << 12))


def _anything(c: Carrier, v: Mapping[str, Word]) -> Cond:
    return True


def _user_range(c: Carrier, v: Mapping[str, Word]) -> Cond:
    """PASID-selective requests carry no address; the driver passed on what the fields held."""
    return _dropped(c, v["address"] << 12, False, v["page"])


def _whole_range(c: Carrier, v: Mapping[str, Word]) -> Cond:
    return _dropped(c, MASK64 ^ (1 << 63) ^ 0xFFF, True, v["page"])


def _in_block(c: Carrier, v: Mapping[str, Word]) -> Cond:
    aligned = _align_down(v["address"], v["order"]) == v["address"]
    same = (v["page"] >> v["order"]) == (v["address"] >> v["order"])
    return (v["order"] <= PFN_BITS) & aligned & same


_BLOCK = {"address": PFN_BITS, "order": 6, "page": PFN_BITS}


@rule(
    "linux.flush.device-tlb-size", "drivers/iommu/intel/dmar.c qi_flush_dev_iotlb_pasid; "
    "VT-d 6.5.2.6",
    "2^n pages: address bits below the size are ones, the bit of the size is zero, S is set.",
)
def sized_address(c: Carrier, pfn: Word, order: Word) -> Word:
    """The address field of a device-TLB flush of 2^*order* pages at *pfn*."""
    ones = (((1 << order) + MASK64) & MASK64) << 12
    top = c.select(order == 0, 0, ((1 << order) >> 1) << 12)
    return ((pfn << 12) | ones) ^ top


def _bare_address(c: Carrier, v: Mapping[str, Word]) -> Cond:
    top = c.select(v["order"] == 0, 0, ((1 << v["order"]) >> 1) << 12)
    address = (v["address"] << 12) & (top ^ MASK64)
    return _dropped(c, address, (v["order"] == 0) ^ True, v["page"])


def _coded_address(c: Carrier, v: Mapping[str, Word]) -> Cond:
    address = sized_address(c, v["address"], v["order"])
    return _dropped(c, address, (v["order"] == 0) ^ True, v["page"])


@rule(
    "vtd.invalidation.pfsid", "VT-d 6.5.2.5",
    "A device-TLB descriptor has PFSID 3:0 in bits 15:12 and PFSID 15:4 in bits 63:52.",
)
def pfsid_of(descriptor: Word) -> Word:
    """The physical function's source id that a device-TLB flush is throttled against."""
    return ((descriptor >> 12) & 0xF) | (((descriptor >> 52) & 0xFFF) << 4)


def _old_pfsid(c: Carrier, v: Mapping[str, Word]) -> Cond:
    low, high = v["pfsid"] & 0xF, v["pfsid"] & 0xFFF
    return pfsid_of((low << 12) | (high << 52)) == v["pfsid"]


def _new_pfsid(c: Carrier, v: Mapping[str, Word]) -> Cond:
    low, high = v["pfsid"] & 0xF, (v["pfsid"] >> 4) & 0xFFF
    return pfsid_of((low << 12) | (high << 52)) == v["pfsid"]


# ------------------------------------------------------------------------------------ permissions


def _access(first: Word, second: Word, wanted: int) -> Cond:
    """Whether a first-stage and a second-stage leaf agree on an access (1 read, 2 write).

    First stage (VT-d 9.8): Present is bit 0 and allows reading, R/W is bit 1; second stage (9.7):
    R is bit 0, W is bit 1.
    """
    by_first = ((first & 1) == 1) & ((first & wanted) == wanted)
    by_second = (second & wanted) == wanted
    return (by_first ^ by_second) ^ True


def _write_only(c: Carrier, v: Mapping[str, Word]) -> Cond:
    asked = v["prot"]
    first, second = asked | 1, asked
    return _access(first, second, 1) & _access(first, second, 2)


def _write_reads(c: Carrier, v: Mapping[str, Word]) -> Cond:
    asked = v["prot"]
    first, second = asked | 1, asked | 1
    return _access(first, second, 1) & _access(first, second, 2)


def _mapped(c: Carrier, v: Mapping[str, Word]) -> Cond:
    return v["prot"] > 0


_LEMMAS = (
    Lemma(
        "flush-mask-2022", "R14", "the pages of an unmap are in the range that the flush names",
        "drivers/iommu/intel/iommu.c iommu_flush_iotlb_psi before April 2022", _RANGE, _pages,
        _old_mask, "flush-mask",
    ),
    Lemma(
        "flush-mask", "R14", "the pages of an unmap are in the range that the flush names",
        "drivers/iommu/intel/iommu.c iommu_flush_iotlb_psi", _RANGE, _pages, _new_mask,
    ),
    Lemma(
        "piotlb-align-2020", "R15", "the first page of a range is in the range that is named",
        "drivers/iommu/intel/dmar.c qi_flush_piotlb before 2021", _RANGE, _pages,
        _start_rounded_up, "piotlb-align",
    ),
    Lemma(
        "piotlb-align", "R15", "the first page of a range is in the range that is named",
        "drivers/iommu/intel/dmar.c qi_flush_piotlb", _RANGE, _pages, _start_rounded_down,
    ),
    Lemma(
        "svm-range-2020", "R15", "every page of a range is in a range that is named",
        "drivers/iommu/intel/svm.c intel_flush_svm_range_dev before 2021", _RANGE, _pages,
        _one_command, "svm-range",
    ),
    Lemma(
        "svm-range", "R15", "every page of a range is in a range that is named",
        "drivers/iommu/intel/svm.c intel_flush_svm_range_dev", _RANGE, _pages, _aligned_chunks,
    ),
    Lemma(
        "vsva-whole-pasid-2020", "R7", "a guest's flush of a PASID reaches every page of the ATC",
        "drivers/iommu/intel/iommu.c intel_iommu_sva_invalidate before July 2020",
        {"address": PFN_BITS, "page": PFN_BITS}, _anything, _user_range, "vsva-whole-pasid",
    ),
    Lemma(
        "vsva-whole-pasid", "R7", "a guest's flush of a PASID reaches every page of the ATC",
        "drivers/iommu/intel/iommu.c intel_iommu_sva_invalidate",
        {"page": PFN_BITS}, _anything, _whole_range,
    ),
    Lemma(
        "devtlb-size-2020", "R7", "a flush of 2^n pages of the ATC reaches each of them",
        "drivers/iommu/intel/dmar.c qi_flush_dev_iotlb_pasid before July 2020", _BLOCK, _in_block,
        _bare_address, "devtlb-size",
    ),
    Lemma(
        "devtlb-size", "R7", "a flush of 2^n pages of the ATC reaches each of them",
        "drivers/iommu/intel/dmar.c qi_flush_dev_iotlb_pasid", _BLOCK, _in_block, _coded_address,
    ),
    Lemma(
        "pfsid-2019", "R16", "a device-TLB flush names the physical function it means",
        "include/linux/intel-iommu.h QI_DEV_IOTLB_PFSID before November 2019", {"pfsid": 16},
        _anything, _old_pfsid, "pfsid",
    ),
    Lemma(
        "pfsid", "R16", "a device-TLB flush names the physical function it means",
        "include/linux/intel-iommu.h QI_DEV_IOTLB_PFSID", {"pfsid": 16}, _anything, _new_pfsid,
    ),
    Lemma(
        "write-only-2020", "R39", "a mapping allows the same accesses in either stage",
        "drivers/iommu/intel/iommu.c __domain_mapping before 5.13 (CVE-2021-47035)", {"prot": 2},
        _mapped, _write_only, "write-only",
    ),
    Lemma(
        "write-only", "R39", "a mapping allows the same accesses in either stage",
        "drivers/iommu/intel/iommu.c __domain_mapping", {"prot": 2}, _mapped, _write_reads,
    ),
)

LEMMAS: Mapping[str, Lemma] = {lemma.name: lemma for lemma in _LEMMAS}
"""Every lemma by its name."""
