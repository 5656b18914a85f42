"""The joint of the two layers: what hardware does is a step of the rules, or none (z3).

The formulas read off the bits (`joint`) are the guards and updates of the very actions of a
design's transition system (`model.vfio.build`): no rule is written twice.

* `fills`: what fills a cache satisfies the guard of the rule's fill, or was there already;
* `requests`: where a request lands, the rules have a hit;
* `effects`: a fill adds one entry; an eviction can take place and removes that entry alone.

What software does stands in `obligations_caches`: flushes and writes. Paging-structure caches have
no relation in the rules: a walk through them is one of the same tables
(`obligations_caches.structures`), so filling and using them are steps of no rule.

What is assumed is what software keeps: a context entry with a table points to the table of its
owner, and entries with the same tags belong to the same tables (VT-d 6.2.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from dmaproof.model.algebra import SymbolicMemory, Term, word_z3
from dmaproof.model.design import Payload
from dmaproof.model.logic.reading import Interpreter
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd import caches
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.any_caches import Source
from dmaproof.model.vtd.joint import BitReading, Joint, const, tag_is
from dmaproof.model.vtd.obligations import Obligation
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Kind

_SOURCES: Final = (Source.MEMORY, Source.HELD)


def _fill(model: Model, cache: Rel) -> Action:
    return model.system.action(f"{cache.name.replace('_', '-')}.fill")


def _ways(model: Model, registers: Registers, kind: Kind = Kind.UNTRANSLATED) -> Iterator[Joint]:
    """Yield a request for every way to answer its lookups from memory or held entries."""
    entries = (Source.MEMORY,) if model.scheme.payload is Payload.MAP else _SOURCES
    for context, entry in product(_SOURCES, entries):
        yield Joint(model, registers, kind, context, entry)


def fills(model: Model, registers: Registers) -> list[Obligation]:
    """Claim that whatever fills a cache, the rules' fill of it can take place.

    A context entry that fills stands for every PASID it leads to; a PASID entry that is found
    through a held context entry is in the rules' PASID cache already. Entries get the tags of the
    request, and the DID and type of what was walked.
    """
    found = []
    for joint in _ways(model, registers):
        if joint.sources[1] is Source.MEMORY:
            found.append(_entry_fills(joint))
        found.append(_iotlb_fills(joint))
    for joint in _ways(model, registers, Kind.TRANSLATION):
        found.append(_iotlb_fills(joint))
        if v.DEVICE_TLB in model.scheme.caches:
            guard = joint.read(_fill(model, v.DEVICE_TLB).guard)
            tag = caches.device_tag(joint.request)
            claim = _both(guard, tag_is(tag, joint.env[v.R], joint.env[v.P]))
            found.append(joint.obligation(
                "the device TLB fills", [joint.landed(joint.outcome)], claim
            ))
    if v.DEVICE_TLB in model.scheme.caches:
        joint = Joint(model, registers, Kind.TRANSLATION)
        guard = joint.read(_fill(model, v.DEVICE_TLB).guard, const("iotlb.s"))
        found.append(joint.obligation(
            "the device TLB fills from the IOTLB", joint.served(v.IOTLB), guard
        ))
    return found


def _both(*parts: Any) -> Any:  # noqa: ANN401
    import z3

    return z3.And(parts)


def _entry_fills(joint: Joint) -> Obligation:
    """Return that the rules' PASID cache can take in what an evaluation of entries leads to."""
    import z3

    pair, env = (joint.carrier, joint.outcome), joint.env
    can = joint.read(_fill(joint.model, v.PASID_CACHE).guard)
    had = joint.read(v.PASID_CACHE(v.R, v.P, v.S))
    tags = []
    if joint.registers.mode is Mode.SCALABLE:
        tag = inv.pasid_tag(joint.request.sid, joint.carrier.number, joint.carrier.entries[0].words)
        tags = [word_z3(tag.sid) == env[v.R], word_z3(tag.pasid) == env[v.P]]
    what = "a context entry" if joint.sources[0] is Source.MEMORY else "a PASID entry"
    return joint.obligation(f"{what} fills", [joint.gives(pair, env[v.S])],
                            z3.And(z3.Or(can, had), *tags))


def _iotlb_fills(joint: Joint) -> Obligation:
    """Return that the rules' IOTLB can take in where a request lands."""
    import z3

    carrier, out, q = joint.carrier, joint.outcome, joint.request
    value = (out.hpa, out.readable, out.writable)
    _, held = caches.iotlb_entry(carrier, q, q.address & ~0xFFF, value, 0)
    claims = [tag_is(held.tag, joint.env[v.R], joint.env[v.P]),
              joint.read(_fill(joint.model, v.IOTLB).guard)]
    if joint.registers.mode is Mode.SCALABLE:
        walked = inv.pasid_tag(q.sid, carrier.number, carrier.entries[0].words)
        kind = (carrier.entries[0].words[0] >> 6) & 7
        claims += [word_z3(held.tag.did) == word_z3(walked.did),
                   word_z3(held.tag.pgtt) == word_z3(kind)]
    return joint.obligation(f"the IOTLB fills, {q.kind.value}", [joint.landed(out)],
                            z3.And(claims))


def requests(model: Model, registers: Registers) -> list[Obligation]:
    """Claim that wherever a request lands, by tables or caches, the rules have a hit."""
    hit = model.scheme.hit(v.R, v.P, v.S)
    found = [
        joint.obligation("a request lands", [joint.landed(joint.outcome)], joint.read(hit))
        for joint in _ways(model, registers)
    ]
    for cache in model.scheme.caches[1:]:
        joint = Joint(model, registers)
        found.append(joint.obligation(
            f"a request lands by the {cache.name}", joint.served(cache),
            joint.read(hit, const(f"{cache.name}.s")),
        ))
    return found


def effects(model: Model) -> list[Obligation]:
    """Claim that a fill adds, and an eviction removes, one entry of one cache and no other.

    And that an eviction can take place wherever the entry is held.
    """
    import z3

    words = {x: const(x.name) for x in (v.R, v.P, v.S, v.R1, v.P1, v.S1)}
    word, this, found = z3.BitVecSort(64), (v.R, v.P, v.S), []
    for cache in model.scheme.caches:
        before = z3.Function(cache.name, word, word, word, z3.BoolSort())
        reading = Interpreter(BitReading({cache: before}, {}, {}))
        other = tuple(words[x] for x in (v.R1, v.P1, v.S1))
        same = z3.And([words[x] == y for x, y in zip(this, other, strict=True)])
        wanted = {
            "fill": z3.Or(before(*other), same),
            "evict": z3.And(before(*other), z3.Not(same)),
        }
        for name, content in wanted.items():
            act = model.system.action(f"{cache.name.replace('_', '-')}.{name}")
            (update,) = act.updates
            after = reading.formula(update.after((v.R1, v.P1, v.S1)), words)
            claims = [after == content, z3.BoolVal(update.rel == cache)]
            if name == "evict":
                held = before(*(words[x] for x in this))
                claims.append(z3.Implies(held, reading.formula(act.guard, words)))
            found.append(Obligation(
                f"{model.design.name}: {act.name}", [], z3.And(claims), SymbolicMemory().array,
                {x.name: Term(words[x]) for x in words},
            ))
    return found
