"""``dmaproof export``: a question about a finite instance, for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dmaproof.model.design import Design
    from dmaproof.model.logic.sets import Instance
    from dmaproof.model.logic.system import System
    from dmaproof.model.logic.terms import Formula

LARGEST = 256
"""Elements of a sort; beyond, grounding would take hours."""


@click.command()
@click.argument("design", metavar="DESIGN")
@click.option("--claim", required=True, metavar="ID",
              help="A claim of a design of the study, or a property of a bind design.")
@click.option("--format", "kind", required=True, type=click.Choice(("btor2", "aiger", "promela")))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path),
              metavar="FILE", help="Where to write; AIGER is ASCII if FILE ends in .aag.")
@click.option("--world", type=click.IntRange(1), default=1, show_default=True,
              help="Which of the small worlds of a design of the study.")
@click.option("--machine", default="SS", show_default=True, metavar="NAME|FILE",
              help="For a bind design: the machine.")
@click.option("--size", "sizes", multiple=True, metavar="SORT=N",
              help="Have N elements of a sort, copies of the last one. Repeatable.")
def export(
    design: str, claim: str, kind: str, out: Path, world: int, machine: str,
    sizes: tuple[str, ...],
) -> None:
    """Write a question about a finite instance as BTOR2, AIGER or Promela.

    The question: can what the claim says must always hold (for a `can` claim: what it says never
    happens) fail? A model checker that finds the bad state reachable has found a refutation, or
    for a `can` claim a witness, of the very question that `study` and `check` ask on that instance.
    """
    from dmaproof.engine.export import aiger, btor2, promela
    from dmaproof.engine.export.finite import finite
    from dmaproof.model.logic.ground import GroundSystem
    from dmaproof.terminal import Screen

    system, instance, goal, about = _question(design, claim, world, machine)
    instance = _sized(instance, system, sizes)
    question = finite(GroundSystem(system, instance), goal, about)
    match kind:
        case "btor2":
            data = btor2.text(question).encode()
        case "promela":
            data = promela.text(question).encode()
        case _:
            data = aiger.data(question, ascii_=out.suffix == ".aag")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    Screen().line(f"{out}: {about}; {len(question.bits)} bits, {len(question.steps)} steps")


def _question(
    name: str, claim: str, world: int, machine: str
) -> tuple[System, Instance, Formula, str]:
    from dmaproof.commands.pairs import load_any
    from dmaproof.engine.scenarios import goal_of
    from dmaproof.model.design import Design
    from dmaproof.model.errors import InputError

    design = load_any(name)
    if isinstance(design, Design):
        return _bind(design, claim, machine)
    scenario = design.scenario
    if claim not in scenario.claims:
        raise InputError(f"{design.name} makes no claim {claim!r}", "--claim", "a typing error",
                         f"its claims: {', '.join(scenario.claims)}")
    if world > len(scenario.instances):
        raise InputError(f"{design.name} has {len(scenario.instances)} small worlds", "--world",
                         "", "name one of them by its number")
    about = f"{design.name}, {claim}, world {world}"
    return scenario.system, scenario.instances[world - 1], goal_of(scenario.claims[claim]), about


def _bind(design: Design, claim: str, machine: str) -> tuple[System, Instance, Formula, str]:
    from dmaproof.engine.assumptions import Assumptions
    from dmaproof.engine.case import Case
    from dmaproof.engine.theorems import safe_goal
    from dmaproof.model.errors import InputError
    from dmaproof.model.pcie.machines import load
    from dmaproof.model.vfio.build import build
    from dmaproof.properties.registry import applicable, find

    model, prop = build(design), find(claim)
    obstacle = applicable(prop, model)
    if obstacle:
        raise InputError(obstacle, "--claim", "a property of another kind of design",
                         "name another property or another design")
    found = load(machine)
    case = Case(found, design.fabric.grouping, Assumptions.of(), ats=design.fabric.ats)
    functions = tuple(d.bdf for d in case.functions)
    if not 0 < len(functions) <= LARGEST:
        raise InputError(f"has {len(functions)} functions that issue requests", machine,
                         "a whole machine", f"name one of 1 to {LARGEST}")
    instance = case.world(functions).instance(1, 1, 1)
    return model.system, instance, safe_goal(prop, model), f"{design.name}, {claim}, {found.name}"


def _sized(instance: Instance, system: System, sizes: tuple[str, ...]) -> Instance:
    from dmaproof.engine.export.finite import grown
    from dmaproof.model.errors import InputError

    sorts = {s.name: s for s in instance.elements}
    for text in sizes:
        name, _, number = text.partition("=")
        if name not in sorts or not number.isdecimal() or not 0 < int(number) <= LARGEST:
            raise InputError(f"{text!r} is not of the form SORT=N", "--size", "a typing error",
                             f"sorts: {', '.join(sorts)}; N up to {LARGEST}")
        try:
            instance = grown(instance, system, sorts[name], int(number))
        except ValueError as error:
            raise InputError(str(error), f"--size {text}",
                             "elements of this sort cannot be copied by themselves",
                             "name another sort or another number") from None
    return instance
