"""``dmaproof translate``: what users see, and that no input loses an outcome or breaks it."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest
import vtd.cases  # noqa: F401 (registers the cases)
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vtd import vocabulary as v

from dmaproof.cli import cli
from dmaproof.model.algebra import Image
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.vectors import encode

from .support import ENVIRONMENT, run

GOLDEN = Path(__file__).parent / "golden" / "translate"
CASES = v.CASES
RECORDED = Path(__file__).parents[1] / "oracle" / "data" / "qemu-10.2.jsonl.gz"


def vector(builder, ecap, request, mode=0):
    registers = Registers(v.CAP_BASE, ecap, builder.root | mode << 10, haw=48)
    return encode(builder.image, registers, request)


def legacy(request=None, **fields):
    return vector(v.legacy(**fields)[0], v.PT | v.DT, request or v.write(v.A + 8))


def looping():
    builder, _, top = v.legacy()
    builder.image[top] = top | 3
    return vector(builder, v.PT, v.read(0))


def changed(line, **changes):
    line = dict(line)
    for key, value in changes.items():
        if value is None:
            del line[key]
        else:
            line[key] = line[key] | value if key == "req" else value
    return line


GOOD = legacy()
CAN = Registers(v.CAP_BASE, v.EXTENDED, 0x1000, haw=48)
LINES = [
    GOOD,
    legacy(v.read(v.A), rights=2),
    legacy(v.read(0), fpd=1),
    legacy(v.write(0xFEE00010)),
    "",
    vector(v.scalable()[0], v.SCALABLE, v.read(v.A + 4), 1),
    vector(v.process()[0], v.FULL, v.tagged(5, v.V, privileged=True), 1),
    legacy(v.read(v.A, kind=Kind.TRANSLATION), tt=1, rights=1),
    vector(v.extended_nested()[0], v.EXTENDED, v.tagged(6, v.V), 2),
    looping(),
    changed(GOOD, cap=None),
    changed(GOOD, req={"addr": "0x1" + "0" * 16}),
    changed(GOOD, req={"size": -4}),
    changed(GOOD, haw=None) | {"haww": 48},
    '{"cap": 1, "cap": 1}',
    "{",
    GOOD,
]
TEXT = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in LINES) + "\n"


@pytest.mark.parametrize("name", ["text", "json"])
def test_golden(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DMAPROOF_GOLDEN=1 writes the files anew."""
    monkeypatch.chdir(tmp_path)
    Path("vectors.jsonl").write_text(TEXT, "utf-8")
    args = ["translate", "vectors.jsonl", *(["--json"] if name == "json" else [])]
    result = run(*args)
    seen = f"$ dmaproof {' '.join(args)}\n{result.stdout}--- standard error\n{result.stderr}"
    seen += f"--- exit code {result.exit_code}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("DMAPROOF_GOLDEN"):
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


def feed(data: bytes, *args: str):
    """Run on standard input; whatever is given, there is no traceback and no bug."""
    result = CliRunner().invoke(cli, ["translate", "-", *args], input=data, env=ENVIRONMENT)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {0, 2}, result.output
    assert (result.exit_code == 2) == ("error:" in result.stderr), result.stderr
    return result


