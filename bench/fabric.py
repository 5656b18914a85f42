"""Reading, grouping and fabric components of generated machines, and how they grow.

A machine of 10,000 functions has to be read in under 10 s, grouped and its components computed in
under 3 s more, within 1 GB. Each size runs in a process of its own, so that memory is its own::

    python bench/fabric.py
    python bench/fabric.py 100 1000 10000 50000
    python bench/fabric.py --strict     # no function poses as another
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case
from dmaproof.model.pcie.channels import Fabric
from dmaproof.model.pcie.configspace import encode
from dmaproof.model.pcie.generated import generated
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.lspci import read_lspci
from dmaproof.model.pcie.topology import Device

SIZES = (100, 1_000, 10_000, 50_000)
PROMISED = {"functions": 10_000, "read": 10.0, "rest": 3.0, "megabytes": 1024}
STEPS = ("read", "groups", "components", "crossing", "pairs")


def dump(device: Device) -> str:
    """Return a function as lspci -xxxx shows it: ports and physical functions in full."""
    data = encode(device)
    if not (device.is_bridge or device.sriov or device.acs):
        data = data[:0x100]
    lines = (f"{at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))
    return "\n".join((f"{device.bdf} (config space)", *lines, ""))


def measure(path: Path, strict: bool) -> dict[str, Any]:
    """Measure one dump; times in seconds of the processor, so that other work does not count."""
    times: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        times[name] = time.process_time() - start

    assumptions = Assumptions.parse(["spoof=off"] if strict else [])
    with timed("read"):
        machine = read_lspci(path.read_text("utf-8"), path.name)
    with timed("groups"):
        found = groups(machine)
    with timed("components"):
        fabric = Fabric(machine)
        parts = fabric.components(assumptions.fabric())
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    case = Case(machine, "linux", assumptions, ats=False)
    with timed("crossing"):
        case.reach.crossing(group_of(found))
    with timed("pairs"):
        kinds = case.pairs
    return {
        "functions": len(machine.functions),
        "ports": len(machine.ports),
        "groups": len(found),
        "components": len(parts),
        "kinds": len(kinds),
        "megabytes": megabytes,
        "times": times,
    }


def measured(functions: int, strict: bool) -> dict[str, Any]:
    """Measure a machine of *functions* in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{functions}.txt"
        text = "\n".join(dump(device) for device in generated(functions).devices)
        path.write_text(text, "utf-8")
        command = [sys.executable, __file__, "--one", str(path), *(["--strict"] if strict else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {"file": len(text) >> 20, **json.loads(done.stdout)}


def main(arguments: list[str]) -> int:
    strict = "--strict" in arguments
    sizes = [int(word) for word in arguments if word.isdigit()] or list(SIZES)
    print("spoof=off" if strict else "all free assumptions permissive")
    head = f"{'functions':>9} {'ports':>6} {'MB file':>7}"
    print(head, *(f"{name + ' s':>12}" for name in STEPS), f"{'us/function':>12} {'MB':>5}")
    kept, last = True, 0.0
    for size in sizes:
        row = measured(size, strict)
        times = row["times"]
        each = sum(times.values()) / row["functions"] * 1e6
        growth = f"  x{each / last:.2f} per function" if last else ""
        last = each
        print(
            f"{row['functions']:>9} {row['ports']:>6} {row['file']:>7}",
            *(f"{times[name]:>12.3f}" for name in STEPS),
            f"{each:>12.1f} {row['megabytes']:>5}{growth}",
            flush=True,
        )
        print(
            f"{'':>9} {row['groups']} groups, {row['components']} components of functions,"
            f" {row['kinds']} kinds of pairs"
        )
        if row["functions"] == PROMISED["functions"]:
            rest = times["groups"] + times["components"]
            kept = (
                times["read"] < PROMISED["read"]
                and rest < PROMISED["rest"]
                and row["megabytes"] < PROMISED["megabytes"]
            )
            print(
                f"{'':>9} promised: read < 10 s, groups and components < 3 s, < 1024 MB:"
                f" {'kept' if kept else 'BROKEN'}"
            )
    return 0 if kept else 1


if __name__ == "__main__":
    if "--one" in sys.argv:
        where = Path(sys.argv[sys.argv.index("--one") + 1])
        print(json.dumps(measure(where, "--strict" in sys.argv)))
    else:
        sys.exit(main(sys.argv[1:]))
