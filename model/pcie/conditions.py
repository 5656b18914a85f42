"""Conditions that are Python bools or z3 terms, so that one rule answers about one machine or all.

A rule written with these has no branch on a condition: with bools it decides, with terms it says
under which settings it would.
"""

from __future__ import annotations

from typing import Any

Cond = Any
"""A condition: bool or z3 Boolean term. No static type describes both."""


def both(*conditions: Cond) -> Cond:
    """Return the conjunction."""
    rest = [c for c in conditions if c is not True]
    if any(c is False for c in rest):
        return False
    if len(rest) < 2:
        return rest[0] if rest else True
    import z3

    return z3.And(rest)


def either(*conditions: Cond) -> Cond:
    """Return the disjunction."""
    rest = [c for c in conditions if c is not False]
    if any(c is True for c in rest):
        return True
    if len(rest) < 2:
        return rest[0] if rest else False
    import z3

    return z3.Or(rest)


def no(condition: Cond) -> Cond:
    """Return the negation."""
    if condition is True or condition is False:
        return not condition
    import z3

    return z3.Not(condition)
