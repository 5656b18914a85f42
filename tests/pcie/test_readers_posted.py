"""lspci text as it stands in reports: what other releases print, and what scripts put around it."""

from __future__ import annotations

import pytest

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.lspci import read_lspci, write_lspci
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.topology import Bdf, Fact
from dmaproof.model.pcie.undecided import decide
from pcie.words import verbose

SW = machine("SW(on,on)")
TEXT = verbose(SW)
PORT = Bdf.parse("02:00.0")
BELOW = Bdf.parse("03:00.0")
ACS = "\tCapabilities: [140 v1] Access Control Services\n"


def without_values(name: str) -> str:
    """The same, with the ACS capability of every port under another name and without values."""
    lines = (line for line in TEXT.splitlines(keepends=True) if "\tACSC" not in line)
    return "".join(lines).replace(ACS, f"\tCapabilities: [140 v1] {name}\n")


@pytest.mark.parametrize(
    "name",
    [
        "Access Controls",
        "Access Control Services <?>",
        "Unknown (13)",
        "#0d",
        "<unreadable>",
        "<chain broken>",
        "<chain looped>",
        "<access denied>",
    ],
)
def test_a_capability_that_is_there_but_not_shown(name: str) -> None:
    """Old releases know no ACS; a list that breaks off may have had it."""
    assert not decide(read_lspci(TEXT)).doubts
    found = read_lspci(without_values(name))
    assert Fact.ACS in found.device(PORT).unknown
    assert decide(found).doubt_about(BELOW) is not None


@pytest.mark.parametrize("name", ["Unknown (27)", "#1b", "#0f", "#10", "Unknown (16)"])
def test_capabilities_by_number(name: str) -> None:
    mark = "\tCapabilities: [100 v2] Advanced Error Reporting\n"
    found = read_lspci(TEXT.replace(mark, f"{mark}\tCapabilities: [120 v1] {name}\n"))
    assert all(Fact.CAPABILITIES in device.unknown for device in found.devices)
    assert not any(Fact.ACS in device.unknown for device in found.devices)
    slots = found.device(PORT)
    assert (slots.sriov is not None) is ("16" in name or "#10" in name)
    other = read_lspci(TEXT.replace(mark, f"{mark}\tCapabilities: [120 v1] #19\n"))
    assert not any(device.unknown for device in other.devices)


def test_a_mark_of_byte_order_does_not_hide_the_first_function() -> None:
    assert read_lspci("\ufeff" + TEXT).devices == read_lspci(TEXT).devices


def prefixed(prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in TEXT.splitlines())


@pytest.mark.parametrize(
    "prefix",
    [
        "Nov 28 03:00:00 host bash[123]: ",
        "2026-11-28T03:00:00+0100 host bash[123]: ",
        "> > ",
        ">> ",
        "    ",
    ],
)
def test_all_lines_have_something_in_front(prefix: str) -> None:
    assert read_lspci(prefixed(prefix)).devices == read_lspci(TEXT).devices


def test_indented_bytes() -> None:
    dump = write_lspci(SW.devices)
    indented = "".join(f"    {line}\n" for line in dump.splitlines())
    assert read_lspci(indented.replace("(config space)", "Class: x")).device(PORT).acs is not None


def listed(form: str) -> str:
    lines = []
    for device in SW.devices:
        ids = f"[{device.vendor:04x}:{device.device:04x}]"
        lines.append(form.format(n=device.bdf.bus, at=str(device.bdf), ids=ids))
    return "".join(lines)


@pytest.mark.parametrize(
    "form",
    [
        "IOMMU Group {n} {at} Class [0200]: Thing {ids}\n",
        "IOMMU Group {n}:\n\t{at} Class [0200]: Thing {ids}\n",
        "IOMMU group {n}\n[RESET]\t{at} Class [0200]: Thing {ids}\n",
        "Group:  {n}   {at} Class [0200]: Thing {ids}\n",
        "Group {n}: {at} Class [0200]: Thing {ids}\n",
    ],
)
def test_scripts_that_list_groups(form: str) -> None:
    found = read_lspci(listed(form))
    assert found.recorded == {device.bdf: device.bdf.bus for device in SW.devices}


def test_group_lines_of_a_record_are_no_titles() -> None:
    groups = {device.bdf: 7 for device in SW.devices}
    text = verbose(SW, groups=groups)
    assert "\tIOMMU group: 7" in text
    for form in (text, text.replace("\n\t", "\n"), text.replace("group: 7", "group 7")):
        assert read_lspci(form).recorded == groups
        assert not decide(read_lspci(form)).doubts


