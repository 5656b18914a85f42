"""Runs of scenarios on the bits: each family replays or says why not; what is broken does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.support import run

from dmaproof.counterexamples import runs
from dmaproof.counterexamples.bits.memory import Kept, Queued, Written
from dmaproof.counterexamples.bits.scenarios import MODULES, NOTHING, REASONS, bits_of, tlps
from dmaproof.counterexamples.bits.scenarios import replay as replaying
from dmaproof.counterexamples.bits.scenarios.base import BitsOfFamily, Moment
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.replay import RunReplay, Simulation, replay_run
from dmaproof.counterexamples.bits.unit import Unit
from dmaproof.counterexamples.study.answers import Answerer, Job
from dmaproof.counterexamples.study.runner import Verdict
from dmaproof.engine.cache import Cache
from dmaproof.engine.scenarios import Run
from dmaproof.model.families import (
    FAMILIES,
    cache_tags,
    context_entry,
    entry_update,
    invalidation,
    table_pages,
    table_publication,
)
from dmaproof.model.logic.sets import Step
from dmaproof.model.logic.system import Action
from dmaproof.model.scenario import ClaimKind, StudyDesign, builtin, builtins
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd import queue, scalable, translate

from .scenario_support import Wanderer, rows, run_of

REFUTED = rows("refuted", ClaimKind.ALWAYS)
SEEN = [(d, c) for d, c in REFUTED if c not in bits_of(builtin(d).family).unseen]
HAPPENS = rows("proved", ClaimKind.CAN)


# -- no family is skipped in silence --------------------------------------------------------


def test_every_family_is_replayed_or_says_why_not() -> None:
    assert set(MODULES) | set(REASONS) == set(FAMILIES)
    assert not set(MODULES) & set(REASONS)
    for reason in REASONS.values():
        assert reason.startswith(NOTHING)
        assert len(reason.removeprefix(NOTHING).split()) >= 5


@pytest.mark.parametrize("family", MODULES)
def test_every_action_of_every_design_has_a_meaning(family: str) -> None:
    designs = [d for d in builtins().values() if d.family == family]
    assert designs
    for design in designs:
        bits = Simulation(design, design.scenario.instances[0]).bits
        for act in design.scenario.system.actions:
            found = bits.handler(act)
            assert callable(found) or len(found.split()) >= 4, act.name


@pytest.mark.parametrize("family", MODULES)
def test_stutters_and_unseen_claims_are_there(family: str) -> None:
    designs = [d for d in builtins().values() if d.family == family]
    actions = {a.name for d in designs for a in d.scenario.system.actions}
    claims = {c for d in designs for c in d.scenario.claims}
    bits = bits_of(family)
    assert set(bits.unseen) <= claims
    # Steps that a program of the family may have, whether a built-in design uses them or not.
    assert {s.partition(".")[0] for s in bits.stutters} <= {a.partition(".")[0] for a in actions}


def test_an_action_without_a_meaning_is_not_called_replayed(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits_of("invalidation"), "gamma", lambda self: {})
    done = replay_run(run_of("r06-devtlb-untagged", "unbind-final"))
    assert done.reason == "replay-failed: action bind has no meaning on the bits"


# -- the rows of the study ------------------------------------------------------------------


@pytest.mark.parametrize(("design", "claim"), REFUTED)
def test_every_refuted_row_replays_on_the_bits(design: str, claim: str) -> None:
    done = replay_run(run_of(design, claim))
    unseen = bits_of(builtin(design).family).unseen
    if claim in unseen:
        assert (done.result, done.reason) == ("nothing", NOTHING + unseen[claim])
        return
    assert (done.result, done.reason) == ("reproduced", "")
    assert done.end.says
    assert len(done.steps) == len(run_of(design, claim).steps)


@pytest.mark.parametrize(("design", "claim"), HAPPENS)
def test_what_can_happen_happens_on_the_bits(design: str, claim: str) -> None:
    done = replay_run(run_of(design, claim))
    assert (done.result, done.reason) == ("reproduced", "")


def test_refutations_without_bits_are_few_and_named() -> None:
    some = {(d, c) for d, c in REFUTED if c in bits_of(builtin(d).family).unseen}
    assert some == {
        ("r18-ats-off-first", "no-tag-outlives"),
        ("r19-parent-without-batch", "batch-before-flush"),
        ("r29-blocked-as-paging", "tracking-of-paging-domains"), ("reset-7.0", "tracked-once"),
        ("reset-7.0", "no-orphan-record"), ("vf-pf-owner", "availability"),
    }


# -- what is broken does not replay ---------------------------------------------------------


@pytest.mark.parametrize(("design", "claim"), SEEN)
def test_without_its_writes_no_run_replays(
    design: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: BitsOfFamily, act: Action, moment: Moment) -> str:
        return "left out"

    trace = run_of(design, claim)
    monkeypatch.setattr(BitsOfFamily, "step", nothing)
    done = replay_run(trace)
    assert done.result == "undecided"
    assert done.reason.startswith("replay-failed: ")


def without(action: str) -> Callable[[BitsOfFamily, Action, Moment], str]:
    plain = BitsOfFamily.step

    def step(self: BitsOfFamily, act: Action, moment: Moment) -> str:
        return "left out" if act.name == action else plain(self, act, moment)

    return step


UNNOTICED = {  # what the rules of the family do not speak of: the content of a table page
    "take.enter", "take.free",
}


def writing(done: RunReplay) -> set[str]:
    """The actions of a run that change a table, a page or a cache: descriptors may drop nothing."""
    assert done.bits is not None
    where = done.bits.board.frames.where
    return {
        step.action for step in done.steps for e in step.events
        if isinstance(e, Kept) or (isinstance(e, Written) and e.old != e.new and where(e.address))
    }


@pytest.mark.parametrize(("design", "claim"), SEEN)
def test_no_step_that_writes_can_be_left_out(
    design: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = run_of(design, claim)
    done = replay_run(trace)
    for action in writing(done) - UNNOTICED:
        with monkeypatch.context() as broken:
            broken.setattr(BitsOfFamily, "step", without(action))
            assert replay_run(trace).result == "undecided", action


QUEUED = [  # steps that only queue, or note, something
    ("r36-wait-if-flag-set", "done-before-return", "unmap.queue"),
    ("r22-free-before-drain", "no-use-after-free", "page.request"),
    ("r17-no-look", "no-request-after-notice", "teardown.request"),
    ("r17-no-look", "no-request-after-notice", "remove"),
    ("p30-hostile", "respects-grants", "request.spoofed"),
    ("r24-pointer-first", "no-garbage", "add.write-pointer"),
    ("r27-replace-in-place", "no-mixed-walk", "walk.low"),
]


@pytest.mark.parametrize(("design", "claim", "action"), QUEUED)
def test_a_step_that_is_left_out_is_noticed(
    design: str, claim: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = run_of(design, claim)
    assert action in {step.action for step in trace.steps}
    monkeypatch.setattr(BitsOfFamily, "step", without(action))
    assert replay_run(trace).result == "undecided"


def always(value: bool) -> Callable[..., bool]:
    return lambda *_, **__: value


DROPS = ("drops_context", "drops_pasid", "drops_iotlb", "drops_paging", "drops_device")
FLUSHED = [  # something stale is left because a flush does not reach it
    ("r06-devtlb-untagged", "unbind-final"), ("r06-devtlb-swapped", "no-predecessor"),
    ("r11-iotlb-by-pasid", "no-predecessor"), ("mutant-iotlb-before-pasid-cache", "unbind-final"),
    ("f01-bind-pasid-table", "unbind-final"), ("r09-context-cleared", "unbind-final"),
    ("r08-rid-tags-only", "no-stale-after-unmap"), ("r20-flush-all-untagged",
                                                    "no-stale-after-unmap"),
    ("r33-first-stream-only", "invalidation-complete"),
]


@pytest.mark.parametrize(("design", "claim"), FLUSHED)
def test_hardware_that_drops_everything_hides_the_bug(
    design: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = run_of(design, claim)
    for name in DROPS:
        monkeypatch.setattr(inv, name, always(True))
    assert replay_run(trace).result == "undecided"


FIXED = {
    "invalidation": ["teardown-7.0", "r06-devtlb-untagged-ats-off"],
    "entry-update": ["r27-replace-handshake", "r26-context-clear-flush-zero"],
    "context-entry": ["r09-whole-function", "f01-bind-pasid-table-flushed"],
    "cache-tags": ["tags-7.0-pasid", "r18-tags-first", "r19-parent-with-batch"],
    "aliases": ["aliases-7.0"], "table-publication": ["r24-page-first",
                                                      "r24-pointer-first-coherent"],
    "table-pages": ["r23-kernel-flush", "r13-flush-before-free"],
    "completion": ["r36-wait-for-own"], "page-requests": ["r22-clear-drain-free"],
    "did-references": ["r28-unknown-pair-warns"], "surprise-removal": ["r17-look-present"],
    "dirty-log": ["r30-nested-reached"], "reset-window": ["r32-one-reset"],
    "nesting": ["nesting-device", "nesting-one-group"], "pasid-space": ["host-pasid-given"],
    "pasid-attach": ["iommufd-reserved", "iommufd-unwind-pasid"], "tlps": ["ats-honest",
                                                                          "noiommu"],
    "shared-pf": ["vf-pf-trusted"], "vdevice": ["vdevice-7.0", "r33-every-stream"],
    "container-as-group": ["c19-both-replay"],
}
GOOD = [name for names in FIXED.values() for name in names]


def test_every_family_has_a_design_to_wander_in() -> None:
    assert set(FIXED) == set(MODULES)
    assert all(builtin(n).family == family for family, names in FIXED.items() for n in names)


@pytest.mark.parametrize("name", GOOD)
def test_bits_follow_the_rules(name: str) -> None:
    design = builtin(name)
    *_, world = design.scenario.instances
    wanderer = Wanderer(design, world)
    assert wanderer.walk(200) == ""
    # What the rules let a cache take in, hardware can; but without a context entry it walks no
    # PASID table, where the rules let the PASID cache lead on (`context-entry`).
    assert wanderer.idle == 0 or design.family == "context-entry"
    assert len(wanderer.seen) >= min(4, len(design.scenario.system.actions))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n, d in builtins().items() if d.family in MODULES))
def test_bits_follow_the_rules_of_every_design_in_every_world(name: str) -> None:
    for seed, world in enumerate(builtin(name).scenario.instances):
        assert Wanderer(builtin(name), world, seed).walk(300) == "", seed


def flush_of(op: inv.Op, changed: Callable[[inv.Command], inv.Command | None]) -> Any:
    """A driver that queues something else than one kind of command, or nothing."""
    plain = Unit.flush

    def flush(self: Unit, commands: Any) -> None:
        found = [c if c.op is not op else changed(c) for c in commands]
        plain(self, [c for c in found if c is not None])

    return flush


def nothing(command: inv.Command) -> None:
    return None


BROKEN: dict[str, tuple[str, Any, str, Any]] = {
    "the IOTLB keeps all": ("teardown-7.0", inv, "drops_iotlb", always(False)),
    "the PASID cache keeps all": ("teardown-7.0", inv, "drops_pasid", always(False)),
    "device TLBs keep all": ("teardown-7.0", inv, "drops_device", always(False)),
    "paging structures stay": ("r28-unknown-pair-warns", inv, "drops_paging", always(False)),
    "paging structures of kernels stay": ("r23-kernel-flush", inv, "drops_paging", always(False)),
    "the context cache keeps all": ("r09-whole-function", inv, "drops_context", always(False)),
    "no flush of the PASID cache": ("teardown-7.0", Unit, "flush",
                                    flush_of(inv.Op.PASID_CACHE_PASID, nothing)),
    "no flush of a domain": ("teardown-7.0", Unit, "flush",
                             flush_of(inv.Op.IOTLB_DOMAIN, nothing)),
    "no flush of a page": ("tags-7.0-pasid", Unit, "flush", flush_of(inv.Op.IOTLB_PAGE, nothing)),
    "no flush of device TLBs": ("vdevice-7.0", Unit, "flush",
                                flush_of(inv.Op.DEVICE_TLB, nothing)),
    "context entries are not flushed": ("r09-whole-function", Unit, "flush",
                                        flush_of(inv.Op.CONTEXT_DEVICE, nothing)),
    "extended context entries are not flushed": (
        "f01-bind-pasid-table-flushed", Unit, "flush",
        flush_of(inv.Op.CONTEXT_DEVICE, nothing)),
    "Present is never cleared": ("r28-unknown-pair-warns", Board, "clear",
                                 lambda self, wire, pasid: None),
    "entries are never taken down": ("aliases-7.0", Board, "tear_down",
                                     lambda self, wire, pasid: None),
    "leaves are never cleared": ("r36-wait-for-own", Board, "unmap",
                                 lambda self, table, address: None),
    "DTE is not looked at": ("ats-untrusted", scalable, "check_request", lambda *_: None),
    "commands are never carried out": ("r36-wait-for-own", Unit, "carry_out",
                                       lambda self, command: None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rules_and_broken_bits_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, where, attribute, value = BROKEN[name]
    monkeypatch.setattr(where, attribute, value)
    design = builtin(subject)
    found = [Wanderer(design, world).walk(250) for world in design.scenario.instances]
    assert any(found)


def test_a_queue_that_stops_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "decode", lambda words, registers: None)
    done = replay_run(run_of("r06-devtlb-untagged", "unbind-final"))
    assert done.reason.startswith("replay-failed: the invalidation queue stopped")


def test_a_unit_that_takes_a_descriptor_without_type_is_noticed(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = queue.decode

    def lenient(words: tuple[int, ...], registers: Any) -> Any:
        taken = inv.Command(inv.Op.PASID_CACHE_GLOBAL)
        return plain(words, registers) if words[0] & 0xF else taken

    monkeypatch.setattr(queue, "decode", lenient)
    done = replay_run(run_of("r05-pasid-cache-descriptor", "unbind-final"))
    assert "the unit took the descriptor" in done.reason


def test_ports_that_redirect_refuse_the_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlps, "_MACHINE", "SW(rruf,rruf)")
    done = replay_run(run_of("p23-no-check", "no-misroute"))
    assert "only the rules have at_peer(A, B)" in done.reason


def test_hardware_that_blocks_everything_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "_remap", lambda c, r, q: c.fail(True, 1))
    done = replay_run(run_of("r03-shared-table", "user-isolation"))
    assert "the tables give no page" in done.reason


# -- files and commands ---------------------------------------------------------------------


def written(tmp_path: Path, design: str, claim: str) -> str:
    path = tmp_path / "run.json"
    runs.write(run_of(design, claim), path)
    return str(path)


def call(*args: str) -> tuple[int, str]:
    done = run(*args)
    return done.exit_code, done.output


def test_a_run_is_told_with_its_writes_and_descriptors(tmp_path: Path) -> None:
    path = written(tmp_path, "r11-iotlb-by-pasid", "no-predecessor")
    code, text = call("trace", "replay", "--bits", path)
    assert code == 0
    for said in ("PASID table of 0000:01:00.0, entry 0x1, quadword 0", "IOTLB, PASID in domain",
                 "paging-structure cache takes in an entry", "lands at 0x2000128"):
        assert said in text


def test_a_run_as_data(tmp_path: Path) -> None:
    path = written(tmp_path, "r06-devtlb-untagged", "unbind-final")
    code, text = call("trace", "replay", "--bits", "--json", path)
    data = json.loads(text)
    assert (code, data["schema"], data["result"]) == (0, "dmaproof/run-bits/1", "reproduced")
    assert data["end"]["requests"][0]["by"] == "device TLB"
    events = [event for step in data["steps"] for event in step["events"]]
    assert {e["event"] for e in events} == {"write", "descriptor", "fill"}


def test_a_run_of_which_the_bits_have_nothing_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "r35-two-owners", "one-owner")
    code, text = call("trace", "replay", "--bits", path)
    assert code == 3
    assert NOTHING in text


def test_options_of_bind_designs_are_refused_for_runs(tmp_path: Path) -> None:
    path = written(tmp_path, "r06-devtlb-untagged", "unbind-final")
    for more in (("--qemu",), ("--bits", "--tables", "scalable"), ("--bits", "--machine", "S")):
        code, text = call("trace", "replay", *more, path)
        assert code == 2, more
        assert "is a run of a scenario" in text


def answer(design: str, claim: str, *, bits: bool) -> Any:
    (found,) = Answerer(Cache(None), bits=bits).answers(Job("scenario", design, (claim,)))
    return found


def test_the_study_says_what_was_replayed() -> None:
    assert answer("r06-devtlb-untagged", "unbind-final", bits=True).bits == "replayed"
    assert answer("r06-devtlb-untagged", "unbind-final", bits=False).bits == ""
    assert answer("r35-two-owners", "one-owner", bits=True).bits == REASONS["fault-groups"]


def test_a_run_that_does_not_replay_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "replay_run",
                        lambda trace: RunReplay("undecided", "replay-failed: broken"))
    found = answer("r06-devtlb-untagged", "unbind-final", bits=True)
    assert (found.found, found.reason) == ("undecided", "replay-failed: broken")
    assert answer("r06-devtlb-untagged", "unbind-final", bits=False).found == "refuted"


# -- designs that are not built in, and runs that are not minimal ---------------------------

EVERY_STEP: dict[str, dict[str, Any]] = {
    "invalidation": {"unbind": [s.value for s in invalidation.Step]},
    "entry-update": dict.fromkeys(
        ("setup", "replace", "teardown"), tuple(s.value for s in entry_update.Write)),
    "context-entry": dict.fromkeys(
        ("exchange", "clear"), tuple(s.value for s in context_entry.Step)),
    "cache-tags": {
        "attach": [s.value for s in cache_tags.Attach],
        "nested": [s.value for s in cache_tags.Attach],
        "detach": [s.value for s in cache_tags.Detach], "iotlb_tags": "per-did"},
    "table-publication": {"add": [s.value for s in table_publication.Step]},
    "table-pages": {"take": [s.value for s in table_pages.Take],
                    "bind": [s.value for s in table_pages.Bind]},
    "completion": {"wait": "if-flag-set"},
    "page-requests": {"unbind": ["clear", "drain", "free"]},
    "surprise-removal": {"look": "disconnected"},
    "tlps": {"ats": True, "redirect": False, "hostile_prefix": True, "source_validation": False,
             "checks_path": False},
}


@pytest.mark.parametrize("family", EVERY_STEP)
def test_every_step_that_a_design_can_name_has_a_meaning(family: str) -> None:
    found = StudyDesign(name="mine", title="all steps", year=2026, family=family,
                        options=EVERY_STEP[family])
    for world in found.scenario.instances:
        assert Wanderer(found, world).walk(40) == ""
    bits = Simulation(found, found.scenario.instances[0]).bits
    for act in found.scenario.system.actions:
        assert bits.handler(act), act.name


def listed() -> runs.RunTrace:
    """R13 itself: the space is on the list, and the flush leaves the paging structures (IH=1)."""
    design = builtin("r13-superpage-unflushed")
    steps = [("link", 0), ("bind.enter", 0), ("bind.set-up-entry", 0), ("bind.list", 0),
             ("bind.return", 0), ("paging-structure-cache.fill", 0, 0), ("take.enter", 0),
             ("take.unlink", 0), ("take.flush-leaves-only", 0), ("take.free", 0),
             ("take.return", 0)]
    found = Run(0, tuple(Step(str(name), tuple(map(int, args))) for name, *args in steps))
    claim = design.scenario.claims["no-stale-structure"]
    trace = runs.confirm(design, claim, found, "violated", minimal=True)
    assert isinstance(trace, runs.RunTrace), trace
    return trace


def test_a_flush_of_leaves_leaves_the_paging_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    done = replay_run(listed())
    assert (done.result, done.reason) == ("reproduced", "")
    assert any(isinstance(e, Queued) and e.command.ih for step in done.steps for e in step.events)
    plain = inv.drops_paging
    monkeypatch.setattr(inv, "drops_paging", lambda command, tag: plain(
        dataclasses.replace(command, ih=False), tag))
    assert replay_run(listed()).result == "undecided"


def test_the_page_on_the_bits_names_every_family() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "bits.md").read_text("utf-8")
    assert all(f"`{family}`" in text for family in FAMILIES)


def test_the_field_bits_is_there_only_where_it_was_asked() -> None:
    for asked in (True, False):
        found = answer("r06-devtlb-untagged", "unbind-final", bits=asked)
        data = Verdict("R6", "part", "scenario", "says", "refuted", found).data()
        assert data.get("bits") == ("replayed" if asked else None)
