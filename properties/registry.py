"""All properties by their identifiers."""

from __future__ import annotations

from dmaproof.model.design import Payload
from dmaproof.model.errors import InputError
from dmaproof.model.vfio.build import Model
from dmaproof.properties import calls, isolation
from dmaproof.properties.base import Premise, Property, PropertyKind


def _wide(model: Model) -> bool:
    return model.containers is not None and model.containers.wide


def _binds(model: Model) -> bool:
    return model.binder is not None


def _pasid(model: Model) -> bool:
    return model.scheme.payload is not Payload.MAP


_ALWAYS = PropertyKind.ALWAYS
_EDGES = (
    Premise.CLOSED_GROUPING, Premise.NO_EDGES, Premise.NOTHING_BINDABLE, Premise.SINGLE_FUNCTION,
    Premise.LONE_GROUPS, Premise.ONE_GROUP, Premise.ONE_FUNCTION,
)
_CALLS = (Premise.NONE, Premise.NOTHING_BINDABLE, Premise.SINGLE_FUNCTION)
_P2P = (Premise.NO_P2P, Premise.P2P_IN_GROUP, Premise.NOTHING_BINDABLE)

PROPERTIES: tuple[Property, ...] = (
    Property(
        "device-isolation", _ALWAYS,
        "Whatever a function reaches was bound for that function.",
        "{f1} reaches {s1}, for which nothing was bound for {f1}.",
        isolation.device_isolation, premises=_EDGES,
    ),
    Property(
        "group-isolation", _ALWAYS,
        "Whatever a function reaches was bound for a member of its group.",
        "{f1} reaches {s1}, for which nothing was bound for a member of {f1}'s group.",
        isolation.group_isolation, premises=_EDGES,
    ),
    Property(
        "container-isolation", _ALWAYS,
        "Whatever a function reaches was bound for a member of its container.",
        "{f1} reaches {s1}, for which nothing was bound for a member of {f1}'s container.",
        isolation.container_isolation, needs_containers=True, premises=_EDGES,
    ),
    Property(
        "container-separation", _ALWAYS,
        "A function acts with the bindings of another only inside one container.",
        "{f1} reaches {s1} with the bindings of {h1}, which is not in {f1}'s container {c1}.",
        isolation.container_separation, needs_containers=True, premises=_EDGES,
    ),
    Property(
        "unbind-final", _ALWAYS,
        "Once unbind has returned, no request of the object's functions hits what was bound.",
        "A request of {f1} with {p1} hits {s1}, though no live call covers that.",
        isolation.unbind_final, premises=_CALLS,
    ),
    Property(
        "no-misroute", _ALWAYS,
        "No PASID request of a bound function ends at a peer's BAR.",
        "{f1} has {p1} bound, and the fabric can route its requests to a BAR of {h1}.",
        isolation.no_misroute, premises=_P2P, applies=_pasid,
    ),
    Property(
        "uniform", _ALWAYS,
        "While no call runs on a container, the tables of all its members agree.",
        "In container {c1} the tables of {f1} and {h1} disagree on {p1} and {s1}.",
        calls.uniform, needs_containers=True, applies=_wide,
        premises=(Premise.NONE, Premise.SINGLE_GROUP, Premise.NOTHING_BINDABLE),
    ),
    Property(
        "failed-call-changes-nothing", _ALWAYS,
        "A failed bind leaves the tables as they were.",
        "No call of its object is live, but the table of {f1} is still installed.",
        calls.failed_call_changes_nothing, applies=_binds, premises=_CALLS,
    ),
    Property(
        "levels-coincide", _ALWAYS,
        "Of what a function reaches, the device level and the container level grant the same.",
        "{f1} reaches {s1}, which its container was granted and {f1} was not (or the reverse).",
        isolation.levels_coincide, needs_containers=True, premises=_EDGES, asked_only=True,
    ),
    Property(
        "can-bind", PropertyKind.CAN,
        "A bind can succeed.", "No bind ever succeeds.",
        calls.can_bind, premises=(Premise.NOTHING_BINDABLE,),
    ),
    Property(
        "can-p2p-and-pasid", PropertyKind.CAN,
        "Two functions can exchange peer-to-peer requests while one of them has a PASID.",
        "No function that exchanges peer-to-peer requests ever gets a PASID.",
        calls.can_p2p_and_pasid, premises=_P2P,
        applies=_pasid,
    ),
)

_BY_ID = {p.id: p for p in PROPERTIES}


def find(identifier: str) -> Property:
    """A property by its identifier.

    Raises:
        InputError: there is none.
    """
    if identifier not in _BY_ID:
        raise InputError(
            f"no property is called {identifier!r}", "", "a typing error",
            f"known: {', '.join(_BY_ID)}",
        )
    return _BY_ID[identifier]


def applicable(prop: Property, model: Model) -> str:
    """Why a property has no meaning for a design; "" if it has one."""
    if prop.needs_containers and model.containers is None:
        return f"{prop.id} speaks of containers; {model.design.name} has none"
    if not prop.applies(model):
        return f"{prop.id} does not concern a {model.scheme.payload}"\
               f" bind on a {model.scheme.object}"
    return ""
