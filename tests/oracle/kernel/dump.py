"""What a booted kernel says of its machine: configuration spaces, tree and IOMMU groups."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .boot import BootError, boot
from .fetch import Kernel
from .topology import Topology, arguments

_DEVICES = "/sys/bus/pci/devices"
SCRIPT = f"""
for d in {_DEVICES}/*; do
  r=$(readlink -f $d); mkdir -p /out$r
  cat $r/config > /out$r/config
  cp -P $r/iommu_group $r/physfn $r/vendor $r/device $r/class /out$r/ 2>/dev/null
done
cat /sys/firmware/acpi/tables/DMAR > /out/DMAR
"""
# Probing is asynchronous: the driver may come a moment after insmod returned.
VIRTUAL = """
for d in /sys/bus/pci/devices/*/sriov_numvfs; do
  for t in 1 2 3 4 5 6 7 8 9 10; do echo {count} > $d 2>/dev/null && break; sleep 0.1; done
done
"""


@dataclass(frozen=True)
class Dump:
    """A recording.

    Attributes:
        release: of the kernel.
        topology: the machine that was built.
        spaces: configuration space of each function, by address.
        groups: group number of each function, as the kernel gave it.
        paths: sysfs path of each function.
        physical: physical function of each virtual function.
        log: the kernel's messages.
        tree: files (bytes) and links (text) of the functions below /, as sysfs has them.
        dmar: the ACPI table that describes the IOMMU.

    """

    release: str
    topology: Topology
    spaces: dict[str, bytes]
    groups: dict[str, int]
    paths: dict[str, str]
    physical: dict[str, str]
    log: str
    tree: dict[str, bytes | str] = field(default_factory=dict, repr=False)
    dmar: bytes = field(default=b"", repr=False)

    @property
    def partition(self) -> set[frozenset[str]]:
        """The kernel's groups as a set of sets."""
        members = defaultdict(set)
        for function, group in self.groups.items():
            members[group].add(function)
        return {frozenset(group) for group in members.values()}

    def lspci(self) -> str:
        """Return the configuration spaces as `lspci -xxxx` prints them.

        Trailing lines of zeros are left out, but of an extended space its first line stays: it
        tells that the space was read.
        """
        blocks = []
        for function, data in sorted(self.spaces.items()):
            end = max(len(data.rstrip(b"\0")), 0x101 if len(data) > 0x100 else 1)
            rows = [f"{at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, end, 16)]
            blocks.append("\n".join([f"{function} (config space)", *rows]) + "\n")
        return "\n".join(blocks)

    def save(self, folder: Path, name: str) -> None:
        """Write NAME.lspci-xxxx.txt and NAME.groups.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.lspci-xxxx.txt").write_text(self.lspci())
        body = {
            "kernel": self.release,
            "qemu_devices": arguments(self.topology.parts),
            "kernel_parameters": " ".join(self.topology.parameters),
            "paths": self.paths,
            "groups": self.groups,
        }
        if self.physical:
            body["physical_functions"] = self.physical
        (folder / f"{name}.groups.json").write_text(json.dumps(body, indent=1) + "\n")


def dump(kernel: Kernel, topology: Topology, descriptors: Sequence[int] = ()) -> Dump:
    """Boot *topology* and return what the kernel says of it; QEMU inherits *descriptors*.

    Raises:
        BootError: the boot failed, or a virtual function that was asked for is missing.

    """
    script, modules = SCRIPT, ()
    if topology.virtual:
        script, modules = VIRTUAL.format(count=topology.virtual) + SCRIPT, ("nvme",)
    done = boot(
        kernel,
        arguments(topology.parts),
        script,
        parameters=topology.kernel_parameters,
        iommu=topology.iommu,
        modules=modules,
        descriptors=descriptors,
    )
    spaces, groups, paths, physical = {}, {}, {}, {}
    for name, content in done.files.items():
        path, _, leaf = name.rpartition("/")
        function = path.rpartition("/")[2]
        if leaf == "config":
            spaces[function], paths[function] = content, f"/{path}"
        elif leaf == "iommu_group":
            groups[function] = int(str(content).rpartition("/")[2])
        elif leaf == "physfn":
            physical[function] = str(content).rpartition("/")[2]
    log = bytes(done.files["dmesg"]).decode(errors="replace")
    if topology.virtual and not physical:
        raise BootError(f"no virtual function appeared; the kernel said:\n{log[-2000:]}")
    order = sorted(spaces)
    return Dump(
        kernel.release,
        topology,
        {function: spaces[function] for function in order},
        {function: groups[function] for function in order if function in groups},
        {function: paths[function] for function in order},
        physical,
        log,
        {name: content for name, content in done.files.items() if name.startswith("sys/")},
        bytes(done.files["DMAR"]),
    )
