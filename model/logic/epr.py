"""The fragment check: whether formulas stay in effectively propositional logic (EPR).

EPR with stratified functions has the finite model property, so z3 answers instead of searching for
ever. A quantifier alternation adds an edge from each universal sort to each existential sort in its
scope, a function one from its argument sorts to its result; a cycle leaves the fragment. The check
costs nothing in soundness: outside EPR a solver may only fail to answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx

from dmaproof.model.logic.terms import And, Fn, Formula, Not, Or, Quantified, Sort, Var


@dataclass(frozen=True)
class Leaves:
    """Why a set of formulas leaves EPR: the cycle of sorts, and the formulas that close it."""

    cycle: tuple[Sort, ...]
    culprits: tuple[str, ...]

    def __str__(self) -> str:
        path = " -> ".join(map(str, self.cycle))
        return f"leaves EPR: {path}, because of {', '.join(self.culprits)}"


def leaves_epr(fns: Iterable[Fn], assertions: Iterable[tuple[str, Formula]]) -> Leaves | None:
    """Return the first cycle of sorts among asserted formulas and functions, or None.

    Args:
        fns: the function symbols in use.
        assertions: (name, formula that is asserted); to check an entailment, assert the negated
            conclusion, as the solver does.

    """
    graph: nx.DiGraph = nx.DiGraph()
    for fn in fns:
        for sort in fn.sorts:
            _edge(graph, sort, fn.result, f"function {fn.name}")
    for name, formula in assertions:
        _walk(graph, name, formula, positive=True, outer=())
    try:
        cycle = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return None
    culprits: dict[str, None] = {}
    for a, b, *_ in cycle:
        culprits.update(dict.fromkeys(sorted(graph[a][b]["names"])))
    sorts = (*(a for a, *_ in cycle), cycle[0][0])
    return Leaves(sorts, tuple(culprits))


def _edge(graph: nx.DiGraph, source: Sort, target: Sort, name: str) -> None:
    if not graph.has_edge(source, target):
        graph.add_edge(source, target, names=set())
    graph[source][target]["names"].add(name)


def _walk(
    graph: nx.DiGraph, name: str, formula: Formula, *, positive: bool, outer: tuple[Var, ...]
) -> None:
    match formula:
        case Not(body):
            _walk(graph, name, body, positive=not positive, outer=outer)
        case And(parts) | Or(parts):
            for part in parts:
                _walk(graph, name, part, positive=positive, outer=outer)
        case Quantified(universal, variables, body):
            if universal == positive:
                outer = (*outer, *variables)
            else:  # an existential becomes a Skolem function of the universals around it
                for source in outer:
                    for target in variables:
                        _edge(graph, source.sort, target.sort, name)
            _walk(graph, name, body, positive=positive, outer=outer)
