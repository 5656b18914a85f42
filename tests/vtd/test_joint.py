"""Each bit-level event is a step of the rules or none, by the designs' own guards and updates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from dmaproof.model.design import load
from dmaproof.model.logic.system import Guard
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import build
from dmaproof.model.vtd import caches, obligations_caches, obligations_joint, programs
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.invalidation import Op
from dmaproof.model.vtd.obligations import check, satisfiable
from dmaproof.model.vtd.registers import Registers

from .broken import swapped
from .formats import CAP, EXTENDED, NESTED, ROOT
from .vocabulary import DT

SCALABLE = Registers(CAP, NESTED.ecap | DT, NESTED.rtaddr, haw=48)
LEGACY = Registers(CAP, DT, ROOT, haw=48)


@cache
def model(name):
    """A design with device TLBs."""
    design = load(name)
    fabric = design.fabric.model_copy(update={"ats": True})
    return build(design.model_copy(update={"fabric": fabric}))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


DESIGNS = [
    ("sva-2018-core", SCALABLE), slow("sva-2018-vfio", SCALABLE),
    slow("bind-2018-device", SCALABLE), slow("bind-2018-group", EXTENDED),
    slow("bind-2018-device", EXTENDED), slow("bind-2018-group", SCALABLE),
    slow("bind-2018-container", EXTENDED), slow("bind-2018-container", SCALABLE),
    slow("bind-2018-device-singleton", EXTENDED), ("type1", LEGACY),
]
EVENTS = {"fills": obligations_joint.fills, "requests": obligations_joint.requests}


def proved(obligations):
    assert obligations
    for obligation in obligations:
        assert satisfiable(obligation), f"vacuous: {obligation.name}"
        assert check(obligation) is None, obligation.name


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    ("name", "registers"), DESIGNS, ids=lambda x: x.mode.value if isinstance(x, Registers) else x
)
def test_event_is_matched(name, registers, event):
    obligations = EVENTS[event](model(name), registers)
    assert len(obligations) >= (4 if name == "type1" else 6)
    proved(obligations)


@pytest.mark.slow
def test_a_bound_table_is_matched():
    """Of the tables of 2018, the case that all others look like: nothing is held."""
    for events in EVENTS.values():
        proved(events(model("bind-2018-group"), EXTENDED)[:1])


@pytest.mark.parametrize("name", ["sva-2018-core", "bind-2018-container", "type1"])
def test_fills_and_evictions_change_one_entry(name):
    found = obligations_joint.effects(model(name))
    assert len(found) == 6  # three caches
    proved(found)


@pytest.mark.parametrize("pgtt", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["sva-2018-core", "sva-2018-vfio"])
def test_flushes_of_an_unbind_drop_what_the_rules_remove(name, pgtt):
    found = obligations_caches.flushes(model(name), pgtt)
    assert len(found) == (3 if name == "sva-2018-core" else 6)  # leaving a container flushes too
    proved(found)


def test_flushes_of_an_unmap_drop_what_the_rules_remove():
    """The rules' flush takes every page of the domain: that is a flush of the domain."""
    found = obligations_caches.flushes(model("type1"), inv.LEGACY_PGTT)
    assert {o.name for o in found} >= {"type1: unmap.flush-iotlb", "type1: leave.flush-iotlb"}
    proved(found)


@pytest.mark.slow
@pytest.mark.parametrize("bind", [True, False], ids=["bind", "unbind"])
def test_one_write_changes_what_the_tables_give(bind):
    found = obligations_caches.writes(SCALABLE, bind=bind)
    assert len(found) == 9 + 14
    proved(found)


@pytest.mark.parametrize(("bind", "which"), [(True, 8), (False, 0)], ids=["bind", "unbind"])
def test_the_write_that_counts(bind, which):
    """The last of a bind, the first of an unbind."""
    found = obligations_caches.writes(SCALABLE, bind=bind)
    proved([found[which], *found[-3:]])


@pytest.mark.parametrize(("first", "level"), [(True, 2), (False, 4)])
def test_paging_structures_stay_in_their_tables(first, level):
    proved([obligations_caches.structures(SCALABLE, first=first, level=level)])
    mixed = obligations_caches.structures(SCALABLE, first=first, level=level, consistent=False)
    assert check(mixed) is not None, "the tags alone do not tell tables apart"


# ------------------------------------------------------------------- what breaks the joint is seen


def refuted(obligations):
    """Names of the obligations that fail."""
    return [o.name for o in obligations if check(o) is not None]


