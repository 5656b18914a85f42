"""The sorts and relations that every rule of the software layer speaks of.

Names and meanings follow the kernel; the exact definitions are those of docs/semantics.md.
"""

from __future__ import annotations

from dmaproof.model.logic.terms import Fn, Formula, Kind, Rel, Sort, Term, Var, and_, exists

FUNCTION = Sort("Function")  # a PCI function that can issue requests
RID = Sort("Rid")  # requester id: bus, device, function number as the IOMMU sees it
GROUP = Sort("Group")  # IOMMU group
CONTAINER = Sort("Container")  # VFIO container
PASID = Sort("Pasid")
SPACE = Sort("Space")  # what a page table gives access to

# Parameters of actions. A step is about at most two functions: the caller's, and a visited member.
F = Var("f", FUNCTION)
H = Var("h", FUNCTION)
R = Var("r", RID)
G = Var("grp", GROUP)
C = Var("c", CONTAINER)
P = Var("p", PASID)
S = Var("s", SPACE)

# Bound variables of guards, updates and properties; never parameters.
F1, H1, X1 = (Var(n, FUNCTION) for n in ("f1", "h1", "x1"))
R1 = Var("r1", RID)
G1, G2 = Var("grp1", GROUP), Var("grp2", GROUP)
C1, C2 = Var("c1", CONTAINER), Var("c2", CONTAINER)
P1 = Var("p1", PASID)
S1, S2 = Var("s1", SPACE), Var("s2", SPACE)

RID_OF = Fn("rid", (FUNCTION,), RID)
RGROUP = Fn("rgroup", (RID,), GROUP)
NO_PASID = Fn("no_pasid", (), PASID)()


def rid(function: Term) -> Term:
    """The requester id of a function."""
    return RID_OF(function)


def group(function: Term) -> Term:
    """The IOMMU group of a function."""
    return RGROUP(RID_OF(function))


# Facts of the machine.
P2P = Rel("p2p", (FUNCTION, FUNCTION), Kind.STATIC)  # a request of one can end at the other's BAR
INFLUENCE = Rel("infl", (FUNCTION, FUNCTION), Kind.STATIC)  # makes the other emit requests for it
EMITS = Rel("emits", (FUNCTION, RID), Kind.STATIC)  # requests can arrive under this requester id
CAPABLE = Rel("pasid_capable", (FUNCTION,), Kind.STATIC)
PATH_OK = Rel("acs_path_rr_uf", (FUNCTION,), Kind.STATIC)  # pci_enable_pasid's test passes
PORTED = Rel("group_has_port", (GROUP,), Kind.STATIC)  # a port or bridge counts as a member
ALONE = Rel("group_of_one", (GROUP,), Kind.STATIC)  # one device, ports and bridges counted
FITS = Rel("pasid_fits", (FUNCTION, PASID), Kind.STATIC)  # pasid < max_pasids of the function
BOOT = Rel("present_at_boot", (FUNCTION,), Kind.STATIC)
RAW = Rel("raw_translated", (FUNCTION,), Kind.STATIC)  # emits AT=10 with addresses of its choice

# Software state.
IN = Rel("in_container", (GROUP, CONTAINER))
PRESENT = Rel("present", (FUNCTION,))  # hot-plugged in (only where the fabric is not static)

# What the user bound: for a function, and joined over its group and its container. The first is
# keyed by the function's requester id: a function has one, and the joins then need no step from a
# requester id back to its function, which would leave EPR.
GRANTED = Rel("grant", (RID, PASID, SPACE), Kind.GHOST)
GGRANT = Rel("ggrant", (GROUP, PASID, SPACE), Kind.GHOST)
CGRANT = Rel("cgrant", (CONTAINER, PASID, SPACE), Kind.GHOST)

# Hardware caches. They hold what a walk found, and keep it until it is flushed.
PASID_CACHE = Rel("pasid_cache", (RID, PASID, SPACE))
IOTLB = Rel("iotlb", (RID, PASID, SPACE))
DEVICE_TLB = Rel("device_tlb", (RID, PASID, SPACE))


def grant(function: Term, pasid: Term, space: Term) -> Formula:
    """``grant(f, p, s)``: a live call made for f gives s under p."""
    return GRANTED(rid(function), pasid, space)


def touches(function: Term, requester: Term) -> Formula:
    """Requests of *function*, or of one it influences, can arrive under a requester id."""
    via = Var("via", FUNCTION)
    return exists((via,), and_(INFLUENCE(function, via), EMITS(via, requester)))


def acts(function: Term, other: Term) -> Formula:
    """``acts(f, h)``: something that f influences can emit h's requester id."""
    return touches(function, rid(other))
