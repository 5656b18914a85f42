"""Every kind of pair of functions on a machine, each with its first example.

A premise speaks of pairs, so a machine meets it when every pair does. What a premise can ask of a
pair is the kind of each function, whether they share a group, and which of them acts as or writes
to the other. The pairs that an edge joins are swept with the set of all others as the bits of one
number: a machine with thousands of functions costs thousands of steps, not millions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.ranges import Ranges

Sets = Callable[[int], Ranges]
Kind = tuple[Hashable, ...]


def joined_pairs(
    kinds: Sequence[Hashable], groups: Sequence[int], acts: Sets, peers: Sets
) -> Iterator[tuple[int, int]]:
    """Yield the first pair (f, h) of every kind with an edge from f to h, in rising order.

    Args:
        kinds: the kind of each function, by number.
        groups: the group of each function.
        acts: the functions that each acts as.
        peers: the functions to whose BARs each can write.

    """
    count = len(kinds)
    alike = _masks(kinds)
    together = _masks(groups)
    acting, writing = _incoming(count, acts), _incoming(count, peers)
    seen: set[Hashable] = set()
    for f in range(count):
        into = (next(acting), next(writing))
        out = (ranges.bits(acts(f)), ranges.bits(peers(f)))
        edges = (out[0] | out[1]) & ~(1 << f)
        if not edges:
            continue
        fresh: list[int] = []
        for same, near in ((True, edges & together[groups[f]]),
                           (False, edges & ~together[groups[f]])):
            for kind, mask in alike.items() if near else ():
                for parts in _split(near & mask, (*out, *into)):
                    key = (kinds[f], kind, same, parts[0])
                    if key not in seen:
                        seen.add(key)
                        fresh.append((parts[1] & -parts[1]).bit_length() - 1)
        yield from ((f, h) for h in sorted(fresh))


def _masks(values: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return for each value the set of numbers that have it."""
    places: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return {value: ranges.bits(ranges.of(some)) for value, some in places.items()}


def _incoming(count: int, reached: Sets) -> Iterator[int]:
    """Yield for each number the set of those that reach it."""
    senders: dict[Ranges, list[int]] = {}
    for place in range(count):
        senders.setdefault(reached(place), []).append(place)
    change = [0] * (count + 1)
    for targets, places in senders.items():
        mask = ranges.bits(ranges.of(places))
        for first, last in targets:
            change[first] ^= mask
            change[last] ^= mask
    now = 0
    for place in range(count):
        now ^= change[place]
        yield now


def _split(whole: int, sets: Sequence[int]) -> list[tuple[tuple[bool, ...], int]]:
    """Split a set by membership in each of *sets*; leave out what is empty."""
    parts: list[tuple[tuple[bool, ...], int]] = [((), whole)] if whole else []
    for other in sets:
        parts = [
            ((*marks, inside), some)
            for marks, part in parts
            for inside, some in ((True, part & other), (False, part & ~other))
            if some
        ]
    return parts
