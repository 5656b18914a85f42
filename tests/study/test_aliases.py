"""Aliases, page requests, fault groups, dirty log, RISC-V: bugs fall, fixes hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from dmaproof.engine.scenarios import Proved, Run, decide
from dmaproof.model import scenario
from dmaproof.model.families import aliases, device_directory, page_requests
from dmaproof.model.scenario import Scenario

HOLDS = {
    "aliases-7.0": ("aliases-agree", "attached-translates", "nothing-left"),
    "r22-clear-drain-free": ("no-use-after-free", "drained-before-free"),
    "r35-one-owner": ("one-owner", "no-use-after-free", "no-stale-owner"),
    "r30-nested-reached": ("log-complete",),
    "r34-write-then-flush": ("change-final",),
}
FALLS = {
    "f2-own-id-only": ("aliases-agree", "attached-translates"),
    "r04-restores-own": ("attached-translates",),
    "r10-clears-real-device": ("attached-translates",),
    "r21-clear-and-reset": ("attached-translates",),
    "r37-copies-sibling": ("attached-translates",),
    "r35-two-owners": ("one-owner", "no-use-after-free", "no-stale-owner"),
    "r30-nested-not-reached": ("log-complete",),
}


def _result(found: Scenario, claim: str) -> type:
    return type(decide(found, found.claims[claim], 30))


@pytest.mark.parametrize("name", HOLDS)
def test_what_holds(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in HOLDS[name]:
        assert _result(found, claim) is Proved, claim


@pytest.mark.parametrize("name", FALLS)
def test_what_falls(name: str) -> None:
    found = scenario.load(name).scenario
    for claim in FALLS[name]:
        assert _result(found, claim) is Run, claim


@pytest.mark.parametrize("steps", [
    steps for n in (2, 3) for steps in permutations(("clear", "drain", "free"), n)
    if {"clear", "free"} <= set(steps)
])
def test_only_one_order_of_unbind_is_safe(steps: tuple[str, ...]) -> None:
    found = page_requests.build(page_requests.RequestOptions(unbind=steps))
    expected = Proved if steps == ("clear", "drain", "free") else Run
    assert _result(found, "no-use-after-free") is expected


@pytest.mark.parametrize("steps", [
    steps for n in (1, 2, 3)
    for steps in permutations(("write", "flush-directory", "flush-iotlb"), n) if "write" in steps
])
def test_only_one_order_of_a_change_is_safe(steps: tuple[str, ...]) -> None:
    found = device_directory.build(device_directory.DirectoryOptions(change=steps))
    expected = Proved if steps == ("write", "flush-directory", "flush-iotlb") else Run
    assert _result(found, "change-final") is expected


def _without(found: Scenario, action: str, guard: str) -> Scenario:
    changed = found.system.action(action).without_guard(guard)
    return replace(found, system=found.system.with_action(changed))


@pytest.mark.parametrize(("action", "guard", "claim"), [
    ("attach", "same-domain-as-sharers", "aliases-agree"),
    ("bind_table", "shares-no-id", "aliases-agree"),
    ("unbind_table", "shares-no-id", "aliases-agree"),
])
def test_a_guard_less_and_a_claim_falls(action: str, guard: str, claim: str) -> None:
    assert _result(_without(aliases.build(aliases.AliasOptions()), action, guard), claim) is Run


def test_a_second_attach_is_refused_twice() -> None:
    """Sharing its own id with itself, a function is bound to the domain that it has."""
    found = _without(aliases.build(aliases.AliasOptions()), "attach", "not-attached")
    assert _result(found, "aliases-agree") is Proved


@pytest.mark.parametrize(("option", "value"), [
    ("attach", "reset"), ("detach", "all"), ("exchange", "own"), ("restore", "own"),
    ("copies", "sibling"),
])
def test_each_choice_matters(option: str, value: str) -> None:
    found = aliases.build(aliases.AliasOptions.model_validate({option: value}))
    assert _result(found, "attached-translates") is Run
