"""Every kind of bad input gets one clear error and exit code 2."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dmaproof.model.design import builtin_text
from dmaproof.model.pcie.lspci import write_lspci
from dmaproof.model.pcie.machine_json import to_json
from dmaproof.model.pcie.machines import load

from .support import complaint, run

DUMP = write_lspci(load("SWR").devices)
JSON = to_json(load("SWR"))
MEGABYTES = 10


def noise_of_text() -> bytes:
    return base64.encodebytes(random.Random(7).randbytes(MEGABYTES << 20))


def noise_of_hex() -> bytes:
    rng = random.Random(8)
    row = " ".join(f"{rng.randrange(256):02x}" for _ in range(16))
    return b"00:00.0 noise\n" + f"00: {row}\n".encode() * (MEGABYTES << 20 >> 6)


MACHINES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "blank": lambda: b" \n\n\t\n",
    "truncated": lambda: DUMP.encode()[:-29],
    "headlines-only": lambda: b"\n".join(x for x in DUMP.encode().split(b"\n") if b"config" in x),
    "binary": lambda: bytes(range(256)) * 64,
    "utf-32": lambda: DUMP.encode("utf-32"),
    "cyclic": lambda: JSON.replace('"secondary": "0x3"', '"secondary": "0x2"').encode(),
    "claimed-twice": lambda: JSON.replace('"secondary": "0x4"', '"secondary": "0x3"').encode(),
    "duplicate-json": lambda: JSON.replace('"0000:04:00.0"', '"0000:03:00.0"').encode(),
    "noise": lambda: random.Random(6).randbytes(MEGABYTES << 20),
    "noise-of-text": noise_of_text,
    "noise-of-hex": noise_of_hex,
    "unknown-key": lambda: JSON.replace('"label"', '"lable"').encode(),
    "wrong-type": lambda: JSON.replace('"header_type": 1', '"header_type": "one"').encode(),
    "no-schema": lambda: b'{"devices": []}',
    "no-devices": lambda: b'{"schema": "dmaproof/machine/1", "devices": []}',
    "truncated-json": lambda: JSON.encode()[:-40],
    "deep-json": lambda: b'{"a":' + b"[" * 200_000,
    "a-design": lambda: builtin_text("type1").encode(),
}

DESIGN = builtin_text("bind-2018-device")


def changed(old: str, new: str) -> bytes:
    assert old in DESIGN
    return DESIGN.replace(old, new, 1).encode()


DESIGNS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "truncated": lambda: DESIGN.encode()[: DESIGN.index("flush-iotlb") + 5],
    "binary": lambda: bytes(range(256)),
    "noise": lambda: random.Random(5).randbytes(MEGABYTES << 20),
    "noise-of-text": noise_of_text,
    "unknown-key": lambda: changed("pasid_fits", "pasid_fit"),
    "unknown-table": lambda: changed("[fabric]", "[fabrics]"),
    "wrong-type": lambda: changed("undo = true", 'undo = "perhaps"'),
    "wrong-value": lambda: changed('object = "device"', 'object = "function"'),
    "year-in-words": lambda: changed("year = 2018", 'year = "MMXVIII"'),
    "twice": lambda: changed("undo = true", "undo = true\nundo = true"),
    "contradictory": lambda: changed('payload = "table"', 'payload = "map"'),
    "step-twice": lambda: changed('"flush-iotlb"', '"clear"'),
    "deep": lambda: b"x = " + b"[" * 100_000,
    "another-schema": lambda: changed("dmaproof/design/1", "dmaproof/design/9"),
    "a-machine": DUMP.encode,
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], bytes]], Path]:
    folder = tmp_path_factory.mktemp("bad")

    def write(name: str, build: Callable[[], bytes]) -> Path:
        path = folder / name
        if not path.exists():
            path.write_bytes(build())
        return path

    return write


@pytest.mark.parametrize("name", MACHINES)
def test_bad_machine(name: str, bad: Callable[[str, Callable[[], bytes]], Path]) -> None:
    path = bad(f"machine-{name}", MACHINES[name])
    for command in (("groups", str(path)), ("reach", str(path), "A", "B")):
        result = run(*command)
        assert result.stdout == ""
        message = complaint(result)
        assert f"machine-{name}" in message
        assert "likely cause: " in message
        assert len(message) < 1500


@pytest.mark.parametrize("name", DESIGNS)
def test_bad_design(name: str, bad: Callable[[str, Callable[[], bytes]], Path]) -> None:
    path = bad(f"{name}.toml", DESIGNS[name])
    result = run("design", "show", str(path))
    assert result.stdout == ""
    message = complaint(result)
    assert f"{name}.toml" in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("unknown-key", "guards.pasid_fit"),
        ("wrong-type", "bind.undo"),
        ("wrong-value", "interface.object"),
        ("contradictory", "interface.payload"),
        ("step-twice", "teardown.steps"),
    ],
)
def test_a_design_error_names_the_key(
    name: str, key: str, bad: Callable[[str, Callable[[], bytes]], Path]
) -> None:
    assert key in complaint(run("design", "show", str(bad(f"{name}.toml", DESIGNS[name]))))


@pytest.mark.parametrize(
    "command",
    [
        ("groups", ""),
        ("groups", "."),
        ("groups", "SW(on,maybe)"),
        ("groups", "nul\0byte"),
        ("groups", "x" * 5000),
        ("reach", "SS", "A"),
        ("reach", "SS", "A", "C"),
        ("reach", "SS", "A", "00:1f.9"),
        ("reach", "SS", "", "B"),
        ("reach", "SS", "RP1", "B"),
        ("reach", "SS", "A", "B", "--assume", "deputy=maybe"),
        ("reach", "SS", "A", "B", "--assume", "deputy"),
        ("reach", "SS", "A", "B", "--assume", "deputy=on", "--assume", "deputy=off"),
        ("design", "show", "bind-2019"),
        ("design", "show", "."),
        ("machine", "show", "nowhere.txt"),
        ("explain", "vtd.unheard-of"),
    ],
    ids=lambda command: " ".join(command)[:40].replace("\0", "0"),
)
def test_bad_arguments(command: tuple[str, ...]) -> None:
    result = run(*command)
    complaint(result)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("nonsense",),
        ("groups",),
        ("groups", "--grouping", "v9", "SS"),
        ("reach",),
        ("design",),
        ("design", "paint"),
        ("explain",),
        ("explain", "--list", "pcie"),
        ("--nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage(command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "Usage: dmaproof" in result.stderr
    assert result.stdout == ""


def test_a_file_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "bad\x1b[31mred\rname"
    path.write_text("nothing")
    result = run("groups", str(path))
    assert "\x1b" not in result.output
    assert "\r" not in result.output
