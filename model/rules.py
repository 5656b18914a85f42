"""Registry of cited rules.

A rule of the PCIe or VT-d specification or of the kernel is modelled in exactly one function, and
`@rule` records where it comes from. Verdicts and traces name rules by their identifier; `explain`
prints the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """One cited rule.

    Attributes:
        name: identifier, unique in the project, for example ``pcie.acs.flags-enabled``.
        source: where the rule is written, for example ``VT-d 9.6`` or
            ``drivers/pci/pci.c pci_acs_flags_enabled``.
        meaning: the rule in one sentence.
        where: dotted name of the function that implements it.
        unconfirmed: what of it no published text confirms ("": all is confirmed).
    """

    name: str
    source: str
    meaning: str
    where: str
    unconfirmed: str = ""


_RULES: dict[str, Rule] = {}


def rule(name: str, source: str, meaning: str, unconfirmed: str = "") -> Callable[[F], F]:
    """Mark a function as the one implementation of a cited rule.

    Raises:
        ValueError: the name is taken by another function, or a field is empty.
    """
    if not (name and source and meaning):
        raise ValueError("a rule needs a name, a source and a meaning")

    def mark(function: F) -> F:
        where = f"{function.__module__}.{function.__qualname__}"
        known = _RULES.get(name)
        if known is not None and known.where != where:
            raise ValueError(f"rule {name} is implemented twice: {known.where} and {where}")
        _RULES[name] = Rule(name, source, meaning, where, unconfirmed)
        return function

    return mark


def find(name: str) -> Rule:
    """Return the rule called *name*.

    Raises:
        KeyError: no loaded module implements such a rule.
    """
    return _RULES[name]


def all_rules() -> Iterator[Rule]:
    """Yield every registered rule, by name."""
    for name in sorted(_RULES):
        yield _RULES[name]