def answers(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


LANDED = {"hpa": 0x2000008}
ONE = json.dumps(GOOD).encode()
TWO = ONE + b"\n" + ONE + b"\n"


def test_recorded_file_in_both_forms_and_from_standard_input() -> None:
    plain = gzip.decompress(RECORDED.read_bytes())
    packed = run("translate", str(RECORDED), "--json")
    assert packed.exit_code == 0 and packed.stderr == ""
    assert len(answers(packed)) == 1000
    assert feed(plain, "--json").stdout == packed.stdout
    assert feed(RECORDED.read_bytes(), "--json").stdout == packed.stdout


def test_every_line_that_cannot_be_used_is_named_once() -> None:
    bad = [b"{", b'{"cap": 1}', b"\xff\xfe", b"[1]", b"null", b"{" * 5000]
    result = feed(b"\n".join([ONE, *bad, ONE]), "--json")
    found = answers(result)
    assert [found[0], found[-1]] == [LANDED, LANDED]
    assert all("error" in x for x in found[1:-1])
    assert result.stderr.count("error:") == len(bad)
    for line in range(2, 8):
        assert f"standard input: line {line}" in result.stderr
    assert result.stderr.count("  next: ") == len(bad)


def test_thousands_of_useless_lines_are_told_shortly() -> None:
    result = feed(b"nothing\n" * 5000 + TWO, "--json")
    assert answers(result)[-2:] == [LANDED, LANDED]
    assert result.stderr.count("error:") == 51
    assert "lines up to 5000: 4950 more lines" in result.stderr


def pieces() -> dict[str, bytes]:
    packed = gzip.compress(TWO * 40, mtime=0)
    noise = random.Random(3).randbytes(50_000)
    garbled = bytearray(gzip.compress(TWO * 4 + noise.hex().encode() + b"\n", mtime=0))
    garbled[-9000] ^= 0x55
    trailer = gzip.compress(TWO.rstrip(), mtime=0)[:-4]
    return {
        "truncated": packed[:-30],
        "without its trailer": trailer,
        "garbled": bytes(garbled),
        "with garbage behind": packed + b"garbage",
    }


@pytest.mark.parametrize("name", pieces())
def test_a_damaged_gzip_gives_every_line_before_the_damage(name: str) -> None:
    result = feed(pieces()[name], "--json")
    found = answers(result)
    assert found.count(LANDED) >= {"truncated": 60, "garbled": 8, "without its trailer": 2}.get(
        name, 80)
    assert "standard input: the gzip stream is damaged" in result.stderr


def test_two_gzip_members_are_one_file() -> None:
    result = feed(gzip.compress(TWO) + gzip.compress(TWO) + bytes(512), "--json")
    assert result.exit_code == 0 and answers(result) == [LANDED] * 4


@pytest.mark.parametrize(("data", "cause"), [
    (b"", "an empty file"), (b"\n \n\n", "an empty file"), (gzip.compress(b""), "an empty file"),
    (random.Random(1).randbytes(200_000), "a binary file"),
    (gzip.compress(random.Random(1).randbytes(200_000)), "a binary file"),
    (b"\x1f\x8bgarbage, not gzip", "a truncated or garbled copy"), (b"\x1f\x8b", "truncated"),
    (TWO.decode().encode("utf-16"), "UTF-16 data"), (b"BZh91AY", "bzip2 data"),
], ids=["empty", "blank", "empty gzip", "noise", "gzip of noise", "garbage", "short", "utf-16",
        "bzip2"])
def test_a_file_without_vectors_is_one_error(data: bytes, cause: str) -> None:
    result = feed(data)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("error:") == 1
    assert cause in result.stderr and "  next: " in result.stderr


@pytest.mark.parametrize("name", ["absent", ".", "nul\0byte", "", "x" * 5000])
def test_a_file_that_cannot_be_read_is_one_error(name: str) -> None:
    result = run("translate", name)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("error:") == 1 and "  next: " in result.stderr


def test_a_huge_line_is_skipped() -> None:
    huge = b'{"note": "' + b"x" * (17 << 20) + b'"}'
    result = feed(ONE + b"\n" + huge + b"\n" + ONE, "--json")
    found = answers(result)
    assert [found[0], found[2]] == [LANDED, LANDED]
    assert "standard input: line 2: a line of more than 16 MiB" in result.stderr
    assert len(feed(huge).stderr) < 1000


def test_a_reader_of_the_text_learns_the_same_as_one_of_json() -> None:
    found = answers(feed(TEXT.encode(), "--json"))
    text = feed(TEXT.encode()).stdout.splitlines()
    told = [x for x in found if "error" not in x]
    assert len(text) == len(told) + 1  # and the summary
    for line, outcome in zip(text, told, strict=False):
        if "fault" in outcome:
            assert f"({outcome['condition']}, " in line and outcome["rule"] in line
        elif "interrupt" in outcome:
            assert "interrupt" in line
        else:
            assert f"lands at {outcome['hpa']:#x}" in line


# ------------------------------------------------------------------------------------------- fuzz


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
@example(b'\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03')
@example(b'{"cap": 1e999}')
def test_no_bytes_break_it(data: bytes) -> None:
    feed(data)
    feed(ONE + b"\n" + data + b"\n" + ONE + b"\n", "--json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["0x10", "-1", "0x" + "f" * 17, "9" * 5000, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=5,
)
PATHS = [*((key,) for key in GOOD), *(("req", key) for key in GOOD["req"]), ("req", "kind"),
         ("req", "size"), ("req", "atomic"), ("mem", "0x1000"), ("mem", "4096"), ("mem", "x")]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), JSON | st.just(KeyError))
def test_no_value_of_any_key_breaks_it(path: tuple[str, ...], value: object) -> None:
    line = json.loads(ONE)
    inner = line if len(path) == 1 else line[path[0]]
    if value is KeyError:
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = value
    result = feed(TWO + json.dumps(line).encode() + b"\n" + ONE, "--json")
    found = answers(result)
    assert [*found[:2], found[3]] == [LANDED] * 3
    assert ("error" in found[2]) <= (result.exit_code == 2)


WORDS = st.integers(0, (1 << 64) - 1)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(WORDS, WORDS, WORDS), st.integers(0, 255),
    st.dictionaries(st.integers(0, 511), WORDS, max_size=30),
    st.lists(st.tuples(st.integers(0, 0xFFFF), WORDS, st.booleans(), st.none() | st.integers(
        0, 0xFFFFF), st.sampled_from(["untranslated", "translation", "translated"])),
        min_size=1, max_size=3),
    st.booleans(),
)
def test_no_tables_break_it_and_bulk_agrees(registers, version, words, requests, pointers) -> None:
    """Random registers and memory, often with pointers into the one page: loops and all."""
    def word(n):
        return (n & ~0xFFFF_FFFF_F000 if pointers else n)

    cap, ecap, rtaddr = registers
    line = {
        "cap": cap & ~(0x3F << 16) | 47 << 16, "ecap": ecap & ~(1 << 55),
        "rtaddr": rtaddr & 0xC00 if pointers else rtaddr, "version": version, "haw": 48,
        "mem": {hex(8 * a): word(w) for a, w in words.items()}, "ram": 4096,
    }
    lines = []
    for sid, address, write, pasid, kind in requests:
        q = {"sid": sid, "addr": address & ~7, "write": write, "pasid": pasid, "kind": kind}
        lines.append(json.dumps(line | {"req": q}))
    one = answers(feed("\n".join(lines).encode(), "--json"))
    many = answers(feed("\n".join(x for x in lines for _ in range(32)).encode(), "--json"))
    assert many == [x for x in one for _ in range(32)]


def test_vectors_survive_a_round_trip() -> None:
    for case in CASES:
        if case.request.kind is Kind.PAGE:
            continue
        again = json.loads(json.dumps(encode(case.image, case.registers, case.request)))
        assert encode(*_parsed(again)) == again


def _parsed(line):
    from dmaproof.model.vtd.vectors import parse

    found = parse(json.dumps(line), 1, {})
    assert isinstance(found.image, Image) and isinstance(found.request, Request)
    return found.image, found.registers, found.request
