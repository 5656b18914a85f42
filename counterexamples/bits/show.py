"""A replay on the bits as numbered sentences, and as data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, Protocol

from dmaproof.counterexamples.bits.host import Host
from dmaproof.counterexamples.bits.landing import Issued
from dmaproof.counterexamples.bits.memory import Event, Frames, Kept, Queued, Written
from dmaproof.counterexamples.bits.on_qemu import OnQemu
from dmaproof.counterexamples.bits.places import Places
from dmaproof.counterexamples.bits.replay import Done, Replay
from dmaproof.counterexamples.show import Line
from dmaproof.counterexamples.trace import Trace
from dmaproof.model import rules
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd.invalidation import Command, Op

SCHEMA: Final = "dmaproof/bits/1"
_MANY = 3
"""Writes to one table beyond which a step only counts them."""

_RULE_OF = {
    Op.CONTEXT_GLOBAL: "vtd.invalidation.context",
    Op.CONTEXT_DOMAIN: "vtd.invalidation.context",
    Op.CONTEXT_DEVICE: "vtd.invalidation.context",
    Op.PASID_CACHE_GLOBAL: "vtd.invalidation.pasid-cache",
    Op.PASID_CACHE_DOMAIN: "vtd.invalidation.pasid-cache",
    Op.PASID_CACHE_PASID: "vtd.invalidation.pasid-cache",
    Op.IOTLB_GLOBAL: "vtd.invalidation.iotlb",
    Op.IOTLB_DOMAIN: "vtd.invalidation.iotlb",
    Op.IOTLB_PAGE: "vtd.invalidation.iotlb",
    Op.PASID_IOTLB_PASID: "vtd.invalidation.iotlb",
    Op.PASID_IOTLB_PAGE: "vtd.invalidation.iotlb",
    Op.DEVICE_TLB: "vtd.invalidation.device-tlb",
    Op.PASID_DEVICE_TLB: "vtd.invalidation.device-tlb",
    Op.INTERRUPT_ENTRY: "vtd.queue.decode",
    Op.PAGE_RESPONSE: "vtd.queue.process",
    Op.WAIT: "vtd.queue.process",
}


def lines(trace: Trace, replay: Replay, on_qemu: OnQemu | None = None) -> Iterator[Line]:
    """Yield the lines of a replay, and what QEMU said."""
    yield from _lines(trace, replay)
    if on_qemu is None:
        return
    if on_qemu.reason:
        yield f"  QEMU: {on_qemu.reason}", "end"
        return
    yield f"  QEMU reproduces it: {on_qemu.version}", "end"
    for issued in on_qemu.compared:
        where = f"lands at {issued.hpa:#x}" if issued.hpa is not None else issued.condition
        yield f"     DMA of {issued.wire} to {int(issued.request.address):#x}: {where}", "path"


def _lines(trace: Trace, replay: Replay) -> Iterator[Line]:
    name = trace.design.get("name", "?")
    yield f"{trace.property} of {name} on {trace.machine}, on {replay.tables} tables", "head"
    if replay.gamma is not None and replay.places is not None:
        yield from _setting(replay.gamma.host, replay.places)
    for number, done in enumerate(replay.steps, 1):
        yield f"{number:3}. {done.says}", "step"
        if replay.gamma is not None:
            yield from ((f"       {text}", "note") for text in events(replay.gamma.host, done))
    if replay.result == "undecided":
        yield f"  undecided: {replay.reason}", "end"
        return
    yield f"  => {trace.violation.says}", "end"
    for text in replay.end.says:
        yield f"     {text}", "path"
    for issued in replay.end.requests:
        yield from ((f"     {text}", "note") for text in cited(issued))


def _setting(host: Host, places: Places) -> Iterator[Line]:
    names = places.instance
    yield (
        "; ".join(
            f"{names.name(v.FUNCTION, n)} is {places.machine.device(bdf).bdf}"
            for n, bdf in enumerate(places.functions)
        ),
        "note",
    )
    yield (
        "; ".join(
            [
                *(
                    f"{names.name(v.PASID, p)} is {number:#x}"
                    for p in places.pasids
                    if (number := places.pasid(p)) is not None
                ),
                *(
                    f"{names.name(v.SPACE, s)} is the page at {places.page(s):#x},"
                    f" asked for at {places.address(s):#x}"
                    for s in places.spaces
                ),
            ]
        ),
        "note",
    )
    for segment, unit in host.units.items():
        r = unit.hardware.registers
        yield (
            f"IOMMU of segment {segment:04x}: CAP {r.cap:#x}, ECAP {r.ecap:#x},"
            f" RTADDR {r.rtaddr:#x}",
            "note",
        )


class Framed(Protocol):
    """What knows what each frame of its memory is for."""

    @property
    def frames(self) -> Frames:
        """The frames."""


def events(host: Framed, done: Done) -> Iterator[str]:
    """Yield what a step did, one sentence each; many entries of one table are only counted."""
    said = False
    for table, part in groupby(done.events, lambda event: _table(host, event)):
        some = list(part)
        for text in _told(host, table, some):
            said = True
            yield text
    if not said:
        yield f"(no bit changes: {done.stutter or 'there is nothing to change'})"


def _table(host: Framed, event: Event) -> str:
    """Return the table that an event writes to; what is no write has none."""
    return host.frames.where(event.address).split(",")[0] if isinstance(event, Written) else ""


def _told(host: Framed, table: str, some: list[Event]) -> Iterator[str]:
    writes = [e for e in some if isinstance(e, Written) and e.old != e.new and table]
    if len(writes) > _MANY:
        first, last = min(w.address for w in writes), max(w.address for w in writes)
        yield f"{first:#x} ... {last:#x}: {table}, {len(writes)} quadwords"
        return
    for event in some:
        match event:
            case Written(address, old, new) if event in writes:
                yield f"{address:#x}: {host.frames.where(address)}: {old:#x} -> {new:#x}"
            case Queued(address, (low, high), command, waited) if command.op is not Op.WAIT:
                end = "; waited for" if waited else "; no wait is behind it"
                yield f"queue {address:#x}: {low:#x} {high:#x}, {described(command)}{end}"
            case Kept():
                yield cached(event)


def described(command: Command) -> str:
    """Return an invalidation command in words, with the tags it names."""
    op = command.op.value
    tags = []
    if command.op not in (
        Op.CONTEXT_GLOBAL,
        Op.PASID_CACHE_GLOBAL,
        Op.IOTLB_GLOBAL,
        Op.DEVICE_TLB,
        Op.PASID_DEVICE_TLB,
        Op.INTERRUPT_ENTRY,
        Op.PAGE_RESPONSE,
        Op.WAIT,
    ):
        tags.append(f"DID {command.did:#x}")
    if command.op in (Op.CONTEXT_DEVICE, Op.DEVICE_TLB, Op.PASID_DEVICE_TLB):
        tags.append(f"SID {command.sid:#06x}")
    if command.op in (
        Op.PASID_CACHE_PASID,
        Op.PASID_IOTLB_PASID,
        Op.PASID_IOTLB_PAGE,
        Op.PASID_DEVICE_TLB,
    ):
        tags.append(f"PASID {command.pasid:#x}")
    return f"{op} ({', '.join(tags)})" if tags else op


def cached(kept: Kept) -> str:
    """Return in words what a cache took in or lost."""
    names = {
        "context": "context cache",
        "pasid": "PASID cache",
        "iotlb": "IOTLB",
        "device": "device TLB",
        "paging": "paging-structure cache",
    }
    tag = kept.held.tag
    tags = ", ".join(
        f"{field.upper()} {value:#x}"
        for field, value in tag._asdict().items()
        if isinstance(value, int) and not isinstance(value, bool)
    )
    return f"{names[kept.cache]} {'takes in' if kept.taken else 'loses'} an entry ({tags})"


def cited(issued: Issued) -> Iterator[str]:
    """Yield the rules that decided a request, with their sources, if tables did."""
    if not issued.rules:
        return
    found = (f"{name} [{rules.find(name).source}]" for name in issued.rules)
    yield f"decided by: {', '.join(found)}"


# -- data -----------------------------------------------------------------------------------


def data(file: str, trace: Trace, replay: Replay, on_qemu: OnQemu | None = None) -> dict[str, Any]:
    """Return a replay as JSON data (``dmaproof/bits/1``)."""
    found = _data(file, trace, replay)
    if on_qemu is not None:
        found["qemu"] = {
            "result": "undecided" if on_qemu.reason else "reproduced",
            "reason": on_qemu.reason,
            "version": on_qemu.version,
            "requests": [request_data(issued) for issued in on_qemu.compared],
        }
    return found


def _data(file: str, trace: Trace, replay: Replay) -> dict[str, Any]:
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "file": file,
        "property": trace.property,
        "design": trace.design.get("name", "?"),
        "machine": trace.machine,
        "result": replay.result,
        "reason": replay.reason,
        "tables": str(replay.tables),
    }
    if replay.gamma is None or replay.places is None:
        return found
    host, places = replay.gamma.host, replay.places
    names = places.instance
    found["functions"] = {
        names.name(v.FUNCTION, n): str(bdf) for n, bdf in enumerate(places.functions)
    }
    found["pasids"] = {names.name(v.PASID, p): places.pasid(p) for p in places.pasids}
    found["spaces"] = {
        names.name(v.SPACE, s): {"page": hex(places.page(s)), "address": hex(places.address(s))}
        for s in places.spaces
    }
    found["units"] = [
        {
            "segment": segment,
            "cap": hex(unit.hardware.registers.cap),
            "ecap": hex(unit.hardware.registers.ecap),
            "rtaddr": hex(unit.hardware.registers.rtaddr),
        }
        for segment, unit in host.units.items()
    ]
    found["steps"] = [step_data(host, done) for done in replay.steps]
    found["end"] = {
        "says": replay.end.says,
        "edges": [
            {
                "channel": str(e.channel),
                "source": str(e.source),
                "target": None if e.target is None else str(e.target),
                "path": [str(node) for node in e.path],
                "reason": e.reason,
            }
            for e in replay.end.edges
        ],
        "requests": [request_data(issued) for issued in replay.end.requests],
    }
    return found


def step_data(host: Framed, done: Done) -> dict[str, Any]:
    """Return a step as JSON data: what it wrote, queued, and what caches took in or lost."""
    found = (_event(host, event) for event in done.events)
    return {
        "action": done.action,
        "says": done.says,
        "stutter": done.stutter,
        "events": [event for event in found if event],
    }


def _event(host: Framed, event: Event) -> dict[str, Any]:
    match event:
        case Written(address, old, new):
            what = host.frames.where(address)  # nothing for the queue: descriptors tell that
            return (
                {
                    "event": "write",
                    "address": hex(address),
                    "what": what,
                    "old": hex(old),
                    "new": hex(new),
                }
                if what
                else {}
            )
        case Queued(address, words, command):
            name = _RULE_OF[command.op]
            return {
                "event": "descriptor",
                "address": hex(address),
                "words": [hex(w) for w in words],
                "what": described(command),
                "rule": name,
                "source": rules.find(name).source,
            }
        case Kept(cache, held, taken):
            return {
                "event": "fill" if taken else "evict",
                "cache": cache,
                "tag": {f: _plain(x) for f, x in held.tag._asdict().items()},
            }


def _plain(value: object) -> object:
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else value


def request_data(issued: Issued) -> dict[str, Any]:
    """Return a request as JSON data, with what became of it."""
    q = issued.request
    return {
        "requester_id": str(issued.wire),
        "address": hex(int(q.address)),
        "pasid": int(q.pasid) if q.with_pasid else None,
        "write": bool(q.write),
        "kind": q.kind.value,
        "hpa": None if issued.hpa is None else hex(issued.hpa),
        "condition": issued.condition,
        "by": issued.source,
        "rules": [{"name": name, "source": rules.find(name).source} for name in issued.rules],
    }
