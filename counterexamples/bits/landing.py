"""The end of a trace on the bits: what property it settles, seen in requests and table bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dmaproof.counterexamples.bits import fabric
from dmaproof.counterexamples.bits.alpha import Alpha
from dmaproof.counterexamples.bits.gamma import Args, Gamma
from dmaproof.counterexamples.bits.places import OFFSET
from dmaproof.engine.assumptions import ASSUMPTIONS, FABRIC
from dmaproof.model.design import Object
from dmaproof.model.pcie.channels import Edge
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.routing import Tlp
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd import faults
from dmaproof.model.vtd.caches import Hardware
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.rules_used import rules_used
from dmaproof.properties.routing import ROUTERS


class NotReproduced(Exception):
    """The bits do not show what the trace says."""


@dataclass(frozen=True)
class Issued:
    """A request as a unit judged it.

    Attributes:
        wire: requester id.
        request: the request.
        hpa: where it landed; None: blocked.
        condition: what blocked it ("" if nothing did).
        source: what translated it: the tables, cached entries, the IOTLB, a device TLB, or "raw".
        rules: cited rules that decided, where the tables did.
    """

    wire: Bdf
    request: Request
    hpa: int | None
    condition: str
    source: str
    rules: tuple[str, ...] = ()


@dataclass
class Seen:
    """What the end of a trace shows.

    Attributes:
        says: in sentences, one each.
        requests: those that were issued.
        edges: the leak edges they used, each followed from port to port.
    """

    says: list[str] = field(default_factory=list)
    requests: list[Issued] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)


_SAID = {"memory": "the tables", "entries": "cached table entries", "iotlb": "the IOTLB"}


def landed(
    hardware: Hardware, wire: Bdf, request: Request, wanted: int,
    sources: tuple[str, ...] = tuple(_SAID),
) -> Issued | None:
    """Issue a request; return it if it may land at an address, else None.

    Args:
        hardware: the unit that judges it.
        wire: its requester id.
        request: the request.
        wanted: host-physical byte address.
        sources: what may have translated it (see `model.vtd.caches.Way`), what is looked for first
            first; the device's own TLB comes last.
    """
    ways = list(hardware.ways(request))
    for source in sources:
        if any(way.source == source and way.legal.hpa == wanted for way in ways):
            # The rules that block it now are no part of what a stale entry does.
            _, rules = rules_used(hardware.image, hardware.registers, request)
            by_memory = source == "memory"
            return Issued(wire, request, wanted, "", _SAID[source], rules if by_memory else ())
    if any(legal.hpa == wanted for legal in hardware.device_outcomes(request)):
        return Issued(wire, request, wanted, "", "device TLB")
    return None


def by_tables(hardware: Hardware, wire: Bdf, request: Request) -> Issued:
    """Issue a request past all caches."""
    outcome, rules = rules_used(hardware.image, hardware.registers, request)
    condition = faults.condition(outcome.fault).name if outcome.fault else ""
    hpa = None if outcome.fault else int(outcome.hpa)
    return Issued(wire, request, hpa, condition, "the tables", rules)


@dataclass
class Ending:
    """The bits after the last step, with what was noted on the way.

    Attributes:
        gamma: the machine.
        alpha: its reading.
        objects: the elements of the violation, by variable.
        assume: assumptions, as the fabric takes them.
        calls: (action, arguments, words of each requester id before it), in order.
    """

    gamma: Gamma
    alpha: Alpha
    objects: Mapping[str, int]
    assume: Mapping[str, bool]
    calls: Sequence[tuple[str, Args, Mapping[int, tuple[int, ...]]]]
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        self.places, self.host = self.gamma.places, self.gamma.host
        self.scheme = self.gamma.model.scheme

    # -- names ------------------------------------------------------------------------------

    def function(self, name: str) -> int:
        """Return an object that is a function."""
        return self.objects[name]

    def called(self, function: int | Bdf) -> str:
        """Return a function's label and address."""
        bdf = function if isinstance(function, Bdf) else self.places.functions[function]
        return str(self.places.machine.device(bdf))

    def space_name(self, space: int) -> str:
        """Return how the trace calls a space."""
        return self.places.instance.name(v.SPACE, space)

    # -- requests ---------------------------------------------------------------------------

    def lands(self, wire: Bdf, pasid: int, space: int) -> Issued | None:
        """Issue a write for a space; return it if it may land there, else None."""
        places, hardware = self.places, self.host.unit(wire).hardware
        request = places.request(wire, pasid, places.address(space) + OFFSET, write=True)
        wanted = places.page(space) + OFFSET
        return landed(hardware, wire, request, wanted)

    def by_tables(self, wire: Bdf, pasid: int, space: int) -> Issued:
        """Issue a write for a space past all caches."""
        places = self.places
        request = places.request(wire, pasid, places.address(space) + OFFSET, write=True)
        return by_tables(self.host.unit(wire).hardware, wire, request)

    def note(self, issued: Issued, text: str) -> None:
        """Keep a request, and what it shows."""
        self.seen.requests.append(issued)
        self.seen.says.append(text)

    # -- ways through the fabric ------------------------------------------------------------

    def travel(self, source: Bdf, goal: Bdf, pasid: int | None) -> None:
        """Send a request to a function's BAR and follow it from node to node.

        Raises:
            NotReproduced: it goes elsewhere.
        """
        machine = self.places.machine
        router = ROUTERS[self.gamma.model.design.fabric.router]
        number = None if pasid is None else self.places.pasid(pasid)
        way = fabric.travel(machine, Tlp(source, number), goal, self.assume, router)
        if not way.lands:
            raise NotReproduced(
                f"a request of {self.called(source)} for a BAR of"
                f" {self.called(goal)} goes up to the IOMMU"
            )
        passed = " > ".join(str(node) for node in way.nodes)
        prefix = f" with PASID {number:#x}" if number is not None else ""
        self.seen.says.append(
            f"A write{prefix} of {self.called(source)} for a BAR of {self.called(goal)} climbs"
            f" {passed}, {way.decision.rung.kind if way.decision.rung else ''} and ends at"
            f" {self.called(goal)}: the IOMMU never sees it."
        )

    def hops(self, source: int, emitter: int) -> None:
        """Follow the peer-to-peer hops by which one function makes another work.

        Raises:
            NotReproduced: there are none.
        """
        functions = self.places.functions
        edges = fabric.chain(self.places.fabric, self.assume, functions[source], functions[emitter])
        if edges is None:
            raise NotReproduced(
                f"no chain of deputies leads from {self.called(source)} to {self.called(emitter)}"
            )
        for edge in edges:
            self.seen.edges.append(edge)
            assert edge.target is not None
            self.travel(edge.source, edge.target, None)

    def arrivals(self, emitter: int, owner: int) -> Iterator[tuple[Bdf, Edge | None]]:
        """Yield the ids under which an emitter's requests use what an owner has, with the edge."""
        if emitter == owner:
            yield from ((wire, None) for wire in self.places.arrivals(emitter))
            return
        functions = self.places.functions
        posing = fabric.posing(
            self.places.fabric, self.assume, functions[emitter], functions[owner]
        )
        yield from posing.items()

    def emitters(self, first: int, owner: int) -> list[int]:
        """Return who may emit the request, likeliest first.

        The trace's emitter may need an assumption that its leak path does without.
        """
        return list(dict.fromkeys([first, owner, *range(len(self.places.functions))]))

    def reaches(self, source: int, emitter: int, rid: int, pasid: int, space: int) -> None:
        """Show that a function reaches a space by way of an emitter and a requester id.

        Raises:
            NotReproduced: no request lands there.
        """
        owner, tried = self.places.owner(rid), []
        for via in self.emitters(emitter, owner):
            ways = fabric.chain(
                self.places.fabric, self.assume, *(self.places.functions[f] for f in (source, via))
            )
            for wire, edge in self.arrivals(via, owner) if ways is not None else ():
                issued = self.lands(wire, pasid, space)
                tried.append(f"{self.called(via)} as {wire}")
                if issued is None:
                    continue
                self.hops(source, via)
                if edge is not None:
                    self.seen.edges.append(edge)
                    self.seen.says.append(f"{edge.reason}.")
                self.note(issued, self.landed(via, issued, space))
                return
        raise NotReproduced(
            f"no request that {self.called(source)} causes lands in {self.space_name(space)}"
            f" (tried: {', '.join(tried) or 'none arrives'})"
        )

    def landed(self, emitter: int, issued: Issued, space: int) -> str:
        """Return a sentence about a request that landed."""
        q = issued.request
        pasid = f", PASID {int(q.pasid):#x}" if q.with_pasid else ", no PASID"
        return (
            f"{self.called(emitter)} writes to {int(q.address):#x} (requester id"
            f" {issued.wire}{pasid}): {issued.source} lead to {issued.hpa:#x}, in the page of"
            f" {self.space_name(space)}."
        )


