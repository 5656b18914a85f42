"""Every design of every family: its worlds, its actions, its claims."""

from __future__ import annotations

import pytest

from dmaproof.engine import scenarios
from dmaproof.model import scenario
from dmaproof.model.errors import InputError
from dmaproof.model.scenario import ClaimKind

NAMES = list(scenario.builtins())


@pytest.mark.parametrize("name", NAMES)
def test_worlds_satisfy_the_axioms_and_every_action_fires(name: str) -> None:
    found = scenario.load(name).scenario
    for instance in found.instances:
        instance.check(found.system)
    assert scenarios.unfired(found) == set(found.idle)


@pytest.mark.parametrize("name", NAMES)
def test_calls_that_claims_say_are_refused_can_be_made(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in found.claims.values():
        if claim.kind is ClaimKind.REFUSED:
            assert claim.when is not None
            assert scenarios.reach(found, claim.when), claim.id


def test_an_unknown_option_is_named() -> None:
    text = scenario.builtin_text(NAMES[0]) + '\ncolour = "red"\n'
    with pytest.raises(InputError) as error:
        scenario.parse(text, "mine.toml")
    assert "options.colour" in str(error.value)
