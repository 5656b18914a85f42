"""Ask cvc5, which shares no code with z3, whether an SMT-LIB script is unsatisfiable.

cvc5 is imported with the first question only: it comes with the extra ``certify``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dmaproof.model.errors import InputError

STRATEGIES: tuple[tuple[str, ...], ...] = (("mbqi",), (), ("enum-inst",))
"""Options of cvc5, in the order in which they are tried; by default it leaves some EPR open."""


class Answer(StrEnum):
    """What a solver says of a script."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"  # no strategy found an answer in its time


@dataclass(frozen=True)
class Reply:
    """An answer and how it came about.

    Attributes:
        answer: the answer of the last strategy tried.
        strategy: the option that gave it ("" for cvc5's defaults).
        note: the solver's words, where it did not answer.
        seconds: wall-clock time of all strategies together.

    """

    answer: Answer
    strategy: str
    note: str
    seconds: float


Library = Any  # cvc5's binding carries no static types


def _library() -> Library:
    try:
        import cvc5
    except ImportError:
        raise InputError(
            "cvc5 is not installed, and only a second solver can re-check a proof", "", "",
            "pip install 'dmaproof[certify]'",
        ) from None
    return cvc5


def ask(script: str, name: str, seconds: float) -> Reply:
    """Ask one script in a fresh solver for each strategy, until one answers sat or unsat.

    Args:
        script: SMT-LIB 2.6 text with a single ``check-sat``.
        name: how the solver's messages name it.
        seconds: time for all strategies together; each gets an equal share of what is left.

    Raises:
        InputError: cvc5 is not installed.

    """
    library = _library()
    start = time.monotonic()
    notes = []
    for number, options in enumerate(STRATEGIES):
        left = seconds - (time.monotonic() - start)
        if left <= 0:
            notes.append(f"{seconds:g} s are used up")
            break
        share = max(1, int(1000 * left / (len(STRATEGIES) - number)))
        answer, note = _once(library, script, name, options, share)
        if answer is not Answer.UNKNOWN:
            return Reply(answer, " ".join(options), note, time.monotonic() - start)
        notes.append(note)
    note = "; ".join(dict.fromkeys(n for n in notes if n))
    return Reply(Answer.UNKNOWN, "", note, time.monotonic() - start)


def _once(
    library: Library, script: str, name: str, options: tuple[str, ...], milliseconds: int
) -> tuple[Answer, str]:
    manager = library.TermManager()
    solver = library.Solver(manager)
    try:
        solver.setOption("tlimit-per", str(milliseconds))
        for option in options:
            solver.setOption(option, "true")
        symbols = library.SymbolManager(manager)
        parser = library.InputParser(solver, symbols)
        parser.setStringInput(library.InputLanguage.SMT_LIB_2_6, script, name)
        said = []
        while not (command := parser.nextCommand()).isNull():
            if command.getCommandName() == "set-info":
                continue  # told the status that is expected, cvc5 calls any other one an error
            output = str(command.invoke(solver, symbols)).strip()
            if output:
                said.append(output)
    except Exception as error:  # the binding raises several kinds; none of them is an acceptance
        return Answer.UNKNOWN, str(error).strip().split("\n")[0]
    if said == ["unsat"]:
        return Answer.UNSAT, ""
    if said == ["sat"]:
        return Answer.SAT, ""
    return Answer.UNKNOWN, "; ".join(said)
