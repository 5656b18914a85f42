"""ACPI DMAR tables: layouts, damage, and what they say about a machine."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.dmar import (
    DmarTable,
    ScopeKind,
    is_dmar,
    read_dmar,
)
from dmaproof.model.pcie.machines import load, machine
from dmaproof.model.pcie.remapping import Remapping
from dmaproof.model.pcie.topology import Bdf, Device, Machine, PortKind

Path = tuple[tuple[int, int], ...]


def scope(kind: int, bus: int, *path: tuple[int, int], number: int = 0) -> bytes:
    steps = b"".join(bytes(step) for step in path)
    return bytes([kind, 6 + len(steps), 0, 0, number, bus]) + steps


def structure(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(body)) + body


def drhd(registers: int, *scopes: bytes, everything: bool = False, segment: int = 0) -> bytes:
    return structure(0, struct.pack("<BBHQ", everything, 0, segment, registers) + b"".join(scopes))


def rmrr(base: int, limit: int, *scopes: bytes) -> bytes:
    return structure(1, struct.pack("<HHQQ", 0, 0, base, limit) + b"".join(scopes))


def listed(kind: int, flags: int, *scopes: bytes, segment: int = 0) -> bytes:
    return structure(kind, struct.pack("<BBH", flags, 0, segment) + b"".join(scopes))


def table(*structures: bytes, flags: int = 5) -> bytes:
    body = b"".join(structures)
    head = struct.pack(
        "<4sIBB6s8sI4sI", b"DMAR", 48 + len(body), 1, 0, b"MAKER ", b"BOARD   ", 1, b"INTL", 1
    )
    raw = bytearray(head + bytes([38, flags]) + bytes(10) + body)
    raw[9] = -sum(raw) & 0xFF
    return bytes(raw)


FULL = table(
    drhd(0xFED90000, scope(1, 0, (2, 0))),
    drhd(0xFED91000, scope(3, 0xF0, (0x1F, 0), number=2), scope(4, 0, (0x1F, 0)), everything=True),
    rmrr(0x7B800000, 0x7FFFFFFF, scope(1, 0, (2, 0))),
    listed(2, 0, scope(2, 0, (1, 0))),
    structure(3, struct.pack("<IQI", 0, 0xFED90000, 1)),
    structure(4, bytes(3) + b"\1" + b"\\_SB.PCI0.I2C0\0\0"),
    listed(5, 1, scope(1, 0, (2, 0))),
    listed(6, 0, scope(1, 0, (2, 0))),
)


def dump(raw: bytes, comment: str = "  // {}") -> str:
    """As iasl prints raw bytes."""
    lines = ["Raw Table Data: Length", ""]
    for at in range(0, len(raw), 16):
        part = raw[at : at + 16]
        shown = "".join(chr(c) if 32 <= c < 127 else "." for c in part)
        lines.append(f"    {at:04X}: {part.hex(' ').upper()}{comment.format(shown)}")
    return "\n".join(lines) + "\n"


def test_every_structure() -> None:
    found = read_dmar(FULL)
    assert (found.revision, found.oem, found.address_width, found.flags) == (
        1,
        "MAKER BOARD",
        39,
        5,
    )
    assert [(u.registers, u.include_all, len(u.scopes)) for u in found.units] == [
        (0xFED90000, False, 1),
        (0xFED91000, True, 2),
    ]
    assert [s.kind for s in found.units[1].scopes] == [ScopeKind.IOAPIC, ScopeKind.HPET]
    assert (found.reserved[0].base, found.reserved[0].limit) == (0x7B800000, 0x7FFFFFFF)
    assert not found.ats_ports[0].all_ports
    assert (found.affinities[0].registers, found.affinities[0].domain) == (0xFED90000, 1)
    assert (found.names[0].number, found.names[0].name) == (1, r"\_SB.PCI0.I2C0")
    assert found.ats_devices[0].required
    assert found.properties[0].scopes[0].path == ((2, 0),)
    assert not found.warnings


@pytest.mark.parametrize(
    "text",
    [
        f'DMAR\n----\n[000h]  Signature : "DMAR"\n{dump(FULL)}',
        f"/*\n * Disassembly of DMAR\n */\n{dump(FULL)}",
        f"DMAR @ 0x0000000000000000\n{dump(FULL, '  {}')}\nAPIC @ 0x0\n{dump(b'APIC' * 20)}",
        dump(FULL).replace("\n", "\r\n"),
    ],
    ids=["iasl", "dsl", "acpidump", "windows"],
)
def test_text_that_shows_the_bytes(text: str) -> None:
    assert read_dmar(text.encode()) == read_dmar(FULL)


def test_what_is_a_table() -> None:
    assert is_dmar(FULL) and is_dmar(b'DMAR\n----\n Signature : "DMAR"')
    assert not is_dmar(b"00:00.0 Host bridge\n") and not is_dmar(b"")


def test_a_table_is_no_machine(tmp_path) -> None:
    file = tmp_path / "dmar.bin"
    file.write_bytes(FULL)
    with pytest.raises(InputError, match="IOMMU units and no functions") as caught:
        load(str(file))
    assert "machine dmar" in caught.value.remedy


# -- damage ----------------------------------------------------------------------------------------

BAD = {
    "empty": (b"", "no DMAR table|no raw bytes"),
    "another-table": (b"APIC" + FULL[4:], "no raw bytes"),
    "header-alone": (FULL[:40], "no DMAR table"),
    "cut": (FULL[:-10], "says it has"),
    "no-length": (FULL[:4] + bytes(4) + FULL[8:], "says it has"),
    "zero-structure": (
        table(drhd(1), structure(0, b"")[:2] + bytes(2)),
        "length 0 of the structure",
    ),
    "short-structure": (table(structure(1, bytes(8))), "length 12 of the structure"),
    "long-structure": (
        table(struct.pack("<HH", 0, 400) + bytes(12)),
        "length 400 of the structure",
    ),
    "stray": (table(drhd(1), b"\0\0"), "2 stray bytes"),
    "zero-scope": (table(drhd(1, bytes(8))), "length 0 of a device scope"),
    "odd-scope": (table(drhd(1, b"\1\x09" + bytes(7))), "length 9 of a device scope"),
    "long-scope": (table(drhd(1, b"\1\x40" + bytes(6))), "length 64 of a device scope"),
    "text-without-bytes": (b'DMAR\n[000h] Signature : "DMAR"\n', "no raw bytes"),
    "text-with-a-gap": (dump(FULL).replace("    0010:", "    0011:").encode(), "out of order"),
}


@pytest.mark.parametrize("what", BAD)
def test_wrong_lengths_are_errors(what: str) -> None:
    data, words = BAD[what]
    with pytest.raises(InputError, match=words) as caught:
        read_dmar(data, "dmar.bin")
    error = caught.value
    assert error.where.startswith("dmar.bin") and error.cause and "firmware/acpi" in error.remedy


def test_what_can_be_left_out_is_said() -> None:
    assert "checksum" in read_dmar(FULL[:9] + b"\x77" + FULL[10:]).warnings[0]
    assert "4 bytes after the end" in read_dmar(FULL + b"more").warnings[0]
    strange = read_dmar(table(drhd(1), structure(9, bytes(4)), rmrr(5, 4)))
    assert "type 9" in strange.warnings[0] and "ends before it begins" in strange.warnings[1]
    scopes = read_dmar(table(drhd(1, scope(7, 0, (0, 0)), scope(1, 0, (32, 0)))))
    assert not scopes.units[0].scopes and len(scopes.warnings) == 2


@given(
    st.lists(st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(FULL)),
)
@settings(max_examples=120, deadline=None)
def test_mutated_tables_raise_nothing_but_input_errors(changes, end: int) -> None:
    raw = bytearray(FULL)
    for at, value in changes:
        raw[at] = value
    for data in (bytes(raw), bytes(raw[:end]), dump(bytes(raw)).encode()):
        try:
            found = read_dmar(data, "mutated")
        except InputError as error:
            assert error.what and error.where.startswith("mutated") and error.remedy
            continue
        over = Remapping(machine("SS"), found)
        for device in over.machine.devices:
            over.unit_of(device.bdf), over.ats(device.bdf), over.reserved_for(device.bdf)


# -- on a machine ----------------------------------------------------------------------------------

GPU = Device(bdf=Bdf(0, 0, 2, 0), kind=PortKind.RC_INTEGRATED_ENDPOINT, class_code=0x0300)
SW = Machine("SW", [*machine("SW(on,on)").devices, GPU])


def units(raw: bytes, found: Machine = SW) -> dict[str, int | None]:
    over = Remapping(found, read_dmar(raw))
    return {device.label or "GPU": over.unit_of(device.bdf) for device in found.devices}


def test_units_of_functions() -> None:
    assert units(FULL) == {"RP": 1, "USP": 1, "DSP1": 1, "DSP2": 1, "A": 1, "B": 1, "GPU": 0}
    one_port = table(drhd(1, scope(2, 0, (1, 0), (0, 0), (1, 0))), drhd(2, everything=True))
    assert units(one_port) == {"RP": 1, "USP": 1, "DSP1": 1, "DSP2": 0, "A": 1, "B": 0, "GPU": 1}
    assert set(units(table(drhd(1, scope(1, 0, (2, 0))))).values()) == {0, None}


def test_the_first_unit_that_fits_wins() -> None:
    """The unit that has everything comes last by the book; Linux takes them in table order."""
    early = table(drhd(1, everything=True), drhd(2, scope(1, 0, (2, 0))))
    assert set(units(early).values()) == {0}
    other = table(drhd(1, everything=True, segment=1), drhd(2, everything=True))
    assert set(units(other).values()) == {1}


def test_virtual_functions_and_vmd_segments_follow_their_owner() -> None:
    found = machine("VF")
    over = Remapping(found, read_dmar(table(drhd(1, scope(1, 1, (0, 0))))))
    assert [over.unit_of(d.bdf) for d in found.functions] == [0, 0, 0]
    disk = Device(bdf=Bdf(0x10000, 0xE1, 0, 0), real_dma=GPU.bdf)
    owned = Machine("vmd", [GPU, disk])
    over = Remapping(owned, read_dmar(FULL))
    assert over.unit_of(disk.bdf) == over.unit_of(GPU.bdf) == 0


def ats(raw: bytes, place: str, found: Machine = SW, *, scalable: bool = True) -> bool:
    return Remapping(found, read_dmar(raw)).ats(Bdf.parse(place), scalable=scalable).allowed


def test_ats_by_the_lists_of_the_firmware() -> None:
    assert ats(FULL, "03:00.0")
    assert not ats(table(drhd(1)), "03:00.0")
    assert not ats(table(listed(2, 0, scope(2, 0, (3, 0)))), "03:00.0")
    assert ats(table(listed(2, 1)), "03:00.0")
    assert not ats(table(listed(2, 1, segment=1)), "03:00.0")
    assert ats(table(drhd(1)), "00:02.0")
    assert ats(FULL, "00:02.0") and not ats(FULL, "00:02.0", scalable=False)
    assert not ats(table(listed(2, 1)), "02:01.0", machine("BR"))


def test_reserved_memory_and_scopes_that_point_nowhere() -> None:
    over = Remapping(SW, read_dmar(FULL))
    assert [r.base for r in over.reserved_for(GPU.bdf)] == [0x7B800000]
    assert over.reserved_for(Bdf(0, 3, 0, 0)) == ()
    assert over.unresolved == ()
    bare = Remapping(machine("SS"), read_dmar(FULL))
    assert "0000:00:02.0" not in bare.unresolved  # the second root port of SS lives there
    lost = read_dmar(table(drhd(1, scope(1, 0, (9, 0)), scope(2, 0, (1, 0), (7, 1)))))
    assert Remapping(SW, lost).unresolved == ("0000:00:09.0", "0000:00:01.0/07.1")


def test_equality_ignores_warnings() -> None:
    assert replace(read_dmar(FULL), warnings=("x",)) == read_dmar(FULL)
    assert isinstance(read_dmar(FULL), DmarTable)
