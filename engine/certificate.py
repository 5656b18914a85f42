"""Certificates: a proof as a folder that a second solver can check without trusting this project.

A certificate holds a manifest (design, property, premise, invariant) and one SMT-LIB 2.6 script for
each obligation of an inductive proof, all expected unsatisfiable:

- ``initiation``: an initial state that violates the invariant;
- ``consecution-ACTION``: a state of the invariant from which the action leads out of it;
- ``safety``: a state of the invariant that violates the property.

`certify` rebuilds the obligations from the design in the manifest, compares them with the files
byte by byte, and only then asks the solver: a certificate of another model is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmaproof.engine.candidates import Clause
from dmaproof.engine.obligations import Obligations
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.scenarios import goal_of
from dmaproof.engine.second_solver import Answer, Reply, ask
from dmaproof.engine.theorems import Theorem, safe_goal, theorem_name
from dmaproof.model import scenario as scenarios
from dmaproof.model.design import Design, builtin_names
from dmaproof.model.design import load as load_design
from dmaproof.model.errors import InputError
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import TRUE, Formula
from dmaproof.model.scenario import Claim, StudyDesign
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.base import Premise, Property
from dmaproof.properties.registry import applicable, find

SCHEMA: Final = "dmaproof/certificate/1"
MANIFEST = "manifest.json"
MAX_BYTES = 4 << 20  # of a manifest; real ones have some kilobytes
SECONDS = 30.0
"""Time for one obligation, unless told otherwise."""

_AGAIN = "write the certificate again with `dmaproof check` or `dmaproof study`"


class Manifest(BaseModel):
    """The contents of ``manifest.json``.

    Attributes:
        theorem: identifier, as in verdicts.
        design: the whole design, so that the model can be rebuilt from it.
        property: identifier of the property, or of the claim of a design of the study.
        premise: name of the premise about the machine.
        hot_add: functions may appear at run time.
        invariant: closed formulas in SMT-LIB, together the inductive invariant.
        files: SHA-256 of each other file, in hexadecimal.

    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: Annotated[Literal["dmaproof/certificate/1"], Field(alias="schema")] = SCHEMA
    theorem: str
    design: Design | StudyDesign
    property: str
    premise: Premise
    hot_add: bool
    invariant: Annotated[tuple[str, ...], Field(max_length=1000)]
    files: dict[str, str]


@dataclass(frozen=True)
class Certificate:
    """A certificate that was read and whose files are those of its model.

    Attributes:
        folder: where it lies.
        manifest: what it claims.
        obligations: file name -> script, in the order in which they are to be asked.

    """

    folder: Path
    manifest: Manifest
    obligations: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What the second solver says of a certificate.

    Attributes:
        manifest: the claim.
        replies: the solver's reply to each file.

    """

    manifest: Manifest
    replies: Mapping[str, Reply]

    @property
    def result(self) -> Literal["accepted", "rejected", "undecided"]:
        """``accepted`` only if every answer is unsat; ``rejected`` if one is sat."""
        answers = {r.answer for r in self.replies.values()}
        if answers == {Answer.UNSAT}:
            return "accepted"
        return "rejected" if Answer.SAT in answers else "undecided"

    @property
    def open(self) -> list[str]:
        """Files that were not answered unsat."""
        return [n for n, r in self.replies.items() if r.answer is not Answer.UNSAT]


# -- obligations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What a certificate answers.

    Attributes:
        theorem: its identifier.
        system: what it is about.
        goal: what is said to hold always, and its name.
        fact: a formula over facts that is assumed, and the name of that premise.

    """

    theorem: str
    system: System
    goal: Formula
    claim: str
    fact: Formula
    premise: Premise

    def scripts(self, invariant: Sequence[Formula]) -> dict[str, str]:
        """Return the scripts of a proof, by file name.

        Raises:
            ValueError: a name cannot be written in SMT-LIB.

        """
        return Obligations(
            self.system, invariant, self.theorem, self.goal, self.claim, self.fact,
            str(self.premise),
        ).scripts()


def _of_model(model: Model, prop: Property, premise: Premise) -> Question:
    name = theorem_name(model.design.name, prop.id, premise, model.scheme.hot_add)
    return Question(
        name, model.core, safe_goal(prop, model), prop.id, premise_formula(premise, model), premise
    )


def _of_claim(design: StudyDesign, claim: Claim) -> Question:
    return Question(
        f"{design.name}/{claim.id}", design.scenario.system, goal_of(claim), claim.id, TRUE,
        Premise.NONE,
    )


