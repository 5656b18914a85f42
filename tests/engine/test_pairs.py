"""The sweep over pairs against asking every pair."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.engine.pairs import joined_pairs
from dmaproof.model.pcie import ranges

COUNT = 7
relations = st.lists(st.sets(st.integers(0, COUNT - 1)), min_size=COUNT, max_size=COUNT)
few_values = st.lists(st.integers(0, 1), min_size=COUNT, max_size=COUNT)


@settings(max_examples=150, deadline=None)
@given(relations, relations, few_values, few_values)
def test_the_first_pair_of_every_kind_is_found(
    acts: list[set[int]], peers: list[set[int]], kinds: list[int], groups: list[int]
) -> None:
    wanted: dict[object, tuple[int, int]] = {}
    for f in range(COUNT):
        for h in range(COUNT):
            if f != h and (h in acts[f] or h in peers[f]):
                marks = (h in acts[f], h in peers[f], f in acts[h], f in peers[h])
                wanted.setdefault((kinds[f], kinds[h], groups[f] == groups[h], marks), (f, h))
    found = list(
        joined_pairs(
            kinds, groups, lambda f: ranges.of(acts[f]), lambda f: ranges.of(peers[f])
        )
    )
    assert found == sorted(wanted.values())
