"""What the commands answer, beyond their words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmaproof.engine.assumptions import Assumptions
from dmaproof.model import scenario
from dmaproof.model.design import builtin_names, builtin_text
from dmaproof.model.pcie.channels import Cut, Fabric
from dmaproof.model.pcie.cuts import switched
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.lspci import write_lspci
from dmaproof.model.pcie.machines import load, names
from dmaproof.reachability import ask

from .support import complaint, run


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_groups_json_has_one_line_a_file_in_order(tmp_path: Path) -> None:
    dump = tmp_path / "machine.txt"
    dump.write_text(write_lspci(load("SWR").devices))
    (tmp_path / "bad").write_bytes(b"\0\1\2")
    files = [str(dump), str(tmp_path / "bad"), "SS", str(tmp_path / "none")]
    result = run("groups", "--json", *files)
    assert result.exit_code == 2
    found = lines(result.stdout)
    assert [entry["file"] for entry in found] == files
    good, bad, builtin, none = found
    assert set(good) == set(builtin) == {"file", "algorithm", "groups"}
    assert set(bad) == set(none) == {"file", "error"}
    assert good["algorithm"] == "linux"
    for group in good["groups"]:
        assert set(group) == {"id", "members", "why"}
        assert group["members"] == sorted(group["members"])
        assert len(group["why"]) == len(group["members"])
    assert sum(len(group["members"]) for group in good["groups"]) == 6


def test_groups_of_components_follow_the_assumptions() -> None:
    def count(*assume: str) -> int:
        result = run("groups", "--json", "--grouping", "components", "SW(off,off)", *assume)
        return len(lines(result.stdout)[0]["groups"])

    shut = ("--assume", "spoof=off", "--assume", "deputy=off")
    assert count() == count(*shut) == 5  # the two functions are still peers
    assert run("groups", "SS", "--assume", "spoof").exit_code == 2


def test_a_bug_with_one_file_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmaproof.model.pcie import undecided

    real = undecided.decide

    def broken(machine, *rest):
        if machine.name == "SS":
            raise RuntimeError("nobody thought of this")
        return real(machine, *rest)

    monkeypatch.setattr(undecided, "decide", broken)
    result = run("groups", "--json", "S", "SS", "SWR")
    assert result.exit_code == 70
    assert [("groups" in entry) for entry in lines(result.stdout)] == [True, False, True]


@pytest.mark.parametrize("name", names())
def test_reach_agrees_with_the_fabric_and_its_cuts_cut(name: str) -> None:
    machine = load(name)
    assumptions = Assumptions.of()
    assume = assumptions.fabric()
    acts = Fabric(machine).acts(assume)
    for source in machine.functions:
        for target in machine.functions:
            answer = ask(machine, str(source.bdf), str(target.bdf), assumptions)
            assert answer.acts == acts.has_edge(source.bdf, target.bdf)
            assert bool(answer.stops) != answer.acts
            if answer.acts and source != target:
                assert answer.chain[0].source == source.bdf
                assert answer.chain[-1].target == target.bdf
                assert bool(answer.remedies) != bool(answer.uncut)
                for remedy in answer.remedies:
                    cuts = [
                        Cut(switching.port.bdf, bit, on)
                        for switching in remedy.switchings
                        for on, bits in ((True, switching.bits), (False, switching.off))
                        for bit in bits
                    ]
                    after = Fabric(switched(machine, cuts)).acts(assume)
                    assert not after.has_edge(source.bdf, target.bdf)
                    for cut in cuts:
                        fewer = [other for other in cuts if other != cut]
                        before = Fabric(switched(machine, fewer)).acts(assume)
                        assert before.has_edge(source.bdf, target.bdf), "a bit is not needed"


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("grouping", ["linux", "components"])
def test_the_summary_agrees_with_components_and_groups(name: str, grouping: str) -> None:
    machine = load(name)
    assume = Assumptions.of().fabric()
    answer = json.loads(run("reach", name, "--grouping", grouping, "--json").stdout)
    assert answer["schema"] == "dmaproof/reach-summary/1"
    home = {str(b): g for b, g in group_of(groups(machine, grouping, assume)).items()}
    parts = [[str(m) for m in part] for part in Fabric(machine).components(assume)]
    assert answer["components"] == len(parts)
    assert answer["functions"] == sum(map(len, parts))
    wide = [part for part in parts if len({home[m] for m in part}) > 1]
    assert [leak["functions"] for leak in answer["leaks"]] == wide
    for leak in answer["leaks"]:
        assert leak["groups"] == sorted({home[m] for m in leak["functions"]})
        edge = leak["edge"]
        assert home[edge["from"]] != home[edge["to"]]
        assert {edge["from"], edge["to"]} <= set(leak["functions"])
    coarse = {
        group: sorted(sorted(m for m in part if home[m] == group) for part in parts
                      if group in {home[m] for m in part})
        for group in set(home.values())
    }
    wanted = {group: some for group, some in coarse.items() if len(some) > 1}
    assert {entry["group"]: entry["components"] for entry in answer["coarse"]} == wanted
    if grouping == "components":
        assert answer["leaks"] == answer["coarse"] == []


def test_reach_wants_two_functions_or_none() -> None:
    assert "what" in complaint(run("reach", "SS", "A"))


@pytest.mark.parametrize("name", names())
def test_what_reach_says_would_open_a_way_opens_it(name: str) -> None:
    machine = load(name)
    strict = Assumptions.parse(["spoof=off", "deputy=off"])
    for source in machine.functions:
        for target in machine.functions:
            answer = ask(machine, str(source.bdf), str(target.bdf), strict)
            if answer.opened_by:
                values = dict(strict.values) | dict(answer.opened_by)
                assert ask(machine, str(source.bdf), str(target.bdf), Assumptions.of(values)).acts


def test_reach_rests_on_what_it_says() -> None:
    for changed in ("deputy=off", "spoof=off"):
        answer = json.loads(run("reach", "SWR", "A", "B", "--json", "--assume", changed).stdout)
        name, value = changed.split("=")
        assert answer["acts"]
        assert answer["assumptions"].get(name) != ("on" if value == "off" else "off")
    both = ("--assume", "deputy=off", "--assume", "spoof=off")
    answer = json.loads(run("reach", "SWR", "A", "B", "--json", *both).stdout)
    assert not answer["acts"]
    assert answer["opened_by"] in ({"deputy": "on"}, {"spoof": "on"})


def test_machine_show_json_is_a_machine_file(tmp_path: Path) -> None:
    for name in names():
        text = run("machine", "show", name, "--json").stdout
        path = tmp_path / "machine.json"
        path.write_text(text)
        assert load(str(path)).devices == load(name).devices


@pytest.mark.parametrize("name", builtin_names())
def test_a_printed_design_reads_back(name: str, tmp_path: Path) -> None:
    text = run("design", "show", name).stdout
    assert text == builtin_text(name)
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(f'name = "{name}"', 'name = "mine"'))
    assert run("design", "show", str(path)).stdout == path.read_text()
    shown = json.loads(run("design", "show", str(path), "--json").stdout)
    assert shown["schema"] == "dmaproof/design/1"
    assert shown["name"] == "mine"


def test_designs_are_listed_by_year() -> None:
    rows = json.loads(run("design", "list", "--json").stdout)["designs"]
    names = {*builtin_names(), *scenario.builtins()}
    assert {row["name"] for row in rows} == names
    assert len(rows) == len(names)
    assert [row["year"] for row in rows] == sorted(row["year"] for row in rows)
    assert {row["name"] for row in rows if row["kind"] == "study"} == set(scenario.builtins())
    lines = run("design", "list").stdout.splitlines()
    years = [int(line) for line in lines if not line.startswith(" ")]
    assert years == sorted({row["year"] for row in rows})
    assert {line.split()[0] for line in lines if line.startswith(" ")} == names


@pytest.mark.parametrize("name", list(scenario.builtins())[::9])
def test_a_printed_design_of_the_study_reads_back(name: str, tmp_path: Path) -> None:
    text = run("design", "show", name).stdout
    assert text == scenario.builtin_text(name)
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(f'name = "{name}"', 'name = "mine"'))
    assert run("design", "show", str(path)).stdout == path.read_text()
    shown = json.loads(run("design", "show", str(path), "--json").stdout)
    assert (shown["schema"], shown["name"]) == ("dmaproof/design/2", "mine")


def test_an_unknown_design_is_told_with_what_is_near() -> None:
    assert "r27-replace-in-place" in complaint(run("design", "show", "r27-replace-inplace"))
    assert "bind-2018-device" in complaint(run("design", "show", "bind-2018-devise"))


def test_explain_finds_rules_of_every_kind() -> None:
    listed = json.loads(run("explain", "--list", "--json").stdout)["rules"]
    known = [rule["name"] for rule in listed]
    assert known == sorted(known)
    assert {"pcie.group.linux", "pcie.leak.alias"} <= set(known)
    shown = run("explain", "pcie.group").stdout
    assert shown.count("modelled in") == sum(name.startswith("pcie.group.") for name in known)
    assert "rule" in complaint(run("explain", "nothing.like.it"))


def test_warnings_go_to_standard_error(tmp_path: Path) -> None:
    dump = tmp_path / "part.txt"
    endpoints = [d for d in load("SS").devices if d.label in {"A", "B"}]
    dump.write_text(write_lspci(endpoints))
    result = run("groups", str(dump), "--json")
    assert result.exit_code == 3  # without their ports, nobody knows their groups
    assert len(lines(result.stdout)) == 1
    assert result.stderr.startswith("warning: ")


def test_help_of_every_command() -> None:
    overview = run("--help")
    assert overview.exit_code == 0
    for name in ("groups", "reach", "design", "machine", "explain"):
        assert name in overview.stdout
        assert run(name, "--help").exit_code == 0


def test_version() -> None:
    from dmaproof import __version__

    assert run("--version").stdout == f"dmaproof {__version__}\n"
