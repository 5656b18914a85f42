"""Requests and where they end: each switch of the machine and the device matters."""

from __future__ import annotations

import pytest

from dmaproof.engine.scenarios import Proved, Run, decide
from dmaproof.model.families import shared_pf, tlps
from dmaproof.model.scenario import Scenario


def _holds(found: Scenario, claim: str) -> bool:
    verdict = decide(found, found.claims[claim], 20)
    assert isinstance(verdict, Proved | Run), verdict
    return isinstance(verdict, Proved)


@pytest.mark.parametrize("ats", [False, True])
@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("honest", [False, True])
def test_translated_requests(ats: bool, blocking: bool, trusted: bool, honest: bool) -> None:
    options = tlps.TlpOptions(
        ats=ats, translation_blocking=blocking, trusted=trusted, honest_ats=honest
    )
    found = tlps.build(options)
    assert _holds(found, "respects-grants") == (
        honest or not (ats and trusted and not blocking)
    )


@pytest.mark.parametrize("redirect", [False, True])
@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("untranslated", [False, True])
def test_misrouting(redirect: bool, override: bool, checks: bool, untranslated: bool) -> None:
    options = tlps.TlpOptions(
        redirect=redirect, acs_override=override, checks_path=checks,
        untranslated_pasids=untranslated,
    )
    refused = checks and not (redirect or override)
    assert _holds(tlps.build(options), "no-misroute") == (
        redirect or refused or not untranslated
    )


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("validation", [False, True])
def test_forged_prefixes(hostile: bool, validation: bool) -> None:
    options = tlps.TlpOptions(hostile_prefix=hostile, source_validation=validation)
    assert _holds(tlps.build(options), "respects-grants") == (not hostile or validation)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_virtual_function_depends_on_its_pf(trusted: bool) -> None:
    found = shared_pf.build(shared_pf.SharedPfOptions(pf_owner_trusted=trusted))
    assert _holds(found, "integrity")
    assert _holds(found, "availability") == trusted
    assert _holds(found, "errno-pf-disabled")
