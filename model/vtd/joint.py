"""Alpha: the rule layer's relations read off tables and caches, symbolically (z3).

One arbitrary request, of requester id ``r`` under PASID ``p``, on arbitrary memory, under one
arbitrary held entry of each cache (`any_caches`), finds a space ``s``. Tables mean what the
engine's own walk of them gives, entries of caches what their tags say. A `Joint` reads formulas of
a design's transition system so; `obligations_joint` makes claims of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from dmaproof.model.algebra import SymbolicMemory, Term, Truth, Word, cond_z3, word_z3
from dmaproof.model.design import Payload
from dmaproof.model.logic.reading import Env, Interpreter
from dmaproof.model.logic.terms import Fn, Formula, Rel, Sort, Var
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vfio.scheme import ATTACHED, ENTRY, POINTED, SHARED_ENTRY
from dmaproof.model.vtd import ats
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.any_caches import AnyCaches, Lookup, Source
from dmaproof.model.vtd.obligations import Obligation
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome, evaluate

NO_PASID: Final = 1 << 20
_CACHES: Final = (v.PASID_CACHE, v.IOTLB, v.DEVICE_TLB)


def const(name: str) -> Any:  # noqa: ANN401
    """Return the arbitrary 64-bit word called *name*."""
    import z3

    return z3.BitVec(name, 64)


class BitReading:
    """A reading of formulas over the bits: elements are 64-bit words, relations are given.

    An existential is read at given witnesses, which is sound where it is to be shown; a universal
    is not read at all.
    """

    def __init__(
        self, atoms: dict[Rel, Callable[..., Any]], functions: dict[Fn, Callable[..., Any]],
        witnesses: dict[Sort, Sequence[Any]],
    ) -> None:
        """Give relations and functions their meaning."""
        self.atoms, self.functions, self.witnesses = atoms, functions, witnesses

    def constant(self, value: bool) -> Any:  # noqa: ANN401
        """Return a truth value."""
        import z3

        return z3.BoolVal(value)

    def atom(self, rel: Rel, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return what the bits say of a relation."""
        return self.atoms[rel](*args)

    def equal(self, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Return whether two elements are the same."""
        return left == right

    def apply(self, fn: Fn, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return the value of a function."""
        return self.functions[fn](*args)

    def negate(self, value: Any) -> Any:  # noqa: ANN401
        """Negation."""
        import z3

        return z3.Not(value)

    def every(self, values: Sequence[Callable[[], Any]]) -> Any:  # noqa: ANN401
        """Conjunction."""
        import z3

        return z3.And([value() for value in values])

    def some(self, values: Sequence[Callable[[], Any]]) -> Any:  # noqa: ANN401
        """Disjunction."""
        import z3

        return z3.Or([value() for value in values])

    def quantify(
        self, universal: bool, variables: tuple[Var, ...], env: Env[Any],
        body: Callable[[Env[Any]], Any],
    ) -> Any:  # noqa: ANN401
        """Read an existential at its witnesses."""
        if universal:
            raise ValueError("a universal cannot be shown by witnesses")
        (variable,) = variables
        return self.some([
            lambda w=w: body({**env, variable: w})  # type: ignore[misc]
            for w in self.witnesses[variable.sort]
        ])


class Joint:
    """One arbitrary request on arbitrary memory and caches, read in the terms of a design.

    Attributes:
        model: the design.
        request: by requester id *r* under PASID *p*.
        carrier, outcome: its evaluation under arbitrary caches.
        env: the values of the rule layer's ``r``, ``p`` and ``s`` for the request.
    """

    def __init__(
        self, model: Model, registers: Registers, kind: Kind = Kind.UNTRANSLATED,
        context: Source = Source.MEMORY, entry: Source = Source.MEMORY,
    ) -> None:
        """Evaluate a request with PASID; without, in a design of one IOVA map.

        Args:
            model: the design.
            registers: state of the unit.
            kind: of the request.
            context: where its context entry comes from.
            entry: where its PASID entry comes from.
        """
        import z3

        self.model, self.registers, self.scheme = model, registers, model.scheme
        self.memory = SymbolicMemory()
        tagged = self.scheme.payload is not Payload.MAP
        self.request = Request(
            Term(const("r") & 0xFFFF), Term(const("address")),
            kind is Kind.UNTRANSLATED and Truth(z3.Bool("write")),
            Term(const("p") & 0xFFFFF) if tagged else 0, tagged, kind,
        )
        self.sources = context, entry
        self.carrier, self.outcome = self.evaluated(context, entry)
        self._plain = self.evaluated(Source.MEMORY, Source.MEMORY)
        self._stale = self.evaluated(Source.HELD, Source.MEMORY)
        space = self.space(self.carrier, self.outcome)
        number = word_z3(self.request.pasid) if tagged else z3.BitVecVal(NO_PASID, 64)
        self.env = {v.R: word_z3(self.request.sid), v.P: number, v.S: space}

    def evaluated(self, context: Source, entry: Source) -> tuple[AnyCaches, Outcome]:
        """Evaluate the request with lookups answered from these sources."""
        carrier = AnyCaches(self.memory, self.registers, context=context, entry=entry)
        return carrier, evaluate(carrier, self.registers, self.request)

    # -- what bits mean ------------------------------------------------------------------------

    def space(self, carrier: AnyCaches, outcome: Outcome) -> Any:  # noqa: ANN401
        """Return what an evaluation found access to.

        With one IOVA map a space is a page; otherwise it is what a PASID entry names: the tables
        and their type (extended mode: the first-level table in the guest's memory).
        """
        import z3

        if self.scheme.payload is Payload.MAP:
            return z3.LShR(word_z3(outcome.hpa), 12)
        return _merge([(e, self.named(e.words)) for e in carrier.entries])

    def named(self, words: tuple[Word, ...]) -> Any:  # noqa: ANN401
        """Return the space that the words of a PASID entry name, as one word."""
        r = self.registers
        return word_z3(words[0] & r.address) if r.mode is Mode.EXTENDED else named(words)

    def landed(self, outcome: Outcome) -> Any:  # noqa: ANN401
        """Return whether a request has reached memory, or its translation has a right."""
        import z3

        right = z3.Or(cond_z3(outcome.readable), cond_z3(outcome.writable))
        if outcome.kind is Kind.TRANSLATION:  # what is told of messages is no translation (U=1)
            right = z3.And(right, z3.Not(cond_z3(ats.is_message(self.request))))
        return z3.And(
            word_z3(outcome.fault) == 0, z3.Not(cond_z3(outcome.interrupt)), right
        )

    def gives(self, pair: tuple[AnyCaches, Outcome], space: Any) -> Any:  # noqa: ANN401
        """Return whether an evaluation finds *space*."""
        import z3

        carrier, outcome = pair
        if self.scheme.payload is Payload.MAP:
            return z3.And(self.landed(outcome), self.space(carrier, outcome) == space)
        return z3.Or([z3.And(e.runs, self.named(e.words) == space) for e in carrier.entries])

    def pointer(self, words: tuple[Word, ...]) -> Any:  # noqa: ANN401
        """Return the table that a context entry points to."""
        place = {Mode.SCALABLE: 0, Mode.EXTENDED: 2, Mode.LEGACY: 0}[self.registers.mode]
        return word_z3(words[place] & self.registers.address)

    def _points(self, lookup: Lookup) -> Any:  # noqa: ANN401
        """Return whether a context entry is present and hands requests over to its table."""
        import z3

        mode, low = self.registers.mode, lookup.words[0]
        if mode is Mode.LEGACY:
            return lookup.runs
        bit = 1 << 3 if mode is Mode.SCALABLE else 1 << 11
        return z3.And(lookup.runs, cond_z3((low & bit) != 0))

    # -- alpha ---------------------------------------------------------------------------------

    def reading(self) -> Interpreter[Any, Any]:
        """Return the rule layer's words read off the bits, about the request's own r and p."""
        import z3

        context = self._plain[0].contexts[0]
        word = z3.BitVecSort(64)
        owner_table = z3.Function("table.of", word, word)
        at = owner_table(self.owner(self.env[v.R])) == self.pointer(context.words)
        content = self.scheme.content

        def gives(space: Any) -> Any:  # noqa: ANN401
            return self.gives(self._plain, space)

        def owned(owner: Any, space: Any) -> Any:  # noqa: ANN401
            return z3.And(owner_table(owner) == self.pointer(context.words), gives(space))

        group_of = z3.Function("rgroup", word, word)
        container = z3.Function("container.of", word, word)
        atoms: dict[Rel, Callable[..., Any]] = {
            ENTRY: lambda _, p, s: z3.And(p == self.env[v.P], gives(s)),
            SHARED_ENTRY: lambda p, s: z3.And(p == self.env[v.P], gives(s)),
            POINTED: lambda _: z3.And(self._points(context), at),
            ATTACHED: lambda _: z3.And(self._points(context), at),
            v.IN: lambda group, c: c == container(group),
        }
        if content is not None and self.scheme.payload is Payload.MAP:
            atoms[content] = owned
        elif content is not None:
            atoms[content] = lambda o, p, s: z3.And(p == self.env[v.P], owned(o, s))
        atoms |= {rel: self._holds(rel) for rel in _CACHES}
        functions: dict[Fn, Callable[..., Any]] = {
            v.RGROUP: group_of, v.RID_OF: lambda function: function,
            v.NO_PASID.fn: lambda: z3.BitVecVal(NO_PASID, 64),
        }
        own = container(group_of(self.env[v.R]))
        return Interpreter(BitReading(atoms, functions, {v.CONTAINER: [own]}))

    def owner(self, requester: Any) -> Any:  # noqa: ANN401
        """Return the owner of the table of a requester id, as the design has it."""
        import z3

        word = z3.BitVecSort(64)
        group = z3.Function("rgroup", word, word)(requester)
        if self.scheme.payload is Payload.PROCESS or self.scheme.owner_sort == v.RID:
            return requester
        if self.scheme.owner_sort == v.GROUP:
            return group
        return z3.Function("container.of", word, word)(group)

    def _holds(self, rel: Rel) -> Callable[..., Any]:
        """Return what the arbitrary held entries stand for: by their tags, not by who asks.

        The rules' PASID cache stands for the context cache too, which knows no PASID: it holds
        what a held context entry leads to.
        """
        import z3

        if rel != v.PASID_CACHE:
            return lambda r, p, s: z3.And(
                z3.Bool(f"{rel.name}.used"), self._tagged(rel, r, p), const(f"{rel.name}.s") == s
            )
        carrier, (held_context, held_entry) = self.carrier, (x is Source.HELD for x in self.sources)

        def holds(r: Any, p: Any, s: Any) -> Any:  # noqa: ANN401
            tag, ways = carrier.held_entry, []
            if held_entry:
                same = z3.And(word_z3(tag.sid) == r, word_z3(tag.pasid) == p)
                ways = [z3.And(same, e.runs, self.named(e.words) == s) for e in carrier.entries]
            if held_context:
                same = z3.And(word_z3(carrier.held_context.sid) == r, p == self.env[v.P])
                ways.append(z3.And(same, self.gives(self._stale, s)))
            return z3.Or(ways)

        return holds

    def held_tag(self, rel: Rel) -> inv.IotlbTag:
        """Return the tag of the arbitrary held entry of the IOTLB or the device TLB."""
        def word(part: str) -> Term:
            return Term(const(f"{rel.name}.{part}"))

        tagged = self.scheme.payload is not Payload.MAP
        return inv.IotlbTag(
            word("sid"), tagged, word("pasid"), word("did"), word("pgtt"), word("page")
        )

    def _tagged(self, rel: Rel, r: Any, p: Any) -> Any:  # noqa: ANN401
        """Return whether the held entry is one of a requester id under a PASID."""
        return tag_is(self.held_tag(rel), r, p)

    def invariants(self) -> list[Any]:
        """Return what software keeps: a context entry points to the table of its owner."""
        import z3

        context, word = self._plain[0].contexts[0], z3.BitVecSort(64)
        table = z3.Function("table.of", word, word)(self.owner(self.env[v.R]))
        return [z3.Implies(self._points(context), self.pointer(context.words) == table)]

    def read(self, formula: Formula, space: Any = None) -> Any:  # noqa: ANN401
        """Return a formula over r, p and s as a z3 condition; *space*: another s."""
        env = self.env if space is None else {**self.env, v.S: space}
        return self.reading().formula(formula, env)

    def served(self, rel: Rel) -> list[Any]:
        """Return that the request is answered by the held entry of the IOTLB or device TLB."""
        import z3

        tag = self.held_tag(rel)
        serves = inv.serves_iotlb(tag, self.request)
        if rel == v.DEVICE_TLB:
            serves = inv.serves_device(
                inv.DeviceTag(tag.sid, tag.tagged, tag.pasid, tag.page), self.request
            )
        return [z3.Bool(f"{rel.name}.used"), cond_z3(serves)]

    def obligation(self, name: str, facts: list[Any], claim: Any) -> Obligation:  # noqa: ANN401
        """Return a claim about the request under the invariants."""
        q = self.request
        words = {"r": q.sid, "p": q.pasid, "address": q.address, "write": q.write}
        return Obligation(
            f"{self.model.design.name}: {name}; context entry from {self.sources[0].value}, PASID"
            f" entry from {self.sources[1].value}", [*self.invariants(), *facts], claim,
            self.memory.array, words, self.carrier.reads,
        )


def named(words: tuple[Word, ...]) -> Any:  # noqa: ANN401
    """Return what a scalable-mode PASID entry names: its tables, their type and widths.

    It is a word of its own for each combination of them (P, FPD, DID and rights apart).
    """
    import z3

    name = z3.Function("space", *[z3.BitVecSort(64)] * 3)
    return name(word_z3(words[0] & ~3), word_z3(words[2]))


def tag_is(tag: inv.IotlbTag | inv.DeviceTag, r: Any, p: Any) -> Any:  # noqa: ANN401
    """Return whether an entry is one of a requester id under a PASID (or none)."""
    import z3

    number = word_z3(tag.pasid) if tag.tagged is True else z3.BitVecVal(NO_PASID, 64)
    return z3.And(word_z3(tag.sid) == r, number == p)


def _merge(found: list[tuple[Lookup, Any]]) -> Any:  # noqa: ANN401
    """Return the value of the lookup that ran (at most one does)."""
    import z3

    value = found[-1][1]
    for lookup, other in found[:-1]:
        value = z3.If(lookup.runs, other, value)
    return value


