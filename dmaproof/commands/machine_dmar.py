"""``dmaproof machine dmar``: the IOMMU units of an ACPI DMAR table, alone or on a machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from dmaproof.commands.options import json_option

if TYPE_CHECKING:
    from dmaproof.model.errors import InputError
    from dmaproof.model.pcie.device import Bdf
    from dmaproof.model.pcie.dmar import DmarTable, Scope
    from dmaproof.model.pcie.remapping import Remapping
    from dmaproof.terminal import Screen


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("machine", metavar="[MACHINE]", required=False)
@json_option
def dmar(table: str, machine: str | None, as_json: bool) -> None:
    """Print the units, scopes, reserved regions and ATS lists of an ACPI DMAR table.

    TABLE is the table itself (/sys/firmware/acpi/tables/DMAR), or text of iasl or acpidump that
    shows its bytes. With MACHINE (a dump, as for every command) also which unit each function is
    under, whether firmware lets it use ATS, and what memory is reserved for it.
    """
    from dmaproof.model.pcie.contents import contents
    from dmaproof.model.pcie.dmar import read_dmar
    from dmaproof.model.pcie.machines import load
    from dmaproof.model.pcie.remapping import Remapping
    from dmaproof.terminal import Screen, warn

    found = read_dmar(contents(table, _missing), table)
    over = Remapping(load(machine), found) if machine else None
    for warning in found.warnings:
        warn(f"{table}: {warning}")
    for warning in over.machine.warnings if over else ():
        warn(f"{machine}: {warning}")
    for scope in over.unresolved if over else ():
        warn(f"{table}: {scope} is no function of {machine}")
    if as_json:
        click.echo(json.dumps(_to_json(found, over), indent=1))
        return
    screen = Screen()
    _show(screen, table, found)
    if over:
        _show_machine(screen, over)


def _missing(path: str) -> InputError:
    from dmaproof.model.errors import InputError

    return InputError(
        f"no file {path[:80]!r}",
        "TABLE",
        "a typing error in the path",
        "take one as root: cp /sys/firmware/acpi/tables/DMAR dmar.bin",
    )


def _flags(table: DmarTable) -> list[str]:
    from dmaproof.model.pcie.dmar import DMA_OPT_IN, INTERRUPT_REMAPPING, X2APIC_OPT_OUT

    names = {
        INTERRUPT_REMAPPING: "interrupt-remapping",
        X2APIC_OPT_OUT: "x2apic-opt-out",
        DMA_OPT_IN: "dma-opt-in",
    }
    return [name for bit, name in names.items() if table.flags & bit]


def _show(screen: Screen, name: str, table: DmarTable) -> None:
    flags = ", ".join(_flags(table)) or "no flags"
    oem = f" by {table.oem}" if table.oem else ""
    screen.line((name, "bold"), f": DMAR revision {table.revision}{oem},"
                f" {table.address_width} address bits, {flags}")
    for number, unit in enumerate(table.units):
        rest = "  all that no other unit names" if unit.include_all else ""
        screen.line((f"unit {number}", "bold cyan"), f"  registers at 0x{unit.registers:x},"
                    f" segment {unit.segment:04x}{rest}")
        _scopes(screen, unit.scopes)
    for region in table.reserved:
        screen.line(("reserved memory", "bold"), f"  0x{region.base:x}-0x{region.limit:x},"
                    f" segment {region.segment:04x}")
        _scopes(screen, region.scopes)
    for ports in table.ats_ports:
        what = "all root ports" if ports.all_ports else "root ports"
        screen.line(("ATS below", "bold"), f"  {what} of segment {ports.segment:04x}")
        _scopes(screen, ports.scopes)
    for devices in table.ats_devices:
        need = ", which require it" if devices.required else ""
        screen.line(("ATS of", "bold"), f"  integrated devices{need},"
                    f" segment {devices.segment:04x}")
        _scopes(screen, devices.scopes)
    for listed in table.properties:
        screen.line(("properties of", "bold"), "  integrated devices,"
                    f" segment {listed.segment:04x}")
        _scopes(screen, listed.scopes)
    for near in table.affinities:
        screen.line(("proximity", "bold"), f"  unit at 0x{near.registers:x}: domain {near.domain}")
    for device in table.names:
        screen.line(("namespace", "bold"), f"  device {device.number}: {device.name}")


def _scopes(screen: Screen, scopes: Iterable[Scope]) -> None:
    for scope in scopes:
        screen.line(f"  {scope}")


def _show_machine(screen: Screen, over: Remapping) -> None:
    screen.line("")
    screen.line((over.machine.name, "bold"), " under these units")
    for device in over.machine.functions:
        unit = over.unit_of(device.bdf)
        place = "no unit" if unit is None else f"unit {unit}"
        ats = over.ats(device.bdf)
        word = "ATS allowed" if ats.allowed else "ATS refused"
        regions = over.reserved_for(device.bdf)
        kept = "".join(f"; reserved 0x{r.base:x}-0x{r.limit:x}" for r in regions)
        screen.item(f"  {device}  ", (f"{place:8}  ", "cyan"), text=f"{word}: {ats.why}{kept}")


def _to_json(table: DmarTable, over: Remapping | None) -> dict[str, Any]:
    from dataclasses import fields

    lists = ("units", "reserved", "ats_ports", "affinities", "names", "ats_devices", "properties")
    body: dict[str, Any] = {
        "schema": "dmaproof/dmar/1",
        "revision": table.revision,
        "oem": table.oem,
        "address_width": table.address_width,
        "flags": _flags(table),
        "warnings": list(table.warnings),
    }
    for name in lists:
        body[name] = [
            {f.name: _plain(f.name, getattr(entry, f.name)) for f in fields(entry)}
            for entry in getattr(table, name)
        ]
    if over is not None:
        body["functions"] = [_function(over, device.bdf) for device in over.machine.functions]
        body["unresolved"] = list(over.unresolved)
    return body


def _plain(name: str, value: Any) -> Any:  # noqa: ANN401
    if name in {"registers", "base", "limit"}:
        return hex(value)
    return [str(scope) for scope in value] if name == "scopes" else value


def _function(over: Remapping, bdf: Bdf) -> dict[str, Any]:
    ats = over.ats(bdf)
    return {
        "bdf": str(bdf),
        "unit": over.unit_of(bdf),
        "ats": ats.allowed,
        "why": ats.why,
        "reserved": [[hex(r.base), hex(r.limit)] for r in over.reserved_for(bdf)],
    }