def obligations(
    model: Model, prop: Property, premise: Premise, invariant: Sequence[Formula]
) -> dict[str, str]:
    """Return the scripts of a proof about a bind design, by file name.

    Args:
        model: the design's model.
        prop: what is claimed of it.
        premise: under which condition on the machine.
        invariant: closed formulas.

    Raises:
        ValueError: a name cannot be written in SMT-LIB.

    """
    return _of_model(model, prop, premise).scripts(invariant)


# -- writing ------------------------------------------------------------------------------------


def write(theorem: Theorem, model: Model, folder: Path) -> Manifest:
    """Write the certificate of a theorem, in place of an older one in that folder.

    The manifest comes last and in one piece: a folder without it is no certificate.

    Args:
        theorem: what was proved.
        model: the model it was proved of.
        folder: is made if it does not exist.

    Raises:
        InputError: the folder cannot be written or holds something else.

    """
    question = _of_model(model, find(theorem.property), theorem.premise)
    return _write(question, model.design, theorem.hot_add, theorem.invariant, folder)


def write_claim(
    design: StudyDesign, claim: Claim, invariant: Sequence[Clause], folder: Path
) -> Manifest:
    """Write the certificate of a proof about a design of the study; see `write`.

    Raises:
        InputError: the folder cannot be written or holds something else.

    """
    return _write(_of_claim(design, claim), design, False, invariant, folder)


def _write(
    question: Question, design: Design | StudyDesign, hot_add: bool, clauses: Sequence[Clause],
    folder: Path,
) -> Manifest:
    invariant = [c.closed for c in clauses]
    scripts = question.scripts(invariant)
    manifest = Manifest.model_validate({
        "schema": SCHEMA,
        "theorem": question.theorem,
        "design": design,
        "property": question.claim,
        "premise": question.premise,
        "hot_add": hot_add,
        "invariant": tuple(smtlib.text(f) for f in invariant),
        "files": {name: _sha256(text.encode()) for name, text in scripts.items()},
    })
    if _is_written(folder, manifest, scripts):
        return manifest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder)
        for name, text in scripts.items():
            (folder / name).write_bytes(text.encode())
        draft = folder / f".{MANIFEST}.{os.getpid()}"
        draft.write_text(_text_of(manifest), "utf-8")
        draft.replace(folder / MANIFEST)
    except OSError as error:
        raise InputError(
            f"a certificate cannot be written here: {error.strerror}", str(folder), "",
            "name a folder that you may write to",
        ) from None
    return manifest


def _is_written(folder: Path, manifest: Manifest, scripts: Mapping[str, str]) -> bool:
    """Whether a folder holds this very certificate, as far as sizes tell."""
    try:
        if (folder / MANIFEST).read_text("utf-8") != _text_of(manifest):
            return False
    except (OSError, UnicodeDecodeError):
        return False
    found = sizes(folder)
    found.pop(MANIFEST, None)
    return found == {name: len(text.encode()) for name, text in scripts.items()}


def sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file of a folder, in bytes; of none where it cannot be read."""
    try:
        return {p.name: p.stat().st_size for p in folder.iterdir()}
    except OSError:
        return {}


def _text_of(manifest: Manifest) -> str:
    return manifest.model_dump_json(by_alias=True, indent=1) + "\n"


def _ours(name: str) -> bool:
    """Whether a file is a manifest, or the draft of one that a killed process left."""
    return name == MANIFEST or name.startswith(f".{MANIFEST}.")


def _make_room(folder: Path) -> None:
    """Remove an older certificate."""
    old = sorted(folder.iterdir())
    foreign = [p for p in old if p.suffix != ".smt2" and not _ours(p.name)]
    if foreign:
        raise InputError(
            f"holds {foreign[0].name}, which is no part of a certificate", str(folder),
            "a folder with other contents", "name a new folder",
        )
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in old:
        path.unlink(missing_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- reading ------------------------------------------------------------------------------------


def load(folder: Path) -> Certificate:
    """Read a certificate and compare its files with the obligations of its model.

    Raises:
        InputError: no certificate, a damaged one, or one of another model.

    """
    manifest = _manifest(folder / MANIFEST)
    where = str(folder / MANIFEST)
    scripts = _rebuild(manifest, where)
    _compare(folder, manifest, scripts)
    return Certificate(folder, manifest, scripts)


def _manifest(path: Path) -> Manifest:
    data = _read(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError("longer than 4 MiB", str(path), "the file was changed", _AGAIN)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            first["msg"].lower(), f"{path}: key {key}" if key else str(path),
            "the file was changed or cut short, or another version wrote it", _AGAIN,
        ) from None


def _read(path: Path, limit: int) -> bytes:
    """Read at most *limit* bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", str(path),
            "not the folder of a certificate, or a part of it is missing",
            "name a folder that `dmaproof check` or `dmaproof study` wrote",
        ) from None


