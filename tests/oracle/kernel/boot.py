"""One boot: QEMU, a kernel, an initial file system made here, and what the guest gives back.

The guest gets two serial ports: its console, kept for messages, and a raw one on which it sends a
compressed tar of what it collected in /out. No PCI device serves the harness, so the machine under
test holds nothing else than q35's own functions.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cpio import Archive
from .fetch import Kernel
from .modules import insertion_order

QEMU = shutil.which("qemu-system-x86_64")
TIMEOUT = float(os.environ.get("DMAPROOF_BOOT_TIMEOUT", "120"))
MEMORY = 256
SHARED = ("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on")
ASIDE = ("quiet", "panic=-1", "mitigations=off", "tsc=reliable", "no_timer_check", "nokaslr")
QUICK = ("cryptomgr.notests", "random.trust_cpu=on", "audit=0")
PROLOGUE = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs out /out
"""
# The UART drains while we sleep; a byte too few shows as a damaged archive.
EPILOGUE = """
dmesg > /out/dmesg
stty -F /dev/ttyS1 raw
tar -C /out -cz . > /dev/ttyS1
stty -F /dev/ttyS1 -raw; sleep 0.1
poweroff -f
"""


class BootError(Exception):
    """A boot that gave nothing back: says what was started and what was last seen of it."""


@dataclass(frozen=True)
class Boot:
    """What a guest gave back.

    Attributes:
        files: contents by path below /out; of a symbolic link, where it leads.
        console: text of the serial console.
        seconds: from start to end of QEMU.

    """

    files: dict[str, bytes | str]
    console: str
    seconds: float


def initial_file_system(
    kernel: Kernel, script: str, files: Mapping[str, bytes], modules: Sequence[str]
) -> bytes:
    """Return an initramfs that inserts *modules*, runs *script* and sends /out.

    Args:
        kernel: its busybox and modules are used.
        script: shell commands; they leave their results in /out.
        files: further executable files by path, without leading slash.
        modules: names of modules, each with its parameters; what they depend on is added.

    """
    archive = Archive()
    for folder in ("bin", "proc", "sys", "dev", "out"):
        archive.folder(folder)
    archive.terminal("dev/console", 5, 1)
    archive.file("bin/busybox", kernel.busybox.read_bytes(), executable=True)
    inserts = []
    asked = {name.replace("-", "_"): words for name, *words in map(str.split, modules)}
    for name, content in insertion_order(kernel.modules, asked):
        archive.file(f"modules/{name}.ko", content)
        inserts.append(" ".join(["insmod", f"/modules/{name}.ko", *asked.get(name, ())]) + "\n")
    for name, content in files.items():
        archive.file(name, content, executable=True)
    text = PROLOGUE + "".join(inserts) + script + EPILOGUE
    archive.file("init", text.encode(), executable=True)
    return archive.bytes()


def boot(
    kernel: Kernel,
    devices: Sequence[str],
    script: str,
    *,
    parameters: Sequence[str] = (),
    iommu: str = "intel-iommu",
    files: Mapping[str, bytes] | None = None,
    modules: Sequence[str] = (),
    descriptors: Sequence[int] = (),
    timeout: float = TIMEOUT,
) -> Boot:
    """Boot a machine once and return what *script* left in /out.

    Args:
        kernel: what to boot.
        devices: QEMU arguments that make the machine.
        script: shell commands for the guest.
        parameters: kernel parameters beside those every boot has.
        iommu: the IOMMU device and its properties.
        files: see `initial_file_system`.
        modules: see `initial_file_system`.
        descriptors: those that QEMU inherits; it then shares the guest's memory with their ends.
        timeout: seconds until the boot counts as failed.

    Raises:
        BootError: QEMU did not start, the guest did not end in time or its data is damaged.

    """
    image = initial_file_system(kernel, script, files or {}, modules)
    machine = ("-device", iommu, *devices)
    accel = accelerator(kernel)
    if descriptors:
        accel = (accel[0], f"{accel[1]},memory-backend=ram", *accel[2:], *SHARED)
    words = " ".join(parameters)
    return _boot(kernel, accel, machine, image, words, timeout, descriptors)


