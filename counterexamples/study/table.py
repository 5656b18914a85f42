"""The rows of the study: what is asked, and what must come out.

A row says of a scenario's claim, of a bit-vector lemma or of a theorem about fabrics whether it is
proved or refuted. Rows lie in ``rows/*.toml``, one file a family; the rows about bind designs on
machines are those of ``expected.toml``, each under every claim that it settles.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmaproof.counterexamples import expected as matrix
from dmaproof.engine.fabric.theorems import theorems
from dmaproof.model.errors import InputError
from dmaproof.model.scenario import ClaimKind, builtins
from dmaproof.model.vtd.lemmas import LEMMAS

Wanted = Literal["proved", "refuted"]


class _Row(BaseModel):
    """What every row says.

    Attributes:
        id: of reference rows: ``P48``, ``C10``, ``R2``, ``U1``, ``F3``, ``K6``.
        part: short, unique among the rows of that id.
        expected: what must come out.
        says: one sentence in the words of kernel developers.
        note: what is to be known besides ("" for nothing).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9.-]{0,19}$")]
    part: Annotated[str, Field(min_length=1, max_length=120)]
    expected: Wanted
    says: Annotated[str, Field(min_length=1)]
    note: str = ""


class ScenarioRow(_Row):
    """A claim of a design of a family."""

    kind: Literal["scenario"] = "scenario"
    design: str
    claim: str


class LemmaRow(_Row):
    """A bit-vector lemma of `model.vtd.lemmas`, about all values."""

    kind: Literal["lemma"] = "lemma"
    lemma: str


class FabricRow(_Row):
    """A theorem of `engine.shapes` about all fabrics up to a size."""

    kind: Literal["fabric"] = "fabric"
    theorem: str


Row = Annotated[ScenarioRow | LemmaRow | FabricRow, Field(discriminator="kind")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    row: tuple[Row, ...]


@dataclass(frozen=True)
class MatrixRow:
    """One check of a row of the table of expected verdicts.

    Attributes:
        ids: the claims it settles; each has a row of its own in the study.
        number: the row's number in that table.
        check: the place of the check in the row.
    """

    ids: tuple[str, ...]
    number: int
    check: int
    says: str

    @property
    def asked(self) -> matrix.Check:
        """The check itself."""
        return {r.id: r for r in matrix.rows()}[self.number].check[self.check]


@dataclass(frozen=True)
class Table:
    """Every row of the study."""

    rows: tuple[ScenarioRow | LemmaRow | FabricRow, ...]
    matrix: tuple[MatrixRow, ...]

    @property
    def ids(self) -> list[str]:
        """Every id, in order."""
        return sorted({r.id for r in self.rows} | {i for m in self.matrix for i in m.ids}, key=rank)

    def only(self, wanted: Iterable[str]) -> Table:
        """Return the rows of some ids; a plain number is a row of the table of verdicts.

        Raises:
            InputError: there is no row of an id.
        """
        chosen: set[str] = set()
        numbers: set[int] = set()
        known = {i.lower(): i for i in self.ids}
        for name in wanted:
            if name.isdecimal() and int(name) in {m.number for m in self.matrix}:
                numbers.add(int(name))
            elif name.lower() in known:
                chosen.add(known[name.lower()])
            else:
                near = get_close_matches(name.lower(), known, 3, 0.3)
                advice = ", ".join(known[n] for n in near) or f"{self.ids[0]} to {self.ids[-1]}"
                raise InputError(f"no row is called {name!r}", "--row", "a typing error",
                                 f"near it: {advice}; `dmaproof study --list` names all")
        return Table(
            tuple(r for r in self.rows if r.id in chosen),
            tuple(
                MatrixRow(ids, m.number, m.check, m.says) for m in self.matrix
                if (ids := m.ids if m.number in numbers
                    else tuple(i for i in m.ids if i in chosen))
            ),
        )


_GROUPS = "CPRUFKL"


def rank(identifier: str) -> tuple[int, list[tuple[int, str]]]:
    """Order ids as people do: claims, rows, regressions; P9 before P10."""
    group = _GROUPS.find(identifier[0])
    parts = re.findall(r"(\d+)|(\D+)", identifier[1:])
    return (group if group >= 0 else len(_GROUPS), [(int(n or 0), t) for n, t in parts])


@cache
def table() -> Table:
    """Return the rows of the package.

    Raises:
        InputError: a file is not what it should be; says which and where.
    """
    texts = {
        entry.name: entry.read_text("utf-8")
        for entry in resources.files("dmaproof.counterexamples.study.rows").iterdir()
        if entry.name.endswith(".toml")
    }
    return Table(read(texts), _matrix_rows())


def read(texts: Mapping[str, str]) -> tuple[ScenarioRow | LemmaRow | FabricRow, ...]:
    """Read files of rows, by name.

    Raises:
        InputError: not TOML, not rows, a part named twice, or no such design, claim or lemma.
    """
    found: list[ScenarioRow | LemmaRow | FabricRow] = []
    seen: dict[tuple[str, str], str] = {}
    for name in sorted(texts):
        for place, row in enumerate(_rows_of(texts[name], name), 1):
            where = f"{name}: row {place} ({row.id}, {row.part})"
            if (row.id, row.part) in seen:
                raise InputError("its id and part are taken", where,
                                 f"the same row in {seen[row.id, row.part]}", "name another part")
            seen[row.id, row.part] = name
            _check(row, where)
            found.append(row)
    return tuple(sorted(found, key=lambda r: rank(r.id)))


def _rows_of(text: str, name: str) -> tuple[ScenarioRow | LemmaRow | FabricRow, ...]:
    try:
        data = tomllib.loads(text)
        for row in data.get("row", ()):
            row.setdefault("kind", _kind(row))
        return _File.model_validate(data).row
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"not a file of rows: {error}", name, "a typing error",
                         "compare with the files beside it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(first["msg"], f"{name}: {'.'.join(map(str, first['loc']))}",
                         "a typing error, or a key that no row has",
                         "compare with the rows around it") from None


