"""Translation vectors (JSON lines): what they mean, and their outcomes.

One object a line:

* ``cap``, ``ecap``, ``rtaddr``: registers; optional ``version`` (0x10), ``haw`` (MGAW);
* ``mem``: byte address -> quadword; what is absent is zero; optional ``ram``: size of the memory in
  bytes (64 MiB), beyond which tables are not accessible; optional ``read_only``: list of page
  addresses where hardware fails to set accessed and dirty flags;
* ``req``: ``sid``, ``addr``, ``write``, ``pasid`` (null: request without PASID); optional ``kind``
  (``untranslated``, ``translation``, ``translated``), ``size`` in bytes (4), and the flags
  ``atomic``, ``execute``, ``privileged``, ``no_write``, ``zero_length``;
* ``mode`` and ``out`` are not read: they say what was recorded elsewhere. Other keys are notes,
  unless they look like one of these misspelt.

Numbers are JSON integers or strings in any base Python reads (``"0x1000"``). `vector_lines` reads
the lines from a file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import repr as short
from typing import Any, Final

from dmaproof.model.algebra import FlatPages, Image
from dmaproof.model.errors import InputError
from dmaproof.model.vtd import loops
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome, translate
from dmaproof.model.vtd.vector_lines import read_lines, read_stream

__all__ = [
    "Result", "Vector", "describe", "encode", "number", "outcomes", "parse", "read_lines",
    "read_stream",
]

DEFAULT_RAM: Final = 64 << 20
_BULK: Final = 32  # requests on one image from which lanes are faster than one at a time
_CHUNK: Final = 4096  # lines, or
_CHUNK_SIZE: Final = 1 << 24  # characters, that are read before the first outcome is given
_KINDS: Final = {
    "untranslated": Kind.UNTRANSLATED, "translation": Kind.TRANSLATION,
    "translated": Kind.TRANSLATED,
}
_FLAGS: Final = ("atomic", "execute", "privileged", "no_write", "zero_length")
_REQUIRED: Final = ("cap", "ecap", "rtaddr", "mem", "req")
_OPTIONAL: Final = ("version", "haw", "ram", "read_only")
_KEYS: Final = (*_REQUIRED, *_OPTIONAL, "mode", "out")
_REQUEST_REQUIRED: Final = ("sid", "addr", "write", "pasid")
_REQUEST_KEYS: Final = (*_REQUEST_REQUIRED, "kind", "size", *_FLAGS)


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
        outcome: as `describe` gives it.
        error: what is wrong with the line; with an outcome: what is odd about it.

    """

    line: int
    outcome: dict[str, Any] | None
    error: InputError | None = None


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
            f"{key} is not a number: {short(value)}", where=key,
            cause="a value of another type, or a string that is no whole number",
            remedy='give an integer or a string such as "0x1000"',
        ) from None
    if not 0 <= found < 1 << bits:
        raise InputError(
            f"{key} does not fit {bits} bits: {short(value)}", where=key,
            cause="a negative number" if found < 0 else "a number that is too large",
            remedy=f"give 0 to {(1 << bits) - 1:#x}",
        )
    return found


def _part(value: Mapping[str, Any], key: str, kind: type, inside: str = "") -> Any:  # noqa: ANN401
    wanted = "a JSON object" if kind is dict else "true or false"
    if not isinstance(value[key], kind):
        raise InputError(
            f"{inside}{key} is {short(value[key])}", where=inside + key,
            cause="a value of another type", remedy=f"give {key} as {wanted}",
        )
    return value[key]


def _check_keys(
    value: Mapping[str, Any], required: tuple[str, ...], known: tuple[str, ...], inside: str = ""
) -> None:
    """Raise if a key is missing, unknown in a request, or a known one misspelt."""
    missing = [key for key in required if key not in value]
    for key in value.keys() - set(known):
        near = get_close_matches(key, known, 1, 0.75)
        if inside or (near and near[0] not in value):
            raise InputError(
                f"no key is called {inside}{short(key)}", where=inside + key[:40],
                cause=f"a misspelt {near[0]}" if near else "a key of another format",
                remedy=f"known keys: {', '.join(known)}",
            )
    if missing:
        raise InputError(
            f"{inside}{missing[0]} is missing", where=inside + missing[0],
            cause="a line in another format, or cut off",
            remedy=f"give all of {', '.join(required)}",
        )


