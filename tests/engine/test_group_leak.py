"""Group leaks as verdicts tell them: there where acts leaves a group, with every hop in words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.counterexamples.group_leak import group_leak
from dmaproof.engine.assumptions import FABRIC, Assumptions
from dmaproof.engine.case import Case
from dmaproof.model.pcie.generated import generated
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.topology import Machine


def checked(made: Machine, assume: dict[str, str], grouping: str = "linux") -> None:
    """The leak that a case tells is one, and it tells one wherever there is one."""
    case = Case(made, grouping, Assumptions.of(assume), ats=False)
    leak = group_leak(case)
    crossings = case.fabric.crossings(case.group_of, case.assumptions.fabric())
    assert (leak is not None) is bool(crossings)
    if leak is None:
        return
    ends = (leak.edges[0].source, leak.edges[-1].target)
    assert ends in crossings
    assert leak.groups == tuple(case.group_of[end] for end in ends)
    assert leak.says
    for edge in leak.edges:
        words = " ".join(leak.says)
        assert all(str(hop) in words for hop in edge.path)
        assert edge.reason in words
    for name, value in leak.assumptions.items():
        assert case.assumptions.effective(name) is (value == "on")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("grouping", ["linux", "v3", "components"])
def test_leaks_of_built_in_machines(name: str, grouping: str) -> None:
    checked(machine(name), {}, grouping)


@settings(max_examples=40, deadline=None)
@given(
    st.builds(generated, st.integers(2, 50), st.integers(0, 500)),
    st.dictionaries(st.sampled_from(FABRIC), st.sampled_from(["on", "off"])),
)
def test_leaks_of_generated_machines(made: Machine, assume: dict[str, str]) -> None:
    checked(made, assume)
