"""Which requests a function sends, and where they end: translated ones, prefixes, spoofed ids.

A request with a PASID is routed by its address (the prefix is not looked at), so on a path without
RR and UF it can end at a peer's BAR. A translated request (AT=10) is not translated again: it lands
where the device says, unless ATS is off, the port blocks translations (TB), or the device is not
trusted and was refused ATS. And a member without PASIDs can emit a prefix all the same, if it is
hostile, under its own requester id or, where source validation is off, under another's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    action,
    compose,
    delete,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
    Kind,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import CAPABLE, FUNCTION, PASID, SPACE

F, G, P, S = Var("f", FUNCTION), Var("g", FUNCTION), Var("p", PASID), Var("s", SPACE)
_X, _Y, _Q, _T = Var("x", FUNCTION), Var("y", FUNCTION), Var("q", PASID), Var("t", SPACE)

PEER_BAR = Rel("address_is_peers_bar", (SPACE, FUNCTION), Kind.STATIC)  # of an address in the space

ENTRY = Rel("entry", (FUNCTION, PASID, SPACE))
DEVICE_TLB = Rel("device_tlb", (FUNCTION, SPACE))  # translations that the device was given
LANDED = Rel("landed", (FUNCTION, SPACE))  # a request of the function was served there, just now
AT_PEER = Rel("at_peer", (FUNCTION, FUNCTION))  # a request with a PASID ended at that BAR
BOUND = Rel("ever_bound", (FUNCTION, SPACE), Kind.GHOST)


class TlpOptions(Options):
    """The machine and the devices.

    Attributes:
        translation: requests go through the ``iommu``, or there is ``none`` (noiommu).
        ats: the device is allowed translated requests (TT or DTE in its entry).
        translation_blocking: TB is on in the port above the device.
        trusted: the device is trusted; the kernel refuses ATS to others.
        honest_ats: the device emits translated requests only with translations it was given.
        redirect: RR and UF are on up to the root.
        acs_override: the kernel believes that they are (`pcie_acs_override`).
        checks_path: PASIDs are enabled only where RR and UF are on up to the root (6.2).
        untranslated_pasids: the device emits untranslated requests with PASIDs.
        hostile_prefix: functions without PASIDs emit PASID prefixes.
        source_validation: SV is on: no other function's requester id gets through.
    """

    translation: Literal["iommu", "none"] = "iommu"
    ats: StrictBool = False
    translation_blocking: StrictBool = False
    trusted: StrictBool = True
    honest_ats: StrictBool = False
    redirect: StrictBool = True
    acs_override: StrictBool = False
    checks_path: StrictBool = True
    untranslated_pasids: StrictBool = True
    hostile_prefix: StrictBool = False
    source_validation: StrictBool = True


@rule("pcie.acs.translation-blocking", "PCIe 6.12.1.1; drivers/pci/ats.c pci_ats_supported",
      "Translated requests pass where ATS is on, the device is trusted and no port blocks them.")
def translated_pass(options: TlpOptions) -> bool:
    """Whether translated requests reach memory."""
    return options.ats and options.trusted and not options.translation_blocking


@rule("linux.pasid.path-check", "drivers/pci/ats.c pci_enable_pasid; commit 201007ef707a",
      "PASIDs are enabled only where RR and UF are on up to the root: -EINVAL.")
def _enabled(options: TlpOptions) -> list[Guard]:
    believed = options.redirect or options.acs_override
    if not options.checks_path or believed:
        return []
    never = forall((_X,), not_(Eq(_X, _X)))
    return [Guard("path-has-rr-and-uf", never, "-EINVAL", "drivers/pci/ats.c pci_enable_pasid")]


def _calls(options: TlpOptions) -> list[Action]:
    bound = [Guard("function-has-pasids", CAPABLE(F), "-EINVAL"), *_enabled(options)]
    return [
        action("bind", (F, P, S), bound, [insert(ENTRY, F, P, S), insert(BOUND, F, S)],
               Actor.USER, "The user binds {s} for {f}, PASID {p}"),
        action("unbind", (F, P, S), [Guard("bound", ENTRY(F, P, S))],
               # With the flushes in order (see the family `invalidation`) the device TLB is empty.
               [delete(ENTRY, F, P, S), delete(DEVICE_TLB, F, S)], Actor.USER,
               "The user unbinds {f}, PASID {p}"),
    ]


def _requests(options: TlpOptions) -> list[Action]:
    acts = []
    emits = CAPABLE(F) if not options.hostile_prefix else or_(CAPABLE(F), not_(CAPABLE(F)))
    can_emit = Guard("emits-prefixes", emits)
    if options.untranslated_pasids and options.translation == "iommu":
        acts.append(action(
            "request.pasid", (F, P, S), [can_emit, Guard("entry", ENTRY(F, P, S))],
            [insert(LANDED, F, S)], Actor.HARDWARE,
            "{f} sends a request with PASID {p}; the IOMMU translates it to {s}"))
        if not options.redirect:
            acts.append(action(
                "request.misrouted", (F, P, S, G),
                [can_emit, Guard("entry", ENTRY(F, P, S)), Guard("bar", PEER_BAR(S, G)),
                 Guard("another", not_(Eq(F, G)))],
                [insert(AT_PEER, F, G)], Actor.HARDWARE,
                "{f} sends a request with PASID {p}; a switch takes it to the BAR of {g}"))
    if options.hostile_prefix and not options.source_validation:
        acts.append(action(
            "request.spoofed", (F, G, P, S),
            [can_emit, Guard("entry", ENTRY(G, P, S)), Guard("another", not_(Eq(F, G)))],
            [insert(LANDED, F, S)], Actor.HARDWARE,
            "{f} sends a request with PASID {p} under the requester id of {g}: it lands in {s}"))
    if options.ats:
        acts.append(action(
            "translation.request", (F, P, S), [Guard("entry", ENTRY(F, P, S))],
            [insert(DEVICE_TLB, F, S)], Actor.HARDWARE,
            "{f} asks for a translation of PASID {p} and is given one to {s}"))
    if translated_pass(options):
        own = [Guard("was-given", DEVICE_TLB(F, S))] if options.honest_ats else []
        acts.append(action(
            "request.translated", (F, S), own, [insert(LANDED, F, S)], Actor.HARDWARE,
            "{f} sends a translated request with an address in {s}"))
    if options.translation == "none":
        acts.append(action("request.raw", (F, S), [], [insert(LANDED, F, S)], Actor.HARDWARE,
                           "{f} sends a request, which nothing translates, to {s}"))
    return acts


def build(options: TlpOptions) -> Scenario:
    """The system under some options."""
    acts = [*_calls(options), *_requests(options)]
    module = Module("tlps", actions=tuple(acts),
                    rels=(CAPABLE, PEER_BAR, ENTRY, DEVICE_TLB, LANDED, AT_PEER, BOUND))
    claims = [
        always("respects-grants", "a function's requests are served only where something was bound "
               "for it", forall((_X, _T), implies(LANDED(_X, _T), BOUND(_X, _T))),
               "a request of {x} was served in {t}, which was never bound for it"),
        always("no-misroute", "no request with a PASID ends at a peer's BAR",
               forall((_X, _Y), not_(AT_PEER(_X, _Y))),
               "a request of {x} with a PASID ended at the BAR of {y}"),
        can("can-bind", "a function is bound", exists((_X, _Q, _T), ENTRY(_X, _Q, _T))),
        can("can-be-served", "a bound function's request is served",
            exists((_X, _T), and_(LANDED(_X, _T), BOUND(_X, _T)))),
    ]
    if _enabled(options):
        claims.append(refused(
            "errno-path", "PASIDs are refused without RR and UF up to the root", acts[0],
            CAPABLE(F), "-EINVAL"))
    world = Instance(
        {FUNCTION: ("A", "B"), PASID: ("p1",), SPACE: ("s1", "s2")}, {},
        {CAPABLE: frozenset({(0,)}), PEER_BAR: frozenset({(0, 1)})})
    blocked = bool(_enabled(options))
    why = "PASIDs are refused on this path"
    names = [a.name for a in acts if a.name not in {"request.translated", "request.raw"}
             or (a.name == "request.translated" and options.honest_ats)]
    idle = dict.fromkeys(names, why) if blocked else {}
    return Scenario(compose("tlps", module), {c.id: c for c in claims}, (world,),
                    frames=((F, P, S), (F, G, S)), size=2, idle=idle)


FAMILY = Family("tlps", "which requests a function sends, and where they end", TlpOptions, build)
