"""sysfs as a folder and as an archive, and hardware reports; nothing of it can do harm."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import contents
from dmaproof.model.pcie.facter import from_facter
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.machines import load, machine
from dmaproof.model.pcie.sysfs import read_tar, read_tree
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind
from dmaproof.model.pcie.undecided import decide
from pcie.strategies import machines
from pcie.test_readers_text import behind
from pcie.trees import archive, entries, folder, report

few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def plain(found: Machine) -> list[Device]:
    return [replace(d, label="", aliases=frozenset()) for d in found.devices]


def numbers(found: Machine) -> dict[Bdf, int]:
    return group_of(groups(found))


SW = Machine("SW", plain(machine("SW(off,on)")))
ENTRIES = entries(SW, numbers(SW))
TAR = archive(ENTRIES)


@given(machines())
@few
def test_an_archive_round_trips(drawn: Machine) -> None:
    source = Machine("drawn", plain(drawn))
    found = read_tar(archive(entries(source, numbers(source))), "drawn")
    assert found.devices == source.devices
    assert found.recorded == numbers(source)
    assert not found.warnings


def test_a_folder_round_trips(tmp_path: Path) -> None:
    root = folder(tmp_path / "sys", ENTRIES)
    for place in (
        root,
        tmp_path,
        root / "bus/pci",
        root / "bus/pci/devices",
        root / "kernel/iommu_groups",
        root / "devices",
    ):
        found = read_tree(place, "sys")
        assert found.devices == SW.devices, place
        assert found.recorded == numbers(SW)
    assert load(str(root)).devices == SW.devices


def test_a_copy_without_links_and_one_without_bus(tmp_path: Path) -> None:
    """cp -rL makes folders of the links; without bus/pci the tree of devices is walked."""
    real = {name.split("/")[-2]: name for name in ENTRIES if name.endswith("/config")}
    flat = {f"bus/pci/devices/{bdf}/config": ENTRIES[name] for bdf, name in real.items()}
    assert read_tree(folder(tmp_path / "flat", flat), "flat").devices == SW.devices
    deep = {name: content for name, content in ENTRIES.items() if name.startswith("devices")}
    found = read_tree(folder(tmp_path / "deep", deep), "deep")
    assert found.devices == SW.devices and found.recorded == numbers(SW)


def test_segments_of_a_vmd() -> None:
    source = behind()
    found = read_tar(archive(entries(source, {})), "vmd")
    assert [d.real_dma for d in found.devices] == [d and Bdf(0, 0, 14, 0) for d in (None, 1, 1)]
    two = behind(replace(source.devices[0], bdf=Bdf(0, 0x80, 14, 0)))
    owned = Machine(
        "", [replace(d, real_dma=Bdf(0, 0, 14, 0)) if d.bdf.domain else d for d in two.devices]
    )
    found = read_tar(archive(entries(owned, {})), "vmd")
    assert found.devices[-1].real_dma == Bdf(0, 0, 14, 0)
    assert not decide(found).doubts


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_compressed_archives_and_texts(pack, tmp_path: Path) -> None:
    file = tmp_path / "sys.tar.xx"
    file.write_bytes(pack(TAR))
    assert load(str(file)).devices == SW.devices
    file.write_bytes(pack(report(SW, {}).encode()))
    assert len(load(str(file)).devices) == len(SW.devices)


def test_a_user_reads_64_bytes() -> None:
    """tar fills up with zeros what sysfs announced and did not give."""

    def cut(padded: bool) -> Machine:
        short = {
            name: content[:64] + bytes(len(content) - 64) * padded
            if name.endswith("config") and isinstance(content, bytes)
            else content
            for name, content in ENTRIES.items()
        }
        return read_tar(archive(short), "user")

    for found in (cut(padded=True), cut(padded=False)):
        assert all(Fact.KIND in d.unknown for d in found.devices)
        assert [d.secondary for d in found.devices] == [d.secondary for d in SW.devices]


def test_256_bytes_mean_that_the_kernel_has_no_more() -> None:
    first = {
        name: content[:256] if name.endswith("config") else content
        for name, content in ENTRIES.items()
    }
    found = read_tar(archive(first), "legacy")
    assert all(d.acs is None and not d.unknown for d in found.devices)


def test_a_virtual_function_answers_ones() -> None:
    source = Machine("", plain(machine("VF")))
    found = entries(source, {})
    for name, content in found.items():
        if "01:00.1/config" in name:
            found[name] = b"\xff\xff\xff\xff" + content[4:]
    virtual = read_tar(archive(found), "vf").device(Bdf(0, 1, 0, 1))
    assert (virtual.vendor, virtual.device, virtual.physfn) == (0x1B36, 0x10, Bdf(0, 1, 0, 0))


def test_files_that_are_missing() -> None:
    bare = {name: content for name, content in ENTRIES.items() if not name.endswith("config")}
    found = read_tar(archive(bare), "bare")
    assert "no usable configuration space" in found.warnings[-1]
    assert [d.secondary for d in found.devices] == [d.secondary for d in SW.devices]
    assert all({Fact.KIND, Fact.ACS} <= d.unknown for d in found.devices)
    assert found.devices[0].vendor == 0x1B36
    nothing = {n: c for n, c in ENTRIES.items() if n.startswith("bus")}
    found = read_tar(archive(nothing), "links alone")
    assert len(found.devices) == len(SW.devices)
    assert all(Fact.IDS in d.unknown for d in found.devices)


# -- what an archive can be up to ------------------------------------------------------------------


def add(member: tarfile.TarInfo, content: bytes = b"", tail: bytes = TAR) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()[: 512 + -(-len(content) // 512) * 512] + tail


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


PORT = "sys/devices/pci0000:00/0000:00:01.0"
HOSTILE = {
    "dots": (member("sys/devices/../../../etc/0000:00:05.0/config"), "leaves the tree"),
    "absolute": (member("/etc/cron.d/job"), ""),
    "link": (member(f"{PORT}/config", tarfile.SYMTYPE, "/etc/shadow"), "link in place of a file"),
    "hard-link": (member(f"{PORT}/config", tarfile.LNKTYPE, "/etc/shadow"), "no plain file"),
    "device": (member(f"{PORT}/config", tarfile.CHRTYPE), "no plain file"),
    "fifo": (member(f"{PORT}/config", tarfile.FIFOTYPE), "no plain file"),
    "group": (member("sys/kernel/iommu_groups/many/devices/0000:00:01.0"), "no group number"),
    "bus": (member("sys/devices/pci0000:00/0000:1ff:00.0/config"), "no PCI address"),
    "control": (member("sys/devices/pci0000:00/\x1b[2J/config"), ""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_named_and_ignored(what: str, tmp_path: Path) -> None:
    made, words = HOSTILE[what]
    before = sorted(tmp_path.rglob("*"))
    found = read_tar(add(made), "hostile")
    assert found.devices == SW.devices
    assert words in " ".join(found.warnings)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_oversized_file_is_not_read() -> None:
    found = read_tar(
        add(member("sys/devices/pci0000:00/0000:00:09.0/config"), bytes(1 << 20)), "big"
    )
    assert "oversized file" in found.warnings[0] and "1048576 bytes" in found.warnings[0]
    assert Bdf(0, 0, 9, 0) in found


def test_a_second_tree_in_an_archive_is_ignored_aloud() -> None:
    """Two machines in one archive are not mixed."""
    other = machine("SS")
    more = archive(entries(other, numbers(other)), "second/sys/")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as joined:
        for data in (TAR, more):
            with tarfile.open(fileobj=io.BytesIO(data)) as source:
                for entry in source:
                    joined.addfile(entry, source.extractfile(entry) if entry.isreg() else None)
    found = read_tar(stream.getvalue(), "two")
    assert found.devices == SW.devices
    assert "another tree: second/sys" in " ".join(found.warnings)


def test_an_archive_that_ends_in_the_middle_says_so() -> None:
    """tarfile is content with an archive that ends between two members."""
    with tarfile.open(fileobj=io.BytesIO(TAR)) as whole:
        places = [entry.offset for entry in whole]
    middle = places[len(places) // 2]
    for cut in (TAR[:middle], TAR[: middle + 100], TAR[:middle] + b"x" * 512 + TAR[middle:]):
        found = read_tar(cut, "cut")
        assert f"all after byte {middle}" in " ".join(found.warnings)
    assert not read_tar(TAR[:-1024], "short padding").warnings


def test_a_copy_whose_links_were_followed(tmp_path: Path) -> None:
    """`cp -rL /sys/bus/pci/devices`, as a folder and as an archive: no paths, but all bytes."""
    flat = {
        "devices/" + "/".join(name.split("/")[-2:]): content
        for name, content in ENTRIES.items()
        if name.startswith("devices/") and isinstance(content, bytes)
    }
    root = folder(tmp_path / "copy", flat)
    for found in (read_tree(root, "copy"), read_tree(root / "devices", "copy")):
        assert found.devices == SW.devices
    assert read_tar(archive(flat, ""), "copy").devices == SW.devices
    without = {name: content for name, content in flat.items() if "0000:02:00.0" not in name}
    partial = read_tar(archive(without, ""), "copy")
    assert Fact.PORT_ABOVE in partial.device(Bdf(0, 3, 0, 0)).unknown


def test_two_groups_for_one_function() -> None:
    made = member(f"{PORT}/iommu_group", tarfile.SYMTYPE, "../../../kernel/iommu_groups/77")
    with pytest.raises(InputError, match="in group 77 and in group"):
        read_tar(add(made), "twice")


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    file = tmp_path / "sys.tar.gz"
    packed = gzip.compress(TAR)
    for data, what in (
        (packed[: len(packed) // 2], "cannot unpack"),
        (packed[:300] + b"\0" * 40 + packed[340:], "cannot unpack"),
        (archive({"readme": b"hello"}), "no PCI function"),
    ):
        file.write_bytes(data)
        with pytest.raises(InputError, match=what) as caught:
            load(str(file))
        assert caught.value.cause and caught.value.remedy
    cut = TAR[: len(TAR) // 2 + 100]
    try:
        assert len(read_tar(cut, "cut").devices) <= len(SW.devices)
    except InputError as error:
        assert "damaged" in error.what


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_UNPACKED", 4 << 20)
    file = tmp_path / "bomb.tar.gz"
    file.write_bytes(gzip.compress(bytes(64 << 20)))
    started = time.process_time()
    with pytest.raises(InputError, match="too large"):
        load(str(file))
    assert time.process_time() - started < 2


def test_links_of_a_folder_stay_inside(tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "0000:00:07.0"
    secret.mkdir(parents=True)
    (secret / "config").write_bytes(ENTRIES["devices/pci0000:00/0000:00:01.0/config"])
    root = folder(tmp_path / "sys", ENTRIES)
    (root / "bus/pci/devices/0000:00:07.0").symlink_to(secret)
    (root / "bus/pci/devices/0000:00:08.0").symlink_to(root / "nowhere")
    (root / "bus/pci/devices/0000:00:09.0").symlink_to("0000:00:09.0")
    pipe = root / "bus/pci/devices/0000:00:0a.0"
    pipe.mkdir()
    os.mkfifo(pipe / "config")
    found = read_tree(root, "sys")
    said = " ".join(found.warnings)
    assert Bdf(0, 0, 7, 0) not in found and "out of the tree: 0000:00:07.0" in said
    assert Bdf(0, 0, 8, 0) not in found and "nowhere: 0000:00:08.0" in said
    assert Bdf(0, 0, 9, 0) not in found
    assert Fact.KIND in found.device(Bdf(0, 0, 10, 0)).unknown


@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), min_size=1, max_size=8
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_archives_raise_nothing_but_input_errors(changes) -> None:
    data = bytearray(TAR)
    for place, insert in changes:
        at = int(place * len(data))
        data[at : at + len(insert)] = insert
    try:
        found = read_tar(bytes(data), "mutated")
    except InputError as error:
        assert error.what and error.where.startswith("mutated") and error.cause and error.remedy
        return
    decide(found)


# -- hardware reports ------------------------------------------------------------------------------


@given(machines())
@few
def test_a_report_gives_tree_and_groups_and_no_more(drawn: Machine) -> None:
    source = Machine("drawn", plain(drawn))
    truth = groups(source)
    found = from_facter(report(source, group_of(truth)))
    assert [d.bdf for d in found.devices] == [d.bdf for d in source.devices]
    assert found.recorded == group_of(truth)
    for device in found.devices:
        assert found.parent(device.bdf) == source.parent(device.bdf)
        assert device.acs is None and {Fact.KIND, Fact.ACS} <= device.unknown
    real = {frozenset(group.members) for group in truth}
    assert {frozenset(group.members) for group in decide(found).groups} <= real


def test_ids_alone_can_decide() -> None:
    """A port that quirks are about is a root port, whatever else is unknown."""
    port = Device(
        bdf=Bdf(0, 0, 28, 0),
        kind=PortKind.ROOT_PORT,
        vendor=0x8086,
        device=0x8C10,
        header_type=1,
        class_code=0x0604,
        secondary=1,
        subordinate=1,
    )
    below = Device(bdf=Bdf(0, 1, 0, 0), vendor=0x10EC, device=0x8168, class_code=0x0200)
    found = from_facter(report(Machine("", [port, below]), {}))
    assert [group.members for group in decide(found).groups] == [(port.bdf,), (below.bdf,)]
    other = replace(port, device=0x1901, acs=Acs(0, 0))
    assert decide(from_facter(report(Machine("", [other, below]), {}))).doubts


REPORT = report(SW, numbers(SW))
BAD_REPORTS = {
    "": "not JSON",
    "{": "not JSON",
    '{"hardware": []}': "no hardware report",
    '{"hardware": {}}': "no PCI function",
    '{"hardware": {"pci": 7}}': "no PCI function",
    REPORT.replace('"value": 6966', '"value": "x"', 1): "no number of 16 bits",
    REPORT.replace('"value": 6966', '"value": 69660', 1): "no number of 16 bits",
    REPORT.replace('"sysfs_iommu_group_id": 0', '"sysfs_iommu_group_id": -1', 1): "no group number",
    REPORT.replace('"secondary_bus": 2', '"secondary_bus": 3', 1): "claimed by",
}


@pytest.mark.parametrize("text", BAD_REPORTS, ids=range(len(BAD_REPORTS)))
def test_bad_reports(text: str) -> None:
    with pytest.raises(InputError) as caught:
        from_facter(text, "report.json")
    assert BAD_REPORTS[text] in caught.value.what
    assert caught.value.where.startswith("report.json") and caught.value.remedy


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from(
                ['"', "0", "9", "null", "[]", "{}", ",", "0000:00:01.0", "/", "-1", "1e9"]
            ),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_reports_raise_nothing_but_input_errors(changes) -> None:
    text = REPORT
    for place, insert, drop in changes:
        at = int(place * len(text))
        text = text[:at] + insert + text[at + drop :]
    try:
        found = from_facter(text)
    except InputError as error:
        assert error.what and error.where and error.remedy
        return
    decide(found)
