"""Reads the lines of a vector file: plain or gzip, a file or a stream, however damaged.

Whatever can be read is read: a gzip stream that breaks off gives every line before the damage, and
a line that is no text does not keep the next one from being read.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from dmaproof.model.errors import InputError

MAX_LINE: Final = 16 << 20  # bytes: half a million quadwords
_BLOCK: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_OBJECT: Final = re.compile(rb'^[ \t]*\{\s*"', re.MULTILINE)
_OTHERS: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_lines(path: Path) -> Iterator[str | InputError]:
    """Yield the lines of a file in order; what cannot be read is one error in its place.

    A file that cannot be read to its end gives its good lines first and one error last.
    """
    try:
        raw = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        yield _unreadable(path, error)
        return
    with raw:
        try:
            yield from read_stream(raw, str(path))
        except OSError as error:
            yield _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read the file: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        cause="a wrong path, or no permission to read it",
        remedy="check the path and its permissions",
    )


def read_stream(raw: IO[bytes], name: str) -> Iterator[str | InputError]:
    """Yield the lines of an open binary stream called *name*, as `read_lines` does.

    Raises:
        OSError: the stream cannot be read.

    """
    first = raw.read(_BLOCK)
    blocks: Iterator[bytes | InputError] = _blocks(raw, first)
    if first.startswith(_GZIP):
        blocks = _inflate(blocks, name)
    yield from _texts(_split(_checked(blocks, name)))


def _checked(blocks: Iterator[bytes | InputError], name: str) -> Iterator[bytes | InputError]:
    """Pass blocks on, unless the first one shows that this is no text at all."""
    known = False
    for block in blocks:
        if not known and isinstance(block, bytes) and block:
            known = True
            kind = _binary(block)
            if kind:
                yield InputError(
                    "the file is not UTF-8 text",
                    where=name,
                    cause=kind,
                    remedy="give JSON lines in UTF-8, plain or compressed with gzip",
                )
                return
        yield block


def _binary(block: bytes) -> str:
    """Return what a first block is if it is not text; text with damaged lines is text."""
    for magic, kind in _OTHERS.items():
        if block.startswith(magic):
            return f"{kind} data"
    try:
        text = b"\0" not in codecs.getincrementaldecoder("utf-8")().decode(block).encode()
    except UnicodeDecodeError:
        text = False
    return "" if text or _OBJECT.search(block) else "a binary file"


def _blocks(raw: IO[bytes], first: bytes) -> Iterator[bytes | InputError]:
    block = first
    while block:
        yield block
        block = raw.read(_BLOCK)


def _inflate(blocks: Iterator[bytes | InputError], name: str) -> Iterator[bytes | InputError]:
    """Decompress gzip members, one after the other; damage ends the stream with one error."""
    member = zlib.decompressobj(31)
    broken = InputError(
        "the gzip stream is damaged",
        where=name,
        cause="a truncated or garbled copy",
        remedy="check it with gzip -t and copy it again; the lines before the damage were read",
    )
    for block in blocks:
        assert isinstance(block, bytes)
        data = block
        while data:
            if member.eof:
                data = data.lstrip(b"\0")  # padding behind the last member, as tape archives have
                if not data:
                    break
                member = zlib.decompressobj(31)
            spare = member.copy()
            try:
                out = member.decompress(data, _BLOCK)
            except zlib.error:
                yield from _salvage(spare, data)
                yield broken
                return
            yield out
            data = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        yield member.flush()
        yield broken


def _salvage(member: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """Yield what comes before the damage in *data*."""
    try:
        for n in range(len(data)):
            yield member.decompress(data[n : n + 1])
    except zlib.error:
        return


def _split(blocks: Iterator[bytes | InputError]) -> Iterator[bytes | InputError]:
    """Cut blocks into lines; a line beyond `MAX_LINE` bytes is skipped, with an error for it."""
    parts: list[bytes] = []
    size, number, skipping = 0, 1, False
    for block in blocks:
        if isinstance(block, InputError):
            text = b"".join(parts)
            if text.rstrip().endswith(b"}"):  # not what the damage cut
                yield text
            yield block
            return
        *whole, rest = block.split(b"\n")
        for piece in whole:
            if skipping or size + len(piece) > MAX_LINE:
                yield _too_long(number)
            else:
                yield b"".join([*parts, piece])
            parts, size, skipping = [], 0, False
            number += 1
        size += len(rest)
        skipping = skipping or size > MAX_LINE
        if skipping:
            parts = []
        else:
            parts.append(rest)
    if skipping:
        yield _too_long(number)
    elif size:
        yield b"".join(parts)


def _too_long(number: int) -> InputError:
    return InputError(
        f"a line of more than {MAX_LINE >> 20} MiB",
        where=f"line {number}",
        cause="a file without line ends, or one that is no list of vectors",
        remedy="give one vector a line; leave out quadwords that are zero",
    )


def _texts(lines: Iterator[bytes | InputError]) -> Iterator[str | InputError]:
    """Decode lines; one that is not UTF-8 becomes an error."""
    for number, line in enumerate(lines, 1):
        if isinstance(line, InputError):
            yield line
            continue
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield InputError(
                f"not UTF-8 text (byte {error.start + 1} of the line)",
                where=f"line {number}",
                cause="a damaged copy, or a file that is no text",
                remedy="write the file in UTF-8",
            )
