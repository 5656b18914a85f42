"""What a property is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dmaproof.model.logic.terms import Formula
from dmaproof.model.vfio.build import Model


class PropertyKind(StrEnum):
    """How a property is to be read."""

    ALWAYS = "always"  # holds in every reachable state
    CAN = "can"  # some reachable state satisfies it
    ERRNO = "errno"  # whenever its condition holds, the call is refused with that errno


class Premise(StrEnum):
    """A named condition on the machine under which a theorem is proved."""

    NONE = "none"
    CLOSED_GROUPING = "closed_grouping"  # acts(f, h) implies one group
    NO_EDGES = "no_edges"  # acts(f, h) implies f = h
    LONE_GROUPS = "lone_groups"  # no_edges, and no group has two functions that can be bound
    ONE_GROUP = "one_group"  # closed_grouping, and all functions that can be bound share a group
    ONE_FUNCTION = "one_function"  # no_edges, and one function at the most can be bound
    SINGLE_GROUP = "single_group"  # closed_grouping, and the machine has one group of functions
    SINGLE_FUNCTION = "single_function"  # the machine has one function, which acts as itself only
    NO_P2P = "no_p2p"  # p2p(f, g) implies f = g, for functions that can be bound
    P2P_IN_GROUP = "p2p_in_group"  # p2p(f, g) implies one group
    NOTHING_BINDABLE = "nothing_bindable"  # the machine's facts refuse every bind


@dataclass(frozen=True)
class Property:
    """One named property.

    Attributes:
        id: the identifier of docs/semantics.md, as on the command line.
        says: the property in one sentence.
        violated: what a violation means, in one sentence; ``{f}`` and so on are its objects.
        formula: the property of a design, as a closed formula.
        needs_containers: it speaks of containers, which some designs do not have.
        applies: whether it has a meaning for a design.
        premises: premises a proof may need, weakest first.
        asked_only: checked when it is named, not by default.
    """

    id: str
    kind: PropertyKind
    says: str
    violated: str
    formula: Callable[[Model], Formula]
    needs_containers: bool = False
    applies: Callable[[Model], bool] = lambda _: True
    premises: tuple[Premise, ...] = (Premise.NONE,)
    asked_only: bool = False
