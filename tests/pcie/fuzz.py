"""Damaged dumps by the thousand, through the command line.

    python -m tests.pcie.fuzz 20000 [FIRST]        # from the repository's folder

A case follows from its number alone. Each is a file of a kind that people hand over (lspci text
with bytes and words, archives of sysfs, hardware reports, machine files, DMAR tables), changed in a
few places. Whatever it is, a command must answer or complain: exit code 0, 1, 2 or 3, no traceback,
within bounds of time and memory, and no file anywhere but the case itself.
"""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

if __package__ == "tests.pcie":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.support import run

from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.lspci import write_lspci
from dmaproof.model.pcie.machine_json import to_json
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.topology import Machine
from pcie.test_dmar import FULL
from pcie.trees import archive, entries, report
from pcie.words import verbose

DATA = Path(__file__).parent / "data"
CODES = {0, 1, 2, 3}
SECONDS = 20
"""Processor time that one command may take."""
MEMORY = 3 << 30
"""Address space, in bytes, of a process that runs cases from the command line."""

Change = Callable[[random.Random, str], str]


@dataclass(frozen=True)
class Case:
    """One damaged file.

    Attributes:
        kind: what it was made from.
        data: its bytes.

    """

    kind: str
    data: bytes


@cache
def sources() -> dict[str, list[bytes]]:
    """Whole files, by kind."""
    found: dict[str, list[bytes]] = {"lspci": [], "words": [], "tar": [], "report": [], "json": []}
    for path in sorted(DATA.glob("*/*.lspci-xxxx.txt")):
        found["lspci"].append(path.read_bytes())
    for name in ("SW(off,on)", "VF", "BR", "T3", "MF(nocap)", "AL2"):
        built = machine(name)
        bare = Machine(name, [replace(d, label="") for d in built.devices])
        numbers = group_of(groups(bare))
        found["words"].append(verbose(bare, groups=numbers).encode())
        found["words"].append(verbose(bare, root=False, groups=numbers).encode())
        found["lspci"].append(write_lspci(bare.devices).encode())
        found["tar"].append(archive(entries(bare, numbers)))
        found["report"].append(report(bare, numbers).encode())
        found["json"].append(to_json(built).encode())
    found["mixed"] = [found["words"][0] + found["lspci"][-6], found["lspci"][0] + found["words"][2]]
    found["dmar"] = [FULL]
    return found


# -- text ------------------------------------------------------------------------------------------


def _lines(change: Callable[[random.Random, list[str]], None]) -> Change:
    def changed(dice: random.Random, text: str) -> str:
        lines = text.splitlines(keepends=True)
        if len(lines) > 2:
            change(dice, lines)
        return "".join(lines)

    return changed


def _span(dice: random.Random, lines: list[str]) -> tuple[int, int]:
    first = dice.randrange(len(lines))
    return first, min(len(lines), first + dice.choice((1, 1, 2, 16, 40)))


def _drop(dice: random.Random, lines: list[str]) -> None:
    first, last = _span(dice, lines)
    del lines[first:last]


def _double(dice: random.Random, lines: list[str]) -> None:
    first, last = _span(dice, lines)
    at = dice.randrange(len(lines))
    lines[at:at] = lines[first:last]


def _swap(dice: random.Random, lines: list[str]) -> None:
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]


def _join(dice: random.Random, lines: list[str]) -> None:
    at = dice.randrange(len(lines))
    lines[at] = lines[at].rstrip("\n")


def _prefix(dice: random.Random, lines: list[str]) -> None:
    mark = dice.choice(
        ("> ", ">", "| ", "    ", "[    0.5] ", "Nov 28 03:00:00 h k[1]: ", "\ufeff")
    )
    lines[:] = [mark + line for line in lines]


def _digit(dice: random.Random, text: str) -> str:
    places = [match.start() for match in re.finditer(r"[0-9a-f]", text)]
    for _ in range(dice.choice((1, 1, 3, 20))):
        if places:
            at = dice.choice(places)
            text = text[:at] + dice.choice("0123456789abcdef") + text[at + 1 :]
    return text


