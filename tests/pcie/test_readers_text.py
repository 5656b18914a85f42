"""lspci in words, as root and as a user sees it and as people post it."""

from __future__ import annotations

import html
import re
import textwrap
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.groups import groups
from dmaproof.model.pcie.lspci import read_lspci, write_lspci
from dmaproof.model.pcie.machine_json import from_json, to_json
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.pcie.pci_names import class_of, ids_of
from dmaproof.model.pcie.topology import Bdf, Device, Fact, Machine, PortKind
from dmaproof.model.pcie.undecided import decide
from pcie.strategies import machines
from pcie.words import verbose

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
SWITCH = verbose(machine("SW(off,on)"))


def plain(found: Machine) -> list[Device]:
    """What words show: no labels, no aliases, no subsystem of a made-up vendor."""
    return [
        replace(
            d,
            label="",
            aliases=frozenset(),
            subsystem=0,
            class_code=0,
            multifunction=False,
            own_memory=False,
            pasid_execute=d.pasid is not None and d.pasid_execute,
            pasid_privileged=d.pasid is not None and d.pasid_privileged,
        )
        for d in found.devices
    ]


def partition(found: Machine) -> set[frozenset[Bdf]]:
    return {frozenset(group.members) for group in groups(found)}


# -- the same machine in many forms ----------------------------------------------------------------


@given(machines())
@few
def test_words_round_trip(drawn: Machine) -> None:
    if not any(d.kind.is_pcie for d in drawn.devices):
        return
    found = read_lspci(verbose(drawn))
    assert plain(found) == plain(drawn)
    simple = Machine("", [replace(d, aliases=frozenset()) for d in drawn.devices])
    assert partition(found) == partition(simple)


@given(machines(), st.booleans())
@few
def test_a_user_without_rights_is_told_no_type(drawn: Machine, values: bool) -> None:
    found = read_lspci(verbose(drawn, root=False, values=values))
    for real, shown in zip(drawn.devices, found.devices, strict=True):
        hidden = {Fact.KIND, Fact.ACS, Fact.CAPABILITIES}
        assert real.kind.is_pcie == (hidden <= shown.unknown)
        assert shown.acs is None
    truth = partition(Machine("", [replace(d, aliases=frozenset()) for d in drawn.devices]))
    assert {frozenset(group.members) for group in decide(found).groups} <= truth


@given(machines())
@few
def test_names_of_capabilities_without_values(drawn: Machine) -> None:
    """``lspci -v`` says that there is an ACS capability, and not what it holds."""
    found = read_lspci(verbose(drawn, values=False))
    for real, shown in zip(drawn.devices, found.devices, strict=True):
        assert shown.kind is real.kind
        assert (real.acs is not None) == (Fact.ACS in shown.unknown)


@pytest.mark.parametrize("name", names())
def test_built_in_machines_in_words(name: str) -> None:
    assert plain(read_lspci(verbose(machine(name)))) == plain(machine(name))


def quoted(text: str) -> str:
    return "Hi,\n\n" + "".join(f"> {line}\n" for line in text.splitlines())


def wrapped(text: str) -> str:
    """As mail programs break long lines: the rest starts at the margin."""
    lines = []
    for line in text.splitlines():
        lines += textwrap.wrap(
            line,
            60,
            drop_whitespace=True,
            subsequent_indent="",
            break_on_hyphens=False,
            break_long_words=False,
        ) or [""]
    return "\n".join(lines) + "\n"


def stamped(text: str) -> str:
    return "".join(f"[  {n}.123456] {line}\n" for n, line in enumerate(text.splitlines()))


