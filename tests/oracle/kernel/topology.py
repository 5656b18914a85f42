"""Machines that QEMU can build: a tree of its devices, and a hypothesis strategy for them.

What can be expressed: root ports with all of SV, RR, CR, UF or without ACS capability
(`disable-acs`), switches without ACS, PCIe-to-PCI bridges, conventional bridges, multifunction
slots of all these, a second root bus, SR-IOV (NVMe), and root-complex integrated endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

SWITCH = "x3130-upstream"
PORT_OF_SWITCH = "xio3130-downstream"
BRIDGES = {"pcie-root-port", "ioh3420", SWITCH, PORT_OF_SWITCH}
BRIDGES |= {"pcie-pci-bridge", "i82801b11-bridge", "pci-bridge", "pxb-pcie"}
_WITH_SLOT = {"pcie-root-port", "ioh3420", PORT_OF_SWITCH}

# Endpoints: PCIe ones are root-complex integrated on a root bus. `romfile=` spares a boot ROM.
EXPRESS = (
    "virtio-rng-pci",
    "nvme,serial=1",
    "e1000e,romfile=",
    "megasas-gen2",
    "qemu-xhci",
    "pvscsi",
    "virtio-net-pci,romfile=,ats=on",
)
CONVENTIONAL = (
    "edu",
    "pci-testdev",
    "e1000,romfile=",
    "ne2k_pci,romfile=",
    "pcnet,romfile=",
    "lsi53c895a",
    "ES1370",
)


@dataclass(frozen=True)
class Part:
    """One QEMU device, and what is plugged into its bus.

    Attributes:
        device: driver name and properties, as -device takes them.
        slot: device number on the bus.
        function: function number.
        below: what sits on its bus.

    """

    device: str
    slot: int = 0
    function: int = 0
    below: tuple[Part, ...] = ()

    @property
    def driver(self) -> str:
        """Name of the QEMU device."""
        return self.device.partition(",")[0]


@dataclass(frozen=True)
class Topology:
    """A machine: the parts on q35's root bus, and the kernel it is booted with.

    Attributes:
        parts: what sits on the root bus, beside q35's own functions.
        parameters: kernel parameters.
        scalable: the IOMMU can do scalable mode.
        virtual: number of virtual functions to switch on in each function that has any.

    """

    parts: tuple[Part, ...] = ()
    parameters: tuple[str, ...] = ()
    scalable: bool = True
    virtual: int = 0

    @property
    def size(self) -> int:
        """Number of parts."""
        return sum(1 for _ in walk(self.parts))

    @property
    def iommu(self) -> str:
        """Argument of -device for the IOMMU."""
        mode = "x-scalable-mode=on" if self.scalable else "x-scalable-mode=off"
        return f"intel-iommu,intremap=on,device-iotlb=on,{mode}"

    @property
    def kernel_parameters(self) -> tuple[str, ...]:
        """All parameters for the kernel's command line."""
        return ("intel_iommu=on,sm_on" if self.scalable else "intel_iommu=on", *self.parameters)


