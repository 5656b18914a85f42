"""Writes machines as sysfs shows them: folders, archives, hardware reports."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from dmaproof.model.pcie.configspace import encode
from dmaproof.model.pcie.topology import Bdf, Device, Machine


def path_of(machine: Machine, bdf: Bdf) -> str:
    """The path of a function below ``/sys/devices``."""
    owner = machine.device(bdf).real_dma
    chain = [str(bdf), *map(str, machine.ancestors(bdf))][::-1]
    first = Bdf.parse(chain[0])
    root = f"pci{first.domain:04x}:{first.bus:02x}"
    start = f"{path_of(machine, owner)}/{root}" if owner else root
    return "/".join([start, *chain])


def files(machine: Machine, device: Device, groups: dict[Bdf, int]) -> dict[str, bytes | str]:
    """Files of a function (bytes) and its links (text)."""
    found: dict[str, bytes | str] = {
        "config": encode(device),
        "vendor": f"0x{device.vendor:04x}\n".encode(),
        "device": f"0x{device.device:04x}\n".encode(),
        "class": f"0x{device.class_code << 8:06x}\n".encode(),
    }
    if device.secondary is not None:
        found["secondary_bus_number"] = f"{device.secondary}\n".encode()
        found["subordinate_bus_number"] = f"{device.subordinate}\n".encode()
    if device.bdf in groups:
        up = "../" * (path_of(machine, device.bdf).count("/") + 2)
        found["iommu_group"] = f"{up}kernel/iommu_groups/{groups[device.bdf]}"
    return found


def entries(machine: Machine, groups: dict[Bdf, int]) -> dict[str, bytes | str]:
    """Everything of a machine below ``/sys``: files as bytes, links as text."""
    found: dict[str, bytes | str] = {}
    for device in machine.devices:
        path = f"devices/{path_of(machine, device.bdf)}"
        for name, content in files(machine, device, groups).items():
            found[f"{path}/{name}"] = content
        found[f"bus/pci/devices/{device.bdf}"] = f"../../../{path}"
    for bdf, number in groups.items():
        path = f"devices/{path_of(machine, bdf)}"
        found[f"kernel/iommu_groups/{number}/devices/{bdf}"] = f"../../../../{path}"
    return found


def folder(root: Path, found: dict[str, bytes | str]) -> Path:
    """Write entries into a folder."""
    for name, content in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.symlink_to(content)
    return root


def archive(found: dict[str, bytes | str], prefix: str = "sys/") -> bytes:
    """Write entries as a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in found.items():
            member = tarfile.TarInfo(prefix + name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
    return stream.getvalue()


def report(machine: Machine, groups: dict[Bdf, int]) -> str:
    """Write a hardware report."""

    def number(value: int) -> dict[str, Any]:
        return {"hex": f"{value:04x}", "value": value}

    listed = []
    for device in machine.devices:
        entry = {
            "vendor": number(device.vendor),
            "device": number(device.device),
            "base_class": number(device.class_code >> 8),
            "sub_class": number(device.class_code & 0xFF),
            "sysfs_id": f"/devices/{path_of(machine, device.bdf)}",
            "sysfs_bus_id": str(device.bdf),
            "detail": {
                "function": device.bdf.function,
                "header_type": device.header_type,
                "secondary_bus": device.secondary or 0,
            },
        }
        if device.bdf in groups:
            entry["sysfs_iommu_group_id"] = groups[device.bdf]
        listed.append(entry)
    other = [{"sysfs_bus_id": "1-2:1.0", "class_list": ["usb"]}, {"model": "a keyboard"}]
    return json.dumps({"version": 1, "hardware": {"pci": listed, "usb": other, "cpu": {}}})
