"""One boot that makes many sequences of VFIO calls, and what each call gave.

The machine: groups of `edu` functions on the root bus, a slot a group. Members are bound to
vfio-pci, to a driver that does DMA through the kernel (NVMe), or to none.
"""

from __future__ import annotations

import errno as numbers
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmaproof.model.vfio import type1_state as t
from dmaproof.model.vfio.type1_state import Call, Platform
from dmaproof.model.vfio.type1_uapi import Answer

from ..kernel.boot import Boot, BootError, boot
from ..kernel.fetch import Kernel
from ..kernel.topology import Part, arguments

GCC = shutil.which("gcc")
SOURCE = Path(__file__).with_name("calls.c")
MEMORY = 0x200000000
MEMORY_BYTES = 8 * t.PAGE
ENTRY_LIMIT = 5
MODULES = (f"vfio_iommu_type1 dma_entry_limit={ENTRY_LIMIT}", "vfio-pci")
"""With what they need: irqbypass, vfio, vfio_virqfd, vfio-pci-core."""
STUCK = -2

Groups = Mapping[str, Mapping[str, str]]

# An empty reset_method keeps vfio-pci from resetting buses, which takes a second each time.
BIND = """
for d in {functions}; do
  p=/sys/bus/pci/devices/$d
  echo > $p/reset_method 2>/dev/null
  echo vfio-pci > $p/driver_override
  echo $d > /sys/bus/pci/drivers_probe
done
"""
KERNEL_DRIVER = """
for d in {functions}; do
  for t in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/bus/pci/devices/$d/driver ] && break; sleep 0.1; done
done
"""
CALL = """
/calls < /sequences > /out/results; echo $? > /out/code
ls /dev/vfio > /out/groups
"""


@functools.cache
def program() -> bytes:
    """Return the compiled program.

    Raises:
        RuntimeError: gcc refuses it.

    """
    with tempfile.TemporaryDirectory(prefix="vfio-oracle-") as place:
        target = Path(place) / "calls"
        command = [GCC or "gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror"]
        command += [str(SOURCE), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"gcc: {done.stderr}")
        return target.read_bytes()


def machine(shape: Sequence[Sequence[str]]) -> Groups:
    """Return groups by name: a slot of the root bus each, its functions and their drivers."""
    return {
        f"G{index}": {f"0000:00:{index + 2:02x}.{n}": driver for n, driver in enumerate(drivers)}
        for index, drivers in enumerate(shape)
    }


def parts(groups: Groups) -> list[Part]:
    """Return the QEMU parts of *groups*."""
    found = []
    for members in groups.values():
        for function, driver in members.items():
            device = "edu,dma_mask=0xffffffffffffffff"
            if driver == "kernel":
                device = "nvme,serial=1"
            found.append(Part(device, int(function[8:10], 16), int(function[11])))
    return found


def platform(groups: Groups, kernel: Kernel, *, isolated_interrupts: bool = True) -> Platform:
    """Return what the model must know of the booted machine."""
    version = tuple(int(part) for part in kernel.release.split(".")[:2])
    return Platform(
        groups,
        kernel=(version[0], version[1]),
        entry_limit=ENTRY_LIMIT,
        memory=(range(MEMORY, MEMORY + MEMORY_BYTES),),
        isolated_interrupts=isolated_interrupts,
    )


_LETTERS = {
    t.OpenContainer: "o", t.OpenGroup: "g", t.Close: "x", t.GroupStatus: "s", t.SetContainer: "j",
    t.UnsetContainer: "l", t.GetDevice: "d", t.CheckExtension: "e", t.SetIommu: "i", t.GetInfo: "q",
    t.MapDma: "m", t.UnmapDma: "u", t.Dma: "w",
}  # fmt: skip
_BASES = {"c": 0, "g": 8, "d": 16}
"""Slots are called c0, g1, d2; devices have the highest numbers, as they are closed first."""


def _number(slot: str) -> int:
    return _BASES[slot[0]] + int(slot[1:]) if slot else -1


def line(call: Call, groups: Groups) -> str:
    """Return the program's line for *call*."""
    words: list[object] = [_LETTERS[type(call)], _number(call.slot)]
    match call:
        case t.OpenGroup():
            words.append(next(iter(groups[call.group])))
        case t.GroupStatus() | t.GetInfo():
            words.append(call.argsz)
        case t.SetContainer():
            words.append(_number(call.container))
        case t.GetDevice():
            words += [_number(call.group), call.device]
        case t.CheckExtension():
            words.append(call.extension)
        case t.SetIommu():
            words.append(call.iommu)
        case t.MapDma():
            words += [call.argsz, call.flags, call.vaddr, call.iova, call.size, int(call.readable)]
        case t.UnmapDma():
            words += [call.argsz, call.flags, call.iova, call.size, int(call.readable)]
        case t.Dma():
            words.append(call.iova)
    return " ".join(map(str, words))


@dataclass(frozen=True)
class Results:
    """What the kernel gave.

    Attributes:
        answers: for each sequence, for each call, its value and errno's name.
        boot: the boot.

    """

    answers: list[list[Answer]]
    boot: Boot


def run(
    kernel: Kernel,
    groups: Groups,
    sequences: Sequence[Sequence[Call]],
    *,
    interrupt_remapping: bool = True,
    extra: Iterable[str] = (),
) -> Results:
    """Boot once, make all sequences, each from a fresh state.

    Raises:
        BootError: the boot failed, or fewer answers came back than calls were made.

    """
    by_driver = {
        driver: " ".join(f for m in groups.values() for f, d in m.items() if d == driver)
        for driver in ("vfio", "kernel")
    }
    nvme = ("nvme",) if by_driver["kernel"] else ()
    done = boot(
        kernel,
        arguments(parts(groups)),
        BIND.format(functions=by_driver["vfio"])
        + KERNEL_DRIVER.format(functions=by_driver["kernel"])
        + CALL,
        parameters=("intel_iommu=on,sm_on", *extra),
        iommu=f"intel-iommu,intremap={'on' if interrupt_remapping else 'off'}",
        files={"calls": program(), "sequences": _text(sequences, groups).encode()},
        modules=(*MODULES, *nvme),
    )
    answers = [_answer(row) for row in bytes(done.files.get("results", b"")).decode().splitlines()]
    if len(answers) != sum(map(len, sequences)) or done.files.get("code") != b"0\n":
        raise BootError(
            f"{len(answers)} answers to {sum(map(len, sequences))} calls, the program ended with "
            f"{done.files.get('code')!r}; the kernel said:\n"
            + bytes(done.files.get("dmesg", b"")).decode(errors="replace")[-3000:]
        )
    rest = iter(answers)
    return Results([[next(rest) for _ in sequence] for sequence in sequences], done)


def _text(sequences: Sequence[Sequence[Call]], groups: Groups) -> str:
    rows = []
    for sequence in sequences:
        rows.append("S")
        rows += [line(call, groups) for call in sequence]
    return "\n".join([*rows, ""])


def _answer(row: str) -> Answer:
    value, code = map(int, row.split())
    if code:
        return Answer(0, numbers.errorcode[code])
    return Answer(value)