def _rebuild(manifest: Manifest, where: str) -> dict[str, str]:
    _is_builtin(manifest.design, where)
    try:
        question = _question(manifest, where)
        reader = smtlib.Reader(question.system)
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise InputError(f"no model can be built of its design: {error}", where, "", "") from None
    if manifest.theorem != question.theorem:
        raise InputError(
            f"claims theorem {manifest.theorem!r}, but its keys say {question.theorem!r}", where,
            "the manifest was changed", _AGAIN,
        )
    invariant = []
    for number, text in enumerate(manifest.invariant, 1):
        try:
            invariant.append(reader.formula(text))
        except ValueError as error:
            raise InputError(
                f"clause {number} of the invariant is no formula over this design: {error}",
                where, "the manifest was changed, or belongs to another design", _AGAIN,
            ) from None
    return question.scripts(invariant)


def _is_builtin(design: Design | StudyDesign, where: str) -> None:
    """Test that a design with the name of a built-in one is that one."""
    known: Design | StudyDesign | None
    if isinstance(design, StudyDesign):
        known = scenarios.builtins().get(design.name)
    else:
        known = load_design(design.name) if design.name in builtin_names() else None
    if known is not None and design != known:
        raise InputError(
            f"its design is called {design.name} but is not the built-in design of that name",
            where, "an edited design, or another version of the built-in one",
            "give the design a name of its own, or write the certificate again",
        )


def _question(manifest: Manifest, where: str) -> Question:
    """Return what a manifest is about.

    Raises:
        InputError: no such claim, or one without meaning for the design.
        TypeError, ValueError, KeyError, AssertionError: no model can be built of the design.

    """
    design = manifest.design
    if isinstance(design, Design):
        prop = find(manifest.property)
        model = build(design, manifest.hot_add)
        obstacle = applicable(prop, model)
        if obstacle:
            raise InputError(obstacle, where, "the manifest was changed", _AGAIN)
        return _of_model(model, prop, manifest.premise)
    claims = design.scenario.claims
    if manifest.property not in claims or manifest.premise is not Premise.NONE or manifest.hot_add:
        raise InputError(
            f"the design makes no claim {manifest.property!r} without a premise", where,
            "the manifest was changed", _AGAIN,
        )
    return _of_claim(design, claims[manifest.property])


def _compare(folder: Path, manifest: Manifest, scripts: Mapping[str, str]) -> None:
    """Test that the folder holds exactly the rebuilt scripts, and the manifest their hashes.

    Raises:
        InputError: it does not.

    """
    try:
        present = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(folder), "", "") from None
    for names, fault in (
        (set(scripts) - present, "is missing"),
        (present - set(scripts) - {MANIFEST}, "is no part of this certificate"),
        (set(scripts) ^ set(manifest.files), "is in the manifest or the model, not in both"),
    ):
        if names:
            raise InputError(
                fault, str(folder / min(names)),
                "the folder was changed, or it is a certificate of another model", _AGAIN,
            )
    for name, script in scripts.items():
        expected = script.encode()
        data = _read(folder / name, len(expected) + 1)
        if data != expected:
            raise InputError(
                f"differs from the obligation of this model {_difference(data, expected)}",
                str(folder / name), "it is a certificate of another model, or was changed", _AGAIN,
            )
        if manifest.files[name] != _sha256(expected):
            raise InputError(
                f"the manifest has another hash of {name}", str(folder / MANIFEST),
                "the manifest was changed", _AGAIN,
            )


def _difference(data: bytes, expected: bytes) -> str:
    """Where two texts differ first."""
    lines, wanted = data.split(b"\n"), expected.split(b"\n")
    for number, (line, want) in enumerate(zip(lines, wanted, strict=False), 1):
        if line != want:
            return f"in line {number}"
    return "in its length"


# -- checking -----------------------------------------------------------------------------------


def certify(
    folder: Path,
    solver_seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Re-check a certificate with cvc5.

    Args:
        folder: the certificate.
        solver_seconds: time for one obligation.
        progress: is told the name of each file before the solver is asked about it.

    Raises:
        InputError: no certificate, a damaged one, one of another model, or cvc5 is not installed.

    """
    certificate = load(folder)
    replies = {}
    for name, script in certificate.obligations.items():
        progress(name)
        replies[name] = ask(script, name, solver_seconds)
    return Report(certificate.manifest, replies)
