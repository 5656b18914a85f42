"""Random PCIe machines: trees a real root complex could hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind, Sriov

BITS = (0x01, 0x04, 0x08, 0x10)  # SV RR CR UF

acs_settings = st.one_of(
    st.none(),
    st.builds(
        Acs,
        capability=st.sampled_from([0x5F, 0x1D, 0x04, 0x14, 0x00, 0x5C]),
        control=st.sampled_from([0, 0x1D, 0x14, 0x04, 0x10, 0x01, 0x0D, 0x1C]),
    ),
)
any_acs = st.builds(
    Acs,
    capability=st.integers(0, 0x7F),
    control=st.integers(0, 0x7F),
)


@dataclass
class _Builder:
    """Draws a tree and numbers its buses depth first."""

    draw: st.DrawFn
    budget: int
    devices: list[Device] = field(default_factory=list)
    next_bus: int = 1

    def bridge(self, bdf: Bdf, kind: PortKind, fill) -> None:
        first = self.next_bus
        self.next_bus += 1
        position = len(self.devices)
        self.devices.append(Device(bdf=bdf, kind=kind))
        fill(first)
        self.devices[position] = Device(
            bdf=bdf,
            kind=kind,
            class_code=0x0604,
            header_type=1,
            acs=self.draw(acs_settings) if kind.is_pcie else None,
            secondary=first,
            subordinate=self.next_bus - 1,
            port_number=self.draw(st.integers(0, 7)) if kind.is_pcie else 0,
        )

    def functions(self, bus: int, device: int, kind: PortKind) -> None:
        acs = acs_settings if kind.is_pcie else st.none()
        alias = self.draw(st.sampled_from([None, None, None, 0, 1]))
        for number in sorted({0} | self.draw(st.sets(st.integers(0, 7), max_size=2))):
            aliased = {Bdf(0, bus, device, alias)} if alias is not None else set()
            bdf = Bdf(0, bus, device, number)
            self.devices.append(
                Device(
                    bdf=bdf,
                    kind=kind,
                    class_code=0x0200,
                    acs=self.draw(acs),
                    pasid=self.draw(st.sampled_from([None, 20])) if kind.is_pcie else None,
                    aliases=frozenset(aliased - {bdf}),
                )
            )
            self.budget -= 1

    def below_link(self, bus: int, depth: int) -> None:
        """What a root port or downstream port may have on its link."""
        kinds = ["function", "function", "switch", "bridge", "nothing"]
        kind = self.draw(st.sampled_from(kinds)) if self.budget > 0 and depth > 0 else "function"
        if kind == "function":
            self.functions(bus, 0, PortKind.ENDPOINT)
        elif kind == "bridge":
            self.bridge(
                Bdf(0, bus, 0, 0),
                PortKind.PCIE_TO_PCI_BRIDGE,
                lambda to: self.conventional(to, depth),
            )
        elif kind == "switch":
            self.bridge(Bdf(0, bus, 0, 0), PortKind.UPSTREAM, lambda to: self.switch(to, depth))

    def switch(self, bus: int, depth: int) -> None:
        one_slot = self.draw(st.booleans())
        for index in range(self.draw(st.integers(1, 3))):
            place = Bdf(0, bus, 0, index) if one_slot else Bdf(0, bus, index, 0)
            self.bridge(place, PortKind.DOWNSTREAM, lambda to: self.below_link(to, depth - 1))

    def conventional(self, bus: int, depth: int) -> None:
        for index in range(self.draw(st.integers(1, 2))):
            self.functions(bus, index, PortKind.CONVENTIONAL)
        if depth > 0 and self.draw(st.booleans()):
            self.bridge(
                Bdf(0, bus, 5, 0), PortKind.CONVENTIONAL_BRIDGE, lambda to: self.conventional(to, 0)
            )


@st.composite
def machines(draw: st.DrawFn, budget: int = 8) -> Machine:
    """Draw a machine with at most about *budget* requesters."""
    builder = _Builder(draw, budget)
    one_slot = draw(st.booleans())
    for index in range(draw(st.integers(1, 3))):
        place = Bdf(0, 0, 1, index) if one_slot else Bdf(0, 0, 1 + index, 0)
        builder.bridge(place, PortKind.ROOT_PORT, lambda to: builder.below_link(to, 2))
    if draw(st.booleans()):
        kind = draw(st.sampled_from([PortKind.RC_INTEGRATED_ENDPOINT, PortKind.CONVENTIONAL]))
        builder.functions(0, 31, kind)
    return Machine("drawn", builder.devices)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    """Draw one function with any register contents that a configuration space can hold."""
    kind = draw(st.sampled_from(PortKind))
    bridge = kind in {
        PortKind.ROOT_PORT,
        PortKind.UPSTREAM,
        PortKind.DOWNSTREAM,
        PortKind.PCIE_TO_PCI_BRIDGE,
        PortKind.PCI_TO_PCIE_BRIDGE,
        PortKind.CONVENTIONAL_BRIDGE,
    }
    word = st.integers(0, 0xFFFE)
    secondary = draw(st.integers(1, 255)) if bridge else None
    pasid = draw(st.one_of(st.none(), st.integers(0, 20))) if kind.is_pcie else None
    sriov = st.builds(Sriov, st.booleans(), word, word, word, word)
    return Device(
        bdf=Bdf(draw(st.integers(0, 0x1FFFF)), 0, draw(st.integers(0, 31)), 0),
        kind=kind,
        # An id of no vendor: quirks would add aliases.
        vendor=0x1234,
        device=draw(word),
        class_code=draw(st.integers(0, 0xFFFF)),
        subsystem=0 if bridge else draw(st.integers(0, 0xFFFFFFFF)),
        header_type=1 if bridge else 0,
        own_memory=bridge and draw(st.booleans()),
        multifunction=draw(st.booleans()),
        acs=draw(st.one_of(st.none(), any_acs)) if kind.is_pcie else None,
        pasid=pasid,
        pasid_execute=pasid is not None and draw(st.booleans()),
        pasid_privileged=pasid is not None and draw(st.booleans()),
        ats=kind.is_pcie and draw(st.booleans()),
        pri=kind.is_pcie and draw(st.booleans()),
        sriov=draw(st.one_of(st.none(), sriov)) if kind.is_pcie and not bridge else None,
        secondary=secondary,
        subordinate=draw(st.integers(secondary, 255)) if secondary is not None else None,
        port_number=draw(st.integers(0, 255)) if kind.is_pcie else 0,
    )
