"""Caches that fill and evict at any time (VT-d 6.1, 6.2), for the families of the driver."""

from __future__ import annotations

from dmaproof.model.logic.system import Action, Actor, Guard, action, delete, insert
from dmaproof.model.logic.terms import Formula, Rel, Var


def fill(cache: Rel, key: tuple[Var, ...], found: Formula, says: str) -> Action:
    """A cache takes what a walk, or a cache it is filled from, has *found*."""
    return action(
        f"{_label(cache)}.fill", key, [Guard("found", found, source="VT-d 6.2")],
        [insert(cache, *key)], Actor.HARDWARE, says,
    )


def evict(cache: Rel, key: tuple[Var, ...]) -> Action:
    """A cache drops an entry that nobody asked it to drop."""
    names = ", ".join(f"{{{x.name}}}" for x in key)
    return action(
        f"{_label(cache)}.evict", key, [Guard("held", cache(*key))], [delete(cache, *key)],
        Actor.HARDWARE, f"The {cache.name.replace('_', ' ')} evicts ({names})",
    )


def _label(cache: Rel) -> str:
    return cache.name.replace("_", "-")
