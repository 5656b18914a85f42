"""Bytes of a file that somebody gives us: sizes limited, compression taken off, text decoded."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO, Protocol

from dmaproof.model.errors import InputError

MAX_FILE = 256 << 20
MAX_UNPACKED = 512 << 20
_CHUNK = 1 << 20


class _Stream(Protocol):
    """What a decompressor is asked for."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, b"" at the end."""


def _gzip(file: BinaryIO) -> _Stream:
    return GzipFile(fileobj=file)


_OPENERS: tuple[tuple[bytes, Callable[[BinaryIO], _Stream]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))


def folder_of(path: str) -> Path | None:
    """Return the folder that *path* names, None where it names anything else."""
    try:
        return Path(path) if Path(path).is_dir() else None
    except (OSError, ValueError):
        return None


def contents(path: str, unknown: Callable[[str], InputError]) -> bytes:
    """Return the bytes of a file, unpacked if it is compressed.

    Args:
        path: the file.
        unknown: makes the error for a file that does not exist.

    Raises:
        InputError: no such file, not readable, too large, damaged compression.

    """
    try:
        if not Path(path).exists():
            raise unknown(path)
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read: {reason}", path, "no permission, or no file", "give a file"
        ) from error
    if len(data) > MAX_FILE:
        raise _too_large(path, MAX_FILE)
    return _unpacked(data, path)


def _unpacked(data: bytes, path: str) -> bytes:
    for magic, opener in _OPENERS:
        if data.startswith(magic):
            return _unpack(opener(io.BytesIO(data)), path)
    return data


def _unpack(stream: _Stream, path: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while chunk := stream.read(_CHUNK):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_UNPACKED:
                raise _too_large(path, MAX_UNPACKED)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise InputError(
            f"cannot unpack: {str(error)[:80]}",
            path,
            "the file is truncated or damaged",
            "copy or pack it again",
        ) from error
    return b"".join(parts)


def _too_large(path: str, limit: int) -> InputError:
    return InputError(
        "the file is too large",
        path,
        f"no dump of a machine has more than {limit >> 20} MB",
        "give the output of lspci -xxxx alone; leave resource files out of an archive of sysfs",
    )


def is_tar(data: bytes) -> bool:
    """Whether *data* is a tar archive."""
    return data[257:262] == b"ustar"


def as_text(data: bytes, path: str) -> str:
    """Return *data* as text: UTF-8, UTF-16 with its mark, else Latin-1 if there is no control byte.

    Raises:
        InputError: it is no text.

    """
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise _binary(path, error.start) from error
        if "\0" in text:
            raise _binary(path, 2 * text.index("\0"))
        return text
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if data.translate(None, _CONTROL) != data:
            raise _binary(path, error.start) from error
        return data.decode("latin-1")
    if "\0" in text:
        raise _binary(path, text.index("\0"))
    return text


def _binary(path: str, offset: int) -> InputError:
    return InputError(
        f"not a text file: byte {offset} is no text",
        path,
        "a binary file (lspci output is text)",
        "record it as root: lspci -xxxx > machine.txt",
    )
