"""Encoders of single table entries: fields in, quadwords out.

Fields are Python ints or words of any carrier (see `model.algebra`); no field is range-checked, so
that wrong entries can be written on purpose. Layouts: VT-d ch. 9, rev 2.x ch. 9 for extended mode.
"""

from __future__ import annotations

from dmaproof.model.algebra import Word

R, W = 1, 2  # second stage
P, RW, US = 1, 2, 4  # first stage
PS = 1 << 7


def legacy_root(context_table: Word, present: int = 1) -> tuple[Word, Word]:
    """Root entry of legacy mode (VT-d 9.1)."""
    return context_table | present, 0


def legacy_context(
    table: Word, aw: int, did: Word, tt: int = 0, fpd: int = 0, present: int = 1
) -> tuple[Word, Word]:
    """Context entry of legacy mode (VT-d 9.3); *aw* 1, 2, 3 for 3, 4, 5 levels."""
    return table | tt << 2 | fpd << 1 | present, did << 8 | aw


def scalable_root_half(context_table: Word, present: int = 1) -> Word:
    """One half of a scalable-mode root entry (VT-d 9.2); extended mode has the same layout."""
    return context_table | present


def scalable_context(
    directory: Word, *, pdts: int = 0, dte: int = 0, paside: int = 0, pre: int = 0,
    rid_pasid: int = 0, rid_priv: int = 0, fpd: int = 0, present: int = 1,
) -> tuple[Word, Word, Word, Word]:
    """Context entry of scalable mode (VT-d 9.4)."""
    low = directory | pdts << 9 | pre << 4 | paside << 3 | dte << 2 | fpd << 1 | present
    return low, rid_pasid | rid_priv << 20, 0, 0


def directory(table: Word, fpd: int = 0, present: int = 1) -> Word:
    """PASID-directory entry (VT-d 9.5)."""
    return table | fpd << 1 | present


def pasid(
    pgtt: int, did: Word, *, second: Word = 0, aw: int = 0, first: Word = 0, fspm: int = 0,
    sre: int = 0, wpe: int = 0, eafe: int = 0, ssade: int = 0, pwsnp: int = 0, fpd: int = 0,
    present: int = 1,
) -> tuple[Word, ...]:
    """PASID-table entry, eight quadwords (VT-d 9.6).

    Args:
        pgtt: 1 first stage, 2 second stage, 3 nested, 4 pass-through.
        did: domain id.
        second: top second-stage table.
        aw: its width code: 1, 2, 3 for 3, 4, 5 levels.
        first: top first-stage table (guest-physical when nested).
        fspm: 1 for five first-stage levels.
        sre: supervisor requests are allowed.
        wpe: write protection counts for supervisor requests.
        eafe: the extended-accessed flag is on.
        ssade: second-stage accessed/dirty flags are on.
        pwsnp: page walks are snooped.
        fpd: faults are not recorded.
        present: P.

    """
    q0 = second | ssade << 9 | pgtt << 6 | aw << 2 | fpd << 1 | present
    return q0, did | pwsnp << 23, first | eafe << 7 | wpe << 4 | fspm << 2 | sre, 0, 0, 0, 0, 0


def second_stage(frame: Word, rights: int = R | W, *, large: bool = False) -> Word:
    """Second-stage entry (VT-d 9.8); *large* sets PS."""
    return frame | (PS if large else 0) | rights


def first_stage(frame: Word, rights: int = P | RW | US, *, large: bool = False) -> Word:
    """First-stage entry (VT-d 9.7); *large* sets PS."""
    return frame | (PS if large else 0) | rights


def extended_context(
    second: Word, aw: int, did: Word, *, t: int = 0, pasid_table: Word = 0, pts: int = 0,
    paside: int = 0, neste: int = 0, pre: int = 0, dinve: int = 0, state_table: Word = 0,
    nxe: int = 0, wpe: int = 0, smep: int = 0, ere: int = 0, fpd: int = 0, present: int = 1,
) -> tuple[Word, Word, Word, Word]:
    """Context entry of extended mode (rev 2.x 9.4)."""
    q0 = second | paside << 11 | neste << 10 | pre << 9 | dinve << 8 | t << 2 | fpd << 1 | present
    q1 = did << 8 | ere << 26 | smep << 24 | wpe << 5 | nxe << 4 | aw
    return q0, q1, pasid_table | pts, state_table


def extended_pasid(first: Word, sre: int = 0, present: int = 1) -> Word:
    """PASID-table entry of rev 2.x (9.5)."""
    return first | sre << 11 | present
