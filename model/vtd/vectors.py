"""Reads translation vectors (JSON lines, plain or gzip) and computes their outcomes.

One object a line:

* ``cap``, ``ecap``, ``rtaddr``: registers; optional ``version`` (0x10), ``haw`` (MGAW);
* ``mem``: byte address -> quadword; what is absent is zero; optional ``ram``: size of the memory in
  bytes (64 MiB), beyond which tables are not accessible;
* ``req``: ``sid``, ``addr``, ``write``, ``pasid`` (null: request without PASID); optional ``kind``
  (``untranslated``, ``translation``, ``translated``), ``size`` in bytes (4), and the flags
  ``atomic``, ``execute``, ``privileged``, ``no_write``;
* ``mode`` and ``out`` are not read: they say what was recorded elsewhere.

Numbers are JSON integers or strings in any base Python reads (``"0x1000"``).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from dmaproof.model.algebra import FlatPages, Image
from dmaproof.model.errors import InputError
from dmaproof.model.vtd import faults
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import translate

DEFAULT_RAM: Final = 64 << 20
_BULK: Final = 32  # requests on one image from which lanes are faster than one at a time
_CHUNK: Final = 4096
_KINDS: Final = {
    "untranslated": Kind.UNTRANSLATED, "translation": Kind.TRANSLATION,
    "translated": Kind.TRANSLATED,
}
_FLAGS: Final = ("atomic", "execute", "privileged", "no_write")


@dataclass(slots=True)
class Vector:
    """One usable line.

    Attributes:
        line: number in the file, from 1.
        key: vectors with equal keys share registers and memory.
        registers: state of the unit.
        image: concrete memory.
        request: concrete request.

    """

    line: int
    key: str
    registers: Registers
    image: Image
    request: Request


@dataclass(slots=True)
class Result:
    """What became of one line: an outcome, or the error that made it unusable.

    Attributes:
        line: number in the file, from 1.
        outcome: ``{"hpa": N}``, ``{"interrupt": true}``, or ``{"fault": code, "condition": name,
            "recorded": bool, "rule": name}`` (code null where no published table gives it).
        error: what is wrong with the line.

    """

    line: int
    outcome: dict[str, Any] | None
    error: InputError | None = None


def read_lines(path: Path) -> Iterator[str | InputError]:
    """Yield the lines of a file; an unreadable file ends with one error, after its good lines."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        if zipped:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from lines
        else:
            with path.open(encoding="utf-8") as lines:
                yield from lines
    except UnicodeDecodeError:
        yield InputError(
            "the file is not UTF-8 text", where=str(path),
            cause="a binary file, or a compressed one of another kind than gzip",
            remedy="give JSON lines, plain or gzip",
        )
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield InputError(
            "the gzip stream is damaged", where=str(path), cause="a truncated or garbled copy",
            remedy="check it with: gzip -t",
        )
    except OSError as error:
        yield InputError(
            f"cannot read the file: {error.strerror or error}", where=str(path),
            remedy="check the path and its permissions",
        )


def number(value: object, key: str, bits: int = 64) -> int:
    """Return *value* as an unsigned number of at most *bits* bits.

    Raises:
        InputError: it is no number, negative, or too wide.

    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        found = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        raise InputError(
            f"{key} is not a number: {value!r}", where=key,
            remedy='give an integer or a string such as "0x1000"',
        ) from None
    if not 0 <= found < 1 << bits:
        raise InputError(
            f"{key} does not fit {bits} bits: {value!r}", where=key,
            cause="a negative number" if found < 0 else "a number that is too large",
            remedy=f"give 0 to {(1 << bits) - 1:#x}",
        )
    return found


def _part(value: Mapping[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401
    if key not in value:
        raise InputError(
            f"{key} is missing", where=key, cause="a line in another format, or cut off",
            remedy="see the keys a vector needs: cap, ecap, rtaddr, mem, req",
        )
    if not isinstance(value[key], kind):
        raise InputError(
            f"{key} is {type(value[key]).__name__}, not {kind.__name__}", where=key,
            remedy=f"give {key} as a JSON {'object' if kind is dict else 'boolean'}",
        )
    return value[key]


def _request(fields: Mapping[str, Any]) -> Request:
    for key in ("sid", "addr", "pasid"):
        if key not in fields:
            raise InputError(
                f"req.{key} is missing", where=f"req.{key}",
                remedy="give sid, addr, write and pasid (null without PASID)",
            )
    kind = fields.get("kind", "untranslated")
    if kind not in _KINDS:
        raise InputError(
            f"req.kind is {kind!r}", where="req.kind",
            remedy=f"give one of {', '.join(_KINDS)}",
        )
    pasid = fields["pasid"]
    address = number(fields["addr"], "req.addr")
    size = number(fields.get("size", 4), "req.size", 13)
    if size == 0 or (address & 0xFFF) + size > 0x1000:
        raise InputError(
            f"an access of {size} bytes at {address:#x} is empty or leaves its page",
            where="req.size", remedy="split it: a device sends one packet a page",
        )
    flags = {key: _part(fields, key, bool) for key in _FLAGS if key in fields}
    return Request(
        number(fields["sid"], "req.sid", 16), address, _part(fields, "write", bool),
        0 if pasid is None else number(pasid, "req.pasid", 20), pasid is not None, _KINDS[kind],
        dword=size == 4, **flags,
    )


def _image(memory: Mapping[str, Any], ram: int) -> Image:
    words = {}
    for key, value in memory.items():
        address = number(key, "mem address")
        if address % 8 or address >= ram:
            raise InputError(
                f"mem has a quadword at {address:#x}", where="mem",
                cause="an address that is not 8-aligned" if address % 8
                else f"memory ends at {ram:#x}",
                remedy="align it" if address % 8 else "give the size of the memory as key ram",
            )
        words[address] = number(value, f"mem[{address:#x}]")
    return Image(words, ram)


def parse(text: str, line: int, shared: dict[str, tuple[Registers, Image]]) -> Vector:
    """Return the vector on one line; *shared* keeps machines that several lines use.

    Raises:
        InputError: the line cannot be used; *where* names line and key.

    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        what = getattr(error, "msg", "nested too deeply")
        raise InputError(
            f"not JSON: {what}", where=f"line {line}",
            cause="a cut-off line, or a file in another format", remedy="give one object a line",
        ) from None
    try:
        if not isinstance(value, dict):
            raise InputError("not a JSON object", remedy="give one object a line")
        memory = _part(value, "mem", dict)
        fields = _part(value, "req", dict)
        names = ("cap", "ecap", "rtaddr", "version", "haw", "ram")
        key = json.dumps([value.get(name) for name in names] + [memory], sort_keys=True)
        if key not in shared:
            shared[key] = _machine(value, memory)
        return Vector(line, key, *shared[key], _request(fields))
    except InputError as error:
        error.where = f"line {line}" + (f", {error.where}" if error.where else "")
        raise


