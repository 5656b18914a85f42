"""Random drawings: shapes with any settings that a machine could have."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from dmaproof.model.pcie.groups_v3 import DSP_MT_RR, ENHANCED, USP_MT_RR
from dmaproof.model.pcie.topology import Acs, PortKind
from dmaproof.model.pcie.trees.drawings import Drawing, Setting
from dmaproof.model.pcie.trees.local_rules import BELOW, BRIDGES, FUNCTIONS, ONE_SLOT
from dmaproof.model.pcie.trees.shapes import Shape, shapes

CAPABILITIES = (0x5F, 0x5F, 0x1D, 0x04, 0x14, 0x00, 0x7F, 0x5F | ENHANCED)
CONTROLS = (0, 0x1D, 0x1D, 0x14, 0x04, 0x10, 0x01, 0x3D, 0x1D | DSP_MT_RR | USP_MT_RR, USP_MT_RR)
PHYSICAL = {PortKind.ENDPOINT, PortKind.RC_INTEGRATED_ENDPOINT}


def random_drawing(shape: Shape, random: Random, *, rare: float = 0.15) -> Drawing:
    """Draw settings for *shape*; *rare* is how often aliases, own memory and the like come up."""
    kinds: dict[int, PortKind | None] = {0: None}
    settings: dict[int, Setting] = {}
    for node in shape.nodes:
        wanted = BRIDGES if shape.children(node) else (*FUNCTIONS * 2, *BRIDGES)
        allowed = [kind for kind in wanted if kind in BELOW[kinds[shape.parent(node)]]]
        kinds[node] = random.choice(allowed)
    for node in (0, *shape.nodes):
        _fill_bus(shape, node, kinds, random, rare, settings)
    return Drawing(shape, tuple(settings[node] for node in shape.nodes))


def _fill_bus(shape, bus, kinds, random, rare, settings) -> None:
    children = shape.children(bus)
    one = bus != 0 and kinds[bus] in ONE_SLOT
    slots = {child: 0 if one else random.randrange(min(3, len(children))) for child in children}
    virtual: set[int] = set()
    apart: dict[int, bool] = {}
    for child in children:
        able = kinds[child] in PHYSICAL and any(
            other != child
            and other not in virtual
            and slots[other] == slots[child]
            and kinds[other] is kinds[child]
            for other in children
            if other < child
        )
        if able and random.random() < 2 * rare:
            virtual.add(child)
            apart.setdefault(slots[child], random.random() < 0.5)
    for child in children:
        settings[child] = _setting(
            kinds[child],
            slots[child],
            [other for other in children if other != child and other not in virtual],
            random,
            rare,
            virtual=child in virtual,
            own_bus=child in virtual and apart[slots[child]],
            switch_port=kinds[child] in {PortKind.ROOT_PORT, PortKind.DOWNSTREAM},
        )


def _setting(kind, slot, mates, random, rare, *, virtual, own_bus, switch_port) -> Setting:
    acs = None
    if kind.is_pcie and random.random() < 0.7:
        capability, control = random.choice(CAPABILITIES), random.choice(CONTROLS)
        if not switch_port:
            capability &= ~0x20
        acs = Acs(capability, control)
    quirk = not virtual and random.random() < rare
    alias = [random.choice(mates)] if mates and quirk else []
    redirects = [mate for mate in mates if random.random() < 0.5] if acs and switch_port else []
    return Setting(
        kind=kind,
        slot=slot,
        acs=acs,
        multifunction=random.random() < rare,
        virtual=virtual,
        own_bus=own_bus,
        own_memory=kind in BRIDGES and random.random() < rare,
        ghost=not virtual and random.random() < rare / 2,
        aliases=frozenset(alias),
        redirects=frozenset(redirects),
    )


@st.composite
def drawings(draw: st.DrawFn, largest: int = 9) -> Drawing:
    """Draw a shape and settings for it."""
    shape = draw(st.sampled_from([s for size in range(1, largest + 1) for s in shapes(size)]))
    return random_drawing(shape, draw(st.randoms(use_true_random=False)))
