"""Drawings of machines: well-formed, complete and readable, whatever names they hold."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.dot import dot
from dmaproof.drawing import FEW, WHITE, acs_words, capabilities, folded, picture
from dmaproof.engine.assumptions import Assumptions
from dmaproof.model.pcie.generated import generated
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.machines import load, machine, names
from dmaproof.model.pcie.quirks import whole_bus
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine
from dmaproof.svg import LETTER, MAX_ARCS, svg

from .support import complaint, run

RECORDINGS = sorted((Path(__file__).parents[1] / "pcie" / "data").glob("*/*.lspci-xxxx.txt"))
SVG = "{http://www.w3.org/2000/svg}"


def drawn(found: Machine, grouping: str = "linux", **assume: str):
    return picture(found, grouping, Assumptions.of(assume))


def texts(root: Tree.Element) -> list[tuple[float, float, str, str]]:
    """Every text as (x, y, words, anchor); tips are no text."""
    found = []
    for element in root.iter(f"{SVG}text"):
        tip = element.find(f"{SVG}title")
        words = (element.text if tip is None else tip.tail) or ""
        place = (float(element.get("x", 0)), float(element.get("y", 0)))
        found.append((*place, words.strip(), element.get("text-anchor", "start")))
    return found


@pytest.mark.parametrize("name", names())
def test_every_function_group_and_component_is_drawn(name: str) -> None:
    found = machine(name)
    made = drawn(found)
    root = Tree.fromstring(svg(made))
    words = [text for _, _, text, _ in texts(root)]
    for device in found.devices:
        assert str(device.bdf) in words
        assert not device.label or device.label in words
    home = group_of(groups(found))
    chips = [text for _, _, text, anchor in texts(root) if anchor == "middle" and text.isdigit()]
    arcs = len(made.overview.leaks)
    assert len(chips) == len(found.devices) + len(found.functions) + arcs
    assert set(chips) >= {str(group) for group in home.values()}
    told = " ".join(words)
    assert ("these groups leak" in told) is bool(arcs)


@pytest.mark.parametrize("path", [*RECORDINGS, "generated"], ids=lambda p: Path(p).name)
def test_no_text_runs_into_another(path: Path | str) -> None:
    found = generated(400) if path == "generated" else load(str(path))
    root = Tree.fromstring(svg(drawn(found)))
    width, height = (float(value) for value in root.get("viewBox", "").split()[2:])
    rows: dict[float, list[tuple[float, float, str]]] = {}
    for x, y, text, anchor in texts(root):
        # DejaVu Sans Mono: 0.602 em; titles are larger and stand alone.
        start = x - len(text) * 7.9 / 2 if anchor == "middle" else x
        rows.setdefault(y, []).append((start, start + len(text) * 7.9, text))
        assert 0 <= y <= height
    for line in rows.values():
        ordered = sorted(line)
        for (_, end, text), (start, _, following) in pairwise(ordered):
            assert end <= start + LETTER, f"{text!r} runs into {following!r}"
        assert ordered[-1][1] <= width


names_of_machines = st.text(st.characters(codec="utf-8"), max_size=30)
labels = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)


@settings(max_examples=60, deadline=None)
@given(names_of_machines, labels)
def test_names_are_escaped(name: str, label: str) -> None:
    found = machine("SW(off,on)")
    devices = [
        replace(device, label=label) if device.label == "A" else device for device in found.devices
    ]
    made = drawn(Machine(name or "x", devices))
    root = Tree.fromstring(svg(made))
    words = [text for _, _, text, _ in texts(root)]
    assert not label or label.strip() in words
    text = dot(made)
    strings = re.sub(r'"(?:[^"\\]|\\.)*"', "S", text)
    assert '"' not in strings
    assert strings.count("\n") == text.count("\n"), "a string runs over its line"


def test_markup_in_names_is_text() -> None:
    found = machine("SS")
    made = drawn(Machine('<script>&"\x1b\ud800', found.devices))
    root = Tree.fromstring(svg(made).encode("utf-8"))
    assert not list(root.iter(f"{SVG}script"))
    assert any(text.startswith('<script>&"') for _, _, text, _ in texts(root))


def test_long_runs_of_like_functions_are_folded() -> None:
    found = generated(400)
    made = drawn(found)
    rows = folded(made.rows)
    assert sum(row.alike + 1 for row in rows) == len(found.devices)
    assert len(rows) < len(found.devices) / 2
    places = iter(made.rows)
    for row in rows:
        behind = [next(places) for _ in range(row.alike + 1)]
        assert row.device == behind[0].device
        assert row.alike == 0 or row.alike >= FEW
        assert len({(other.device.acs, other.component, len(other.lines)) for other in behind}) == 1
        assert row.group_text in {str(row.group), f"{row.group} .. {behind[-1].group}"}
    assert folded(drawn(machine("VF")).rows) == drawn(machine("VF")).rows


def test_leaks_beyond_what_can_be_drawn_are_counted() -> None:
    found = generated(2000, seed=3)
    made = drawn(found, spoof="off", mf_loopback="on")
    leaks = len(made.overview.leaks)
    assert leaks > MAX_ARCS
    text = svg(made)
    Tree.fromstring(text)
    assert f"and {leaks - MAX_ARCS} more: dmaproof reach" in text


@pytest.mark.parametrize("name", names())
def test_the_graph_declares_what_it_joins(name: str) -> None:
    made = drawn(machine(name))
    text = dot(made)
    declared = re.findall(r'^  ("[^"]+") \[label', text, re.MULTILINE)
    assert len(declared) == len(set(declared)) == len(made.machine.devices)
    declared += re.findall(r'^  ("root bus [^"]+") \[shape', text, re.MULTILINE)
    joined = re.findall(r'^  ("[^"]+") -> ("[^"]+")', text, re.MULTILINE)
    assert {end for pair in joined for end in pair} <= set(declared)
    assert text.count("style=dashed") == len(made.overview.leaks)


def test_machine_show_writes_the_files(tmp_path: Path) -> None:
    one, two = tmp_path / "a.svg", tmp_path / "a.dot"
    shown = run("machine", "show", "SW(off,on)", "--svg", str(one), "--dot", str(two))
    assert shown.exit_code == 0
    assert one.read_text() == svg(drawn(machine("SW(off,on)")))
    assert two.read_text() == dot(drawn(machine("SW(off,on)")))
    assert f"written: {one}" in shown.stdout.replace("\n", "")
    for option in ("--svg", "--dot"):
        bad = run("machine", "show", "SS", option, str(tmp_path / "none" / "file"))
        assert "cannot write" in complaint(bad)


def test_machine_show_follows_assumptions() -> None:
    for value, parts in (("on", 1), ("off", 2)):
        shown = run("machine", "show", "SWG", "--assume", f"spoof={value}").stdout
        assert len(set(re.findall(r"component (\d+)", shown))) == parts


def test_groups_in_one_picture_have_colours_of_their_own() -> None:
    """As long as there are enough: ids of groups say nothing about how many are shared."""
    root = Device(bdf=Bdf(0, 0, 0, 0), class_code=0x0600)
    single = [Device(bdf=Bdf(0, 0, slot, 0), class_code=0x0200) for slot in range(1, 8)]
    several = [
        Device(bdf=Bdf(0, 0, slot, number), class_code=0x0200)
        for slot in (8, 16)
        for number in (0, 1)
    ]
    others = [Device(bdf=Bdf(0, 0, slot, 0), class_code=0x0200) for slot in range(9, 16)]
    made = drawn(Machine("slots", [root, *single, *several, *others]))
    assert sorted(made.shared) == [8, 16]
    fills = set(re.findall(r'group (?:8|16),[^\n]*fillcolor="(#[0-9a-f]+)"', dot(made)))
    assert len(fills) == 2
    assert WHITE not in fills


def test_many_requester_ids_are_counted() -> None:
    """A PLX NTB sends as any function of its bus."""
    proxy = Device(bdf=Bdf(0, 1, 0, 0), aliases=whole_bus(Bdf(0, 1, 0, 0)), acs=Acs(0, 0))
    (row,) = drawn(Machine("proxy", [proxy])).rows
    assert capabilities(row.device).endswith("0000:01:00.3 and 252 more")
    assert acs_words(Machine("proxy", [proxy]), proxy)[0][0] == "ACS of no bits"
    few = replace(proxy, aliases=frozenset({Bdf(0, 1, 0, 1), Bdf(0, 1, 0, 2)}))
    assert capabilities(few) == "also sends as 0000:01:00.1, 0000:01:00.2"
