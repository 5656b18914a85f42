"""The prover of bind designs that verifies a known invariant when it is asked for.

`Prover` verifies all known invariants of a design together with the first question, which pays when
all are asked. A question or two are answered sooner this way.
"""

from __future__ import annotations

from functools import cached_property

from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.reproof import Reproof
from dmaproof.engine.theorems import NotProved, Prover, Theorem, safe_goal
from dmaproof.model.errors import InputError
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise, Property


class LazyProver(Prover):
    """Proves properties of one design; known invariants are verified one by one."""

    def __init__(self, model: Model, seconds: float = 60.0, *, use_library: bool = True) -> None:
        """Prepare, see `Prover`."""
        super().__init__(model, seconds, use_library=use_library)
        self._stands: dict[tuple[str, str], bool] = {}

    @cached_property
    def _reproof(self) -> Reproof:
        return Reproof(self.system)

    def _known(self, prop: Property, premise: Premise) -> Theorem | NotProved | None:
        key = (prop.id, premise.value)
        clauses = self._hints.theorems.get(key)
        if clauses is None:
            return super()._known(prop, premise)
        if key not in self._stands:
            try:
                self._stands[key] = self._reproof.holds(
                    clauses, safe_goal(prop, self.model), Clock.seconds(self.seconds),
                    premise_formula(premise, self.model),
                )
            except (GaveUp, ValueError, InputError):  # a hint that fails costs time only
                self._stands[key] = False
        return self._theorem(prop, premise, clauses) if self._stands[key] else None
