"""docs/regressions.md names every regression, and for each what the study's rows say."""

from __future__ import annotations

import re
from pathlib import Path

from dmaproof.counterexamples.study.table import table

TEXT = (Path(__file__).parents[2] / "docs" / "regressions.md").read_text("utf-8")


def test_every_regression_is_mapped_and_as_the_rows_say() -> None:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for line in TEXT.splitlines():
        if match := re.match(r"\| (R\d+) \|.*\|([^|]*)\|([^|]*)\|$", line):
            names = [set(re.findall(r"`([^`]+)`", match[i])) for i in (2, 3)]
            found[match[1]] = (names[0], names[1])
    assert list(found) == [f"R{n}" for n in range(1, 40)]
    for row, (refuted, proved) in found.items():
        verdicts = [q for q in table().rows if q.id == row]
        for wanted, names in (("refuted", refuted), ("proved", proved)):
            assert names == {
                getattr(q, "design", "") or f"lemma {q.lemma}"  # type: ignore[union-attr]
                for q in verdicts if q.expected == wanted
            }, row
        assert refuted, f"{row} has no design as the kernel had it"
