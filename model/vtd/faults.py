"""Fault conditions: names, codes, whether they are qualified, and how an ATS request is answered.

Source: VT-d 7.1.3, table 30. A condition is a small number in the engine (0 is "no fault") and an
index into `CONDITIONS`. Sub-conditions keep their own number and name (``SPT.4.2``), since a reader
wants to know which; they share the code that is recorded.

Conditions whose name starts with ``X`` belong to the extended mode of rev 2.x. Their codes could
not be confirmed from a published table and are given as 0: see `model.vtd.extended`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Answer(Enum):
    """What a translation request (ATS) gets when it meets a condition."""

    UR = "unsupported request"
    CA = "completer abort"
    NONE = "success with R=W=U=S=0"
    RIGHTS = "success with the effective rights"
    NA = "cannot meet this condition"


@dataclass(frozen=True)
class Condition:
    """One row of the fault table.

    Attributes:
        name: condition code of the specification, for example ``SPT.2``.
        code: fault reason as recorded (8 bits); 0 where it is not known.
        qualified: suppressed when a met entry has FPD=1.
        answer: completion of a translation request that meets it.
        rule: name of the cited rule that checks it (`model.rules.find`).
        meaning: what is wrong, in a few words.

    """

    name: str
    code: int
    qualified: bool
    answer: Answer
    rule: str
    meaning: str


CONDITIONS: Final[list[Condition]] = [
    Condition("none", 0, False, Answer.NA, "vtd.translate", "no fault")
]
_BY_NAME: Final[dict[str, int]] = {}


def _define(
    name: str, code: int, answer: Answer, rule: str, meaning: str, *, qualified: bool = True
) -> int:
    _BY_NAME[name] = len(CONDITIONS)
    CONDITIONS.append(Condition(name, code, qualified, answer, rule, meaning))
    return _BY_NAME[name]


def condition(number: int) -> Condition:
    """Return the condition with this number (as `Outcome.fault` holds it)."""
    return CONDITIONS[number]


def number_of(name: str) -> int:
    """Return the number of the condition called *name*.

    Raises:
        KeyError: there is no such condition.

    """
    return _BY_NAME[name]


_UR, _CA, _NONE, _RIGHTS, _NA = Answer.UR, Answer.CA, Answer.NONE, Answer.RIGHTS, Answer.NA

# Root and context entries of legacy mode (VT-d 9.1, 9.3).
_R = "vtd.legacy.root-entry"
LRT_1 = _define("LRT.1", 0x08, _CA, _R, "root entry not accessible", qualified=False)
LRT_2 = _define("LRT.2", 0x01, _UR, _R, "root entry not present", qualified=False)
LRT_3 = _define("LRT.3", 0x0A, _CA, _R, "reserved bit in root entry", qualified=False)
_R = "vtd.legacy.context-entry"
LCT_1 = _define("LCT.1", 0x09, _CA, _R, "context entry not accessible", qualified=False)
LCT_2 = _define("LCT.2", 0x02, _UR, _R, "context entry not present")
LCT_3 = _define("LCT.3", 0x0B, _CA, _R, "reserved bit in context entry")
LCT_4_1 = _define("LCT.4.1", 0x03, _CA, _R, "AW not supported")
LCT_4_2 = _define("LCT.4.2", 0x03, _CA, _R, "TT not supported")
_R = "vtd.second-stage.entry"
LCT_4_3 = _define("LCT.4.3", 0x03, _CA, _R, "top second-stage table not accessible")
LSS_1 = _define("LSS.1", 0x07, _CA, _R, "second-stage entry not accessible")
LSS_2 = _define("LSS.2", 0x0C, _CA, _R, "reserved bit in second-stage entry")
LCT_5 = _define("LCT.5", 0x0D, _UR, "vtd.legacy.ats-blocked", "TT blocks ATS requests")
_R = "vtd.second-stage.input-width"
LGN_1_1 = _define("LGN.1.1", 0x04, _NONE, _R, "address beyond min(MGAW, AGAW)")
LGN_1_2 = _define("LGN.1.2", 0x04, _NA, "vtd.translated-request", "translated address beyond HAW")
LGN_1_3 = _define("LGN.1.3", 0x04, _NA, "vtd.pass-through", "pass-through address beyond HAW")
_R = "vtd.second-stage.rights"
LGN_2 = _define("LGN.2", 0x05, _RIGHTS, _R, "no write right")
LGN_3 = _define("LGN.3", 0x06, _RIGHTS, _R, "no read right")
_R = "vtd.interrupt-range.output"
LGN_4 = _define("LGN.4", 0x0E, _CA, _R, "output address in the interrupt range")

# Root-table address register and the kind of request (VT-d 11.4.5).
_R = "vtd.rtaddr"
RTA_1_1 = _define("RTA.1.1", 0x30, _CA, _R, "TTM=11 without abort-DMA support", qualified=False)
RTA_1_2 = _define("RTA.1.2", 0x30, _CA, _R, "TTM=10", qualified=False)
RTA_1_3 = _define("RTA.1.3", 0x30, _CA, _R, "TTM=01 without scalable mode", qualified=False)
RTA_1_4 = _define("RTA.1.4", 0x30, _CA, _R, "SSIRWE in legacy mode", qualified=False)
RTA_2 = _define("RTA.2", 0x31, _UR, _R, "request-with-PASID in legacy mode", qualified=False)
RTA_3 = _define("RTA.3", 0x32, _NA, _R, "page request in legacy mode", qualified=False)
RTA_4 = _define("RTA.4", 0x33, _UR, _R, "abort-DMA mode", qualified=False)
RTA_5 = _define("RTA.5", 0x34, _UR, _R, "execute requested (version >= 8)", qualified=False)

# Root and context entries of scalable mode (VT-d 9.2, 9.4).
_R = "vtd.scalable.root-entry"
SRT_1 = _define("SRT.1", 0x38, _CA, _R, "root entry not accessible", qualified=False)
SRT_2 = _define("SRT.2", 0x39, _UR, _R, "half of root entry not present", qualified=False)
SRT_3 = _define("SRT.3", 0x3A, _CA, _R, "reserved bit in half of root entry", qualified=False)
_R = "vtd.scalable.context-entry"
SCT_1 = _define("SCT.1", 0x40, _CA, _R, "context entry not accessible", qualified=False)
SCT_2 = _define("SCT.2", 0x41, _UR, _R, "context entry not present")
SCT_3 = _define("SCT.3", 0x42, _CA, _R, "reserved bit in context entry")
SCT_4_1 = _define("SCT.4.1", 0x43, _CA, _R, "DTE=0 and PRE=1")
SCT_4_2 = _define("SCT.4.2", 0x43, _CA, _R, "RID_PASID beyond the PASID directory")
_R = "vtd.scalable.request-allowed"
SCT_4_3 = _define("SCT.4.3", 0x43, _CA, _R, "EPTR=1 and PASIDE=0")
SCT_5 = _define("SCT.5", 0x44, _UR, _R, "DTE=0 blocks ATS requests")
SCT_6 = _define("SCT.6", 0x45, _UR, _R, "PASIDE=0")
SCT_7 = _define("SCT.7", 0x46, _UR, _R, "PASID beyond the PASID directory")
SCT_8 = _define("SCT.8", 0x47, _NA, _R, "PRE=0 blocks page requests")
SCT_9 = _define("SCT.9", 0x48, _UR, _R, "PASID equals RID_PASID")
SCT_10 = _define("SCT.10", 0x49, _NA, _R, "EPTR=0 and translated request with PASID")

# PASID directory and PASID table (VT-d 9.5, 9.6).
_R = "vtd.pasid.directory-entry"
SPD_1 = _define("SPD.1", 0x50, _CA, _R, "PASID-directory entry not accessible", qualified=False)
SPD_2 = _define("SPD.2", 0x51, _NONE, _R, "PASID-directory entry not present")
SPD_3 = _define("SPD.3", 0x52, _CA, _R, "reserved bit in PASID-directory entry")
_R = "vtd.pasid.table-entry"
SPT_1 = _define("SPT.1", 0x58, _CA, _R, "PASID-table entry not accessible", qualified=False)
SPT_2 = _define("SPT.2", 0x59, _NONE, _R, "PASID-table entry not present")
SPT_3 = _define("SPT.3", 0x5A, _CA, _R, "reserved bit in PASID-table entry")
_R = "vtd.pasid.programming"
SPT_4_1 = _define("SPT.4.1", 0x5B, _CA, _R, "AW not supported")
SPT_4_2 = _define("SPT.4.2", 0x5B, _CA, _R, "PGTT not supported")
SPT_4_3 = _define("SPT.4.3", 0x5B, _CA, _R, "FSPM not supported")
SPT_4_4 = _define("SPT.4.4", 0x5B, _CA, _R, "nested: FSPTPTR beyond min(MGAW, AW)")
_R = "vtd.pasid.privilege"
SPT_5 = _define("SPT.5", 0x5C, _NONE, _R, "execute requested, ERS=0")
SPT_6 = _define("SPT.6", 0x5D, _NONE, _R, "supervisor request, SRE=0")

# First stage (VT-d 9.7, 3.6) and nested (VT-d 3.8).
_R = "vtd.first-stage.entry"
SFS_1 = _define("SFS.1", 0x70, _NONE, _R, "first-stage entry not accessible")
SFS_2 = _define("SFS.2", 0x71, _NONE, _R, "first-stage entry not present")
SFS_3 = _define("SFS.3", 0x72, _NONE, _R, "reserved bit in first-stage entry")
SFS_4 = _define("SFS.4", 0x73, _NONE, _R, "top first-stage table not accessible")
SFS_5 = _define("SFS.5", 0x74, _NONE, _R, "nested: address in entry beyond min(MGAW, AW)")
_R = "vtd.nested.table-read"
SFS_6 = _define("SFS.6", 0x75, _NONE, _R, "nested: no read right on the top first-stage table")
SFS_7 = _define("SFS.7", 0x76, _NONE, _R, "nested: no read right on a lower first-stage table")
_R = "vtd.first-stage.flags"
SFS_8 = _define("SFS.8", 0x77, _NONE, _R, "nested: no write right for an A/D/EA update")
SFS_9 = _define("SFS.9", 0x90, _NONE, _R, "A/D/EA update needed, page walk not snooped")
SFS_10 = _define("SFS.10", 0x91, _NONE, _R, "A/D/EA update failed")

# Second stage in scalable mode (VT-d 9.8, 3.7).
_R = "vtd.second-stage.entry"
SSS_1 = _define("SSS.1", 0x78, _CA, _R, "second-stage entry not accessible")
SSS_2 = _define("SSS.2", 0x79, _NONE, _R, "no right in entry, or both lost along the walk")
SSS_3 = _define("SSS.3", 0x7A, _CA, _R, "reserved bit in second-stage entry")
SSS_4 = _define("SSS.4", 0x7B, _CA, _R, "top second-stage table not accessible")
_R = "vtd.second-stage.flags"
SSS_5 = _define("SSS.5", 0x7C, _CA, _R, "A/D update needed, page walk not snooped")
SSS_6 = _define("SSS.6", 0x7D, _CA, _R, "A/D update failed")

# General conditions of scalable mode.
_R = "vtd.first-stage.canonical"
SGN_1 = _define("SGN.1", 0x80, _NONE, _R, "address not canonical")
_R = "vtd.first-stage.rights"
SGN_2 = _define("SGN.2", 0x81, _NONE, _R, "user request to a supervisor page")
SGN_4_1 = _define("SGN.4.1", 0x83, _NA, "vtd.translated-request", "translated address beyond HAW")
SGN_4_2 = _define("SGN.4.2", 0x83, _NONE, "vtd.pass-through", "pass-through address beyond HAW")
_R = "vtd.second-stage.input-width"
SGN_5 = _define("SGN.5", 0x84, _NONE, _R, "address beyond min(MGAW, AW)")
_R = "vtd.scalable.rights"
SGN_6 = _define("SGN.6", 0x85, _RIGHTS, _R, "no write right")
SGN_7 = _define("SGN.7", 0x86, _RIGHTS, _R, "no read right")
_R = "vtd.interrupt-range.output"
SGN_8 = _define("SGN.8", 0x87, _CA, _R, "output address in the interrupt range")
_R = "vtd.scalable.request-allowed"
SGN_10 = _define("SGN.10", 0x89, _UR, _R, "PASID wider than PSS")

# Requests that never reach the tables.
_R = "vtd.request-kind"
UR_AT = _define("UR.AT", 0, _UR, _R, "address type not allowed here", qualified=False)
_R = "vtd.interrupt-range.input"
IR_9 = _define("IR.9", 0x29, _NA, _R, "illegal access to the interrupt range", qualified=False)

# Extended mode, rev 2.x (see `extended.py`; codes unconfirmed).
_R = "vtd.extended.context-entry"
X_PASIDE = _define("X.PASIDE", 0, _UR, _R, "request-with-PASID, PASIDE=0 or pass-through")
X_ERE = _define("X.ERE", 0, _UR, _R, "execute requested, ERE=0, or SMEP=1 and supervisor")
_R = "vtd.extended.pasid-entry"
X_RANGE = _define("X.RANGE", 0, _UR, _R, "PASID beyond the PASID table")
X_PT_ACCESS = _define("X.PT.1", 0, _CA, _R, "PASID-table entry not accessible")
X_PT_PRESENT = _define("X.PT.2", 0, _NONE, _R, "PASID-table entry not present")
X_PT_RESERVED = _define("X.PT.3", 0, _CA, _R, "reserved bit in PASID-table entry")
X_PT_READ = _define("X.PT.4", 0, _NONE, _R, "nested: no read right on the PASID-table page")
X_SRE = _define("X.SRE", 0, _NONE, _R, "supervisor request, SRE=0")
_R = "vtd.extended.execute"
X_NX = _define("X.NX", 0, _NONE, _R, "execute request to a page without execute right")
