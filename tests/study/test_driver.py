"""The driver's families: every row's verdict, what each guard and flush is good for, which orders
are right."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources
from itertools import permutations

import pytest

from dmaproof.engine.explicit import search
from dmaproof.engine.scenarios import Proved, Run, decide, unfired
from dmaproof.model import scenario
from dmaproof.model.errors import InputError
from dmaproof.model.families import context_entry, invalidation, table_publication
from dmaproof.model.logic.system import Action, Guard
from dmaproof.model.logic.terms import FALSE, not_, or_
from dmaproof.model.scenario import ClaimKind, Scenario

FILES = [e for e in resources.files("dmaproof.counterexamples.study.rows").iterdir()
         if e.name.startswith("driver_") and e.name.endswith(".toml")]
ROWS = {(r["design"], r["claim"]): r["expected"]
        for e in FILES for r in tomllib.loads(e.read_text("utf-8"))["row"]}
QUICK = {  # one design of each family whose proofs are made in every run of the tests
    "teardown-7.0", "r24-page-first", "tags-7.0-pasid", "r28-unknown-pair-warns",
    "r36-wait-for-own", "r17-look-present", "r23-kernel-flush",
}
LARGE = {"invalidation", "context-entry"}  # their searches take a second each
TELLING = {"r11-iotlb-by-pasid", "f01-bind-pasid-table"}


def _marks(design: str, claim: str) -> list[pytest.MarkDecorator]:
    if design in QUICK | TELLING:
        return []
    small = scenario.builtins()[design].family not in LARGE
    return [] if small and ROWS[design, claim] == "refuted" else [pytest.mark.slow]


def _expected(kind: ClaimKind, expected: str) -> type:
    return Run if (expected == "proved") == (kind is ClaimKind.CAN) else Proved


@pytest.mark.parametrize(("design", "claim"), [
    pytest.param(*pair, marks=_marks(*pair)) for pair in sorted(ROWS)
])
def test_rows(design: str, claim: str) -> None:
    found = scenario.load(design).scenario
    asked = found.claims[claim]
    assert type(decide(found, asked, 60)) is _expected(asked.kind, ROWS[design, claim])


def falls(found: Scenario, states: int = 5_000) -> bool:
    """Whether a run of the small worlds leaves a claim about every state."""
    always = [c.formula for c in found.claims.values() if c.kind is ClaimKind.ALWAYS]
    contrary = or_(*map(not_, always))
    return any(search(found.system, w, {"any": contrary}, max_states=states).traces
               for w in found.instances)


def changed(found: Scenario, act: Action) -> Scenario:
    """The scenario with one action exchanged."""
    return replace(found, system=found.system.with_action(act))


CLEARS = {
    "teardown-7.0": ["unbind.clear: entry", "unbind.pasid-cache: pasid_cache",
                     "unbind.iotlb-by-stage: iotlb", "unbind.device-tlb: device_tlb",
                     "unbind.iotlb-by-stage: paging_structure_cache"],
    "f01-bind-pasid-table-flushed": [
        f"{name}: {cache}" for program in ("exchange", "clear") for name, cache in (
            (f"{program}.write-entry", "context"), (f"{program}.context-cache", "context_cache"),
            (f"{program}.pasid-cache-domain", "pasid_cache"), (f"{program}.iotlb-domain", "iotlb"),
            (f"{program}.device-tlb-whole-function", "device_tlb"))],
    "tags-7.0-pasid": [
        "attach.add-tags: iotlb_tag", "attach.add-tags: devtlb_tag", "attach.set-up-entry: entry",
        "detach.clear-entry: entry", "detach.remove-tags: iotlb_tag",
        "detach.remove-tags: devtlb_tag", "detach.flush-slot: iotlb",
        "detach.flush-slot: device_tlb",
        "unmap.clear-leaf: maps", "unmap.flush-by-tags: iotlb", "unmap.flush-by-tags: device_tlb"],
    "r28-unknown-pair-warns": ["attach: reference", "detach.clear: entry",
                               "detach.flush: paging_structure_cache"],
    "r36-wait-for-own": ["unmap.clear: maps", "unmap.queue: queued", "queue.process: cached"],
    "r23-kernel-flush": ["take.unlink: linked", "bind.list: listed", "unbind.clear: entry_live",
                         "take.flush-with-structures: paging_structure_cache",
                         "unbind.flush: paging_structure_cache"],
    "r24-page-first": ["add.zero-page: zeroed", "add.clflush-page: content_in_memory"],
    "r26-context-clear-flush-zero": ["setup.write-low: low", "setup.write-high: high",
                                     "replace.clear-present: present", "replace.write-low: low",
                                     "replace.write-high: high", "teardown.clear-present: present"],
}


@pytest.mark.parametrize(("design", "effect"), [
    (design, effect) for design, effects in CLEARS.items() for effect in effects
])
def test_every_effect_that_protects_is_needed(design: str, effect: str) -> None:
    found = scenario.load(design).scenario
    name, rel = effect.split(": ")
    act = found.system.action(name).without_update(rel)
    assert falls(changed(found, act)), f"{design} holds without {effect}"


# Guards without which every claim still holds (proved below), each with the reason.
REDUNDANT = {
    "teardown-7.0": {
        "unbind.enter: bound": "taking down what is not bound changes nothing",
        "unbind.enter: group-not-locked": "the second unbind of an entry finds it cleared",
    },
    "f01-bind-pasid-table-flushed": {
        "clear.enter: context-present": "clearing what is not there changes nothing",
    },
    "tags-7.0-pasid": {
        "map: not-mapped": "mapping what is mapped changes nothing",
        "unmap.enter: mapped": "unmapping what is not mapped flushes once more",
        "unmap.clear-leaf: next-step": "a leaf that is cleared early is flushed all the same",
    },
    "r28-unknown-pair-warns": {
        "attach: not-locked": "slot-free waits for the reference, which goes last",
        "detach.enter: not-locked": "the second detach of an entry finds it cleared",
        "reset.prepare: blocking-domain": "a paging domain may be read as one",
        "reset.prepare: not-moved": "it is the bookkeeping of resets alone",
        "reset.prepare: no-entry": "attach asks again",
        "reset.done: moved": "it is the bookkeeping of resets alone",
        "reset.done: not-locked": "as of attach",
    },
    "r23-kernel-flush": {
        "page.back: reused": "freeing what is free changes nothing",
        "page.back: no-call": "the page is linked again only after the call",
        "take.enter: linked": "taking out what is not linked flushes once more",
        "take.unlink: next-step": "a page that is unlinked early is flushed all the same",
        "bind.enter: sva-allowed": "it is always true here",
        "bind.enter: not-bound": "a second bind changes nothing",
        "unbind.enter: bound": "an unbind of what is not bound flushes once more",
    },
    "r36-wait-for-own": {
        "map: not-mapped": "mapping what is mapped changes nothing",
        "unmap.clear: cpu-idle": "who waits for its own may have several to wait for",
        "queue.process: queued": "more is flushed than was asked for",
    },
    "r17-look-present": {},
    "r24-page-first": {
        "add.enter: page-free": "a page that is added twice was in memory before",
        "add.zero-page: next-step": "zeroing a page once more changes nothing",
        "add.clflush-pointer: next-step": "the line may reach memory at any time",
        "add.return: next-step": "nothing follows",
        "cpu-cache.evict-page: written": "memory may be clean by chance",
    },
    "r26-context-clear-flush-zero": {
        "replace.enter: entry-present": "a handshake on an absent entry does no harm",
        "replace.clear-present: own-target": "clearing Present needs no content",
        "replace.flush: own-target": "a flush needs no content",
        "teardown.enter: entry-present": "a handshake on an absent entry does no harm",
        "teardown.clear-present: own-target": "clearing Present needs no content",
        "teardown.flush: own-target": "a flush needs no content",
        "teardown.write-low: own-target": "the entry is absent, and set-up writes both chunks",
        "walk.end: under-way": "ending a walk that is none changes nothing",
    },
}


@pytest.mark.parametrize("design", [
    pytest.param(d, marks=[pytest.mark.slow] if d.startswith("f01") else []) for d in REDUNDANT])
def test_every_guard_is_needed_or_listed(design: str) -> None:
    found = scenario.load(design).scenario
    idle = set()
    for act in found.system.actions:
        for guard in dict.fromkeys(g.name for g in act.guards):
            if guard == "held":  # evicting what is not there changes nothing, in every family
                continue
            mutant = changed(found, act.without_guard(guard))
            name = f"{act.name}: {guard}"
            if name in REDUNDANT[design] or not (falls(mutant) or falls(mutant, 40_000)):
                idle.add(name)
    assert idle == set(REDUNDANT[design])


@pytest.mark.slow
@pytest.mark.parametrize(("design", "name"), [
    (d, n) for d, names in REDUNDANT.items() for n in names])
def test_what_is_listed_as_redundant_is(design: str, name: str) -> None:
    found = scenario.load(design).scenario
    action, guard = name.split(": ")
    mutant = changed(found, found.system.action(action).without_guard(guard))
    for claim in found.claims.values():
        if claim.kind is ClaimKind.ALWAYS:
            assert isinstance(decide(mutant, claim, 120), Proved), claim.id


@pytest.mark.parametrize("steps", list(permutations(table_publication.Step)))
def test_orders_of_publication(steps: tuple[table_publication.Step, ...]) -> None:
    step = table_publication.Step
    found = table_publication.build(table_publication.PublicationOptions(add=steps))
    order = {s: i for i, s in enumerate(steps)}
    right = order[step.WRITE_CONTENT] < order[step.FLUSH_CONTENT] < order[step.WRITE_POINTER]
    assert falls(found) != right


def test_publication_to_a_coherent_walker_needs_no_flush() -> None:
    options = table_publication.PublicationOptions(
        add=(table_publication.Step.WRITE_CONTENT, table_publication.Step.WRITE_POINTER),
        coherent=True)
    found = table_publication.build(options)
    assert isinstance(decide(found, found.claims["no-garbage"], 30), Proved)


FLUSHES = (invalidation.Step.CLEAR, invalidation.Step.PASID_CACHE,
           invalidation.Step.IOTLB_BY_STAGE, invalidation.Step.DEVICE_TLB)


@pytest.mark.slow
@pytest.mark.parametrize("steps", list(permutations(FLUSHES)))
def test_only_one_order_of_teardown_is_right(steps: tuple[invalidation.Step, ...]) -> None:
    found = invalidation.build(
        invalidation.InvalidationOptions(unbind=(*steps, invalidation.Step.FREE)))
    expected = Proved if steps == FLUSHES else Run
    assert isinstance(decide(found, found.claims["unbind-final"], 60), expected)


@pytest.mark.slow
@pytest.mark.parametrize("left", range(1, 5))
def test_no_step_of_an_exchange_can_be_left_out(left: int) -> None:
    full = tuple(s for s in context_entry.Step if s.value in {
        "write-entry", "context-cache", "pasid-cache-domain", "iotlb-domain",
        "device-tlb-whole-function"})
    short = full[:left] + full[left + 1:]
    found = context_entry.build(context_entry.ContextOptions(exchange=short, clear=full))
    assert isinstance(decide(found, found.claims["unbind-final"], 60), Run)


def test_a_program_without_its_return_never_ends() -> None:
    """Vacuity bites: with a step that cannot fire, the calls behind it never do."""
    found = scenario.load("r36-wait-for-own").scenario
    act = found.system.action("unmap.wait")
    stuck = changed(found, replace(act, guards=(*act.guards, Guard("never", FALSE))))
    assert unfired(stuck) == {"unmap.wait", "unmap.return"}


@pytest.mark.parametrize(("text", "said"), [
    ('family = "completion"\n[options]\nwait = "perhaps"\n', "wait"),
    ('family = "completion"\n[options]\nwait = "own"\nwaits = 2\n', "waits"),
    ('family = "invalidation"\n[options]\nunbind = ["clear", "flush"]\n', "unbind"),
    ('family = "invalidation"\n[options]\nunbind = []\n', "unbind"),
    ('family = "cache-tags"\n[options]\nattach = ["add-tags"]\n', "detach"),
    ('family = "table-pages"\n[options]\ntake = ["free"]\nbind = ["list"]\nlock = 7\n', "lock"),
])
def test_bad_options_are_named(text: str, said: str) -> None:
    head = 'schema = "dmaproof/design/2"\nname = "mine"\ntitle = "mine"\nyear = 2026\n'
    with pytest.raises(InputError) as error:
        scenario.parse(head + text, "mine.toml")
    assert said in str(error.value)
    assert "mine.toml" in str(error.value)
