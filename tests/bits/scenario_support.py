"""Runs of scenarios for the tests of their bits, and random runs beside the rules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from dmaproof.counterexamples import runs
from dmaproof.counterexamples.bits.scenarios import MODULES
from dmaproof.counterexamples.bits.scenarios.replay import Simulation
from dmaproof.counterexamples.study.table import ScenarioRow, table
from dmaproof.engine.known import Known
from dmaproof.engine.scenarios import Run
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import Action
from dmaproof.model.scenario import ClaimKind, StudyDesign, builtin


@cache
def settled() -> Known:
    return Known()


@cache
def run_of(name: str, claim_id: str) -> runs.RunTrace:
    """The run that settles a claim of a built-in design."""
    design = builtin(name)
    claim = design.scenario.claims[claim_id]
    found, origin = settled().settle(design.scenario, claim)
    assert isinstance(found, Run), found
    trace = runs.confirm(design, claim, found, "happens" if claim.kind is ClaimKind.CAN else
                         "violated", minimal=origin == "library")
    assert isinstance(trace, runs.RunTrace), trace
    return trace


def rows(expected: str, kind: ClaimKind) -> list[tuple[str, str]]:
    """Design and claim of the rows of the study that are settled by a run on the bits."""
    found = {
        (row.design, row.claim): None
        for row in table().rows
        if isinstance(row, ScenarioRow) and row.expected == expected
        and builtin(row.design).family in MODULES
        and builtin(row.design).scenario.claims[row.claim].kind is kind
    }
    return sorted(found)


class Wanderer:
    """Random runs that the rules allow, on the bits beside them; a run that is stuck starts anew.

    Attributes:
        seen: the actions taken.
        idle: fills of caches for which the hardware had nothing.
    """

    def __init__(self, design: StudyDesign, world: Instance, seed: int = 1) -> None:
        self.design, self.world, self.random = design, world, Random(seed)
        self.seen: set[str] = set()
        self.idle = 0
        self.simulation = Simulation(design, world)

    def walk(self, steps: int) -> str:
        """Take some steps; return the first difference, "" if there is none."""
        for _ in range(steps):
            problem = next(self.simulation.differences(), "")
            if problem:
                return problem
            chosen = next(self._allowed(), None)
            if chosen is None:
                self.simulation = Simulation(self.design, self.world)
                continue
            act, args = chosen
            done = self.simulation.step(act.name, args)
            self.seen.add(act.name)
            self.idle += "fills nothing" in done.stutter
        return next(self.simulation.differences(), "")

    def _allowed(self) -> Iterator[tuple[Action, tuple[int, ...]]]:
        actions = list(self.design.scenario.system.actions)
        self.random.shuffle(actions)
        for act in actions:
            choices = list(self.world.tuples(p.sort for p in act.params))
            self.random.shuffle(choices)
            for args in choices:
                if self.simulation.allowed(act, args):
                    yield act, args
                    break