def walk(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield all parts, each before what is below it."""
    for part in parts:
        yield part
        yield from walk(part.below)


@dataclass
class _Arguments:
    """QEMU arguments under construction."""

    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, parts: tuple[Part, ...], bus: str) -> None:
        several = {part.slot for part in parts if part.function}
        # QEMU wants function 0 of a slot first or its multifunction bit is asked for too late.
        for part in sorted(parts, key=lambda part: (part.slot, part.function)):
            self.count += 1
            words = [part.device, f"addr={part.slot:x}.{part.function}"]
            if bus:
                words.append(f"bus={bus}")
            if part.slot in several and part.function == 0:
                words.append("multifunction=on")
            name = f"b{self.count}"
            if part.driver in BRIDGES:
                words.append(f"id={name}")
            if part.driver in _WITH_SLOT:
                words += [f"chassis={self.count}", f"slot={self.count}"]
            if part.driver == "pci-bridge":
                words.append(f"chassis_nr={self.count}")
            if "sriov_max_vfs" in part.device:
                self.found += ["-device", f"nvme-subsys,id=s{self.count}"]
                words.append(f"subsys=s{self.count}")
            self.found += ["-device", ",".join(words)]
            self.add(part.below, name)


def arguments(parts: Iterable[Part]) -> list[str]:
    """Return the QEMU arguments that build *parts* on the root bus."""
    result = _Arguments()
    result.add(tuple(parts), "")
    return result.found


SRIOV = (
    "nvme,serial=1,sriov_max_vfs=3,sriov_vq_flexible=6,sriov_vi_flexible=3,"
    "max_ioqpairs=8,msix_qsize=6"
)


ROOT_PORTS = (
    "pcie-root-port",
    "ioh3420",
    "pcie-root-port,disable-acs=on",
    "ioh3420,disable-acs=on",
)
BUDGET = 16
PARAMETERS = (
    *[""] * 4,
    "pci=disable_acs_redir=pci:1b36:000c",
    "pci=disable_acs_redir=00:02.0;pci:8086:3420",
    # Known from 6.11 on; older kernels ignore it.
    "pci=config_acs=x110x@pci:1b36:000c;10xx1@pci:8086:3420",
)


def _slots(
    kinds: st.SearchStrategy[Part], first: int, fewest: int, most: int, functions: int
) -> st.SearchStrategy[tuple[Part, ...]]:
    """Draw the parts of a bus: lists of slots, lists of functions, so that shrinking drops any."""
    gap = st.sampled_from((1, 1, 2, 3))
    slot = st.lists(st.tuples(kinds, gap), min_size=1, max_size=functions)
    return st.lists(slot, min_size=fewest, max_size=most).map(lambda drawn: _number(drawn, first))


def _number(drawn: list[list[tuple[Part, int]]], first: int) -> tuple[Part, ...]:
    parts = []
    for slot, functions in enumerate(drawn, first):
        number = 0
        for part, gap in functions:
            if number > 7:
                break
            parts.append(replace(part, slot=slot, function=number))
            number += gap
    return tuple(parts)


def _plain(devices: Iterable[str]) -> st.SearchStrategy[Part]:
    return st.sampled_from([Part(device) for device in devices])


def _conventional(depth: int) -> st.SearchStrategy[Part]:
    """Draw what sits on a conventional bus."""
    plain = _plain(CONVENTIONAL)
    if not depth:
        return plain
    below = _slots(_conventional(depth - 1), 1, 0, 2, 2)
    return st.one_of(plain, plain, below.map(lambda parts: Part("pci-bridge", below=parts)))


def _link(depth: int) -> st.SearchStrategy[tuple[Part, ...]]:
    """Draw what is plugged into a root port or downstream port: one slot, or nothing."""
    plain = _plain((*EXPRESS, "edu"))
    if not depth:
        return _slots(plain, 0, 0, 1, 2)
    bridge = _slots(_conventional(1), 1, 0, 3, 3)
    ports = _link(depth - 1).map(lambda parts: Part(PORT_OF_SWITCH, below=parts))
    switch = _slots(ports, 0, 1, 3, 3)
    kinds = st.one_of(
        plain,
        bridge.map(lambda parts: Part("pcie-pci-bridge", below=parts)),
        switch.map(lambda parts: Part(SWITCH, below=parts)),
    )
    full = _slots(kinds, 0, 1, 1, 3)
    rare = st.sampled_from([(), (), (Part(SRIOV),)])
    return st.one_of(rare, full, full, full, full)


def _root_port() -> st.SearchStrategy[Part]:
    return st.builds(Part, st.sampled_from(ROOT_PORTS), below=_link(2))


def _root_bus() -> st.SearchStrategy[Part]:
    bridge = _slots(_conventional(1), 1, 0, 3, 2)
    return st.one_of(
        _plain((*EXPRESS[:4], *CONVENTIONAL[:3])),
        *[_root_port()] * 6,
        bridge.map(lambda parts: Part("i82801b11-bridge", below=parts)),
    )


def _trim(parts: tuple[Part, ...], budget: int) -> tuple[tuple[Part, ...], int]:
    """Return at most *budget* of the parts, depth first, and what is left of the budget."""
    kept = []
    for part in parts:
        if budget <= 0:
            break
        below, budget = _trim(part.below, budget - 1)
        kept.append(replace(part, below=below))
    return tuple(kept), budget


@st.composite
def topologies(draw: st.DrawFn, budget: int = BUDGET) -> Topology:
    """Draw a machine with at most *budget* parts beside q35's own functions."""
    parts = draw(_slots(_root_bus(), 2, 1, 6, 4))
    second = draw(st.one_of(st.just(()), st.just(()), _slots(_root_port(), 0, 1, 1, 2)))
    if second:
        parts = (Part("pxb-pcie,bus_nr=128", 10, 0, second), *parts)
    parts, _ = _trim(parts, budget)
    parameter = draw(st.sampled_from(PARAMETERS))
    virtual = any(part.device == SRIOV for part in walk(parts))
    return Topology(
        parts,
        (parameter,) if parameter else (),
        draw(st.booleans()),
        draw(st.integers(1, 3)) if virtual else 0,
    )
