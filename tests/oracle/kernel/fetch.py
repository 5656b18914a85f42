#!/usr/bin/env python3
"""Obtain Debian's kernel and busybox, unpacked into a cache folder; nothing is installed.

Run as a script (`.ci/run` does) with no other package than Python's own library. Neither root nor
a Debian package database entry is needed: `apt-get download` and `dpkg-deb` do the work.
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

META, BUSYBOX = "linux-image-amd64", "busybox-static"
# Where the modules lie that the tests insert, and those that these need.
WANTED = ("drivers/vfio/", "drivers/nvme/", "virt/lib/", "block/", "crypto/", "lib/", "arch/")
_XZ = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel.

    Attributes:
        release: as `uname -r` says it.
        image: what QEMU boots.
        modules: folder of its modules, as in the package.
        busybox: a static busybox.

    """

    release: str
    image: Path
    modules: Path
    busybox: Path


def cache() -> Path:
    """Return the folder of the unpacked packages: DMAPROOF_KERNEL_CACHE or in XDG_CACHE_HOME."""
    given = os.environ.get("DMAPROOF_KERNEL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "dmaproof" / "kernel"


def unpacked() -> Kernel | None:
    """Return the kernel in the cache, None if there is none (the newest, if several)."""
    found = sorted(cache().glob("*/complete"), key=lambda mark: mark.stat().st_mtime)
    if not found:
        return None
    folder = found[-1].parent
    plain = folder / "vmlinux"
    image = plain if plain.exists() else folder / "vmlinuz"
    return Kernel(folder.name, image, folder / "modules", folder / "busybox")


def obtain() -> Kernel:
    """Return the kernel in the cache, after downloading it if there is none.

    Raises:
        RuntimeError: a package cannot be downloaded or unpacked; says why.

    """
    present = unpacked()
    if present is not None:
        return present
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache()) as place:
        work = Path(place)
        options = _apt_options(work)
        image = _download(_image_package(options), work, options)
        release = _unpack_kernel(image, work / "new")
        _unpack_busybox(_download(BUSYBOX, work, options), work / "new")
        (work / "new" / "complete").touch()
        try:
            (work / "new").rename(cache() / release)
        except OSError:  # another process was faster
            if unpacked() is None:
                raise
    found = unpacked()
    if found is None:
        raise RuntimeError(f"the cache {cache()} was emptied meanwhile")
    return found


def _run(command: list[str], where: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{' '.join(command[:2])} failed: {last}")
    return done.stdout


def _apt_options(work: Path) -> list[str]:
    """Refresh package lists where the system has none, in a folder of our own if need be."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not here: only Debian's packages are known to work")
    # `apt-get download` runs its fetcher as a user who may not write here; that is only a warning.
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    if _candidate(META, options):
        return options
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    options += ["-o", f"Dir::State={work}/state", "-o", f"Dir::Cache={work}/cache"]
    options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    _run(["apt-get", "update", "-qq", *options])
    return options


def _candidate(package: str, options: list[str]) -> bool:
    text = _run(["apt-cache", "policy", *options, package])
    return "Candidate:" in text and "Candidate: (none)" not in text


def _image_package(options: list[str]) -> str:
    for line in _run(["apt-cache", "depends", *options, META]).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise RuntimeError(f"{META} depends on no kernel package")


def _download(package: str, work: Path, options: list[str]) -> Path:
    before = set(work.glob("*.deb"))
    try:
        _run(["apt-get", "download", "-qq", *options, package], work)
    except RuntimeError:  # lists older than the archive
        if os.geteuid() == 0:
            _run(["apt-get", "update", "-qq", *options])
        _run(["apt-get", "download", "-qq", *options, package], work)
    (new,) = set(work.glob("*.deb")) - before
    return new


def _unpack_kernel(package: Path, folder: Path) -> str:
    release = ""
    for name, content in _members(package):
        if name.startswith("boot/vmlinuz-"):
            release = name.removeprefix("boot/vmlinuz-")
            _store(folder / "vmlinuz", content)
            plain = _decompressed(content)
            if plain is not None:
                _store(folder / "vmlinux", plain)
        elif name.startswith("boot/config-"):
            _store(folder / "config", content)
        elif "/kernel/" in name:
            inside = name.partition("/kernel/")[2]
            if inside.startswith(WANTED) and ".ko" in inside:
                _store(folder / "modules" / inside, content)
    if not release:
        raise RuntimeError(f"{package.name} has no boot/vmlinuz")
    return release


def _unpack_busybox(package: Path, folder: Path) -> None:
    for name, content in _members(package):
        if name in {"bin/busybox", "usr/bin/busybox"}:
            _store(folder / "busybox", content)
            return
    raise RuntimeError(f"{package.name} has no busybox")


def _members(package: Path):  # -> Iterator[tuple[str, bytes]]
    """Yield (name, content) of the plain files of a package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                if member.isfile():
                    wanted = member.name.removeprefix("./")
                    yield wanted, tar.extractfile(member).read()
        process.stdout.read()


def _store(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _decompressed(image: bytes) -> bytes | None:
    """Return the ELF file inside a bzImage; it boots 3 s faster, as the guest need not unpack it.

    None if it is packed with anything but xz: then the image itself is booted.
    """
    start = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length]
    if not payload.startswith(_XZ):
        return None
    plain = lzma.LZMADecompressor().decompress(payload)
    return plain if plain.startswith(b"\x7fELF") else None


if __name__ == "__main__":
    try:
        kernel = obtain()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"no kernel for the oracle tests: {error}")
    print(f"Linux {kernel.release} in {kernel.image.parent}")
