"""One shape under z3: the rules are written down once, then every theorem is one query."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import z3

from dmaproof.engine.fabric import questions
from dmaproof.engine.fabric.conditions import holds
from dmaproof.engine.fabric.theorems import FIRM, ShapeTheorem
from dmaproof.model.pcie.conditions import Cond, both, no
from dmaproof.model.pcie.topology import PortKind
from dmaproof.model.pcie.trees.drawings import Drawing
from dmaproof.model.pcie.trees.probe_order import Before, Probing
from dmaproof.model.pcie.trees.rules import BITS, Join, Reading
from dmaproof.model.pcie.trees.shapes import Shape
from dmaproof.model.pcie.trees.symbols import Symbols

HOLDS, FAILS, UNKNOWN = "holds", "fails", "unknown"


@dataclass(frozen=True)
class Answer:
    """What z3 says of a theorem on one shape.

    Attributes:
        result: `HOLDS`, `FAILS` or `UNKNOWN` (with the solver's reason).
        seconds: processor time of the query, its terms included.
        reason: why it is unknown.

    """

    result: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """A machine that violates a theorem.

    Attributes:
        drawing: its settings.
        order: the order of probing that it needs; () for bus order.

    """

    drawing: Drawing
    order: tuple[int, ...] = ()


class Workbench:
    """The symbols, rules and groups of one shape, and a solver that knows them.

    Args:
        shape: the tree.

    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._context = z3.Context()
        self.symbols = Symbols(shape, self._context)
        assume = {name: z3.Bool(f"assume-{name}", self._context) for name in FIRM}
        self.reading = Reading(self.symbols.tree, assume)
        self._solver = z3.SimpleSolver(ctx=self._context)
        self._add(self.symbols.axioms)
        self._colours: dict[str, Mapping[int, z3.BoolRef]] = {}
        self._probings: dict[str, Probing] = {}

    # -- what questions ask for --------------------------------------------------------------------

    def apart(self, grouping: str, first: int, second: int) -> Cond:
        """Whether a cut parts two nodes: no join leads across it."""
        colour = self._cut(grouping, self.reading.joins(grouping))
        return both(colour[first], no(colour[second]))

    def alone(self, grouping: str, node: int) -> Cond:
        """Whether a cut parts *node* from all others."""
        colour = self._cut(grouping, self.reading.joins(grouping))
        others = (colour[other] for other in self.shape.nodes if other != node)
        return both(no(colour[node]), *others)

    def together(self, grouping: str, first: int, second: int) -> Cond:
        """Whether joins connect two nodes."""
        return self._connected(grouping)[min(first, second), max(first, second)]

    def probed_apart(self, grouping: str, first: int, second: int) -> Cond:
        """`apart` after probing in some order."""
        colour = self._cut(f"{grouping}-probed", self.probed_joins(grouping))
        return both(colour[first], no(colour[second]))

    def probed_joins(self, grouping: str) -> tuple[Join, ...]:
        """The joins of some order of probing."""
        return self._probing(grouping).joins(grouping)

    def _connected(self, grouping: str) -> Mapping[tuple[int, int], Cond]:
        return self._linux_connected if grouping == "linux" else self._v3_connected

    @cached_property
    def _linux_connected(self) -> Mapping[tuple[int, int], Cond]:
        return questions.together(self.reading, "linux")

    @cached_property
    def _v3_connected(self) -> Mapping[tuple[int, int], Cond]:
        return questions.together(self.reading, "v3")

    def _probing(self, grouping: str) -> Probing:
        if grouping not in self._probings:
            before: Before = {
                pair: z3.Bool(f"{grouping}-before_{pair[0]}_{pair[1]}", self._context)
                for pair in permutations(self.shape.nodes, 2)
            }
            probing = Probing(self.reading, before, self._define)
            self._add(probing.order_axioms(grouping))
            self._probings[grouping] = probing
        return self._probings[grouping]

    def _define(self, name: str, condition: Cond) -> Cond:
        if isinstance(condition, bool):
            return condition
        term = z3.Bool(name, self._context)
        self._solver.add(term == condition)
        return term

    def _cut(self, name: str, joins: tuple[Join, ...]) -> Mapping[int, z3.BoolRef]:
        """Return a colour of each node; what a join connects has one colour."""
        if name not in self._colours:
            colour = {
                node: z3.Bool(f"{name}-side_{node}", self._context) for node in self.shape.nodes
            }
            self._colours[name] = colour
            for first, second, condition in joins:
                if condition is not False:
                    same = colour[first] == colour[second]
                    self._solver.add(same if condition is True else z3.Implies(condition, same))
        return self._colours[name]

    # -- asking ------------------------------------------------------------------------------------

    def _add(self, conditions: Iterator[Cond] | tuple[Cond, ...]) -> None:
        for condition in conditions:
            if condition is not True:
                self._solver.add(self._term(condition))

    def _term(self, condition: Cond) -> z3.BoolRef:
        if isinstance(condition, bool):
            return z3.BoolVal(condition, self._context)
        return condition

    def _pose(self, theorem: ShapeTheorem) -> None:
        """Add what violates *theorem*; cuts and orders that it needs stay for the next one."""
        violation = questions.QUESTIONS[theorem.question](self, theorem.grouping)
        self._solver.push()
        self._add(tuple(holds(name, self.reading) for name in theorem.where))
        self._add(
            tuple(
                self.reading.assume[name] if value else no(self.reading.assume[name])
                for name, value in theorem.assume.items()
            )
        )
        self._solver.add(self._term(violation))

    def ask(self, theorem: ShapeTheorem, seconds: float) -> Answer:
        """Decide *theorem* on this shape within *seconds* of wall-clock time."""
        start = time.process_time()
        self._solver.set("timeout", max(1, int(seconds * 1000)))
        self._pose(theorem)
        try:
            result = self._solver.check()
            reason = self._solver.reason_unknown() if result == z3.unknown else ""
        except z3.Z3Exception as error:
            result, reason = z3.unknown, str(error)
        finally:
            self._solver.pop()
        found = HOLDS if result == z3.unsat else FAILS if result == z3.sat else UNKNOWN
        return Answer(found, time.process_time() - start, reason)

    def script(self, theorem: ShapeTheorem) -> str:
        """Return the query as SMT-LIB: unsatisfiable where *theorem* holds."""
        self._pose(theorem)
        try:
            return f"(set-logic QF_UF)\n{self._solver.to_smt2()}"
        finally:
            self._solver.pop()

    def example(self, theorem: ShapeTheorem, seconds: float) -> Example | None:
        """Return a machine of this shape that violates *theorem*, as plain as one can be.

        None: there is none, or none was found within *seconds*.
        """
        self._solver.set("timeout", max(1, int(seconds * 1000)))
        self._pose(theorem)
        try:
            if self._solver.check() != z3.sat:
                return None
            model = self._solver.model()
            for wish in self._wishes():
                if wish is True or wish is False:
                    continue
                self._solver.push()
                self._solver.add(wish)
                if self._solver.check() == z3.sat:
                    model = self._solver.model()
                    # Kept: the next wishes have to agree with it.
                    kept = wish
                else:
                    kept = None
                self._solver.pop()
                if kept is not None:
                    self._solver.add(kept)
            return Example(self.symbols.drawing(model), self._order(theorem, model))
        finally:
            self._solver.pop()

    def _wishes(self) -> Iterator[Cond]:
        """Yield what makes a machine easy to read and to build, most wanted first."""
        tree, nodes = self.reading.tree, self.reading.tree.node
        yield holds("plain-ports", self.reading)
        for name in ("no-virtual", "no-aliases", "no-conventional", "no-egress-control"):
            yield holds(name, self.reading)
        for facts in nodes.values():
            yield from (no(facts.ghost), no(facts.enhanced), no(facts.own_memory), facts.pasid)
            yield from (no(term) for term in facts.memory.values())
            yield both(no(facts.can["EC"]), no(facts.on["EC"]))
            yield facts.is_a(PortKind.ENDPOINT)
        yield from (no(alias) for alias in tree.alias.values())
        yield from (no(vector) for vector in tree.vector.values())
        yield from (no(device) for device in tree.same_device.values())
        for facts in nodes.values():
            yield no(facts.multifunction)
            complete = both(facts.capability, *(facts.can[bit] for bit in BITS))
            root = facts.is_a(PortKind.ROOT_PORT)
            yield both(root, complete, *(facts.on[bit] for bit in BITS))
            yield no(facts.capability)
            yield both(complete, *(facts.on[bit] for bit in BITS))
            yield both(complete, *(no(facts.on[bit]) for bit in BITS))
            yield from (facts.can[bit] for bit in BITS)
            yield from (facts.on[bit] for bit in BITS)

    def _order(self, theorem: ShapeTheorem, model: z3.ModelRef) -> tuple[int, ...]:
        probing = self._probings.get(theorem.grouping)
        if probing is None or theorem.question not in {"order", "ordered-closed"}:
            return ()

        def earlier(node: int) -> int:
            terms = (probing.before[other, node] for other in self.shape.nodes if other != node)
            return sum(z3.is_true(model.eval(term, model_completion=True)) for term in terms)

        return tuple(sorted(self.shape.nodes, key=earlier))