def _bus(dice: random.Random, text: str) -> str:
    """Give a bridge other buses: in words, in bytes (offset 18 of its space) or in JSON."""
    patterns = (r"(?<=secondary=)[0-9a-f]{2}", r"(?<=subordinate=)[0-9a-f]{2}")
    patterns += (
        r"(?<=^10: (?:[0-9a-f]{2} ){9})[0-9a-f]{2}".replace("(?:[0-9a-f]{2} ){9}", ".{27}"),
    )
    patterns += (r'(?<="secondary": "0x)[0-9a-f]+', r'(?<="secondary_bus": )\d+')
    pattern = dice.choice(patterns)
    found = list(re.finditer(pattern, text, re.MULTILINE))
    if not found:
        return text
    match = dice.choice(found)
    new = f"{dice.choice((0, 1, 2, 3, 0x7F, 0xFF)):02x}"
    return text[: match.start()] + new + text[match.end() :]


def _cut(dice: random.Random, text: str) -> str:
    return text[: dice.randrange(len(text) + 1)]


def _insert(dice: random.Random, text: str) -> str:
    at = dice.randrange(len(text) + 1)
    chunk = dice.choice(
        (
            "\n",
            "\0",
            "\t",
            "\x1b[31m",
            "<access denied>",
            "!!! Unknown header type 7f\n",
            "IOMMU Group 5:\n",
            "0000:ff:1f.7 PCI bridge: X\n",
            "10000:00:00.0 Host bridge: X\n",
            "\tBus: primary=00, secondary=01, subordinate=00, sec-latency=0\n",
            "\tCapabilities: [148 v1] #0d\n",
            "\u2028",
            "{",
            '"',
            "[" * 3000,
            "9" * 400,
            chr(dice.randrange(1, 0xD800)),
        )
    )
    return text[:at] + chunk + text[at:]


def _other(dice: random.Random, text: str) -> str:
    kinds = sources()
    more = dice.choice(kinds[dice.choice(("lspci", "words", "report", "json"))])
    at = dice.randrange(len(text) + 1)
    return text[:at] + more.decode("utf-8", "replace") + text[at:]


def _records(dice: random.Random, text: str) -> str:
    """Drop, double or exchange whole records: functions of a listing."""
    parts = text.split("\n\n")
    for _ in range(dice.choice((1, 1, 3))):
        first, second = dice.randrange(len(parts)), dice.randrange(len(parts))
        way = dice.randrange(3)
        if way == 0 and len(parts) > 1:
            del parts[first]
        elif way == 1:
            parts.insert(second, parts[first])
        else:
            parts[first], parts[second] = parts[second], parts[first]
    return "\n\n".join(parts)


_VALUES = (
    None,
    True,
    -1,
    0,
    1,
    255,
    256,
    1 << 40,
    1.5,
    "",
    "x",
    "0x1",
    "0000:01:00.0",
    [],
    {},
    [1],
)


def _tree(dice: random.Random, data: bytes) -> bytes:
    """Change values, keys and entries of JSON, which stays JSON."""
    top = json.loads(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        stack = [top]
        while stack:
            at = stack.pop()
            inner = list(at.items()) if isinstance(at, dict) else list(enumerate(at))
            places += [(at, key) for key, _ in inner]
            stack += [value for _, value in inner if isinstance(value, (dict, list))]
        if not places:
            break
        at, key = dice.choice(places)
        other, source = dice.choice(places)
        way = dice.randrange(5)
        if way == 0:
            del at[key]
        elif way == 1:
            at[key] = copy.deepcopy(other[source])
        elif way == 2 and isinstance(at, list):
            at.append(copy.deepcopy(at[key]))
        else:
            at[key] = dice.choice(_VALUES)
    return json.dumps(top).encode()


def _ends(dice: random.Random, text: str) -> str:
    return text.replace("\n", dice.choice(("\r\n", "\r", "\n\n", " \n")))


TEXT: tuple[Change, ...] = (
    _lines(_drop),
    _lines(_double),
    _lines(_swap),
    _lines(_join),
    _lines(_prefix),
    _digit,
    _digit,
    _digit,
    _bus,
    _bus,
    _bus,
    _records,
    _records,
    _records,
    _cut,
    _insert,
    _insert,
    _other,
    _ends,
)


# -- bytes -----------------------------------------------------------------------------------------


def _flip(dice: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(dice.choice((1, 2, 8, 64))):
        if raw:
            raw[dice.randrange(len(raw))] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256)))
    return bytes(raw)


