"""Make the recordings of tests/pcie/data/oracle-*: machines that random ones rarely are.

python -m tests.oracle.kernel.record FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from .dump import dump
from .fetch import obtain
from .remote import Function, dump_served
from .topology import PORT_OF_SWITCH, SRIOV, SWITCH, Part, Topology

_BRIDGES = (
    Part("edu", 1),
    Part("pci-bridge", 2, 0, (Part("pcnet,romfile=", 1), Part("edu", 1, 3))),
    Part("pci-testdev", 3),
)
_PORTS = (
    Part(PORT_OF_SWITCH, 0, 0, (Part(SRIOV),)),
    Part(PORT_OF_SWITCH, 1, 0, (Part("edu"), Part("megasas-gen2", 0, 1))),
)

MACHINES: dict[str, Topology] = {
    # Requests of what is behind the bridge carry an id that belongs to no function there.
    "bridge-alias": Topology((
        Part("pcie-root-port", 2, 0, (Part("pcie-pci-bridge", 0, 0, _BRIDGES),)),
        Part("i82801b11-bridge", 3, 0, (Part("edu", 1), Part("ES1370", 2))),
        Part("pcie-root-port", 4, 0, (Part("virtio-rng-pci"),)),
    )),
    "virtual-functions": Topology(
        (Part("pcie-root-port", 2, 0, (Part(SRIOV),)), Part("virtio-rng-pci", 3)), virtual=3
    ),
    "virtual-functions-below-open-switch": Topology(
        (Part("pcie-root-port", 2, 0, (Part(SWITCH, 0, 0, _PORTS),)),), virtual=2
    ),
    "two-root-buses": Topology((
        Part("pcie-root-port,disable-acs=on", 2, 0, (Part("edu"), Part("pvscsi", 0, 1))),
        Part("pxb-pcie,bus_nr=128", 10, 0, (Part("ioh3420", 0, 0, (Part("edu"),)),)),
    )),
}  # fmt: skip


_QUIET = {"vendor": 0x8086, "device": 0x10C9, "pcie_type": 0}  # its functions count as isolated

SERVED: dict[str, tuple[Function, ...]] = {
    # Functions that use another function's requester id: of one that is there, and of none.
    "quirk-alias": (
        Function(2, 0, 0x1B4B, 0x9123, pcie_type=0, several=True),
        Function(2, 1, **_QUIET),
        Function(3, 0, several=True, **_QUIET),
        Function(3, 1, 0x1180, 0xE832, pcie_type=0),
        Function(4, 0, several=True, **_QUIET),
        Function(4, 1, **_QUIET),
        Function(5, 0, 0x1B4B, 0x9123, pcie_type=0),
    ),
}


def main(folder: Path) -> None:
    """Boot every machine and write its recording."""
    kernel = obtain()
    for name, functions in SERVED.items():
        dump_served(kernel, functions).save(folder, name)
        print(f"{name}: written")
    for name, topology in MACHINES.items():
        dump(kernel, topology).save(folder, name)
        print(f"{name}: written")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
