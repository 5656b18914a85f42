"""Kernel modules of an unpacked package, in the order in which they can be inserted.

The package has no modules.dep (depmod writes that on installation), so the dependencies are read
from the modules themselves: the `depends=` field of their .modinfo section.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable
from pathlib import Path

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_OPEN = {".ko": Path.read_bytes, ".xz": lambda path: lzma.decompress(path.read_bytes())}
_OPEN[".gz"] = lambda path: gzip.decompress(path.read_bytes())


def _name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def insertion_order(folder: Path, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return (name, contents) of *wanted* and what they need, dependencies first.

    Names that the package has not are left out: a kernel may have them built in.
    """
    files = {_name(path): path for path in folder.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        path = files.get(name)
        if path is None or name in order:
            return
        content = _OPEN[path.suffix](path)
        needed = _DEPENDS.search(content)
        for other in needed[1].decode().split(",") if needed and needed[1] else ():
            visit(other.replace("-", "_"))
        order[name] = content

    for name in wanted:
        visit(name.replace("-", "_"))
    return list(order.items())