def test_functions_inside_lines_are_ignored_aloud() -> None:
    more = "see 05:00.0 Ethernet controller [0200]: Maker Thing [1af4:1041] for the other one\n"
    found = read_lspci(TEXT + more)
    assert len(found.devices) == len(SW.devices)
    (said,) = found.warnings[:1]
    assert "ignored" in said
    assert str(len(TEXT.splitlines()) + 1) in said
    with pytest.raises(InputError, match="no PCI function"):
        read_lspci(more)


def test_a_bridge_without_buses_may_lead_to_what_has_no_port() -> None:
    """`lspci -nn` alone: the port may be above the function, and may join it."""
    text = (
        "00:00.0 Host bridge [0600]: Maker Host [1b36:0008]\n"
        "00:01.0 PCI bridge [0604]: Maker Port [1b36:000c]\n"
        "01:00.0 Ethernet controller [0200]: Maker Thing [1af4:1041]\n"
    )
    decision = decide(read_lspci(text))
    assert [group.members for group in decision.groups] == [(Bdf.parse("00:00.0"),)]
    (doubt,) = decision.doubts
    assert set(doubt.members) == {Bdf.parse("00:01.0"), Bdf.parse("01:00.0")}


def test_a_port_that_is_asleep_may_lead_to_what_has_no_port() -> None:
    """Words of a port in D3cold, with bytes that are all ones, and what is below it."""
    ones = "".join(f"{at:02x}: {'ff ' * 15}ff\n" for at in range(0, 256, 16))
    head = "00:01.0 PCI bridge [0604]: Maker Port [1b36:000c] (rev ff) (prog-if ff)\n"
    rest = "\t!!! Unknown header type 7f\n\tKernel driver in use: pcieport\n"
    below = verbose(machine("S")).split("\n\n")[1] + "\n"
    for text in (head + rest, head + rest + ones, head.replace("rev ff", "rev 02") + ones):
        found = read_lspci(f"{text}\n{below}")
        assert found.device(Bdf.parse("00:01.0")).vendor == 0x1B36
        (doubt,) = decide(found).doubts
        assert len(doubt.members) == 2


def test_what_answers_zeros_is_unknown() -> None:
    dump = write_lspci(SW.devices)
    start = dump.index("0000:03:00.0")
    end = dump.index("0000:04:00.0")
    zeros = "".join(f"{at:02x}: {'00 ' * 15}00\n" for at in range(0, 256, 16))
    found = read_lspci(f"{dump[:start]}0000:03:00.0 Class: x\n{zeros}\n{dump[end:]}")
    assert Fact.KIND in found.device(BELOW).unknown


def test_an_extended_space_of_ones_is_not_believed() -> None:
    """The kernel read it once, or there would be none in the dump."""
    dump = write_lspci(SW.devices)
    start = dump.index("0000:02:00.0")
    body, rest = dump[start:].split("\n\n", 1)
    lines = [line for line in body.splitlines() if len(line.split(":")[0]) == 2 or "conf" in line]
    lines += [f"{at:03x}: {'ff ' * 15}ff" for at in range(16 * (len(lines) - 1), 0x200, 16)]
    found = read_lspci(dump[:start] + "\n".join(lines) + "\n\n" + rest)
    assert found.device(PORT).kind.is_pcie
    assert Fact.ACS in found.device(PORT).unknown


def test_a_message_inside_a_hex_line() -> None:
    dump = write_lspci(SW.devices)
    at = dump.index("\n40: ") + len("\n40: 00 00")
    for gap in ("", " "):
        broken = f"{dump[:at]}{gap}pcilib: sysfs_read_vpd: read failed\n{dump[at:]}"
        assert read_lspci(broken).devices == read_lspci(dump).devices


@pytest.mark.parametrize("mark", ["[...]", "...", "<snip>", "[snipped]", "---8<---", "\u2026"])
def test_what_somebody_cut_out(mark: str) -> None:
    """Inside a record, its list of capabilities is incomplete; elsewhere, functions may be gone."""
    at = TEXT.index(ACS, TEXT.index(f"\n{PORT}"))
    end = TEXT.index("\tKernel driver", at)
    for indent in ("\t", ""):
        found = read_lspci(TEXT[:at] + f"{indent}{mark}\n" + TEXT[end:])
        assert {Fact.ACS, Fact.CAPABILITIES} <= found.device(PORT).unknown
        assert "left out" in " ".join(found.warnings)
    between = read_lspci(TEXT.replace(f"\n{PORT}", f"\n{mark}\n\n{PORT}"))
    assert not any(device.unknown for device in between.devices)
    assert "left out" in " ".join(between.warnings)
