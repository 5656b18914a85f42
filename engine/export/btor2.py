"""BTOR2 (Niemetz, Preiner, Wolf, Biere, CAV 2018): one bit a state, the step chosen by an input."""

from __future__ import annotations

from dmaproof.engine.export.finite import Finite
from dmaproof.model.logic.ground import Ground


def text(question: Finite) -> str:
    """Return the question as BTOR2; its one bad property is what must never hold."""
    return _Writer(question).text()


class _Writer:
    def __init__(self, question: Finite) -> None:
        self.question = question
        self.lines: list[str] = [f"; {question.title}"]
        self.count = 0
        self._known: dict[tuple[str, ...], str] = {}

    def text(self) -> str:
        question = self.question
        width = max(1, len(question.steps).bit_length())
        self.bit = self._line("sort", "bitvec", "1")
        index = self.bit if width == 1 else self._line("sort", "bitvec", str(width))
        self.false, self.true = self._line("zero", self.bit), self._line("one", self.bit)
        chosen = self._line("input", index, "step")
        self.states = [self._line("state", self.bit, name) for name in question.bits]
        for state, value in zip(self.states, question.initial, strict=True):
            self._line("init", self.bit, state, self.true if value else self.false)
        fired = []
        for number, step in enumerate(question.steps):
            self.lines.append(f"; step {number}: {step.name}")
            here = self._node("eq", chosen, self._constant(index, number))
            fired.append(self._node("and", here, self._ground(step.guard)))
        self._nexts(fired)
        self._line("bad", self._ground(question.bad))
        return "\n".join(self.lines) + "\n"

    def _nexts(self, fired: list[str]) -> None:
        values: list[list[tuple[str, Ground]]] = [[] for _ in self.states]
        for fire, step in zip(fired, self.question.steps, strict=True):
            for bit, value in step.updates:
                values[bit].append((fire, value))
        for bit, state in enumerate(self.states):
            following = state
            for fire, value in values[bit]:
                following = self._line("ite", self.bit, fire, self._ground(value), following)
            self._line("next", self.bit, state, following)

    def _constant(self, sort: str, number: int) -> str:
        return self._line("constd", sort, str(number))

    def _ground(self, ground: Ground) -> str:
        if isinstance(ground, bool):
            return self.true if ground else self.false
        word, *parts = ground
        if word == "bit":
            return self.states[parts[0]]
        if word == "not":
            return self._node("not", self._ground(parts[0]))
        first, *rest = map(self._ground, parts)
        for other in rest:
            first = self._node(word, first, other)
        return first

    def _node(self, operator: str, *args: str) -> str:
        key = (operator, *args)
        if key not in self._known:
            self._known[key] = self._line(operator, self.bit, *args)
        return self._known[key]

    def _line(self, *words: str) -> str:
        self.count += 1
        self.lines.append(" ".join([str(self.count), *words]))
        return str(self.count)
