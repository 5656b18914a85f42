"""AIGER (Biere, FMV reports 07/1 and 11/2): and-inverter graphs, binary or ASCII.

The step is chosen by input bits. Latches start at zero, as in the format's first version: one for a
bit that starts set holds its complement. The one output is what must never hold.
"""

from __future__ import annotations

from dmaproof.engine.export.finite import Finite
from dmaproof.model.logic.ground import Ground

FALSE, TRUE = 0, 1


def data(question: Finite, *, ascii_: bool = False) -> bytes:
    """Return the question as AIGER.

    Args:
        question: the question.
        ascii_: the ASCII variant (``.aag``) instead of the binary one (``.aig``).
    """
    return _Graph(question).write(ascii_=ascii_)


class _Graph:
    """The graph: literals are even numbers, odd ones their complements."""

    def __init__(self, question: Finite) -> None:
        self.question = question
        self.width = max(1, len(question.steps).bit_length())
        self.first_and = self.width + len(question.bits) + 1
        self.ands: list[tuple[int, int]] = []
        self._known: dict[tuple[int, int], int] = {}
        self._minterms: dict[tuple[int, int], int] = {}
        fired = [
            self._and(self._chosen(number), self._ground(step.guard))
            for number, step in enumerate(question.steps)
        ]
        self.nexts = self._nexts(fired)
        self.output = self._ground(question.bad)

    def _input(self, bit: int) -> int:
        return 2 * (1 + bit)

    def _latch(self, bit: int) -> int:
        """The literal that is true when a bit is set."""
        literal = 2 * (1 + self.width + bit)
        return literal ^ 1 if self.question.initial[bit] else literal

    def _and(self, left: int, right: int) -> int:
        big, small = max(left, right), min(left, right)
        if small == FALSE or big == small ^ 1:
            return FALSE
        if small in (TRUE, big):
            return big
        if (big, small) not in self._known:
            self.ands.append((big, small))
            self._known[big, small] = 2 * (self.first_and + len(self.ands) - 1)
        return self._known[big, small]

    def _or(self, left: int, right: int) -> int:
        return self._and(left ^ 1, right ^ 1) ^ 1

    def _chosen(self, number: int, width: int = -1) -> int:
        """The literal for "the lowest bits of the input are those of a number"."""
        width = self.width if width < 0 else width
        if width == 0:
            return TRUE
        low = number & ((1 << width) - 1)
        if (low, width) not in self._minterms:
            own = self._input(width - 1) ^ (0 if low >> (width - 1) & 1 else 1)
            self._minterms[low, width] = self._and(self._chosen(low, width - 1), own)
        return self._minterms[low, width]

    def _ground(self, ground: Ground) -> int:
        if isinstance(ground, bool):
            return TRUE if ground else FALSE
        word, *parts = ground
        if word == "bit":
            return self._latch(parts[0])
        if word == "not":
            return self._ground(parts[0]) ^ 1
        join = self._and if word == "and" else self._or
        first, *rest = map(self._ground, parts)
        for other in rest:
            first = join(first, other)
        return first

    def _nexts(self, fired: list[int]) -> list[int]:
        """What each latch holds next."""
        question = self.question
        kept = [self._latch(b) for b in range(len(question.bits))]
        for fire, step in zip(fired, question.steps, strict=True):
            for bit, value in step.updates:
                after = self._ground(value)
                kept[bit] = self._or(self._and(fire, after), self._and(fire ^ 1, kept[bit]))
        return [n ^ 1 if set_ else n for n, set_ in zip(kept, question.initial, strict=True)]

    def write(self, *, ascii_: bool) -> bytes:
        latches = len(self.question.bits)
        last = self.first_and - 1 + len(self.ands)
        head = f"{'aag' if ascii_ else 'aig'} {last} {self.width} {latches} 1 {len(self.ands)}\n"
        lines = [head]
        if ascii_:
            lines += [f"{self._input(b)}\n" for b in range(self.width)]
            first = 2 * (1 + self.width)
            lines += [f"{first + 2 * b} {n}\n" for b, n in enumerate(self.nexts)]
        else:
            lines += [f"{n}\n" for n in self.nexts]
        lines.append(f"{self.output}\n")
        gates = [(2 * (self.first_and + i), *pair) for i, pair in enumerate(self.ands)]
        if ascii_:
            lines += [f"{own} {big} {small}\n" for own, big, small in gates]
            body = b""
        else:
            body = b"".join(_delta(own - big) + _delta(big - small) for own, big, small in gates)
        tail = [f"i{b} step[{b}]\n" for b in range(self.width)]
        tail += [f"l{b} {name}\n" for b, name in enumerate(self.question.bits)]
        tail += ["o0 bad\n", f"c\n{self.question.title}\n"]
        tail += [f"step {n}: {s.name}\n" for n, s in enumerate(self.question.steps)]
        return "".join(lines).encode() + body + "".join(tail).encode()


def _delta(number: int) -> bytes:
    """A number in groups of seven bits, lowest first, as the binary format has it."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
