"""Functions with any identity: QEMU's `x-pci-proxy-dev`, whose configuration space we serve.

QEMU sends what the guest reads and writes over a socket (hw/remote/mpqemu-link.h): a header of
command and size, then data. So a guest can be shown devices that nobody emulates, which is how the
kernel's tables of quirks are compared with ours. Spaces have 256 bytes: no extended capabilities.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .boot import BootError
from .dump import Dump, dump
from .fetch import Kernel
from .topology import Part, Topology

MOST = 8
"""QEMU 7.2's proxy has a race that ends it, the more often the more functions there are."""
_TRIES = 8
_HEADER = struct.Struct("<iiQ")
_CONFIG = struct.Struct("<IIi")
_RETURN, _WRITE, _READ, _RESET = 1, 2, 3, 7
_ANSWERED = {_WRITE, _READ, _RESET}
# The command register and the bus numbers of a bridge; no BARs, no windows.
_COMMAND, _BUSES = range(0x04, 0x06), range(0x18, 0x1B)


@dataclass(frozen=True)
class Function:
    """A function that exists only as a configuration space.

    Attributes:
        slot: device number on its bus.
        number: function number.
        vendor: vendor id.
        device: device id.
        subsystem: subsystem vendor id << 16 | subsystem id.
        pcie_type: device/port type of a PCI Express capability, None for conventional PCI.
        bridge: has the header of a PCI bridge (nothing can be behind it).
        several: other functions share the slot.

    """

    slot: int
    number: int
    vendor: int
    device: int
    subsystem: int = 0
    pcie_type: int | None = None
    bridge: bool = False
    several: bool = False

    def space(self) -> bytearray:
        """Return its configuration space."""
        data = bytearray(256)
        struct.pack_into("<HHHH", data, 0, self.vendor, self.device, 0, 0)
        data[0x0A:0x0C] = b"\x04\x06" if self.bridge else b"\x00\xff"  # or class: unassigned
        data[0x0E] = int(self.bridge) | (0x80 if self.several and self.number == 0 else 0)
        if not self.bridge:
            struct.pack_into("<HH", data, 0x2C, self.subsystem >> 16, self.subsystem & 0xFFFF)
        if self.pcie_type is not None:
            data[0x06], data[0x34] = 0x10, 0x40
            struct.pack_into("<BBH", data, 0x40, 0x10, 0, 2 | self.pcie_type << 4)
        return data


@contextlib.contextmanager
def served(functions: Sequence[Function]) -> Iterator[tuple[list[Part], list[int]]]:
    """Serve *functions* while the context lasts; yield their parts and descriptors for QEMU."""
    pairs = [socket.socketpair() for _ in functions]
    for function, (ours, _) in zip(functions, pairs, strict=True):
        threading.Thread(target=_serve, args=(ours, function.space()), daemon=True).start()
    parts = [
        Part(f"x-pci-proxy-dev,fd={theirs.fileno()}", function.slot, function.number)
        for function, (_, theirs) in zip(functions, pairs, strict=True)
    ]
    try:
        yield parts, [theirs.fileno() for _, theirs in pairs]
    finally:
        for ours, theirs in pairs:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)  # ends the thread
            ours.close()
            theirs.close()


def dump_served(kernel: Kernel, functions: Sequence[Function], *, below: bool = False) -> Dump:
    """Boot with *functions* and return what the kernel says of them.

    Args:
        kernel: what to boot.
        functions: at most MOST.
        below: put them below a root port. Bridges must be there: QEMU, which takes them for
            functions, lists those of the root bus in the DMAR table, and a kernel that finds
            bridges there instead does not trust the table.

    Raises:
        BootError: QEMU crashed every time, or the boot failed otherwise.

    """
    assert len(functions) <= MOST
    for attempt in range(_TRIES):
        with served(functions) as (parts, descriptors):
            try:
                built = tuple(parts)
                if below:
                    built = (Part("pcie-root-port", 2, 0, built),)
                return dump(kernel, Topology(built), descriptors)
            except BootError as error:
                if "code -11" not in str(error) or attempt + 1 == _TRIES:
                    raise
    raise AssertionError


def _serve(link: socket.socket, space: bytearray) -> None:
    """Answer until the other end is gone."""
    with contextlib.suppress(OSError, ConnectionError):
        while True:
            command, _, size = _HEADER.unpack(_receive(link, _HEADER.size))
            body = _receive(link, size)
            value = 0
            if command in {_READ, _WRITE}:
                address, written, length = _CONFIG.unpack(body[: _CONFIG.size])
                if command == _READ:
                    value = int.from_bytes(space[address : address + length], "little")
                # All ones ask for the size of a BAR, also where a bridge has its bus numbers.
                probing = written == 0xFFFFFFFF
                for index in range(length) if command == _WRITE and not probing else ():
                    place = address + index
                    if place in _COMMAND or (space[0x0E] & 1 and place in _BUSES):
                        space[place] = written >> 8 * index & 0xFF
            if command in _ANSWERED:
                link.sendall(_HEADER.pack(_RETURN, 0, 8) + struct.pack("<Q", value))


def _receive(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        # Descriptors that come along (memory, interrupts) are closed at once: nothing does DMA.
        more, descriptors, _, _ = socket.recv_fds(link, size - len(data), 16)
        for descriptor in descriptors:
            socket.close(descriptor)
        if not more:
            raise ConnectionError
        data += more
    return data
