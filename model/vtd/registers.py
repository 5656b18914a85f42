"""Registers and capabilities the engine reads (VT-d 11.4.1 to 11.4.5).

Registers are Python ints in every carrier: what they decide is decided before the first table read.
Masks of reserved bits that follow from them are computed once, when the object is made.
"""

from __future__ import annotations

from enum import Enum

from dmaproof.model.errors import InputError
from dmaproof.model.rules import rule

MASK64 = (1 << 64) - 1


class Mode(Enum):
    """Translation table mode that RTADDR selects."""

    LEGACY = "legacy"
    SCALABLE = "scalable"
    EXTENDED = "extended"
    ABORT = "abort"
    BAD_ABORT = "abort without capability"
    BAD_RESERVED = "reserved"
    BAD_SCALABLE = "scalable without capability"


def _field(register: int, high: int, low: int) -> int:
    return register >> low & ((1 << (high - low + 1)) - 1)


def _span(high: int, low: int) -> int:
    """Return a word with bits high..low set (empty when high < low)."""
    return ((1 << (high + 1)) - 1) & ~((1 << low) - 1) & MASK64


class Registers:
    """State of one remapping unit outside of memory.

    Args:
        cap: capability register (offset 08h).
        ecap: extended capability register (offset 10h).
        rtaddr: root-table address register in effect (after GCMD.SRTP).
        version: VER register, major in bits 7:4 (default 1.0).
        haw: host address width in bits; None: MGAW, which an emulated unit uses for both.
        enabled: GSTS.TES.

    Raises:
        InputError: a value that no unit can report, or the host permission table (not modelled).

    """

    def __init__(
        self,
        cap: int,
        ecap: int,
        rtaddr: int,
        *,
        version: int = 0x10,
        haw: int | None = None,
        enabled: bool = True,
    ) -> None:
        for name, value in (("cap", cap), ("ecap", ecap), ("rtaddr", rtaddr)):
            if not 0 <= value <= MASK64:
                raise InputError(
                    f"{name} is not a 64-bit value: {value:#x}", where=name,
                    cause="a negative number or a register wider than 64 bits",
                    remedy="give the register as read from the unit",
                )
        self.cap, self.ecap, self.rtaddr = cap, ecap, rtaddr
        self.version, self.major = version, version >> 4
        self.enabled = enabled
        self._capabilities()
        self._extended_capabilities()
        self.haw = min(self.mgaw, 52) if haw is None else haw
        if not 32 <= self.haw <= 52:
            raise InputError(
                f"host address width of {self.haw} bits", where="haw",
                cause="CAP.MGAW is read as host address width unless one is given",
                remedy="give a width of 32 to 52 bits",
            )
        if self.hpts:
            raise InputError(
                "the unit has a host permission table (ECAP.HPTS=1)", where="ecap",
                cause="translated requests are checked there, and that table is not modelled",
                remedy="clear ECAP bit 55 to check without it",
            )
        self.root = rtaddr & _span(self.haw - 1, 12)
        self.mode = mode_of(self)
        self.ssirwe = bool(rtaddr >> 7 & 1) and self.ssirws
        self._masks()

    def _capabilities(self) -> None:
        cap = self.cap
        self.domain_bits = 4 + 2 * min(_field(cap, 2, 0), 6)
        self.cm = bool(cap >> 7 & 1)
        # Bit n: 30 + 9n address bits, n + 2 levels; only 3 to 5 levels exist today.
        self.sagaw = tuple(n + 2 for n in (1, 2, 3) if cap >> (8 + n) & 1)
        self.mgaw = _field(cap, 21, 16) + 1
        self.zlr = bool(cap >> 22 & 1)
        self.large_2m, self.large_1g = bool(cap >> 34 & 1), bool(cap >> 35 & 1)
        self.psi = bool(cap >> 39 & 1)
        self.fault_records = _field(cap, 47, 40) + 1
        self.mamv = _field(cap, 53, 48)
        self.fs1gp, self.fs5lp = bool(cap >> 56 & 1), bool(cap >> 60 & 1)
        self.esrtps = bool(cap >> 63 & 1)

    def _extended_capabilities(self) -> None:
        def bit(n: int) -> bool:
            return bool(self.ecap >> n & 1)

        self.dt, self.pt, self.sc, self.mts = bit(2), bit(6), bit(7), bit(25)
        self.ecs, self.nest, self.prs, self.ers = bit(24), bit(26), bit(29), bit(30)
        self.srs, self.nwfs, self.eafs, self.pasid = bit(31), bit(33), bit(34), bit(40)
        self.dit, self.pds = bit(41), bit(42)
        self.pss = _field(self.ecap, 39, 35)
        self.smts, self.ssads, self.ssts, self.fsts = bit(43), bit(45), bit(46), bit(47)
        self.smpwc, self.rps, self.adms, self.rprivs = bit(48), bit(49), bit(52), bit(53)
        self.hpts, self.ptrs, self.ssirws = bit(55), bit(56), bit(57)

    def _masks(self) -> None:
        """Reserved bits per quadword of each entry; PGTT-dependent ones are added by `pasid`."""
        low, high = _span(11, 1), _span(63, self.haw)
        self.beyond_haw = high
        self.address = _span(self.haw - 1, 12)
        self.root_reserved = low | high
        self.domain_mask = (1 << self.domain_bits) - 1
        self.context_reserved = (
            _span(11, 4) | high,
            1 << 7 | _span(23, 8 + self.domain_bits) | _span(63, 24),
        )
        without = ((2, self.dt), (3, self.pasid), (4, self.prs), (5, self.hpts), (6, self.ptrs))
        self.scalable_context_reserved = (
            sum(1 << bit for bit, has in without if not has) | _span(8, 7) | high,
            (0 if self.rps else _span(19, 0)) | (0 if self.rprivs else 1 << 20) | _span(63, 21),
        )
        self.directory_reserved = _span(11, 2) | high
        self._pasid_masks()
        self.second_stage_limit = {n: min(self.mgaw, 12 + 9 * n) for n in (3, 4, 5)}
        # A unit without second stage may report no width; the walk still needs an upper bound.
        self.levels = self.sagaw or (4,)
        self.second_stage_reserved: dict[int, tuple[int, int, bool]] = {}
        self.first_stage_reserved: dict[int, tuple[int, int]] = {}

    def _pasid_masks(self) -> None:
        types = ((1, self.fsts), (2, self.ssts), (3, self.nest), (4, self.pt))
        self.pgtts = tuple(code for code, has in types if has)  # supported values of PGTT
        second = 0 if self.ssts else _span(4, 2) | _span(63, 12)
        first = 0 if self.fsts else _span(3, 2) | 1 << 4 | _span(63, 12)
        self.pasid_reserved = (
            1 << 5 | _span(11, 10) | second | (0 if self.ssts and self.ssads else 1 << 9),
            _span(15, self.domain_bits) | _span(22, 16) | _span(31, 27)
            | (0 if self.smpwc else 1 << 23) | (0 if self.sc else 1 << 24)
            | (0 if self.mts else 3 << 25 | _span(63, 32)),
            (0 if self.srs else 1) | 1 << 1 | _span(11, 8) | first
            | (0 if self.eafs else 1 << 7),
            MASK64,
            # Without a host permission table the upper half is reserved altogether.
            MASK64, MASK64, MASK64, MASK64,
        )


@rule("vtd.rtaddr.mode", "VT-d 11.4.5; rev 2.x 10.4.6", "RTADDR.TTM selects the table formats.")
def mode_of(registers: Registers) -> Mode:
    """Return the mode that RTADDR bits 11:10 select on this unit."""
    ttm = registers.rtaddr >> 10 & 3
    if ttm == 0:
        return Mode.LEGACY
    if ttm == 1:
        return Mode.SCALABLE if registers.smts else Mode.BAD_SCALABLE
    if ttm == 2:  # in rev 2.x bit 11 alone was RTT, the extended root table
        return Mode.EXTENDED if registers.ecs else Mode.BAD_RESERVED
    return Mode.ABORT if registers.adms else Mode.BAD_ABORT
