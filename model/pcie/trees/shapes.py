"""Shapes: every way a number of ports and functions can hang together below a root complex.

A shape is a rooted tree. Its root, node 0, is the root complex; the other nodes are functions or
ports. What each node is, and how it is set up, is no part of the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement

import networkx as nx

Code = tuple["Code", ...]
"""A rooted tree up to isomorphism: the codes of its branches, largest first."""


@dataclass(frozen=True)
class Shape:
    """A rooted tree.

    Attributes:
        parents: the parent of each node 1, 2, ...; a parent has a lower number than its children.

    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= parent < node for node, parent in enumerate(self.parents, 1)):
            raise ValueError(f"{self.parents} are no parents of a tree in rising order")

    @property
    def size(self) -> int:
        """Number of ports and functions; the root complex does not count."""
        return len(self.parents)

    @property
    def nodes(self) -> range:
        """The ports and functions."""
        return range(1, self.size + 1)

    def parent(self, node: int) -> int:
        """Return the node above *node*; 0 is the root complex."""
        return self.parents[node - 1]

    @cached_property
    def _children(self) -> tuple[tuple[int, ...], ...]:
        below: list[list[int]] = [[] for _ in range(self.size + 1)]
        for node in self.nodes:
            below[self.parent(node)].append(node)
        return tuple(tuple(nodes) for nodes in below)

    def children(self, node: int) -> tuple[int, ...]:
        """Return the nodes directly below *node*."""
        return self._children[node]

    def siblings(self, node: int) -> tuple[int, ...]:
        """Return the other nodes on the bus of *node*."""
        return tuple(other for other in self.children(self.parent(node)) if other != node)

    def way_up(self, node: int) -> tuple[int, ...]:
        """Return *node* and the nodes above it, nearest first, without the root complex."""
        way = []
        while node:
            way.append(node)
            node = self.parent(node)
        return tuple(way)

    def above(self, node: int) -> tuple[int, ...]:
        """Return the nodes above *node*, nearest first, without the root complex."""
        return self.way_up(node)[1:]

    def branch(self, target: int, bus: int) -> int | None:
        """Return the child of node *bus* that is *target* or has it below, None without one."""
        for node in self.way_up(target):
            if self.parent(node) == bus:
                return node
        return None

    @property
    def leaves(self) -> tuple[int, ...]:
        """Nodes with nothing below."""
        return tuple(node for node in self.nodes if not self.children(node))

    def __str__(self) -> str:
        def draw(node: int) -> str:
            return "".join(f"({draw(child)})" for child in self.children(node))

        return draw(0)


@cache
def shapes(size: int) -> tuple[Shape, ...]:
    """Return every shape with *size* ports and functions, in a fixed order.

    networkx enumerates free trees; a rooted tree is a free tree with one of its nodes chosen. There
    are A000081(size + 1) of them (OEIS).

    Raises:
        ValueError: *size* is below 1.

    """
    if size < 1:
        raise ValueError("a shape has at least one node")
    codes: set[Code] = set()
    for tree in nx.nonisomorphic_trees(size + 1):
        codes.update(_code(tree, root, None) for root in tree)
    return tuple(_shape(code) for code in sorted(codes, key=_rank))


def _code(tree: nx.Graph, node: int, above: int | None) -> Code:
    return tuple(
        sorted((_code(tree, other, node) for other in tree[node] if other != above), reverse=True)
    )


def _rank(code: Code) -> tuple[int, str]:
    """Deep shapes first: they hold more ports, and what they refute is closer to real machines."""
    return -_depth(code), str(code)


def _depth(code: Code) -> int:
    return 1 + max((_depth(branch) for branch in code), default=0)


def _shape(code: Code) -> Shape:
    parents: list[int] = []

    def walk(branches: Code, node: int) -> None:
        for branch in branches:
            parents.append(node)
            walk(branch, len(parents))

    walk(code, 0)
    return Shape(tuple(parents))


def pairs(size: int) -> Iterator[Shape]:
    """Yield the shapes with *size* nodes that a leak between two functions can depend on.

    The ways up of two functions, and up to three leaves beside the ends: a physical function for
    each, and one whose requester id both use (docs/fabric.md).
    """
    found: dict[str, Shape] = {}
    for beside in range(min(3, size - 1) + 1):
        for fork in _forks(size - beside):
            for shape in _with_leaves(fork, fork.leaves, beside):
                found.setdefault(str(_canonical(shape)), shape)
    yield from found.values()


def _forks(size: int) -> Iterator[Shape]:
    """Yield the shapes with at most two leaves."""
    yield Shape(tuple(range(size)))
    for stem in range(size - 1):
        arms = size - stem
        for short in range(1, arms // 2 + 1):
            long, last = arms - short, size
            yield Shape((*range(stem + long), stem, *range(stem + long + 1, last)))


def _with_leaves(shape: Shape, ends: tuple[int, ...], count: int) -> Iterator[Shape]:
    """Add *count* leaves to the buses of *ends* in every way."""
    for chosen in combinations_with_replacement(dict.fromkeys(map(shape.parent, ends)), count):
        yield Shape((*shape.parents, *chosen))


def _canonical(shape: Shape) -> Code:
    def code(node: int) -> Code:
        return tuple(sorted((code(child) for child in shape.children(node)), reverse=True))

    return code(0)