def _boot(
    kernel: Kernel,
    accel: tuple[str, ...],
    machine: Sequence[str],
    image: bytes,
    parameters: str,
    timeout: float,
    descriptors: Sequence[int] = (),
) -> Boot:
    with tempfile.TemporaryDirectory(prefix="kernel-oracle-", dir=_shm()) as place:
        folder = Path(place)
        (folder / "initrd").write_bytes(image)
        command = [
            QEMU or "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-user-config",
            *accel, "-m", str(MEMORY), "-smp", "1", "-no-reboot",
            "-kernel", str(kernel.image), "-initrd", str(folder / "initrd"),
            "-append", " ".join(("console=ttyS0", *ASIDE, *QUICK, parameters)).strip(),
            "-serial", f"file:{folder}/console", "-serial", f"file:{folder}/data", *machine,
        ]  # fmt: skip
        start = time.monotonic()
        ending = _run(command, folder, timeout, descriptors)
        seconds = time.monotonic() - start
        console = _text(folder / "console")
        # QEMU may crash while it lets go of functions that we serve: the guest is off by then, and
        # what it sent has a checksum.
        if ending and not (descriptors and "reboot: Power down" in console):
            raise BootError(_story(ending, command, folder))
        try:
            found = _unpack((folder / "data").read_bytes())
        except (OSError, EOFError, tarfile.TarError) as error:
            raise BootError(_story(f"its data is damaged: {error}", command, folder)) from error
        return Boot(found, console, seconds)


def _run(command: list[str], folder: Path, timeout: float, descriptors: Sequence[int] = ()) -> str:
    """Run QEMU to its end; return what went wrong, "" if nothing."""
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=descriptors
        )
        spent, last = 0.0, time.monotonic()
        try:
            while (code := _poll(process)) is None:
                if (folder / "errors").read_bytes().find(b"KVM internal error") >= 0:
                    return "KVM cannot run this guest"
                # A long gap means that this process was stopped, and the guest with it.
                now = time.monotonic()
                spent, last = spent + min(now - last, 1.0), now
                if spent > timeout:
                    return f"it did not end within {timeout:g} s"
        finally:  # also on an interrupt from the keyboard
            process.kill()
            process.wait()
    return f"QEMU ended with code {code}" if code else ""


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(0.25)
    except subprocess.TimeoutExpired:
        return None


def _story(what: str, command: list[str], folder: Path) -> str:
    last = _text(folder / "console").splitlines()[-25:]
    return "\n".join([
        f"the boot failed: {what}",
        "QEMU said: " + (_text(folder / "errors").strip() or "nothing"),
        "last lines of the console:", *(f"  {line}" for line in last or ["(none)"]),
        "command: " + " ".join(command),
    ])  # fmt: skip


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _unpack(data: bytes) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.issym():
                found[name] = member.linkname
            elif member.isfile():
                found[name] = tar.extractfile(member).read()
    return found


_SLOW = ("-machine", "q35", "-accel", "tcg,thread=single,tb-size=256")
_FAST = ("-machine", "q35,kernel-irqchip=split", "-accel", "kvm")


@functools.cache
def accelerator(kernel: Kernel) -> tuple[str, ...]:
    """Return QEMU's machine and accelerator arguments: KVM where *kernel* boots on it, else TCG.

    A /dev/kvm that opens proves nothing: inside some virtual machines the guest then hangs or
    meets instructions that nobody executes. DMAPROOF_ORACLE_ACCEL=tcg or =kvm decides untried.
    """
    given = os.environ.get("DMAPROOF_ORACLE_ACCEL")
    if given:
        return {"tcg": _SLOW, "kvm": _FAST}[given]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return _SLOW
    # One try per boot of this computer: a guest that hangs costs its whole time-out.
    stamp = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = kernel.busybox.with_name("kvm")
    if not note.exists() or note.read_text().split()[0] != stamp:
        fresh = note.with_name(f"kvm-{os.getpid()}")
        fresh.write_text(f"{stamp} {'works' if _kvm_boots(kernel) else 'fails'}\n")
        fresh.replace(note)
    return _FAST if note.read_text().split()[1] == "works" else _SLOW


def _kvm_boots(kernel: Kernel) -> bool:
    try:
        _boot(kernel, _FAST, (), initial_file_system(kernel, "", {}, ()), "", timeout=8)
    except BootError:
        return False
    return True


def _shm() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
