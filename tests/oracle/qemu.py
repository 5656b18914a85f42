"""A running QEMU with an emulated VT-d and a device that does DMA, driven over the qtest socket.

Debian builds QEMU without the qtest accelerator, so the guest runs a ROM that halts at the reset
vector. Guest RAM is a shared file that this process maps too. The DMA comes from the test engine of
the `rocker` switch: synchronous, with 64-bit addresses.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

BINARY = shutil.which("qemu-system-x86_64")
RAM = 64 << 20
IOMMU = 0xFED90000
BAR = 0xE0000000
DEVFN = 3 << 3
PATTERN = b"\x96"

_GCMD, _GSTS, _RTADDR, _CCMD, _FSTS = 0x18, 0x1C, 0x20, 0x28, 0x34
_DMA_ADDR, _DMA_SIZE, _DMA_CTRL = 0x28, 0x30, 0x34
_FILL, _INVERT = 2, 4


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


class Qemu:
    """One QEMU process; use it as a context manager.

    Args:
        scalable: scalable mode capable unit.
        options: further properties of the intel-iommu device.
    """

    def __init__(self, scalable: bool, options: str = "") -> None:
        self._dir = Path(tempfile.mkdtemp(prefix="vtd-oracle-", dir=_shm()))
        self._file = (self._dir / "ram").open("w+b")
        self._file.truncate(RAM)
        self.ram = mmap.mmap(self._file.fileno(), RAM)
        rom = bytearray(b"\xf4" * 65536)
        rom[0xFFF0:0xFFF4] = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to hlt
        (self._dir / "rom").write_bytes(rom)
        device = "intel-iommu,intremap=off,aw-bits=48"
        if scalable:
            device += ",x-scalable-mode=on"
        command = [
            BINARY or "", "-nodefaults", "-display", "none", "-no-user-config", "-accel", "tcg",
            "-machine", "q35,memory-backend=ram", "-m", "64M", "-smp", "1",
            "-object", f"memory-backend-file,id=ram,size=64M,share=on,mem-path={self._dir}/ram",
            "-bios", f"{self._dir}/rom", "-device", device + options,
            "-device", "rocker,name=dma,addr=3.0",
            "-qtest", f"unix:{self._dir}/qtest", "-qtest-log", "/dev/null",
        ]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._dir / "qtest"))
        listener.listen(1)
        listener.settimeout(30)
        self._errors = (self._dir / "stderr").open("w+b")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=self._errors)
        try:
            self._socket, _ = listener.accept()
        except TimeoutError:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")
            self.close()
            raise RuntimeError(f"QEMU did not start: {text}") from None
        finally:
            listener.close()
        self._socket.settimeout(30)
        self._replies = self._socket.makefile("rb")
        self._setup()

    def __enter__(self) -> Qemu:
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

    def _config(self, register: int, value: int) -> list[str]:
        return [f"outl 0xcf8 {1 << 31 | DEVFN << 8 | register:#x}", f"outl 0xcfc {value:#x}"]

    def _setup(self) -> None:
        self.batch([*self._config(0x10, BAR), *self._config(4, 0x6)])
        self.cap, self.ecap = self.batch([f"readq {IOMMU + 8:#x}", f"readq {IOMMU + 16:#x}"])
        self._records = IOMMU + (self.cap >> 24 & 0x3FF) * 16
        self._iva = IOMMU + (self.ecap >> 8 & 0x3FF) * 16

    def set_root(self, rtaddr: int) -> None:
        """Load the root-table address and switch translation on."""
        self.batch([
            f"writeq {IOMMU + _RTADDR:#x} {rtaddr:#x}",
            f"writel {IOMMU + _GCMD:#x} 0x40000000", f"writel {IOMMU + _GCMD:#x} 0x80000000",
        ])

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
        self.batch([f"writeq {self._iva:#x} {address & ~0xFFF | am:#x}",
                    f"writeq {self._iva + 8:#x} {1 << 63 | 3 << 60 | did << 32:#x}"])

    def access(self, address: int, size: int, control: int) -> list[str]:
        """Return the commands of one DMA (control 2 fills, 4 reads and inverts)."""
        return [f"writeq {BAR + _DMA_ADDR:#x} {address:#x}",
                f"writel {BAR + _DMA_SIZE:#x} {size:#x}",
                f"writel {BAR + _DMA_CTRL:#x} {control:#x}"]

    def dma(self, address: int, region: range, *, write: bool = True, flush: bool = True,
            size: int = 4) -> Seen:
        """Do one DMA and say where it landed in *region* (searched for, then restored).

        A read is a read followed by a write of the inverted bytes: the write tells that the read
        landed, and where. The first fault of the two is the one reported.
        """
        start, stop = region.start, region.stop
        fresh = (PATTERN if write else b"\x69") * size
        if not write:
            self.ram[start:stop] = PATTERN * (stop - start)
        commands = [*(self.flush() if flush else []),
                    *self.access(address, size, _FILL if write else _INVERT),
                    f"readl {IOMMU + _FSTS:#x}", f"readq {self._records:#x}",
                    f"readq {self._records + 8:#x}",
                    f"writel {self._records + 12:#x} 0x80000000",
                    f"writel {IOMMU + _FSTS:#x} 0x1"]
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
        self.ram[region.start:region.stop] = bytes(len(region))
        for address, value in words.items():
            struct.pack_into("<Q", self.ram, address, value)

    def store(self, address: int, *words: int) -> None:
        """Store quadwords from *address* on."""
        struct.pack_into(f"<{len(words)}Q", self.ram, address, *words)


def _shm() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