def some_fails(obligations):
    return any(check(o) is not None for o in obligations)


LOOKUPS = {
    "PASID entries of any requester": ("serves_pasid", lambda t, s, p: t.pasid == p),
    "PASID entries of any PASID": ("serves_pasid", lambda t, s, p: t.sid == s),
    "context entries of any requester": ("serves_context", lambda t, s: True),
}


@pytest.mark.parametrize("name", [
    "PASID entries of any requester", *map(slow, list(LOOKUPS)[1:])
])
def test_a_lookup_that_ignores_a_tag_is_seen(name):
    function, wrong = LOOKUPS[name]
    with swapped(inv, function, wrong):
        assert some_fails(obligations_joint.requests(model("sva-2018-core"), SCALABLE))


@pytest.mark.parametrize("tag", ["sid", slow("pasid")])
def test_an_entry_of_the_iotlb_that_serves_others_is_seen(tag):
    wrong = {"sid": lambda t, q: (t.tagged == q.with_pasid) & (t.pasid == q.pasid),
             "pasid": lambda t, q: t.sid == q.sid}[tag]
    with swapped(inv, "serves_iotlb", wrong):
        found = obligations_joint.requests(model("sva-2018-core"), SCALABLE)
    assert refuted([o for o in found if "lands by the iotlb" in o.name])


def test_a_fill_under_a_wrong_tag_is_seen():
    original = caches.iotlb_entry

    def wrong(carrier, q, *rest):
        carrier.number = 0
        return original(carrier, q, *rest)

    with swapped(caches, "iotlb_entry", wrong):
        found = obligations_joint.fills(model("sva-2018-core"), SCALABLE)
    assert some_fails(o for o in found if "the IOTLB fills" in o.name)


def with_guard(name, action, formula):
    """The design with another guard at one action."""
    base = model(name)
    act = base.system.action(action)
    system = base.system.with_action(replace(act, guards=(Guard("changed", formula),)))
    return replace(base, system=system)


@pytest.mark.slow
def test_a_rule_that_fills_from_tables_only_is_seen():
    """Real hardware fills its IOTLB from cached PASID entries: a rule without that is too small."""
    base = model("sva-2018-core")
    changed = with_guard(
        "sva-2018-core", "iotlb.fill", base.scheme.walk(v.R, v.P, v.S))
    found = [o for o in obligations_joint.fills(changed, SCALABLE) if "IOTLB fills, u" in o.name]
    assert [("a held entry" in o.name) for o in found] == [False, True, True, True]
    assert [check(o) is None for o in found] == [True, False, False, False]


def test_a_rule_that_evicts_too_much_is_seen():
    base = model("sva-2018-core")
    act = base.system.action("iotlb.evict")
    (update,) = act.updates
    r, p, s = update.variables
    wider = replace(update, delete=base.system.action("iotlb.evict").updates[0].rel(r, p, s))
    changed = replace(base, system=base.system.with_action(replace(act, updates=(wider,))))
    assert refuted(obligations_joint.effects(changed)) == ["sva-2018-core: iotlb.evict"]


@pytest.mark.parametrize(("op", "flush"), [
    (Op.PASID_CACHE_PASID, "unbind.flush-pasid-cache"),
    (Op.PASID_IOTLB_PASID, "unbind.flush-iotlb"),
    (Op.PASID_DEVICE_TLB, "unbind.flush-device-tlb"),
])
def test_a_driver_that_leaves_a_flush_out_is_seen(op, flush):
    def shortened(*arguments, **fields):
        return [s for s in programs.clear_pasid(*arguments, **fields)
                if not (isinstance(s, programs.Flush) and s.commands[0].op is op)]

    with swapped(obligations_caches, "clear_pasid", shortened):
        names = refuted(obligations_caches.flushes(model("sva-2018-core"), 1))
    assert names == [f"sva-2018-core: {flush}"]


def test_a_driver_that_writes_p_first_is_seen():
    def hasty(entry, words):
        return [programs.Write(entry, (words[0],)), *programs.set_pasid(entry, words)]

    with swapped(obligations_caches, "set_pasid", hasty):
        found = obligations_caches.writes(SCALABLE, bind=True)
        assert check(found[0]) is not None


def test_a_table_of_another_owner_is_seen(monkeypatch):
    """Without the invariant on pointers, a request may land in a table that is not its owner's."""
    monkeypatch.setattr("dmaproof.model.vtd.joint.Joint.invariants", lambda self: [])
    assert some_fails(obligations_joint.requests(model("bind-2018-group"), EXTENDED))
