"""The kernel's own groups, from a file beside the dump."""

from __future__ import annotations

import json

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.contents import as_text, contents, folder_of, is_tar
from dmaproof.model.pcie.lspci_records import kernel_log
from dmaproof.model.pcie.machines import load
from dmaproof.model.pcie.topology import Bdf


def recorded_groups(path: str) -> dict[Bdf, int]:
    """Return the group number of each function that a file records.

    Args:
        path: JSON with an object ``groups`` (address to number), a kernel log, or a dump of any
            kind that has groups.

    Raises:
        InputError: no such file, or no groups in it.

    """
    found: dict[Bdf, int] = {}
    if folder_of(path) is None:
        data = contents(path, _missing)
        if not is_tar(data):
            text = as_text(data, path)
            found = _from_json(text, path) or kernel_log(text).groups
    if not found:
        found = dict(load(path).recorded)
    if not found:
        raise InputError(
            "no kernel groups",
            path,
            "the dump was taken without an IOMMU, or by lspci without -v",
            "give a dump with `IOMMU group` lines, a kernel log, or sysfs",
        )
    return found


def _from_json(text: str, where: str) -> dict[Bdf, int]:
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return {}
    try:
        raw = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return {}  # `load` says what is wrong with it
    listed = raw.get("groups") if isinstance(raw, dict) else None
    if not isinstance(listed, dict):
        return {}
    found = {}
    for name, number in listed.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InputError(
                f"{number!r:.40} is no group number",
                f"{where}: groups.{name[:40]}",
                "a damaged file",
                "write groups as an object from address to number",
            )
        found[Bdf.parse(name, f"{where}: groups")] = number
    return found


def _missing(path: str) -> InputError:
    return InputError(
        f"no file {path[:80]!r}", "--recorded", "a typing error in the path", "give a file"
    )
