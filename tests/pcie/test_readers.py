"""Configuration space, lspci text and JSON: round trips and bad inputs."""

from __future__ import annotations

import random
import string
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.configspace import ConfigSpace, decode, encode
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.lspci import read_lspci, write_lspci
from dmaproof.model.pcie.machine_json import from_json, to_json
from dmaproof.model.pcie.machines import load, machine, names
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind
from pcie.strategies import devices, machines

few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
DUMP = write_lspci(machine("SW(off,on)").devices)
RECORDED = (Path(__file__).parent / "data/acs-6.18/acs-4008.lspci-xxxx.txt").read_text()


def complaint(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_lspci(text, "dump.txt")
    error = caught.value
    assert error.what and error.where.startswith("dump.txt") and error.cause and error.remedy
    return error


# -- round trips -----------------------------------------------------------------------------------


@given(devices())
@settings(max_examples=200, deadline=None)
def test_configuration_space_round_trip(device: Device) -> None:
    assert decode(device.bdf, ConfigSpace(encode(device))) == device


@given(machines())
@few
def test_lspci_round_trip(drawn: Machine) -> None:
    # Aliases are quirks of device ids, which drawn machines have none of.
    plain = Machine("drawn", [replace(d, aliases=frozenset()) for d in drawn.devices])
    assert read_lspci(write_lspci(plain.devices), "drawn") == plain


@given(machines())
@few
def test_json_round_trip(drawn: Machine) -> None:
    assert from_json(to_json(drawn)) == drawn


@pytest.mark.parametrize("name", names())
def test_built_in_machines_round_trip(name: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(to_json(machine(name)))
    assert load(str(file)) == machine(name)


def test_forms_of_lspci_output() -> None:
    expected = read_lspci(DUMP)
    short = DUMP.replace("0000:", "")
    described = short.replace(" (config space)", " Ethernet controller: Maker Model (rev 01)")
    verbose = described.replace("\n00: ", "\n\tControl: I/O+\n\t\tLnkCap: Port #0\n00: ")
    for text in (short, described, verbose, DUMP.replace("\n", "\r\n"), "\n\n" + DUMP.upper()):
        assert read_lspci(text.replace("(CONFIG SPACE)", "")).devices == expected.devices
    other = read_lspci(DUMP.replace("0000:", "10000:"))
    assert {device.bdf.domain for device in other.devices} == {0x10000}


def test_paths_of_lspci_pp() -> None:
    text = DUMP.replace("0000:01:00.0 (", "00:01.0/01:00.0 (")
    assert read_lspci(text).devices == read_lspci(DUMP).devices


def test_wide_acs_registers_of_sunrise_point() -> None:
    port = Device(
        bdf=Bdf(0, 0, 0x1C, 0),
        kind=PortKind.ROOT_PORT,
        vendor=0x8086,
        device=0xA110,
        header_type=1,
        acs=Acs(0x0F, 0x0F),
        secondary=1,
        subordinate=1,
    )
    data = encode(port)
    assert data[0x106:0x108] == b"\0\0" and data[0x108] == 0x0F
    assert decode(port.bdf, ConfigSpace(data)) == port


def test_virtual_functions_are_found_and_are_not_multifunction() -> None:
    found = read_lspci(write_lspci(machine("VF").devices))
    physical = Bdf.parse("01:00.0")
    assert [d.physfn for d in found.functions] == [None, physical, physical]
    assert not any(d.multifunction for d in found.functions)


def test_short_configuration_spaces_hide_capabilities() -> None:
    lines = DUMP.splitlines(keepends=True)
    first_256 = "".join(line for line in lines if line[3:4] != ":")
    found = read_lspci(first_256)
    assert all(device.hidden for device in found.devices)
    assert "lspci -xxxx" in found.warnings[0]
    first_64 = "".join(
        line
        for line in first_256.splitlines(keepends=True)
        if line[2:3] != ":" or int(line[:2], 16) < 0x40
    )
    assert all(device.hidden for device in read_lspci(first_64).devices)
    assert not any(device.hidden for device in read_lspci(DUMP).devices)


def test_a_missing_bridge_is_noticed() -> None:
    below = [device for device in machine("SS").devices if not device.is_bridge]
    assert "must have a port above" in read_lspci(write_lspci(below)).warnings[0]


# -- bad input -------------------------------------------------------------------------------------


def test_empty() -> None:
    assert "empty" in complaint("").what
    assert "empty" in complaint(" \n\n").what


def test_no_functions() -> None:
    assert "no PCI function" in complaint("hello\nworld\n").what


def test_truncated_in_a_line() -> None:
    cut = RECORDED[: RECORDED.index("\n20: ") + 20]
    error = complaint(cut)
    assert "cut or damaged" in error.what and error.where == "dump.txt:4"


def test_a_headline_alone_says_nothing_about_capabilities() -> None:
    found = read_lspci("00:00.0 Host bridge\n")
    assert found.devices[0].unknown >= {Fact.KIND, Fact.ACS, Fact.CAPABILITIES}
    assert "hide their capabilities" in found.warnings[0]


def test_hex_before_any_function() -> None:
    assert "before the first function" in complaint("00:" + " 00" * 16 + "\n" + DUMP).what


def test_mixed_lines() -> None:
    first = RECORDED.index("\n10: ")
    again = RECORDED[:first] + RECORDED[RECORDED.index("\n00: ") : first] + RECORDED[first:]
    assert "out of order" in complaint(again).what


def test_a_dump_given_twice_is_one_machine() -> None:
    assert read_lspci(DUMP + "\n" + DUMP).devices == read_lspci(DUMP).devices


def test_cyclic_buses() -> None:
    port = replace(machine("S").by_label("RP"), bdf=Bdf(0, 1, 0, 0))
    error = complaint(write_lspci([port]))
    assert "not above the bridge's own bus" in error.what and "0000:01:00.0" in error.where


def test_two_bridges_to_one_bus() -> None:
    port = machine("S").by_label("RP")
    error = complaint(write_lspci([port, replace(port, bdf=Bdf(0, 0, 2, 0))]))
    assert "claimed by 0000:00:01.0 and by 0000:00:02.0" in error.what


def test_reversed_bus_range() -> None:
    port = replace(machine("S").by_label("RP"), secondary=5, subordinate=3)
    assert "below secondary bus" in complaint(write_lspci([port])).what


@pytest.mark.parametrize("kind", ["letters", "hex", "lines", "colons", "slashes", "headlines"])
def test_ten_megabytes_of_noise(kind: str, tmp_path: Path) -> None:
    size, source = 10_000_000, random.Random(1)
    text = {
        "letters": lambda: "".join(source.choices(string.printable, k=size)),
        "hex": lambda: "0a" * (size // 2),
        "lines": lambda: "0a: \n" * (size // 5),
        "colons": lambda: "00:" * (size // 3),
        "slashes": lambda: "00:01/" * (size // 6),
        "headlines": lambda: "00:1f.0\n" * (size // 8),
    }[kind]()
    file = tmp_path / "noise.txt"
    file.write_text(text)
    started = time.process_time()
    with pytest.raises(InputError):
        load(str(file))
    assert time.process_time() - started < 3


def test_binary(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(bytes(range(256)) * 16)
    with pytest.raises(InputError, match="not a text file"):
        load(str(file))
    file.write_bytes(DUMP.encode() + b"\0")
    with pytest.raises(InputError, match="not a text file"):
        load(str(file))
    file.write_bytes(random.Random(2).randbytes(1 << 20))
    with pytest.raises(InputError, match="not a text file"):
        load(str(file))


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no PCI tree"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="neither a file nor a built-in machine") as caught:
        load(str(tmp_path / "missing"))
    assert "SW(off,on)" in caught.value.remedy


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.sampled_from(
                ["", "\n", " ", "0", "f", "ff", "00:", "10: ", "0000:00:01.0 x\n", "\0"]
            ),
            st.text(max_size=3),
        ),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=6,
)


@given(st.sampled_from([DUMP, RECORDED]), edits)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_dumps_raise_nothing_but_input_errors(text: str, changes) -> None:
    for place, insert, drop in changes:
        at = int(place * len(text))
        text = text[:at] + insert + text[at + drop :]
    try:
        found = read_lspci(text, "mutated")
    except InputError as error:
        assert error.what and error.where and error.cause and error.remedy
        return
    survive(found)


@given(st.sampled_from([DUMP, RECORDED]), st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_flipped_bytes_raise_nothing_but_input_errors(text: str, data) -> None:
    """Hex digits change, lines stay well formed: damaged registers rather than damaged text."""
    places = [at for at, letter in enumerate(text) if letter in "0123456789abcdef"]
    changed = list(text)
    for at in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=12)):
        changed[at] = data.draw(st.sampled_from("0123456789abcdef"))
    try:
        found = read_lspci("".join(changed), "mutated")
    except InputError:
        return
    survive(found)


def survive(found: Machine) -> None:
    members = [bdf for group in groups(found) for bdf in group.members]
    assert sorted(members) == [device.bdf for device in found.devices]
    Fabric(found).acts(PERMISSIVE)
    groups(found, "components")
    again = from_json(to_json(found))
    assert again.devices == found.devices


@given(st.binary(max_size=4096), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_decode(data: bytes, extended: bool) -> None:
    assert decode(Bdf(0, 0, 0, 0), ConfigSpace(data, extended)).bdf.rid == 0


def test_capability_loops_end() -> None:
    data = bytearray(encode(machine("S").by_label("A")))
    data[0x41] = 0x40
    header = int.from_bytes(data[0x100:0x104], "little") & 0xFFFFF | 0x100 << 20
    data[0x100:0x104] = header.to_bytes(4, "little")
    space = ConfigSpace(bytes(data))
    assert len(list(space.capabilities())) == 1
    assert len(list(space.extended_capabilities())) == 1


# -- JSON ------------------------------------------------------------------------------------------

GOOD = '{"schema": "dmaproof/machine/1", "name": "m", "devices": [{"bdf": "00:01.0"%s}]}'
BAD_JSON = {
    "": "not JSON",
    "{": "not JSON",
    "[" * 100_000: "not JSON",
    "[]": "top level",
    "{}": "schema: key is missing",
    '{"schema": "dmaproof/machine/2", "devices": []}': "schema: unknown schema",
    '{"schema": "dmaproof/machine/1", "devices": []}': "no functions",
    '{"schema": "dmaproof/machine/1", "devices": 1}': "devices",
    '{"schema": "dmaproof/machine/1"}': "devices: key is missing",
    GOOD % ', "colour": 1': "devices.0.colour: unknown key",
    GOOD % ', "vendor": "intel"': "devices.0.vendor",
    GOOD % ', "vendor": true': "devices.0.vendor",
    GOOD % ', "vendor": 65536': "devices.0.vendor",
    GOOD % ', "vendor": "0xg"': "devices.0.vendor",
    GOOD % ', "pasid": 21': "devices.0.pasid",
    GOOD % ', "ats": "yes"': "devices.0.ats",
    GOOD % ', "kind": "router"': "devices.0.kind",
    GOOD % ', "acs": {"capability": 1}': "devices.0.acs.control: key is missing",
    GOOD % ', "secondary": 1, "subordinate": 1': "header type 0",
    GOOD % ', "header_type": 1, "secondary": 0, "subordinate": 1': "not above",
    GOOD % ', "header_type": 1, "secondary": 2': "subordinate",
    GOOD % ', "aliases": ["01:00.0"]': "another bus",
    GOOD % ', "aliases": ["x"]': "no PCI address",
    GOOD % ', "label": "\\ud800"': "devices.0.label",
    GOOD.replace("00:01.0", "00:41.0") % "": "no PCI address",
    GOOD.replace("00:01.0", "nowhere") % "": "no PCI address",
    GOOD.replace("}]", '}, {"bdf": "0:0:1.0"}]') % "": "twice",
    GOOD.replace("}]", ', "label": "A"}, {"bdf": "2:0.0", "label": "A"}]') % "": "called A",
}


@pytest.mark.parametrize(("text", "what"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_bad_json(text: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(text, "m.json")
    error = caught.value
    assert what in error.what
    assert error.where.startswith("m.json") and error.cause and error.remedy


@given(st.sampled_from([to_json(machine(name)) for name in ("BR", "VF", "AL2")]), edits)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_json_raises_nothing_but_input_errors(text: str, changes) -> None:
    for place, insert, drop in changes:
        at = int(place * len(text))
        text = text[:at] + insert + text[at + drop :]
    try:
        found = from_json(text)
    except InputError as error:
        assert error.what and error.where and error.remedy
        return
    Fabric(found).acts(PERMISSIVE)
    groups(found)