def _machine(value: Mapping[str, Any], memory: Mapping[str, Any]) -> tuple[Registers, Image]:
    for key in ("cap", "ecap", "rtaddr"):
        if key not in value:
            raise InputError(f"{key} is missing", where=key, remedy="give the register as read")
    ram = number(value.get("ram", DEFAULT_RAM), "ram", 52)
    registers = Registers(
        number(value["cap"], "cap"), number(value["ecap"], "ecap"),
        number(value["rtaddr"], "rtaddr"), version=number(value.get("version", 0x10), "version", 8),
        haw=number(value["haw"], "haw", 8) if "haw" in value else None,
    )
    return registers, _image(memory, ram)


def outcomes(lines: Iterable[str | InputError]) -> Iterator[Result]:
    """Yield one result a line, in order; blank lines are skipped.

    Args:
        lines: text of the lines, or errors of the reader, which are passed on (`read_lines`).

    """
    numbered = enumerate(lines, 1)
    while chunk := list(islice(numbered, _CHUNK)):
        results: dict[int, Result] = {}
        groups: dict[tuple[str, Kind], list[Vector]] = defaultdict(list)
        shared: dict[str, tuple[Registers, Image]] = {}
        for line, text in chunk:
            if isinstance(text, InputError):
                results[line] = Result(line, None, text)
            elif text.strip():
                try:
                    vector = parse(text, line, shared)
                except InputError as error:
                    results[line] = Result(line, None, error)
                else:
                    groups[vector.key, vector.request.kind].append(vector)
        for group in groups.values():
            run = _bulk if len(group) >= _BULK else _single
            results.update((result.line, result) for result in run(group))
        yield from (results[line] for line, _ in chunk if line in results)


def _single(group: list[Vector]) -> Iterator[Result]:
    for vector in group:
        o = translate(vector.image, vector.registers, vector.request)
        yield Result(vector.line, describe(o.fault, o.hpa, o.interrupt, o.recorded))


def _bulk(group: list[Vector]) -> Iterator[Result]:
    import numpy as np

    first = group[0]
    columns: dict[str, Any] = {}
    for name in ("sid", "address", "pasid"):
        values = [getattr(v.request, name) for v in group]
        columns[name] = np.array(values, dtype=np.uint64)
    for name in ("write", "with_pasid", "dword", *_FLAGS):
        columns[name] = np.array([getattr(v.request, name) for v in group], dtype=bool)
    request = Request(kind=first.request.kind, **columns)
    o = translate(FlatPages(first.image, len(group)), first.registers, request)
    parts = [np.broadcast_to(v, len(group)) for v in (o.fault, o.hpa, o.interrupt, o.recorded)]
    for i, vector in enumerate(group):
        fault, hpa, interrupt, recorded = (part[i].item() for part in parts)
        yield Result(vector.line, describe(fault, hpa, interrupt, recorded))


def describe(fault: int, hpa: int, interrupt: bool, recorded: bool) -> dict[str, Any]:
    """Return the outcome of a concrete request as a JSON object."""
    if fault:
        row = faults.condition(fault)
        return {
            "fault": row.code or None, "condition": row.name, "recorded": recorded,
            "rule": row.rule,
        }
    return {"interrupt": True} if interrupt else {"hpa": hpa}
