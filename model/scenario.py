"""Scenarios: a transition system, what is claimed of it, and small worlds to try it in.

A *family* is a part of the real thing (the driver's teardown and the caches, iommufd's attach
rules, DID allocation, ...) as a function from a few options to a scenario. A design of a family is
a TOML file that sets the options; a bug and its fix are two designs that differ in one line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib import import_module, resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmaproof.model.design import MAX_BYTES
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import Action, System
from dmaproof.model.logic.terms import FALSE, Formula, Rel, Term, and_, forall, implies, not_, or_

SCHEMA: Final = "dmaproof/design/2"


class ClaimKind(StrEnum):
    """How a claim is to be read."""

    ALWAYS = "always"  # holds in every reachable state
    CAN = "can"  # some reachable state satisfies it
    REFUSED = "refused"  # whenever its condition holds, the call fails with that errno


@dataclass(frozen=True)
class Claim:
    """Something said of a scenario.

    Attributes:
        id: identifier, such as ``unbind-final``.
        kind: how to read it.
        says: the claim in one sentence.
        formula: closed; for `REFUSED` what must always hold (see `refused`).
        violated: what the end of a refuting run means, in one sentence.
        when: for `REFUSED` the closed formula "the call is made so", which must be reachable.
        made: for `REFUSED` the same as a condition over the call's parameters.
        action: for `REFUSED` the call.
        errno: for `REFUSED` what it returns.
    """

    id: str
    kind: ClaimKind
    says: str
    formula: Formula
    violated: str = ""
    when: Formula | None = None
    made: Formula | None = None
    action: str = ""
    errno: str = ""


def always(identifier: str, says: str, formula: Formula, violated: str = "") -> Claim:
    """A claim about every reachable state."""
    return Claim(identifier, ClaimKind.ALWAYS, says, formula, violated)


def can(identifier: str, says: str, formula: Formula) -> Claim:
    """A claim that some state can be reached."""
    return Claim(identifier, ClaimKind.CAN, says, formula)


def refused(identifier: str, says: str, act: Action, when: Formula, errno: str) -> Claim:
    """Whenever *when* holds of a call's parameters, its first failing guard returns *errno*.

    A refused call is no step: it changes nothing by construction.

    Args:
        identifier: of the claim.
        says: the claim in one sentence.
        act: the call.
        when: a condition over the parameters of *act* and the state.
        errno: such as ``-EBUSY``.
    """
    outcomes: list[Formula] = []
    passed: list[Formula] = []
    for guard in act.guards:
        if guard.errno == errno:
            outcomes.append(and_(*passed, not_(guard.condition)))
        passed.append(guard.condition)
    fails = or_(*outcomes) if outcomes else FALSE
    return Claim(
        identifier, ClaimKind.REFUSED, says, forall(act.params, implies(when, fails)),
        f"{act.name} does not return {errno} here",
        when=not_(forall(act.params, not_(when))), made=when, action=act.name, errno=errno,
    )


@dataclass(frozen=True)
class Scenario:
    """A system with its claims.

    Attributes:
        system: the transition system; its modules name what it composes.
        claims: what can be asked, by identifier.
        instances: small worlds that satisfy the axioms; simulated, searched, and where every action
            has to fire. A refutation is looked for in each, in this order.
        frames: families of terms (variables and functions of them) that candidate clauses speak
            of; empty: one variable a sort, and each function of it.
        stages: for each program, the relations that say where a running call stands, in their
            order: clauses may say "has entered", "is past this step".
        invariants: closed formulas written by hand, offered to inference as candidates: they are
            dropped unless inductive, and a proof that rests on one says so.
        size: literals of a candidate clause.
        idle: actions that never fire in *instances*, each with the reason.
    """

    system: System
    claims: Mapping[str, Claim]
    instances: tuple[Instance, ...]
    frames: tuple[tuple[Term, ...], ...] = ()
    stages: tuple[tuple[Rel, ...], ...] = ()
    invariants: tuple[Formula, ...] = ()
    size: int = 3
    idle: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The modules that the system composes."""
        return tuple(dict.fromkeys(self.system.module_of.values()))