# -- properties -----------------------------------------------------------------------------


def _raw(end: Ending) -> None:
    function, space = end.function("f1"), end.objects["s1"]
    hpa = end.places.page(space) + OFFSET
    for wire in end.places.arrivals(function):
        request = Request(wire.rid, hpa, write=True, kind=Kind.TRANSLATED)
        if any(legal.hpa == hpa for legal in end.host.unit(wire).hardware.outcomes(request)):
            registers = end.host.unit(wire).hardware.registers
            rules = rules_used(end.host.memory, registers, request)[1]
            end.note(
                Issued(wire, request, hpa, "", "raw", rules),
                f"{end.called(function)} sends a translated request (AT=10) for {hpa:#x} as"
                f" {wire}: no table is asked, and it lands in the page of {end.space_name(space)}.",
            )
            return
    raise NotReproduced(f"translated requests of {end.called(function)} are blocked")


def _reach(end: Ending) -> None:
    if "r1" not in end.objects:
        _raw(end)
        return
    o = end.objects
    end.reaches(o["f1"], o["x1"], o["r1"], o["p1"], o["s1"])


def _separation(end: Ending) -> None:
    o = end.objects
    end.reaches(o["f1"], o["x1"], end.places.rid_of(o["h1"]), o["p1"], o["s1"])


