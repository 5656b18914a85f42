"""Assumptions: reading `--assume`, permissive values, and that they are permissive."""

from __future__ import annotations

import pytest

from dmaproof.engine.assumptions import ASSUMPTIONS, FABRIC, Assumptions
from dmaproof.engine.case import Case
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.machines import machine, names


def test_defaults() -> None:
    values = dict(Assumptions.of().values)
    assert list(values) == list(ASSUMPTIONS)
    assert {n for n, x in values.items() if x == "on"} == {"mfd_rid_honest", "static_fabric"}
    assert {n for n, x in values.items() if x == "off"} == {"rc_p2p"}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["spoof"], "not of the form NAME=VALUE"),
        ([""], "not of the form NAME=VALUE"),
        (["spof=on"], "no assumption is called 'spof'"),
        (["=on"], "no assumption is called ''"),
        (["spoof=yes"], "spoof cannot be 'yes'"),
        (["spoof=ON"], "spoof cannot be 'ON'"),
        (["spoof=on=off"], "spoof cannot be 'on=off'"),
        (["spoof="], "spoof cannot be ''"),
        (["spoof=on", "deputy=off", "spoof=off"], "spoof is given two values"),
    ],
)
def test_errors_say_what_is_wrong(texts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Assumptions.parse(texts)


def test_repeating_a_value_is_no_error() -> None:
    found = Assumptions.parse(["spoof=off", "spoof=off", "rc_p2p=free"])
    assert (found.value("spoof"), found.value("rc_p2p")) == ("off", "free")


@pytest.mark.parametrize("name", list(ASSUMPTIONS))
def test_free_means_permissive(name: str) -> None:
    permissive = ASSUMPTIONS[name].permissive
    assert Assumptions.of({name: "free"}).effective(name) is permissive
    assert Assumptions.of({name: "on"}).effective(name) is True
    assert Assumptions.of({name: "off"}).effective(name) is False
    strict = Assumptions.of({name: "off" if permissive else "on"})
    assert name in strict.restrictive()
    assert name not in strict.permitting(name).restrictive()
    assert name not in Assumptions.of({name: "free"}).restrictive()


def test_literals_are_in_the_printed_order() -> None:
    found = Assumptions.of({"spoof": "off"}).literals(["rc_p2p", "spoof", "deputy"])
    assert list(found.items()) == [("deputy", "on"), ("spoof", "off"), ("rc_p2p", "off")]


@pytest.mark.parametrize("name", FABRIC)
@pytest.mark.parametrize("place", names())
def test_a_permissive_value_only_adds_edges(place: str, name: str) -> None:
    permissive = ASSUMPTIONS[name].permissive
    edges = []
    for value in (permissive, not permissive):
        assume = Assumptions.of({name: "on" if value else "off"})
        case = Case(machine(place), "linux", assume, ats=False)
        values = assume.fabric()
        graphs = (case.fabric.acts(values), case.fabric.p2p(values), case.fabric.identity(values))
        edges.append(tuple(set(graph.edges) for graph in graphs))
    for more, fewer in zip(*edges, strict=True):
        assert fewer <= more
