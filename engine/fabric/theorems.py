"""The theorems over topologies: what each says, what it rests on, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dmaproof.model.errors import InputError

FIRM: Mapping[str, bool] = {
    "deputy": True,
    "spoof": False,
    "mfd_rid_honest": True,
    "mf_loopback": False,
    "rp_loopback": False,
    "rc_p2p": False,
    "prefix": True,
}
"""Silicon as the proposal of 2025 takes it: without ACS capability nothing loops back inside, and
requester ids are honest. ``prefix``: a function without PASID capability can send PASID prefixes.
"""

SPOOFING: Mapping[str, bool] = {**FIRM, "spoof": True}
LOOSE: Mapping[str, bool] = {**SPOOFING, "mf_loopback": True, "rp_loopback": True}

_V3 = ("no-egress-control", "quiet-sriov", "no-shared-ghost", "no-virtual-in-switch")
_SWITCH = ("switches-of-ports", "root-ports-isolate", "one-function-devices", "no-conventional",
           "no-aliases", "no-egress-control")  # fmt: skip


@dataclass(frozen=True)
class ShapeTheorem:
    """A claim about every topology.

    Attributes:
        id: its name.
        row: the claim or topology of the study that it decides, for example ``P10`` or ``T1``.
        says: the claim, in a sentence.
        question: what violates it (`questions.QUESTIONS`).
        grouping: the grouping that it speaks of.
        expected: "proved" or "refuted".
        assume: the fabric's assumptions.
        where: conditions on the machine (`conditions.CONDITIONS`).
        least: size of its smallest counterexample, if it is expected to be refuted.
        note: what to know about the result.

    """

    id: str
    row: str
    says: str
    question: str
    grouping: str
    expected: str
    assume: Mapping[str, bool] = field(default_factory=lambda: FIRM)
    where: tuple[str, ...] = ()
    least: int = 1
    note: str = ""

    @property
    def assumptions(self) -> dict[str, bool]:
        """The assumptions that the question asks about."""
        asked = {name: on for name, on in self.assume.items() if name != "prefix"}
        return dict(self.assume) if self.question == "pasid-mate" else asked

    @property
    def meaning(self) -> dict[str, object]:
        """What decides the answer: everything but how it is told."""
        return {
            "question": self.question,
            "grouping": self.grouping,
            "assume": dict(sorted(self.assume.items())),
            "where": sorted(self.where),
        }


def _t(
    name: str, row: str, says: str, question: str, least: int, where: tuple[str, ...] = _SWITCH
) -> ShapeTheorem:
    return ShapeTheorem(name, row, says, question, "linux", "refuted", FIRM, where, least)


_LINUX = (
    ShapeTheorem(
        "linux-closed", "P11", "Every leak stays inside one group of Linux up to 7.0.",
        "closed", "linux", "refuted", FIRM, ("no-virtual", "no-aliases"), 2,
    ),
    _t("T1", "T1", "Linux: no leak between functions behind lax ports of one switch leaves its "
       "group.", "closed-two-ports", 6, (*_SWITCH, "lax-switches")),
    _t("T2", "T2", "Linux: no function alone in its group is reached through the lax port of "
       "another.", "closed-singleton", 6),
    _t("T3", "T3", "Linux: no function reaches an isolating function of its device in another "
       "group.", "closed-device", 2, ("no-aliases",)),
    _t("T6", "T6", "Linux: no function reaches what is behind a bridge of its device in another "
       "group.", "closed-below-function", 3, ("no-aliases", "no-virtual")),
    _t("T9", "T9", "Linux: the lax ports of a switch of mixed ports leak inside their groups "
       "only.", "closed-mixed-switch", 7),
    _t("T11", "T11", "Linux: no leak from or to a virtual function on a bus of its own leaves its "
       "group.", "closed-virtual-switch", 7,
       ("switches-of-ports", "root-ports-isolate", "no-conventional", "no-aliases",
        "no-egress-control", "quiet-sriov")),
    ShapeTheorem(
        "T8", "T8", "Linux: a leak inside a group in bus order is inside one in any order.",
        "ordered-closed", "linux", "refuted", FIRM, ("no-aliases", "no-conventional"), 3,
    ),
    ShapeTheorem(
        "linux-plain", "P11", "Every leak stays inside one group of Linux up to 7.0, on machines "
        "with plain ports.",
        "closed", "linux", "refuted", FIRM,
        ("plain-ports", "switches-of-ports", "no-virtual", "no-aliases", "no-conventional"), 6,
    ),
)  # fmt: skip

_PROPOSAL = (
    ShapeTheorem(
        "P10", "P10", "v3: every leak stays inside one group, with SV on everywhere.",
        "closed", "v3", "proved", SPOOFING,
        (*_V3, "sv-on", "no-function-beside-bridge", "switches-of-ports"),
    ),
    ShapeTheorem(
        "P10-honest", "P10", "v3: every leak stays inside one group, if requester ids are honest.",
        "closed", "v3", "proved", FIRM, _V3,
        note="root ports without ACS capability, where SV cannot be on, are covered here",
    ),
    ShapeTheorem(
        "P10-beside", "P10", "v3: with SV on everywhere, no condition on multifunction devices is "
        "needed.",
        "closed", "v3", "refuted", SPOOFING, (*_V3, "sv-on", "switches-of-ports"), 4,
        note="a function beside a bridge may use requester ids from behind it: SV at the port "
        "above sees them in its range",
    ),
    ShapeTheorem(
        "P10-loopback", "P10", "v3: every leak stays inside one group, even if devices without ACS "
        "capability loop back.",
        "closed", "v3", "refuted", {**FIRM, "mf_loopback": True}, _V3, 2,
    ),
    ShapeTheorem(
        "P32", "P32", "v3: functions without ACS capability are rightly apart, if there is no "
        "internal loopback.",
        "closed", "v3", "proved", FIRM, (*_V3, "silent-functions"),
    ),
    ShapeTheorem(
        "P32-loopback", "P32", "v3: functions without ACS capability are rightly apart, with "
        "internal loopback (T4).",
        "closed", "v3", "refuted", {**FIRM, "mf_loopback": True}, (*_V3, "silent-functions"), 2,
    ),
    ShapeTheorem(
        "P32-root-port", "P32", "v3: every leak stays inside one group, even if root ports without "
        "ACS capability send requests back.",
        "closed", "v3", "refuted", {**FIRM, "rp_loopback": True}, _V3, 3,
        note="the axiom of the proposal covers root ports, too (T5)",
    ),
    ShapeTheorem(
        "v3-virtual", "P35", "v3: every leak stays inside one group, whatever the ACS registers of "
        "SR-IOV functions say.",
        "closed", "v3", "refuted", FIRM,
        ("no-egress-control", "no-shared-ghost", "no-virtual-in-switch"), 2,
        note="virtual functions are left out of their device; so they are in Linux up to 7.0",
    ),
    ShapeTheorem(
        "v3-egress", "P10", "v3: every leak stays inside one group, with Egress Control.",
        "closed", "v3", "refuted", FIRM,
        ("quiet-sriov", "no-shared-ghost", "no-virtual-in-switch"), 6,
    ),
    ShapeTheorem(
        "v3-ghost", "P10", "v3: every leak stays inside one group, whatever aliases quirks name.",
        "closed", "v3", "refuted", FIRM,
        ("no-egress-control", "quiet-sriov", "no-virtual-in-switch"), 2,
        note="the kernel compares aliases with functions that are there, not with each other",
    ),
    ShapeTheorem(
        "v3-inner", "P10", "v3: every leak stays inside one group, with functions on the inner bus "
        "of a switch.",
        "closed", "v3", "refuted", FIRM, ("no-egress-control", "quiet-sriov", "no-shared-ghost"), 5,
        note="a virtual function on a bus of its own finds no mate there to share a group with; "
        "PCIe allows no endpoint beside downstream ports",
    ),
    ShapeTheorem(
        "P35", "P35", "v3: no leak from or to a virtual function on a bus of its own leaves its "
        "group.",
        "closed-virtual", "v3", "proved", FIRM, _V3,
    ),
)  # fmt: skip

_COMPARED = (
    ShapeTheorem(
        "P31", "P31", "Where root ports and multifunction devices have ACS capability, every Linux "
        "group lies in one of v3.",
        "linux-inside-v3", "v3", "proved", FIRM, ("capability", "true-multifunction"),
    ),
    ShapeTheorem(
        "T4", "T4", "v3 never separates functions of a device that Linux joins.",
        "linux-inside-v3-device", "v3", "refuted", FIRM, _V3, 2,
        note="v3 is finer there, and closed (P10-honest)",
    ),
    ShapeTheorem(
        "T5", "P33", "v3 never separates isolating functions below a root port that Linux joins.",
        "linux-inside-v3-below-root-port", "v3", "refuted", FIRM, _V3, 3,
        note="v3 is finer there, and closed (P10-honest)",
    ),
    ShapeTheorem(
        "T7", "P33", "v3 never separates a PCIe-to-PCI bridge from what is behind it.",
        "linux-inside-v3-bridge", "v3", "refuted", FIRM, _V3, 2,
        note="v3 is finer there, and closed (P10-honest)",
    ),
    ShapeTheorem(
        "P34-linux", "P34", "Linux: groups do not depend on the order of probing.",
        "order", "linux", "refuted", FIRM, ("no-aliases",), 2,
    ),
    ShapeTheorem(
        "P34", "P34", "v3: groups do not depend on the order of probing.",
        "order", "v3", "proved", FIRM,
    ),
)  # fmt: skip

_PASID = (
    ShapeTheorem(
        "P22", "P22", "A function that meets the conditions of an immutable singleton leaks to "
        "nobody.",
        "singleton-out", "linux", "proved", LOOSE,
        ("no-egress-control", "no-aliases", "no-virtual", "no-function-beside-bridge",
         "switches-of-ports"),
        note="with ATS off; with ATS on a malicious function reaches everything (L5)",
    ),
    ShapeTheorem(
        "P22-into", "P22", "Nobody leaks to a function that meets the conditions of an immutable "
        "singleton.",
        "singleton-in", "linux", "refuted", FIRM,
        ("no-egress-control", "no-aliases", "no-virtual", "no-function-beside-bridge",
         "switches-of-ports"), 2,
        note="the target's port cannot defend it (L9)",
    ),
    ShapeTheorem(
        "P23", "P23", "With RR and UF on its whole path, a function's PASID requests land at no "
        "peer.",
        "pasid-path", "linux", "proved", LOOSE,
        ("no-egress-control", "no-virtual", "switches-of-ports"),
    ),
    ShapeTheorem(
        "P23-sriov", "P23", "The same, with virtual functions.",
        "pasid-path", "linux", "refuted", LOOSE, ("no-egress-control", "switches-of-ports"), 2,
        note="a physical function counts as one function, and so as isolating",
    ),
    ShapeTheorem(
        "P26", "P26", "pci_enable_pasid refuses wherever a port on the path lacks RR or UF.",
        "pasid-refused", "linux", "proved", LOOSE, ("no-egress-control",),
    ),
    ShapeTheorem(
        "P26-mutant", "P26", "Without that test, PASID requests land at no peer.",
        "pasid-untested", "linux", "refuted", LOOSE, ("no-egress-control", "no-virtual"), 2,
    ),
    ShapeTheorem(
        "P30", "P30", "No member without PASID uses what is bound for another, if it sends no "
        "prefixes and no member works for it.",
        "pasid-mate", "linux", "proved", {**LOOSE, "prefix": False, "deputy": False},
    ),
    ShapeTheorem(
        "P30-prefix", "P30", "The same, if it can send prefixes.",
        "pasid-mate", "linux", "refuted", {**LOOSE, "deputy": False}, ("no-aliases",), 3,
    ),
    ShapeTheorem(
        "P30-deputy", "P30", "The same, if members work for whoever writes their BAR.",
        "pasid-mate", "linux", "refuted", {**LOOSE, "prefix": False}, ("no-aliases",), 2,
    ),
    ShapeTheorem(
        "P36", "P36", "Functions that send under one requester id are in one group of Linux.",
        "alias-in-group", "linux", "proved", FIRM, ("no-shared-ghost",),
        note="so a bind that programs all aliases of a group's members leaves none behind",
    ),
    ShapeTheorem(
        "P36-2018", "P36", "A function sends under its own requester id alone.",
        "alias-own-id-only", "linux", "refuted", FIRM, (), 1,
        note="the bind of 2018 programs that one only (F2)",
    ),
)  # fmt: skip

_REGISTERS = (
    ShapeTheorem(
        "P62", "P62", "v3 10/11: the mask of control bits keeps EC wherever EC is implemented.",
        "control-mask", "v3", "refuted", FIRM, (), 0,
        note="asked of all 65,536 capability registers",
    ),
)  # fmt: skip

_ALL = {t.id: t for t in (*_LINUX, *_PROPOSAL, *_COMPARED, *_PASID, *_REGISTERS)}


def theorems() -> tuple[ShapeTheorem, ...]:
    """Return all theorems in the order in which they are told."""
    return tuple(_ALL.values())


def theorem(name: str) -> ShapeTheorem:
    """Return the theorem called *name*.

    Raises:
        InputError: there is none.

    """
    found = _ALL.get(name)
    if found is None:
        raise InputError(
            f"no theorem is called {name[:60]!r}",
            "theorem",
            "a typing error",
            f"use one of: {', '.join(_ALL)}",
        )
    return found