def _final(end: Ending) -> None:
    o = end.objects
    end.reaches(o["f1"], o["f1"], end.places.rid_of(o["f1"]), o["p1"], o["s1"])


def _misroute(end: Ending) -> None:
    o = end.objects
    rid = end.places.rid_of(o["f1"])
    issued = end.by_tables(end.places.wires[rid][0], o["p1"], o["s1"])
    _in_space(end, issued, o["s1"])
    end.note(issued, end.landed(o["f1"], issued, o["s1"]))
    functions = end.places.functions
    end.travel(functions[o["f1"]], functions[o["h1"]], o["p1"])


def _in_space(end: Ending, issued: Issued, space: int) -> None:
    if issued.hpa != end.places.page(space) + OFFSET:
        where = "is blocked" if issued.hpa is None else f"lands at {issued.hpa:#x}"
        raise NotReproduced(f"a request of {issued.wire} {where} {issued.condition}".rstrip())


def _uniform(end: Ending) -> None:
    o = end.objects
    answers = []
    for name in ("f1", "h1"):
        rid = end.places.rid_of(o[name])
        issued = end.by_tables(end.places.wires[rid][0], o["p1"], o["s1"])
        lands = issued.hpa == end.places.page(o["s1"]) + OFFSET
        blocked = f"is blocked ({issued.condition})" if issued.hpa is None else "lands elsewhere"
        end.note(
            issued,
            end.landed(o[name], issued, o["s1"])
            if lands
            else f"The same request of {end.called(o[name])} {blocked}.",
        )
        answers.append(lands)
    if answers[0] == answers[1]:
        raise NotReproduced("the tables of both functions give the same")


def _unchanged(end: Ending) -> None:
    """Compare the function's entries with what they were before the call that failed."""
    o, places = end.objects, end.places
    rid = places.rid_of(o["f1"])
    now = end.gamma.layout.entry_words(rid)
    for action, args, before in reversed(end.calls):
        if action == "bind.enter" and _key_of(end, args) == o["k1"]:
            if before[rid] == now:
                raise NotReproduced(f"the entries of {end.called(o['f1'])} are as before the call")
            end.seen.says.append(
                f"Before the bind that failed the entry of {end.called(o['f1'])} was"
                f" {_hex(before[rid])}; after it, it is {_hex(now)}."
            )
            return
    raise NotReproduced("no bind of the object was called")


def _key_of(end: Ending, args: Args) -> int:
    match end.scheme.object:
        case Object.DEVICE:
            return args["f"]
        case Object.GROUP:
            return end.places.group_of(end.places.rid_of(args["f"]))
    return args["c"]


def _can_bind(end: Ending) -> None:
    o = end.objects
    if "k1" not in o:
        _no_pasid(end)
        return
    found = end.alpha.read()[end.scheme.slot]
    tail = tuple(o[f"{a.name}1"] for a in end.scheme.args)
    for rid in end.gamma.members(o["k1"]):
        wanted = (rid, *tail) if end.scheme.slot.sorts[0] == v.RID else tail
        if wanted not in found:
            continue
        words = _hex(end.gamma.layout.entry_words(rid))
        end.seen.says.append(f"The entry of {end.called(end.places.owner(rid))} is {words}.")
        if tail:
            issued = end.by_tables(end.places.wires[rid][0], *tail)
            _in_space(end, issued, tail[1])
            end.note(issued, end.landed(end.places.owner(rid), issued, tail[1]))
    if not end.seen.says:
        raise NotReproduced("no member of the object is bound")


def _no_pasid(end: Ending) -> None:
    o = end.objects
    pasid = next(p for p in end.places.pasids if end.places.pasid(p) is None)
    end.reaches(o["f1"], o["f1"], end.places.rid_of(o["f1"]), pasid, o["s1"])


_ENDINGS: dict[str, Callable[[Ending], None]] = {
    "device-isolation": _reach,
    "group-isolation": _reach,
    "container-isolation": _reach,
    "levels-coincide": _reach,
    "container-separation": _separation,
    "unbind-final": _final,
    "no-misroute": _misroute,
    "uniform": _uniform,
    "failed-call-changes-nothing": _unchanged,
    "can-bind": _can_bind,
    "can-p2p-and-pasid": _misroute,
}
"""What each property looks like on the bits."""


def show(property_id: str, end: Ending) -> Seen:
    """Show on the bits what the last state of a trace shows in the rules.

    Raises:
        NotReproduced: the bits do not show it.
    """
    if property_id not in _ENDINGS:
        raise NotReproduced(f"it is not known how {property_id} looks on the bits")
    _ENDINGS[property_id](end)
    return end.seen


def known() -> frozenset[str]:
    """Return the properties that have an ending."""
    return frozenset(_ENDINGS)


def granted(listed: Mapping[str, str]) -> dict[str, bool]:
    """Return assumptions as the fabric takes them: what a trace does not list is not granted."""
    return {
        name: listed[name] == "on" if name in listed else not ASSUMPTIONS[name].permissive
        for name in FABRIC
    }


def _hex(words: Sequence[int]) -> str:
    return " ".join(f"{word:#x}" for word in words)
