"""Verify a given invariant in one go: every obligation in one script, for one solver.

`engine.obligations` writes a script for each obligation, which anyone can read and ask any solver;
here speed counts: what the obligations share is written and parsed once. Nothing is taken over from
where the invariant came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import TRUE, Formula, Kind, not_, relations


class Reproof:
    """Verifies invariants of one system; the parts that all scripts share are written once."""

    def __init__(self, system: System) -> None:
        """Prepare.

        Raises:
            ValueError: a name of the system cannot be written in SMT-LIB.
        """
        self._actions = [(a, {u.rel for u in a.updates}, smtlib.step(a)) for a in system.actions]
        first, later = smtlib.signature(system, initial=True), smtlib.signature(system)
        moving = sum(r.kind is not Kind.STATIC for r in system.rels)
        cut = len(first) - moving  # declarations of mutable relations come last
        self._static = [*first[:cut], *smtlib.axioms(system)]
        self._initially, self._any = first[cut:], later[cut:]

    def script(
        self, invariant: Sequence[Clause], goal: Formula, fact: Formula = TRUE
    ) -> tuple[str, int]:
        """Return a script about all obligations, and how many questions it asks."""
        closed = [c.closed for c in invariant]  # made once: a clause closes itself anew each time
        broken = [not_(f) for f in closed]
        touching = [relations(f) for f in closed]
        lines = [*self._static, f"(assert {smtlib.text(fact)})", "(push 1)", *self._initially]
        lines += [_asked([smtlib.text(f) for f in broken]), "(pop 1)", *self._any]
        lines += [f"(assert {smtlib.text(f)})" for f in closed]
        count = 2
        for act, updated, step in self._actions:
            after = [
                smtlib.flat(smtlib.sexp(f, smtlib.after(act)))
                for f, rels in zip(broken, touching, strict=True) if rels & updated
            ]
            if after:  # no other clause can be broken by it
                lines += ["(push 1)", *step, _asked(after), "(pop 1)"]
                count += 1
        lines.append(_asked([smtlib.text(not_(goal))]))
        return "\n".join(lines), count

    def holds(
        self, invariant: Sequence[Clause], goal: Formula, clock: Clock, fact: Formula = TRUE
    ) -> bool:
        """Whether z3 refutes that the invariant fails initially, after a step, or to imply *goal*.

        Args:
            invariant: the clauses.
            goal: a closed formula.
            clock: how long it may take.
            fact: a closed formula over facts that the proof assumes.

        Raises:
            GaveUp: time ran out, or the solver broke.
        """
        script, count = self.script(invariant, goal, fact)
        limit = clock.left_ms("the re-check of an invariant")
        context = z3.Context()  # lives as long as the question: its reference is a bare pointer
        try:
            said = z3.Z3_eval_smtlib2_string(
                context.ref(), f"(set-option :timeout {limit})\n{script}"
            )
        except z3.Z3Exception as error:
            raise GaveUp(f"z3 fails at the re-check of an invariant ({error})") from None
        return bool(said.split() == ["unsat"] * count)


def _asked(alternatives: Sequence[str]) -> str:
    return f"(assert (or false {' '.join(alternatives)}))\n(check-sat)"
