"""Sets of numbers as sorted ranges, and reachability between numbers that point at ranges.

Requesters are numbered in address order, so what lies below a port is one range or a few. A set
of thousands of functions then costs as much as a set of two.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

Ranges = tuple[tuple[int, int], ...]
"""Disjoint half-open ranges in rising order, none adjacent to the next."""

EMPTY: Ranges = ()


def single(number: int) -> Ranges:
    """Return the set of one number."""
    return ((number, number + 1),)


def of(numbers: Iterable[int]) -> Ranges:
    """Return the set of *numbers*."""
    return union(single(number) for number in sorted(numbers))


def union(parts: Iterable[Ranges]) -> Ranges:
    """Return what is in any of *parts*."""
    distinct = {id(part): part for part in parts if part}
    if len(distinct) < 2:
        return next(iter(distinct.values()), EMPTY)
    found: list[tuple[int, int]] = []
    for first, last in sorted(pair for part in distinct.values() for pair in part):
        if found and first <= found[-1][1]:
            if last > found[-1][1]:
                found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return tuple(found)


def minus(whole: Ranges, less: Ranges) -> Ranges:
    """Return what is in *whole* and not in *less*."""
    if not whole or not less:
        return whole
    found: list[tuple[int, int]] = []
    for start, last in whole:
        first = start
        for place in range(max(0, bisect_right(less, (first,)) - 1), len(less)):
            hole, end = less[place]
            if hole >= last:
                break
            if end <= first:
                continue
            if hole > first:
                found.append((first, hole))
            first = end
        if first < last:
            found.append((first, last))
    return tuple(found)


def common(first: Ranges, second: Ranges) -> Ranges:
    """Return what is in both."""
    return minus(first, minus(first, second))


def contains(ranges: Ranges, number: int) -> bool:
    """Whether *number* is in the set."""
    place = bisect_right(ranges, (number, 1 << 62)) - 1
    return place >= 0 and number < ranges[place][1]


def members(ranges: Ranges) -> Iterator[int]:
    """Yield the numbers of the set, lowest first."""
    for first, last in ranges:
        yield from range(first, last)


def bits(ranges: Ranges) -> int:
    """Return the set as the bits of an integer."""
    return sum((1 << last) - (1 << first) for first, last in ranges)


def forest(count: int, joined: Iterable[tuple[int, Ranges]]) -> list[tuple[int, int]]:
    """Return pairs that connect what is connected, without a pair too many.

    Args:
        count: the numbers are 0 .. *count* - 1.
        joined: a number and the set that it is joined to, itself or not.

    Returns:
        For each pair (first, second), *second* is in a set that *first* is joined to.

    """
    parent = list(range(count))
    run = list(range(1, count + 1))  # from each number on, all below this one are connected
    found: list[tuple[int, int]] = []

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for place, others in joined:
        for first, last in others:
            stops = []
            at = first
            while at < last:
                if root(at) != root(place):
                    parent[root(at)] = root(place)
                    found.append((place, at))
                stops.append(at)
                at = run[at]
            for stop in stops:
                run[stop] = max(run[stop], last)
    return found


class Reaching:
    """A directed graph whose edges lead from nodes to nodes or to ranges of numbers.

    The numbers 0 .. *count* - 1 are nodes; `node` makes more. An edge to a range leads through a
    balanced tree over the numbers, so it costs a few nodes however long the range is.

    Args:
        count: how many numbers there are.

    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._next: list[list[int]] = [[] for _ in range(count)]
        self._inner: dict[tuple[int, int], int] = {}
        self._hubs: dict[Ranges, int] = {}
        self._order: list[list[int]] | None = None

    def node(self) -> int:
        """Return a new node that is no number."""
        self._next.append([])
        return len(self._next) - 1

    def edge(self, source: int, target: int) -> None:
        """Lead from one node to another."""
        self._next[source].append(target)

    def edge_to(self, source: int, targets: Ranges) -> None:
        """Lead from a node to every number of *targets*."""
        if not targets:
            return
        hub = self._hubs.get(targets)
        if hub is None:
            hub = self._hubs[targets] = self.node()
            for first, last in targets:
                self._next[hub].extend(self._cover(first, last))
        self._next[source].append(hub)

    def _cover(self, first: int, last: int) -> Iterator[int]:
        """Yield nodes of the tree over the numbers that together stand for a range."""
        while first < last:
            size = first & -first or 1 << self._count.bit_length()
            while size > last - first:
                size >>= 1
            yield self._block(first, first + size)
            first += size

    def _block(self, first: int, last: int) -> int:
        if last - first == 1:
            return first
        known = self._inner.get((first, last))
        if known is None:
            known = self._inner[first, last] = self.node()
            half = (first + last) // 2
            self._next[known].extend((self._block(first, half), self._block(half, last)))
        return known

    def gather(self, own: Sequence[Ranges]) -> list[Ranges]:
        """Return for each number the union of *own* over the numbers it reaches, itself included.

        Args:
            own: what each number contributes.

        """
        found: list[Ranges] = [EMPTY] * len(self._next)
        for part in self._components():
            sets = [own[node] for node in part if node < self._count]
            sets += [found[after] for node in part for after in self._next[node]]
            total = union(sets)
            for node in part:
                found[node] = total
        return found[: self._count]

    def _components(self) -> list[list[int]]:
        if self._order is None:
            self._order = _strongly_connected(self._next)
        return self._order


def _strongly_connected(following: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the strongly connected components, each after those it leads to (Tarjan 1972)."""
    count = len(following)
    number, low = [0] * count, [0] * count
    done = [False] * count
    found: list[list[int]] = []
    open_nodes: list[int] = []
    clock = 0
    for root in range(count):
        if number[root]:
            continue
        clock += 1
        number[root] = low[root] = clock
        open_nodes.append(root)
        stack = [(root, iter(following[root]))]
        while stack:
            node, rest = stack[-1]
            for after in rest:
                if not number[after]:
                    clock += 1
                    number[after] = low[after] = clock
                    open_nodes.append(after)
                    stack.append((after, iter(following[after])))
                    break
                if not done[after] and number[after] < low[node]:
                    low[node] = number[after]
            else:
                stack.pop()
                if stack and low[node] < low[stack[-1][0]]:
                    low[stack[-1][0]] = low[node]
                if low[node] == number[node]:
                    part: list[int] = []
                    while not part or part[-1] != node:
                        part.append(open_nodes.pop())
                        done[part[-1]] = True
                    found.append(part)
    return found