def _request(fields: Mapping[str, Any]) -> Request:
    _check_keys(fields, _REQUEST_REQUIRED, _REQUEST_KEYS, "req.")
    kind = fields.get("kind", "untranslated")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(
            f"req.kind is {short(kind)}", where="req.kind", cause="a kind that is not known here",
            remedy=f"give one of {', '.join(_KINDS)}",
        )
    pasid = fields["pasid"]
    address = number(fields["addr"], "req.addr")
    size = number(fields.get("size", 4), "req.size", 13)
    if size == 0 or (address & 0xFFF) + size > 0x1000:
        raise InputError(
            f"an access of {size} bytes at {address:#x} is empty or leaves its page",
            where="req.size", cause="a size of 0, or an access over two pages",
            remedy="split it: a device sends one packet a page",
        )
    flags = {key: _part(fields, key, bool, "req.") for key in _FLAGS if key in fields}
    return Request(
        number(fields["sid"], "req.sid", 16), address, _part(fields, "write", bool, "req."),
        0 if pasid is None else number(pasid, "req.pasid", 20), pasid is not None, _KINDS[kind],
        dword=size == 4, **flags,
    )


def _image(memory: Mapping[str, Any], ram: int) -> Image:
    words = {}
    for key, value in memory.items():
        address = number(key, "mem address")
        if address in words:
            raise InputError(
                f"mem has the quadword at {address:#x} twice", where=f"mem[{short(key)}]",
                cause="one address written in two ways", remedy="leave one of them out",
            )
        if address % 8 or address >= ram:
            raise InputError(
                f"mem has a quadword at {address:#x}", where=f"mem[{short(key)}]",
                cause="an address that is not 8-aligned" if address % 8
                else f"memory ends at {ram:#x}",
                remedy="align it" if address % 8 else "give the size of the memory as key ram",
            )
        words[address] = number(value, f"mem[{address:#x}]")
    return Image(words, ram)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(
            f"the key {short(twice)} stands twice in one object", where=twice[:40],
            cause="two lines run together, or one edited by hand", remedy="leave one of them out",
        )
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        what = "a number with thousands of digits"
        if isinstance(error, json.JSONDecodeError):
            what = f"{error.msg} at column {error.colno}"
        elif isinstance(error, RecursionError):
            what = "nested too deeply"
        raise InputError(
            f"not JSON: {what}",
            cause="a cut-off line, or a file in another format", remedy="give one object a line",
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            "not a JSON object", cause="a file in another format", remedy="give one object a line"
        )
    return value


def parse(text: str, line: int, shared: dict[str, tuple[Registers, Image]]) -> Vector:
    """Return the vector on one line; *shared* keeps machines that several lines use.

    Raises:
        InputError: the line cannot be used; *where* names line and key.

    """
    try:
        value = _object(text)
        _check_keys(value, _REQUIRED, _KEYS)
        memory = _part(value, "mem", dict)
        fields = _part(value, "req", dict)
        names = ("cap", "ecap", "rtaddr", *_OPTIONAL)
        key = json.dumps([value.get(name) for name in names] + [memory], sort_keys=True)
        if key not in shared:
            shared[key] = _machine(value, memory)
        return Vector(line, key, *shared[key], _request(fields))
    except InputError as error:
        error.where = f"line {line}" + (f", {error.where}" if error.where else "")
        raise


def _machine(value: Mapping[str, Any], memory: Mapping[str, Any]) -> tuple[Registers, Image]:
    ram = number(value.get("ram", DEFAULT_RAM), "ram", 53)
    if not ram or ram % 4096:
        raise InputError(
            f"a memory of {ram:#x} bytes", where="ram", cause="no whole number of pages",
            remedy="give a multiple of 4096",
        )
    registers = Registers(
        number(value["cap"], "cap"), number(value["ecap"], "ecap"),
        number(value["rtaddr"], "rtaddr"), version=number(value.get("version", 0x10), "version", 8),
        haw=number(value["haw"], "haw", 8) if "haw" in value else None,
    )
    image = _image(memory, ram)
    pages = value.get("read_only", [])
    if not isinstance(pages, list):
        raise InputError(
            f"read_only is {short(pages)}", where="read_only", cause="a value of another type",
            remedy="give a list of page addresses",
        )
    image.read_only = frozenset(number(page, "read_only") >> 12 for page in pages)
    return registers, image


