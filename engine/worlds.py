"""Small finite worlds: the instances that simulation, search and vacuity checks run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio import vocabulary as v


@dataclass(frozen=True)
class World:
    """The facts of a few functions; the counts of everything else.

    Attributes:
        functions: names of the functions.
        groups: group name of each function.
        acts: pairs (f, h): f can make requests arrive under h's requester id.
        p2p: pairs (f, g): a request of f can end at g's BAR.
        ported: groups that also hold a port or bridge.
        incapable: functions without the PASID capability.
        bad_path: functions whose path fails the RR+UF test.
        raw: functions that may emit translated requests with any address.
        absent: functions that are not there at boot.
        extra_rids: (name, group) of requester ids that belong to no function, such as a bridge's;
            `emits` may name them.
    """

    functions: tuple[str, ...]
    groups: Mapping[str, str]
    influence: frozenset[tuple[str, str]] = frozenset()
    emits: frozenset[tuple[str, str]] = frozenset()
    p2p: frozenset[tuple[str, str]] = frozenset()
    ported: frozenset[str] = frozenset()
    incapable: frozenset[str] = frozenset()
    bad_path: frozenset[str] = frozenset()
    raw: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    extra_rids: tuple[tuple[str, str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.functions, tuple(sorted(self.groups.items())), self.emits, self.p2p))

    def instance(self, containers: int = 2, pasids: int = 1, spaces: int = 1) -> Instance:
        """The world as an instance with that many containers, PASIDs (besides 0) and spaces."""
        names = self.functions
        number = {n: i for i, n in enumerate(names)}
        extra = dict(self.extra_rids)
        # In the order of the functions, so that worlds that differ in names only number alike.
        groups = tuple(dict.fromkeys([*(self.groups[n] for n in names), *extra.values()]))
        rids = (*(f"rid({n})" for n in names), *extra)
        requester = {**number, **{n: len(names) + i for i, n in enumerate(extra)}}
        group_of = [*(self.groups[n] for n in names), *extra.values()]
        pasid_names = ("no PASID", *(f"p{i + 1}" for i in range(pasids)))

        def pairs(given: Iterable[tuple[str, str]]) -> frozenset[tuple[int, ...]]:
            return frozenset((number[a], number[b]) for a, b in given)

        def ones(given: Iterable[str]) -> frozenset[tuple[int, ...]]:
            return frozenset((number[a],) for a in given)

        own = {(n, n) for n in names}
        facts: dict[Rel, frozenset[tuple[int, ...]]] = {
            v.INFLUENCE: pairs(own | self.influence),
            v.EMITS: frozenset((number[a], requester[b]) for a, b in own | self.emits),
            v.P2P: pairs(self.p2p),
            v.CAPABLE: ones(n for n in names if n not in self.incapable),
            v.PATH_OK: ones(n for n in names if n not in self.bad_path),
            v.PORTED: frozenset((groups.index(g),) for g in self.ported),
            v.ALONE: frozenset(
                (groups.index(g),) for g in set(self.groups.values())
                if g not in self.ported and list(self.groups.values()).count(g) == 1
            ),
            v.FITS: frozenset(product(range(len(names)), range(len(pasid_names)))),
            v.RAW: ones(self.raw),
            v.BOOT: ones(n for n in names if n not in self.absent),
        }
        return Instance(
            elements={
                v.FUNCTION: names,
                v.RID: rids,
                v.GROUP: groups,
                v.CONTAINER: tuple(f"C{i + 1}" for i in range(containers)),
                v.PASID: pasid_names,
                v.SPACE: tuple(f"s{i + 1}" for i in range(spaces)),
            },
            functions={
                v.RID_OF: {(i,): i for i in range(len(names))},
                v.RGROUP: {(i,): groups.index(g) for i, g in enumerate(group_of)},
                v.NO_PASID.fn: {(): 0},
            },
            facts=facts,
        )


_AB = ("A", "B")
_APART = {"A": "gA", "B": "gB"}
_TOGETHER = {"A": "g", "B": "g"}
_BOTH = frozenset({("A", "B"), ("B", "A")})
# A requester id that no function owns, emitted by all: proofs must not rely on its absence.
_STRAY = (("stray", "gX"),)
_A_STRAYS = frozenset({("A", "stray")})
_STRAYS = _A_STRAYS | {("B", "stray")}

SAMPLES: tuple[World, ...] = (
    World(_AB, _APART, emits=_STRAYS, extra_rids=_STRAY),
    World(_AB, _TOGETHER, emits=_STRAYS, extra_rids=(("stray", "g"),)),
    World(_AB, _TOGETHER, influence=_BOTH, p2p=_BOTH, emits=_STRAYS, extra_rids=_STRAY),
    World(_AB, _TOGETHER, emits=_BOTH | _STRAYS, ported=frozenset({"g"}), extra_rids=_STRAY),
    World(_AB, _APART, influence=_BOTH, p2p=_BOTH),
    World(("A", "B", "D"), {"A": "g", "B": "g", "D": "gD"}, influence=_BOTH, p2p=_BOTH),
    World(_AB, _APART, influence=_BOTH, p2p=_BOTH, incapable=frozenset("B")),
    World(_AB, _TOGETHER, influence=_BOTH, p2p=_BOTH, incapable=frozenset("AB")),
    World(_AB, _TOGETHER, emits=_STRAYS, incapable=frozenset("B"), extra_rids=(("stray", "g"),)),
    World(("A", "B", "D"), {"A": "g", "B": "g", "D": "gD"}, influence=_BOTH, p2p=_BOTH,
          incapable=frozenset("D")),
    World(_AB, _APART, influence=_BOTH, p2p=_BOTH, ported=frozenset({"gA", "gB"})),
    World(_AB, _APART, p2p=_BOTH, incapable=frozenset("B"), bad_path=frozenset("AB")),
    World(("A",), {"A": "gA"}, emits=_A_STRAYS, extra_rids=_STRAY),
    World(_AB, _TOGETHER, influence=_BOTH, p2p=_BOTH, absent=frozenset("B")),
)
"""Worlds of up to three functions, for simulation; a proof uses those that meet its premises."""