FORMS = {
    "as-is": lambda t: t,
    "windows": lambda t: t.replace("\n", "\r\n"),
    "coloured": lambda t: re.sub(r"^(\S+)", "\x1b[1;32m\\1\x1b[0m", t, flags=re.MULTILINE),
    "non-breaking": lambda t: t.replace("\t", "\xa0\xa0 \xa0").replace(" ", "\xa0"),
    "quoted": quoted,
    "quoted-twice": lambda t: quoted(quoted(t)),
    "wrapped": wrapped,
    "stamped": stamped,
    "html": html.escape,
    "spaces": lambda t: t.replace("\t", "        "),
    "no-indentation": lambda t: re.sub(r"^\t+", "", t, flags=re.MULTILINE),
    "no-domain": lambda t: t.replace("0000:", ""),
    "indented": lambda t: textwrap.indent(t, "\t"),
    "prompt": lambda t: f"root@host:~# lspci\n{t}root@host:~# \n",
    "after-a-list": lambda t: (
        "".join(x + "\n" for x in t.splitlines() if ": Maker" in x) + "\n" + t
    ),
    "sentence-after": lambda t: t + "0000:00:1c.0 which does not isolate is above.\nYours, A. N.\n",
    "trailing-blanks": lambda t: t.replace("\n", "  \n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    found = read_lspci(FORMS[form](SWITCH))
    assert plain(found) == plain(machine("SW(off,on)"))
    assert partition(found) == partition(machine("SW(off,on)"))


def test_bytes_go_before_words() -> None:
    """The multifunction bit and ids are in the bytes; words complete bytes of 64 or 256."""
    source = machine("SW(off,on)")
    dump = write_lspci(source.devices).split("\n\n")
    words = SWITCH.rstrip("\n").split("\n\n")
    for length in (4, 16, 400):
        both = "".join(
            f"{word}\n" + "".join(f"{line}\n" for line in hexes.splitlines()[1 : length + 1]) + "\n"
            for word, hexes in zip(words, dump, strict=True)
        )
        found = read_lspci(both)
        assert plain(found) == plain(source), length
        assert not any(d.unknown for d in found.devices)


def test_paths_give_the_tree_where_bus_lines_are_missing() -> None:
    text = re.sub(r"\tBus: .*\n", "", SWITCH).replace("0000:", "")
    for bus, path in (
        ("01:", "00:01.0/"),
        ("02:", "00:01.0/01:00.0/"),
        ("03:", "00:01.0/01:00.0/02:00.0/"),
        ("04:", "00:01.0/01:00.0/02:01.0/"),
    ):
        text = re.sub(f"^{bus}", f"{path}{bus}", text, flags=re.MULTILINE)
    assert plain(read_lspci(text)) == plain(machine("SW(off,on)"))
    short = "00:01.0 PCI bridge: X\n00:01.0/00.0 Ethernet controller: Y\n"
    with pytest.raises(InputError, match="path without bus numbers"):
        read_lspci(short)


def test_a_drawn_tree_gives_the_buses() -> None:
    text = re.sub(r"\tBus: .*\n", "", SWITCH)
    drawn = textwrap.dedent("""\
        -[0000:00]---01.0-[01-04]----00.0-[02-04]--+-00.0-[03]----00.0  Maker Thing
                                                   \\-01.0-[04]----00.0  Maker [1af4:1100] 07.0
        """)
    assert plain(read_lspci(drawn + text)) == plain(machine("SW(off,on)"))
    several = textwrap.dedent("""\
        -+-[10000:e0]-+-06.0-[e1]----00.0  Disk
         |            \\-17.0  Other
         \\-[0000:00]-+-00.0  Host
                     +-01.0-[01]--+-00.0  Two
                     |            \\-00.1  Functions
                     \\-1f.3  Last
        """)
    from dmaproof.model.pcie.lspci_tree import bridges

    assert bridges(several.splitlines()) == {
        Bdf(0x10000, 0xE0, 6, 0): (0xE1, 0xE1),
        Bdf(0, 0, 1, 0): (1, 1),
    }


def test_machine_readable_forms() -> None:
    slots = textwrap.dedent("""\
        Slot:\t00:01.0
        Class:\tPCI bridge [0604]
        Vendor:\tIntel Corporation [8086]
        Device:\tPCIe Controller [1901]
        IOMMUGroup:\t3

        Slot:\t01:00.0
        Class:\tEthernet controller [0200]
        Vendor:\tMaker [1af4]
        Device:\tThing [1041]
        IOMMUGroup:\t4
        """)
    found = read_lspci(slots)
    assert [(d.vendor, d.device, d.class_code) for d in found.devices] == [
        (0x8086, 0x1901, 0x0604),
        (0x1AF4, 0x1041, 0x0200),
    ]
    assert found.recorded == {Bdf(0, 0, 1, 0): 3, Bdf(0, 1, 0, 0): 4}
    comma = '00:01.0 "PCI bridge [0604]" "Intel Corporation [8086]" "PCIe [1901]" -r05 "" ""\n'
    assert read_lspci(comma).devices[0].device == 0x1901


def test_the_usual_shell_loop_over_groups() -> None:
    text = textwrap.dedent("""\
        IOMMU Group 1:
        \t00:01.0 PCI bridge [0604]: Intel Corporation PEG [8086:1901] (rev 05)
        \t01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80]
        IOMMU Group 10 00:1f.0 ISA bridge [0601]: Intel Corporation LPC [8086:a145]
        """)
    found = read_lspci(text)
    assert list(found.recorded.values()) == [1, 1, 10]
    assert all(Fact.KIND in d.unknown for d in found.devices)


# -- what is missing -------------------------------------------------------------------------------


def test_a_dump_without_extended_space_has_no_acs_to_show() -> None:
    text = re.sub(r"\tCapabilities: \[1[0-9]0.*\n(\t\t.*\n)*", "", SWITCH)
    found = read_lspci(text)
    assert all(Fact.ACS in d.unknown for d in found.devices if d.kind.is_pcie)
    assert "no ACS registers" in found.warnings[-1]


def test_a_record_that_is_cut_short_is_not_believed() -> None:
    whole = verbose(machine("MF(on)"))
    cut = whole[: whole.rindex("\tCapabilities: [140")]
    last = read_lspci(cut).device(Bdf(0, 1, 0, 1))
    assert last.acs is None and {Fact.ACS, Fact.CAPABILITIES} <= last.unknown
    middle = whole[: whole.rindex("ReqRedir")]
    assert Fact.ACS in read_lspci(middle).device(Bdf(0, 1, 0, 1)).unknown
    assert not read_lspci(whole).device(Bdf(0, 1, 0, 1)).unknown


def test_a_lost_headline_is_noticed() -> None:
    text = re.sub(r"^0000:02:01.0.*\n", "", SWITCH, flags=re.MULTILINE).replace("\n\n", "\n")
    found = read_lspci(text)
    assert {Fact.KIND, Fact.ACS} <= found.device(Bdf(0, 2, 0, 0)).unknown


def test_bytes_that_end_early_are_not_believed() -> None:
    def full(device: Device, size: int) -> str:
        from dmaproof.model.pcie.configspace import encode

        data = encode(device)[:size]
        lines = (f"{at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, size, 16))
        return "\n".join([f"{device.bdf} Class: X", *lines]) + "\n"

    port, function = machine("S").devices
    assert not read_lspci(full(port, 4096) + full(function, 4096)).devices[1].unknown
    cut = read_lspci(full(port, 4096) + full(function, 0x120)).devices[1]
    assert {Fact.ACS, Fact.CAPABILITIES} <= cut.unknown


def test_a_missing_port_leaves_groups_open() -> None:
    below = [d for d in machine("SS").devices if not d.is_bridge]
    found = read_lspci(write_lspci(below))
    assert all(Fact.PORT_ABOVE in d.unknown for d in found.devices)
    (doubt,) = decide(found).doubts
    assert "does not list the port above" in doubt.reason
    assert doubt.hiding == tuple(d.bdf for d in below)
    root = [d for d in machine("SS").devices if d.is_bridge]
    assert not read_lspci(write_lspci(root)).warnings


def test_what_is_below_a_missing_port_is_open_too() -> None:
    gone = [d for d in machine("SW(on,on)").devices if d.label != "RP"]
    found = read_lspci(verbose(Machine("", gone)))
    lost = [d.bdf for d in found.devices if Fact.PORT_ABOVE in d.unknown]
    assert lost == [Bdf(0, 1, 0, 0)]
    (doubt,) = decide(found).doubts
    assert doubt.members == tuple(d.bdf for d in found.devices) and doubt.hiding == tuple(lost)


def test_a_missing_port_between_two_known_ones() -> None:
    gone = [d for d in machine("SW(on,on)").devices if d.label != "DSP1"]
    found = read_lspci(verbose(Machine("", gone)))
    lost = [d.bdf for d in found.devices if Fact.PORT_ABOVE in d.unknown]
    assert lost == [Bdf(0, 3, 0, 0)]
    assert decide(found).doubt_about(Bdf(0, 3, 0, 0)) is not None


def test_a_lone_upstream_port_is_taken_for_single_function_and_that_is_said() -> None:
    found = read_lspci(SWITCH)
    assert "multifunction bit: 0000:01:00.0" in found.warnings[0]
    assert not read_lspci(write_lspci(machine("SW(off,on)").devices)).warnings


# -- several listings ------------------------------------------------------------------------------


def test_the_listing_that_says_most_is_used() -> None:
    other = verbose(machine("SW(on,on)"), root=False)
    for text in (other + SWITCH, SWITCH + other):
        found = read_lspci(text)
        assert plain(found) == plain(machine("SW(off,on)"))


def test_listings_that_differ_are_not_mixed() -> None:
    other = verbose(machine("SW(on,on)"))
    found = read_lspci(SWITCH + other)
    assert plain(found) == plain(machine("SW(off,on)"))
    assert "2 listings; the one from line 1" in found.warnings[0]
    assert "show 0000:02:00.0 differently" in found.warnings[1]


def test_functions_of_other_listings_are_ignored_aloud() -> None:
    found = read_lspci(SWITCH + verbose(machine("SS"), root=False))
    assert Bdf(0, 0, 2, 0) not in found
    assert any("only other listings have them: 0000:00:02.0" in text for text in found.warnings)


# -- groups ----------------------------------------------------------------------------------------


def test_groups_are_recorded() -> None:
    source = machine("SW(off,on)")
    numbers = {d.bdf: n for n, d in enumerate(source.devices)}
    assert read_lspci(verbose(source, groups=numbers)).recorded == numbers
    flags = SWITCH.replace(
        "Control: ", "Flags: bus master, fast devsel, latency 0,\nIOMMU group 7 "
    )
    assert set(read_lspci(flags).recorded.values()) == {7}
    text = to_json(read_lspci(verbose(source, groups=numbers)))
    assert from_json(text).recorded == numbers


LOG = """\
[    0.1] pci 0000:00:01.0: Adding to iommu group 0
[    0.2] pci 0000:01:00.0: Adding to iommu group 1
[    9.0] pci 0000:01:00.0: Removing from iommu group 1
[    9.5] pci 0000:01:00.0: Adding to iommu group 4
"""


def test_groups_of_a_kernel_log() -> None:
    text = write_lspci(machine("S").devices)
    found = read_lspci(text + LOG)
    assert found.recorded == {Bdf(0, 0, 1, 0): 0, Bdf(0, 1, 0, 0): 4}
    assert not found.warnings
    twice = read_lspci(text + LOG + LOG.replace("group 4", "group 5"))
    assert twice.recorded == found.recorded
    assert "first of 2 boots" in twice.warnings[0]
    old = "iommu: Adding device 0000:00:01.0 to group 3\n"
    assert read_lspci(text + old).recorded == {Bdf(0, 0, 1, 0): 3}
    links = "/sys/kernel/iommu_groups/9/devices/0000:01:00.0\n"
    assert read_lspci(text + links).recorded == {Bdf(0, 1, 0, 0): 9}


# -- segments behind a VMD -------------------------------------------------------------------------

VMD = Device(
    bdf=Bdf(0, 0, 14, 0),
    kind=PortKind.RC_INTEGRATED_ENDPOINT,
    vendor=0x8086,
    device=0x467F,
    class_code=0x0104,
)


def behind(*more: Device) -> Machine:
    port = Device(
        bdf=Bdf(0x10000, 0xE0, 6, 0),
        kind=PortKind.ROOT_PORT,
        vendor=0x8086,
        device=0x9A09,
        class_code=0x0604,
        header_type=1,
        secondary=0xE1,
        subordinate=0xE1,
    )
    disk = Device(bdf=Bdf(0x10000, 0xE1, 0, 0), vendor=0x144D, device=0xA80A, class_code=0x0108)
    return Machine("vmd", [VMD, port, disk, *more])


def test_what_is_behind_a_vmd_shares_its_group() -> None:
    for root in (True, False):
        found = read_lspci(verbose(behind(), root=root))
        assert {d.real_dma for d in found.devices} == {None, VMD.bdf}
        decision = decide(found)
        assert [len(group.members) for group in decision.groups] == [3]
        assert "0000:00:0e.0" in decision.groups[0].why[1]
    assert from_json(to_json(found)).devices == found.devices


def test_two_vmds_leave_it_open_whose_segment_it_is() -> None:
    second = replace(VMD, bdf=Bdf(0, 0x80, 14, 0))
    found = read_lspci(verbose(behind(second)))
    assert "which VMD owns segment 10000" in " ".join(found.warnings)
    (doubt,) = decide(found).doubts
    assert set(doubt.members) == {d.bdf for d in found.devices}


# -- quirks ----------------------------------------------------------------------------------------


def test_sunrise_point_ports_in_words() -> None:
    """lspci prints something else as ACS control; the kernel switches all on with its IOMMU."""
    port = replace(machine("S").devices[0], vendor=0x8086, device=0xA110)
    source = Machine("", [port, machine("S").devices[1]])
    wrong = verbose(source).replace("ACSCtl:\tSrcValid+", "ACSCtl:\tSrcValid-")
    silent = read_lspci(wrong)
    assert silent.devices[0].acs is None and Fact.ACS in silent.devices[0].unknown
    told = read_lspci(wrong.replace("\tBus:", "\tIOMMU group: 1\n\tBus:"))
    assert told.devices[0].acs is not None and told.devices[0].acs.control == 0x1D
    assert "wrong place" in " ".join(told.warnings)


NAMED = {
    "Intel Corporation Sunrise Point-LP PCI Express Root Port #5 (rev f1)": (0x8086, 0x9D14, True),
    "Intel Corporation 200 Series PCH PCI Express Root Port #17": (0x8086, 0xA2E7, True),
    "Intel Corporation 100 Series/C230 Series Chipset Family PCI Express Root Port #1": (
        0x8086,
        0xA110,
        True,
    ),
    "Intel Corporation 6 Series/C200 Series Chipset Family PCI Express Root Port 2 (rev b5)": (
        0x8086,
        0x1C12,
        True,
    ),
    "Intel Corporation 8 Series/C220 Series Chipset Family PCI Express Root Port #3": (
        0x8086,
        0x8C14,
        True,
    ),
    "Intel Corporation Cannon Lake PCH PCI Express Root Port #1": (0x8086, 0, True),
    "Intel Corporation Device a33c": (0x8086, 0xA33C, True),
    "Intel Corporation 82599ES 10-Gigabit SFI/SFP+ Network Connection": (0x8086, 0, False),
    "Advanced Micro Devices, Inc. [AMD/ATI] SBx00 SMBus Controller (rev 42)": (
        0x1002,
        0x4385,
        True,
    ),
    "Advanced Micro Devices, Inc. [AMD] FCH SMBus Controller (rev 61)": (0x1022, 0, True),
    "Loongson Technology LLC PCIe x4 Root Port": (0x0014, 0x7A49, True),
    "Loongson Technology LLC Device 3c19": (0x0014, 0x3C19, True),
    "Marvell Technology Group Ltd. 88SE9230 PCIe 2.0 x2 4-port SATA": (0x1B4B, 0x9230, True),
    "Realtek Semiconductor Co., Ltd. RTL8111/8168": (0, 0, True),
    "Ampere Computing, LLC. Altra PCI Express Root Port a0": (0x1DEF, 0, False),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_give_the_ids_that_quirks_are_about(name: str) -> None:
    found = ids_of(name)
    assert (found.vendor, found.device, found.certain) == NAMED[name]


def test_class_names() -> None:
    assert class_of("PCI bridge") == 0x0604 and class_of("IOMMU") == 0x0806
    assert class_of("Unassigned class [ff00]") == 0xFF00 and class_of("Toaster") == 0xFF00


def test_numeric_form() -> None:
    text = SWITCH.replace(": Maker Thing [", ": ").replace("] (rev 01)", " (rev 01)")
    text = re.sub(r" (PCI bridge|Ethernet controller) \[(\w+)\]:", r" \2:", text)
    assert plain(read_lspci(text)) == plain(machine("SW(off,on)"))


def test_buses_above_ff() -> None:
    many = "".join(f"0000:{bus:04x}:00.0 Ethernet controller: Maker\n" for bus in range(1 << 16))
    for text in (many, SWITCH + "\n" + many):
        with pytest.raises(InputError, match="no PCI"):
            read_lspci(text)
    segments = "".join(
        f"{domain:04x}:{bus:02x}:00.0 Host bridge: Maker\n"
        for domain in range(16)
        for bus in range(256)
    )
    found = read_lspci(segments)
    assert len(found.devices) == 1 << 12 and len(decide(found).groups) == 1 << 12


def test_bus_numbers_that_go_round() -> None:
    for wrong in ("secondary=01, subordinate=01", "secondary=02, subordinate=01"):
        text = SWITCH.replace("secondary=02, subordinate=04", wrong)
        with pytest.raises(InputError, match=r"not above|claimed by|below secondary"):
            read_lspci(text)


def test_a_function_that_answers_ones() -> None:
    hexes = "\n".join(f"{at:02x}: {' '.join(['ff'] * 16)}" for at in range(0, 256, 16))
    found = read_lspci(f"00:01.0 PCI bridge: Maker Thing (rev ff)\n{hexes}\n")
    assert {Fact.KIND, Fact.ACS} <= found.devices[0].unknown
    words = "00:01.0 PCI bridge: Maker Thing (rev ff)\n\t!!! Unknown header type 7f\n\n"
    assert {Fact.KIND, Fact.ACS} <= read_lspci(words).devices[0].unknown


# -- damage ----------------------------------------------------------------------------------------

edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.sampled_from(
                [
                    "",
                    "\n",
                    "\n\n",
                    " ",
                    "\t",
                    "00:01.0 ",
                    "> ",
                    "Capabilities: [",
                    "-",
                    "0000:00:02.0 PCI bridge: X\n",
                    "secondary=",
                    "IOMMU group: 9",
                    "\0",
                ]
            ),
            st.text(max_size=3),
        ),
        st.integers(0, 400),
    ),
    min_size=1,
    max_size=6,
)
MIXED = SWITCH + write_lspci(machine("VF").devices) + LOG + verbose(behind(), root=False)


@given(st.sampled_from([SWITCH, MIXED, quoted(SWITCH), wrapped(verbose(behind()))]), edits)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_text_raises_nothing_but_input_errors(text: str, changes) -> None:
    for place, insert, drop in changes:
        at = int(place * len(text))
        text = text[:at] + insert + text[at + drop :]
    try:
        found = read_lspci(text, "mutated")
    except InputError as error:
        assert error.what and error.where and error.cause and error.remedy
        return
    decision = decide(found)
    members = [bdf for group in decision.groups for bdf in group.members]
    members += [bdf for doubt in decision.doubts for bdf in doubt.members]
    assert sorted(members) == [device.bdf for device in found.devices]
    assert from_json(to_json(found)).devices == found.devices