def _length(dice: random.Random, data: bytes) -> bytes:
    """Write a number of 16 or 32 bits somewhere: lengths and counts go wrong this way."""
    raw = bytearray(data)
    size, form = dice.choice(((2, "<H"), (4, "<I")))
    if len(raw) > size:
        at = dice.randrange(len(raw) - size)
        raw[at : at + size] = struct.pack(form, dice.choice((0, 1, 3, 7, 0xFF, 0xFFFF)))
    return bytes(raw)


def _bytes(dice: random.Random, data: bytes) -> bytes:
    for _ in range(dice.choice((1, 1, 2))):
        way = dice.randrange(4)
        if way == 0:
            data = data[: dice.randrange(len(data) + 1)]
        elif way == 1:
            data = _length(dice, data)
        else:
            data = _flip(dice, data)
    return data


_TYPES = (
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CONTTYPE,
)
_NAMES = (
    "../../../{}",
    "/{}",
    "sys/../{}",
    "{}/../../x",
    "//{}",
    "./{}",
    "other/{}",
    "{}\0{}",
    "{}" + "/x" * 120,
)


def _members(dice: random.Random, data: bytes) -> bytes:
    """Rewrite an archive with some members renamed, of another type, resized, gone or twice."""
    stream = io.BytesIO()
    form = dice.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=stream, mode="w", format=form) as new,
    ):
        for member in old:
            source = old.extractfile(member) if member.isreg() else None
            content = source.read() if source else b""
            for _ in range(dice.choice((1,) * 30 + (0, 0, 2))):
                _member(dice, new, member, content)
    return stream.getvalue()


def _member(
    dice: random.Random, new: tarfile.TarFile, member: tarfile.TarInfo, content: bytes
) -> None:
    made = tarfile.TarInfo(member.name)
    made.type, made.linkname = member.type, member.linkname
    way = dice.randrange(60)
    if way == 0:
        made.name = dice.choice(_NAMES).replace("{}", member.name)
    elif way == 1:
        made.type = dice.choice(_TYPES)
        made.linkname = dice.choice(("/etc/passwd", "../../../../x", made.name, "", "a" * 300))
    elif way == 2:
        content = dice.choice((b"", content[:64], content[:100], content + bytes(1 << 17)))
    elif way == 3:
        content = _flip(dice, content)
    elif way == 4:
        made.name = member.name.replace(
            "0000:0", dice.choice(("0000:f", "0001:0", "0000:1ff", "ZZ"))
        )
    if made.isreg() or made.type == tarfile.CONTTYPE:
        made.size = len(content)
    new.addfile(made, io.BytesIO(content) if made.size else None)


def _packed(dice: random.Random, data: bytes) -> bytes:
    way = dice.randrange(12)
    if way == 0:
        return gzip.compress(data, mtime=0)
    if way == 1:
        return bz2.compress(data)
    if way == 2:
        return lzma.compress(data, preset=0)
    if way == 3:
        return _bytes(dice, gzip.compress(data, mtime=0))
    return data


# -- special cases ---------------------------------------------------------------------------------


def many_buses(count: int = 0x10000) -> str:
    """*count* bridges in one domain: every function of every bus, each leading to some bus."""
    head = "{:02x}:{:02x}.{} PCI bridge [0604]: X [1b36:000c]\n"
    bus = "\tBus: primary={:02x}, secondary={:02x}, subordinate=ff, sec-latency=0\n"
    kind = "\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00\n\n"
    return "".join(
        head.format(n >> 8, n >> 3 & 31, n & 7) + bus.format(n >> 8, (n & 0xFF)) + kind
        for n in range(count)
    )


def ring_of_buses() -> str:
    """Bridges whose secondary buses lead round in a circle."""
    return "".join(
        f"{n:02x}:00.0 PCI bridge [0604]: X [1b36:000c]\n"
        f"\tBus: primary={n:02x}, secondary={n % 8 + 1:02x}, subordinate=08, sec-latency=0\n"
        "\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00\n\n"
        for n in range(1, 9)
    )