def encode(image: Image, registers: Registers, request: Request) -> dict[str, Any]:
    """Return the vector of a concrete request as a JSON object, the reverse of `parse`."""
    names = {kind: name for name, kind in _KINDS.items()}
    fields: dict[str, Any] = {
        "sid": hex(request.sid), "pasid": hex(request.pasid) if request.with_pasid else None,
        "addr": hex(request.address), "write": bool(request.write),
    }
    if request.kind is not Kind.UNTRANSLATED:
        fields["kind"] = names[request.kind]
    if not request.dword:
        fields["size"] = 1
    fields |= {key: True for key in _FLAGS if getattr(request, key)}
    pages = [hex(page << 12) for page in sorted(image.read_only)]
    return {
        "cap": hex(registers.cap), "ecap": hex(registers.ecap), "rtaddr": hex(registers.rtaddr),
        "version": registers.version, "haw": registers.haw, "ram": hex(image.ram),
        "mem": {hex(address): hex(word) for address, word in sorted(image.words.items()) if word},
        "req": fields,
    } | ({"read_only": pages} if pages else {})


def _chunks(lines: Iterable[str | InputError]) -> Iterator[list[tuple[int, str | InputError]]]:
    chunk: list[tuple[int, str | InputError]] = []
    size = 0
    for line, text in enumerate(lines, 1):
        chunk.append((line, text))
        size += len(text) if isinstance(text, str) else 0
        if len(chunk) == _CHUNK or size > _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def outcomes(lines: Iterable[str | InputError]) -> Iterator[Result]:
    """Yield one result a line, in order; blank lines are skipped.

    Args:
        lines: text of the lines, or errors of the reader, which are passed on (`read_lines`).

    """
    for chunk in _chunks(lines):
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
            first = group[0]
            run = _bulk if len(group) >= _BULK else _single
            found = {result.line: result for result in run(group)}
            if loops.possible(first.image, first.registers):
                for vector in group:
                    found[vector.line].error = _looping(vector)
            results.update(found)
        yield from (results[line] for line, _ in chunk if line in results)


def _looping(vector: Vector) -> InputError | None:
    loop = loops.find(vector.image, vector.registers, vector.request)
    if not loop:
        return None
    return InputError(
        f"the tables loop: {loop}", where=f"line {vector.line}, mem",
        cause="an entry that points back to its own table or one above it",
        remedy="mend the entry; the outcome given is that of hardware, which takes one step a level"
        " wherever entries point",
    )


def _single(group: list[Vector]) -> Iterator[Result]:
    for vector in group:
        yield Result(
            vector.line, describe(translate(vector.image, vector.registers, vector.request))
        )


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
    words = (o.fault, o.hpa, o.readable, o.writable, o.bits, o.interrupt, o.recorded)
    lanes = [np.broadcast_to(v, len(group)).tolist() for v in words]
    for vector, (fault, hpa, r, w, bits, interrupt, recorded) in zip(
        group, zip(*lanes, strict=True), strict=True
    ):
        one = Outcome(fault, hpa, r, w, bits, interrupt, recorded, [], o.kind, o.mode)
        yield Result(vector.line, describe(one))


def describe(outcome: Outcome) -> dict[str, Any]:
    """Return a concrete outcome as a JSON object.

    ``{"hpa": N}``; of a translation request also ``"read"`` and ``"write"``, the rights it is told
    (hpa null if there are none); ``{"interrupt": true}``; or ``{"fault": code, "condition": name,
    "recorded": bool, "rule": name}``, where of the withdrawn extended mode some codes could not be
    confirmed: they are null and come with ``"unconfirmed": true``.
    """
    row = outcome.condition
    if row:
        code = None if outcome.unconfirmed else row.code or None
        found = {
            "fault": code, "condition": row.name, "recorded": bool(outcome.recorded),
            "rule": row.rule,
        }
        return found | {"unconfirmed": True} if outcome.unconfirmed else found
    if outcome.interrupt:
        return {"interrupt": True}
    if outcome.kind is not Kind.TRANSLATION:
        return {"hpa": outcome.hpa}
    told = {"read": bool(outcome.readable), "write": bool(outcome.writable)}
    return {"hpa": outcome.hpa if any(told.values()) else None, **told}