def _kind(row: Mapping[str, Any]) -> str:
    for kind, key in (("lemma", "lemma"), ("fabric", "theorem")):
        if key in row:
            return kind
    return "scenario"


def _check(row: ScenarioRow | LemmaRow | FabricRow, where: str) -> None:
    """Test that what a row asks about exists."""
    match row:
        case ScenarioRow():
            design = builtins().get(row.design)
            if design is None:
                near = get_close_matches(row.design, builtins(), 3)
                raise InputError(f"there is no design {row.design!r}", where, "a typing error",
                                 f"near it: {', '.join(near) or 'none'}")
        case LemmaRow():
            if row.lemma not in LEMMAS:
                raise InputError(f"there is no lemma {row.lemma!r}", where, "a typing error",
                                 f"lemmas: {', '.join(LEMMAS)}")
        case FabricRow():
            known = [t.id for t in theorems()]
            if row.theorem not in known:
                raise InputError(f"there is no theorem {row.theorem!r}", where, "a typing error",
                                 f"theorems: {', '.join(known)}")


def check_claims(rows: Iterable[ScenarioRow | LemmaRow | FabricRow]) -> None:
    """Test that each scenario makes the claims asked of it (which builds every scenario).

    Raises:
        InputError: one does not, or is asked to refute that a call is refused.
    """
    for row in rows:
        if isinstance(row, ScenarioRow):
            claims = builtins()[row.design].scenario.claims
            where = f"row {row.id} ({row.part})"
            if row.claim not in claims:
                raise InputError(f"{row.design} makes no claim {row.claim!r}", where,
                                 "a typing error", f"its claims: {', '.join(claims)}")
            if claims[row.claim].kind is ClaimKind.REFUSED and row.expected != "proved":
                raise InputError("an errno row is proved or wrong", where, "a typing error",
                                 'write expected = "proved"')


def _matrix_rows() -> tuple[MatrixRow, ...]:
    return tuple(
        MatrixRow(row.claims, row.id, place, row.says)
        for row in matrix.rows() for place in range(len(row.check))
    )