def bomb() -> bytes:
    """A gigabyte of blanks in a megabyte, twice packed."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as file:
        for _ in range(1024):
            file.write(b" " * (1 << 20))
    return stream.getvalue()


SPECIALS: dict[str, Callable[[], bytes]] = {
    "many buses": lambda: many_buses().encode(),
    "ring of buses": lambda: ring_of_buses().encode(),
    "bomb": bomb,
    "bomb in a bomb": lambda: gzip.compress(bomb(), mtime=0),
    "deep JSON": lambda: b'{"schema": "dmaproof/machine/1", "devices": ' + b"[" * 200_000,
    "long number": lambda: b'{"schema": "dmaproof/machine/1", "name": ' + b"9" * 100_000 + b"}",
    "zeros": lambda: bytes(1 << 20),
    "one line": lambda: b"00:00.0 " + b"a" * (4 << 20),
    "quotes": lambda: b">" * (1 << 20),
    "slots": lambda: b"Slot:\t00:00.0\n" * 50_000,
    "drawn": lambda: b"-[0000:00]-" + b"+-00.0-[01]-" * 50_000,
    "addresses": lambda: b"00:00.0 " * 200_000,
}
"""Cases that are no damaged file: made to cost time and memory."""
LARGE = {"many buses", "bomb", "bomb in a bomb"}


def case(number: int) -> Case:
    """Return the case of a number: the same one, whenever it is asked for."""
    dice = random.Random(number)
    kinds = sources()
    kind = dice.choice(
        ("lspci", "lspci", "words", "words", "mixed", "tar", "report", "json", "dmar")
    )
    data = dice.choice(kinds[kind])
    if kind == "tar":
        data = _members(dice, data) if dice.random() < 0.7 else _bytes(dice, data)
    elif kind in {"json", "report"} and dice.random() < 0.7:
        data = _tree(dice, data)
    elif kind == "dmar" or dice.random() < 0.1:
        data = _bytes(dice, data)
    else:
        text = data.decode()
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            text = dice.choice(TEXT)(dice, text)
        data = text.encode("utf-8", "surrogatepass")
    return Case(kind, _packed(dice, data))


# -- running ---------------------------------------------------------------------------------------


def commands(file: str, number: int, kind: str) -> Iterator[list[str]]:
    """Yield what is asked about a case: proofs, which take longer, of one case in ten."""
    if kind == "dmar":
        yield ["machine", "dmar", file]
        yield ["machine", "dmar", file, "VF"]
        return
    yield ["machine", "show", file]
    yield ["groups", file]
    yield ["groups", "--compare", file]
    yield ["reach", file]
    if number % 10 == 0:
        yield ["reach", file, "A", "B"]
        yield ["machine", "show", file, "--json"]
        yield [
            "check",
            "--design",
            "bind-2018-device",
            "--property",
            "device-isolation",
            "--machine",
            file,
        ]


class Late(Exception):
    """A command took too long."""


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """End a command that takes too much processor time."""

    def late(signum: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def attempt(made: Case, folder: Path, number: int = 0) -> list[int]:
    """Run the commands on a case in an empty folder, and return their exit codes.

    Raises:
        AssertionError: another exit code, a traceback, too slow, or a file that was not there.

    """
    file = folder / "case"
    file.write_bytes(made.data)
    codes = []
    before = Path.cwd()
    os.chdir(folder)
    try:
        for arguments in commands(str(file), number, made.kind):
            with limited():
                result = run(*arguments)
            assert result.exit_code in CODES, (arguments, result.stderr)
            if result.exit_code == 2:
                assert "error:" in result.stderr or "Error:" in result.stderr, result.stderr
            codes.append(result.exit_code)
    finally:
        os.chdir(before)
    assert sorted(folder.rglob("*")) == [file]
    assert file.read_bytes() == made.data
    return codes


def main(count: int, first: int = 0) -> int:
    """Run *count* cases from number *first*; print what went wrong, and the exit codes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    codes: Counter[int] = Counter()
    bad = 0
    started = time.process_time()
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                codes.update(attempt(case(number), Path(folder), number))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                bad += 1
                print(f"case {number}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    spent = time.process_time() - started
    print(
        f"{count} cases, {sum(codes.values())} commands, {dict(sorted(codes.items()))}, {bad} bad"
    )
    print(f"{spent:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
