"""A writer of cpio archives in the form the kernel unpacks at boot ("newc").

Format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    path = name.encode() + b"\0"
    # inode, mode, user, group, links, time, size, device (2), device number (2), name size, sum
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = MAGIC + b"".join(b"%08X" % value for value in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


@dataclass
class Archive:
    """An initial file system under construction."""

    _entries: list[bytes] = field(default_factory=list)
    _folders: set[str] = field(default_factory=set)

    def folder(self, name: str) -> None:
        """Add a folder and those above it, once."""
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in self._folders:
                self._folders.add(path)
                self._add(path, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file and the folders above it."""
        if "/" in name:
            self.folder(name.rpartition("/")[0])
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def terminal(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def _add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._entries.append(_entry(len(self._entries) + 1, name, mode, data, device))

    def bytes(self) -> bytes:
        """Return the archive."""
        return b"".join(self._entries) + _entry(0, TRAILER, 0, b"", (0, 0))


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield (name, mode, data) of each entry of an archive.

    Raises:
        ValueError: no archive of this form, or no trailer.

    """
    at = 0
    while archive[at : at + 6] == MAGIC:
        values = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + values[11] - 1].decode()
        at += 110 + values[11]
        at += -at % 4
        if name == TRAILER:
            return
        yield name, values[1], archive[at : at + values[6]]
        at += values[6] + -values[6] % 4
    raise ValueError(f"no cpio entry at byte {at}")