class Options(BaseModel):
    """Base of a family's options: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


@dataclass(frozen=True)
class Family:
    """A parametrised scenario.

    Attributes:
        name: as designs name it.
        title: what it models, in one line.
        options: the options' type.
        build: from options to the scenario.
    """

    name: str
    title: str
    options: type[Options]
    build: Callable[[Any], Scenario]


class StudyDesign(BaseModel):
    """A design of a family: a TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Annotated[Literal["dmaproof/design/2"], Field(alias="schema")] = SCHEMA
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    year: Annotated[int, Field(strict=True, ge=1990, le=2100)]
    source: str = ""
    family: str
    options: dict[str, Any] = {}

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario that the options give."""
        family = family_of(self.family)
        return family.build(family.options.model_validate(self.options))


def family_names() -> list[str]:
    """Names of the families."""
    from dmaproof.model.families import FAMILIES

    return sorted(FAMILIES)


@cache
def family_of(name: str) -> Family:
    """A family by name.

    Raises:
        KeyError: there is none.
    """
    from dmaproof.model.families import FAMILIES

    found = import_module(FAMILIES[name]).FAMILY
    assert isinstance(found, Family)
    return found


def parse(text: str, where: str) -> StudyDesign:
    """Read a design from TOML.

    Raises:
        InputError: not TOML, an unknown key or family, a wrong type or contradictory options.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"not a TOML file: {error}", where, "a typing error, or another kind of file",
            "compare with one that `dmaproof design show NAME` prints",
        ) from None
    try:
        design = StudyDesign.model_validate(data)
    except ValidationError as error:
        raise _explain(error, where, "") from None
    if design.family not in family_names():
        raise InputError(
            f"there is no family {design.family!r}", f"{where}: key family", "a typing error",
            f"families: {', '.join(family_names())}",
        )
    try:
        family_of(design.family).options.model_validate(design.options)
    except ValidationError as error:
        raise _explain(error, where, "options.") from None
    return design


def _explain(error: ValidationError, where: str, prefix: str) -> InputError:
    first: Any = error.errors(include_url=False)[0]
    key = prefix + ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    cause = "a typing error, or a key of another family"
    if first["type"] != "extra_forbidden":
        cause = "a missing key, a value of another type, or two keys that exclude each other"
    else:
        message = "unknown key"
    return InputError(
        f"{message[0].lower()}{message[1:]}", f"{where}: key {key.rstrip('.')}", cause,
        "`dmaproof design show NAME` prints a complete design of the family",
    )


@cache
def builtins() -> Mapping[str, StudyDesign]:
    """The built-in designs of the study, oldest first, then by name."""
    found = []
    for entry in resources.files("dmaproof.model.designs.study").iterdir():
        if entry.name.endswith(".toml"):
            found.append(parse(entry.read_text("utf-8"), entry.name))
    return {d.name: d for d in sorted(found, key=lambda d: (d.year, d.name))}


@cache
def builtin(name: str) -> StudyDesign:
    """A built-in design; the others are not read.

    Raises:
        KeyError: there is none of that name.
    """
    file = f"{name}.toml"
    entry = resources.files("dmaproof.model.designs.study").joinpath(file)
    if "/" in name or not entry.is_file():
        raise KeyError(name)
    return parse(entry.read_text("utf-8"), file)


def builtin_text(name: str) -> str:
    """The TOML text of a built-in design.

    Raises:
        KeyError: there is none of that name.
    """
    folder = resources.files("dmaproof.model.designs.study")
    for entry in folder.iterdir():
        if entry.name == f"{builtins()[name].name}.toml":
            return entry.read_text("utf-8")
    raise KeyError(name)


def load(name_or_path: str) -> StudyDesign:
    """A built-in design by name, or a TOML file.

    Raises:
        InputError: no such design, an unreadable file or a bad design.
    """
    if name_or_path in builtins():
        return builtins()[name_or_path]
    path = Path(name_or_path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("larger than 1 MiB", str(path), "not a design", "name a TOML file")
        return parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"no built-in design, and no readable file: {error}", name_or_path, "a typing error",
            "`dmaproof design list` names the built-in ones",
        ) from None
