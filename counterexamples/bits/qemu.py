"""A running QEMU with an emulated VT-d and devices that do DMA, driven over the qtest socket.

Debian builds QEMU without the qtest accelerator, so the guest runs a ROM that halts at the reset
vector. Guest RAM is a shared file that this process maps too. The DMA comes from the test engine of
the `rocker` switch: synchronous, with 64-bit addresses. Requesters other than the one on the root
bus sit behind root ports whose bus numbers are set as asked for.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

BINARY = shutil.which("qemu-system-x86_64")
RAM: Final = 64 << 20
IOMMU: Final = 0xFED90000
BAR: Final = 0xE0000000
DEVFN: Final = 3 << 3
PATTERN: Final = b"\x96"

_GCMD, _GSTS, _RTADDR, _CCMD, _FSTS = 0x18, 0x1C, 0x20, 0x28, 0x34
_IQH, _IQT, _IQA = 0x80, 0x88, 0x90
_SRTP, _TE, _QIE = 1 << 30, 1 << 31, 1 << 26
_DMA_ADDR, _DMA_SIZE, _DMA_CTRL = 0x28, 0x30, 0x34
_FILL, _INVERT = 2, 4
_WINDOW: Final = 1 << 20
_TAKEN: Final = {0, *range(0x1F << 3, 0x20 << 3)}  # host bridge, and what q35 has at 1f.x
_SECONDS: Final = 30


class NotStarted(RuntimeError):
    """QEMU is missing, or did not start."""


@dataclass(frozen=True)
class Seen:
    """What one DMA did.

    Attributes:
        hpa: where the bytes landed in the searched region; None: nowhere there.
        code: recorded fault reason, None if nothing was recorded.
        address: recorded page address.
        read: the recorded fault was a read.
    """

    hpa: int | None
    code: int | None
    address: int = 0
    read: bool = False


class Topology:
    """Where the requesters of one machine sit, as QEMU's arguments and configuration cycles.

    Args:
        requesters: requester ids (16 bits).

    Attributes:
        bars: address of each requester's registers.

    Raises:
        ValueError: an id is one that QEMU's chipset has, or the root bus has no slot left.
    """

    def __init__(self, requesters: Sequence[int]) -> None:
        self.requesters = tuple(dict.fromkeys(requesters))
        # In the order of their buses: the windows of two ports must not overlap.
        by_bus = sorted(self.requesters, key=lambda rid: rid >> 8)
        self.bars = {rid: BAR + n * _WINDOW for n, rid in enumerate(by_bus)}
        clash = [rid for rid in self.requesters if rid in _TAKEN]
        if clash:
            raise ValueError(f"requester id {clash[0]:#06x} is a device of QEMU's chipset")
        self._ports: dict[int, int] = {}
        free = (slot for slot in range(1, 0x1F) if not self._on_root(slot))
        for bus in sorted({rid >> 8 for rid in self.requesters} - {0}):
            slot = next(free, None)
            if slot is None:
                raise ValueError("QEMU's root bus has no slot left for a root port")
            self._ports[bus] = slot << 3

    def _on_root(self, slot: int) -> bool:
        return any(rid >> 8 == 0 and rid >> 3 == slot for rid in self.requesters)

    def arguments(self) -> list[str]:
        """Return the arguments that make the ports and devices.

        QEMU answers for the other functions of a slot only if it has a function 0.
        """
        found = []
        for bus, devfn in self._ports.items():
            place = f"addr={devfn >> 3:#x}.{devfn & 7}"
            found += ["-device", f"pcie-root-port,id=port{bus},chassis={bus},slot={bus},{place}"]
        firsts = {rid & ~7 for rid in self.requesters}
        for n, rid in enumerate(sorted(firsts | {*self.requesters})):
            where = f"bus=port{rid >> 8}," if rid >> 8 else ""
            place = f"addr={rid >> 3 & 31:#x}.{rid & 7}"
            found += ["-device", f"rocker,name=dma{n},{where}multifunction=on,{place}"]
        return found

    def commands(self) -> list[str]:
        """Return the configuration cycles that give buses, windows and registers their place."""
        found = []
        for bus, devfn in self._ports.items():
            mine = [at for rid, at in self.bars.items() if rid >> 8 == bus]
            window = (min(mine) >> 16 & 0xFFF0) | (max(mine) & 0xFFF00000)
            found += _config(devfn, 0x18, bus << 16 | bus << 8)
            found += _config(devfn, 0x20, window)
            found += _config(devfn, 0x04, 0x6)
        for rid, at in self.bars.items():
            found += [*_config(rid, 0x10, at), *_config(rid, 0x04, 0x6)]
        return found


def _config(rid: int, register: int, value: int) -> list[str]:
    return [f"outl 0xcf8 {1 << 31 | rid << 8 | register:#x}", f"outl 0xcfc {value:#x}"]


class Qemu:
    """One QEMU process; use it as a context manager.

    Args:
        scalable: scalable mode capable unit.
        options: further properties of the intel-iommu device.
        requesters: requester ids (16 bits) of the devices that do DMA.

    Attributes:
        ram: the guest's memory.
        cap, ecap: capability registers as the unit reports them.

    Raises:
        NotStarted: QEMU is not installed, or ends at once.
        ValueError: a requester cannot be placed.
    """

    def __init__(
        self, scalable: bool, options: str = "", requesters: Sequence[int] = (DEVFN,)
    ) -> None:
        if BINARY is None:
            raise NotStarted("qemu-system-x86_64 is not installed")
        self._topology = Topology(requesters)
        self._dir = Path(tempfile.mkdtemp(prefix="vtd-oracle-", dir=_shm()))
        self._file = (self._dir / "ram").open("w+b")
        self._file.truncate(RAM)
        self.ram = mmap.mmap(self._file.fileno(), RAM)
        rom = bytearray(b"\xf4" * 65536)
        rom[0xFFF0:0xFFF4] = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to hlt
        (self._dir / "rom").write_bytes(rom)
        self._errors = (self._dir / "stderr").open("w+b")
        self._start(scalable, options)
        self._socket.settimeout(_SECONDS)
        self._replies = self._socket.makefile("rb")
        try:
            self._setup()
        except (OSError, RuntimeError):  # it connects before it looks at all its arguments
            raise self._failed() from None

    def _start(self, scalable: bool, options: str) -> None:
        device = "intel-iommu,intremap=off,aw-bits=48"
        if scalable:
            device += ",x-scalable-mode=on"
        command = [
            BINARY or "",
            "-nodefaults",
            "-display",
            "none",
            "-no-user-config",
            "-accel",
            "tcg",
            "-machine",
            "q35,memory-backend=ram",
            "-m",
            "64M",
            "-smp",
            "1",
            "-object",
            f"memory-backend-file,id=ram,size=64M,share=on,mem-path={self._dir}/ram",
            "-bios",
            f"{self._dir}/rom",
            "-device",
            device + options,
            *self._topology.arguments(),
            "-qtest",
            f"unix:{self._dir}/qtest",
            "-qtest-log",
            "/dev/null",
        ]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._dir / "qtest"))
        listener.listen(1)
        listener.settimeout(_SECONDS)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors
        )
        try:
            self._socket = self._accepted(listener)
        finally:
            listener.close()

    def _accepted(self, listener: socket.socket) -> socket.socket:
        """Wait for QEMU to connect, or to end."""
        listener.settimeout(0.1)
        for _ in range(10 * _SECONDS):
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self._process.poll() is not None:
                    break
        raise self._failed()

    def _failed(self) -> NotStarted:
        """Clean up, and return what QEMU says of its end."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        self.close()
        return NotStarted(f"QEMU did not start: {text[-300:] or 'it says nothing'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.kill()
        self._process.wait()
        for part in ("_replies", "_socket"):
            if hasattr(self, part):
                getattr(self, part).close()
        self._errors.close()
        self.ram.close()
        self._file.close()
        shutil.rmtree(self._dir, ignore_errors=True)

    def version(self) -> str:
        """Return what the binary says of its version."""
        found = subprocess.run(
            [BINARY or "", "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        return found.stdout.splitlines()[0] if found.stdout else "QEMU"

    def batch(self, commands: list[str]) -> list[int]:
        """Send commands at once; return the values they read (0 for those that read none)."""
        self._socket.sendall(("\n".join(commands) + "\n").encode())
        values = []
        for command in commands:
            line = self._replies.readline().split()
            while line and line[0] == b"IRQ":
                line = self._replies.readline().split()
            if not line or line[0] != b"OK":
                raise RuntimeError(f"qtest: {command}: {line!r}")
            values.append(int(line[1], 16) if len(line) > 1 else 0)
        return values

    def _setup(self) -> None:
        self.batch(self._topology.commands())
        self.cap, self.ecap = self.batch([f"readq {IOMMU + 8:#x}", f"readq {IOMMU + 16:#x}"])
        self._records = IOMMU + (self.cap >> 24 & 0x3FF) * 16
        self._iva = IOMMU + (self.ecap >> 8 & 0x3FF) * 16

    def set_root(self, rtaddr: int) -> None:
        """Load the root-table address and switch translation on."""
        self.batch(
            [
                f"writeq {IOMMU + _RTADDR:#x} {rtaddr:#x}",
                f"writel {IOMMU + _GCMD:#x} {_SRTP:#x}",
                f"writel {IOMMU + _GCMD:#x} {_TE:#x}",
            ]
        )

    # -- the invalidation queue -------------------------------------------------------------

    def set_queue(self, iqa: int) -> None:
        """Empty all caches, load the address of the invalidation queue and switch it on."""
        self.batch(
            [
                f"writel {IOMMU + _GCMD:#x} {_TE:#x}",
                *self.flush(),
                f"writeq {IOMMU + _IQT:#x} 0x0",
                f"writeq {IOMMU + _IQA:#x} {iqa:#x}",
                f"writel {IOMMU + _GCMD:#x} {_TE | _QIE:#x}",
            ]
        )

    def ring(self, tail: int) -> tuple[int, int]:
        """Move the tail of the queue; return its head and the fault status afterwards."""
        values = self.batch(
            [
                f"writeq {IOMMU + _IQT:#x} {tail:#x}",
                f"readq {IOMMU + _IQH:#x}",
                f"readl {IOMMU + _FSTS:#x}",
            ]
        )
        return values[1], values[2]

    # -- invalidation registers -------------------------------------------------------------

    def flush(self) -> list[str]:
        """Return the commands of a global context and IOTLB flush."""
        return [
            f"writeq {IOMMU + _CCMD:#x} {1 << 63 | 1 << 61:#x}",
            f"writeq {self._iva + 8:#x} {1 << 63 | 1 << 60:#x}",
        ]

    def flush_context(self, sid: int, did: int) -> None:
        """Flush the context cache of one device."""
        self.batch([f"writeq {IOMMU + _CCMD:#x} {1 << 63 | 3 << 61 | sid << 16 | did:#x}"])

    def flush_domain(self, did: int) -> None:
        """Flush the IOTLB of one domain."""
        self.batch([f"writeq {self._iva + 8:#x} {1 << 63 | 2 << 60 | did << 32:#x}"])

    def flush_page(self, did: int, address: int, am: int = 0) -> None:
        """Flush pages of one domain."""
        self.batch(
            [
                f"writeq {self._iva:#x} {address & ~0xFFF | am:#x}",
                f"writeq {self._iva + 8:#x} {1 << 63 | 3 << 60 | did << 32:#x}",
            ]
        )

    # -- DMA --------------------------------------------------------------------------------

    def access(
        self, address: int, size: int, control: int, requester: int | None = None
    ) -> list[str]:
        """Return the commands of one DMA (control 2 fills, 4 reads and inverts)."""
        bar = self._topology.bars[self._topology.requesters[0] if requester is None else requester]
        return [
            f"writeq {bar + _DMA_ADDR:#x} {address:#x}",
            f"writel {bar + _DMA_SIZE:#x} {size:#x}",
            f"writel {bar + _DMA_CTRL:#x} {control:#x}",
        ]

    def dma(
        self,
        address: int,
        region: range,
        *,
        write: bool = True,
        flush: bool = True,
        size: int = 4,
        requester: int | None = None,
    ) -> Seen:
        """Do one DMA and say where it landed in *region* (searched for, then restored).

        A read is a read followed by a write of the inverted bytes: the write tells that the read
        landed, and where. The first fault of the two is the one reported. Without *requester* the
        first device does it.
        """
        start, stop = region.start, region.stop
        fresh = (PATTERN if write else b"\x69") * size
        if not write:
            self.ram[start:stop] = PATTERN * (stop - start)
        commands = [
            *(self.flush() if flush else []),
            *self.access(address, size, _FILL if write else _INVERT, requester),
            f"readl {IOMMU + _FSTS:#x}",
            f"readq {self._records:#x}",
            f"readq {self._records + 8:#x}",
            f"writel {self._records + 12:#x} 0x80000000",
            f"writel {IOMMU + _FSTS:#x} 0x1",
        ]
        values = self.batch(commands)
        status, low, high = values[-5:-2]
        found = self.ram.find(fresh, start, stop)
        hpa = found if found >= 0 else None
        self.ram[start:stop] = bytes(stop - start)
        if status & 2 and high >> 63:
            return Seen(hpa, high >> 32 & 0xFF, low & ~0xFFF, bool(high >> 62 & 1))
        return Seen(hpa, None)

    def load(self, words: dict[int, int], region: range) -> None:
        """Clear *region* of memory and store quadwords."""
        self.ram[region.start : region.stop] = bytes(len(region))
        for address, value in words.items():
            struct.pack_into("<Q", self.ram, address, value)

    def store(self, address: int, *words: int) -> None:
        """Store quadwords from *address* on."""
        struct.pack_into(f"<{len(words)}Q", self.ram, address, *words)


def _shm() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
