"""Answers on disk, so that a long run can be interrupted and taken up again.

One small file an answer, under a name that stands for the question, the shape and the code that
answers it. Files appear whole or not at all; what is damaged is asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import z3

from dmaproof.engine.fabric.theorems import ShapeTheorem
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.trees.shapes import Shape

SCHEMA = "dmaproof/shape-answer/1"
_ROOT = Path(__file__).resolve().parents[2]
_CODE = ("engine/fabric", "model/pcie/trees")
_RULES = ("acs", "conditions", "device", "groups", "groups_v3", "quirks", "routing", "topology")


@cache
def code_version() -> str:
    """Return a hash of all code that an answer depends on, and of z3's version."""
    digest = hashlib.sha256(str(z3.get_version_string()).encode())
    for path in _sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for folder in _CODE:
        yield from sorted((_ROOT / folder).glob("*.py"))
    for name in _RULES:
        yield _ROOT / "model" / "pcie" / f"{name}.py"


class Store:
    """A folder of answers.

    Args:
        folder: where; made if it is not there.

    Raises:
        InputError: it cannot be written.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"cannot write: {error.strerror or error}",
                str(folder),
                "not a folder, no permission, or a full disk",
                "name a folder that can be written",
            ) from error

    def _path(self, theorem: ShapeTheorem, shape: Shape) -> Path:
        meaning = json.dumps([code_version(), theorem.meaning, shape.parents], sort_keys=True)
        name = hashlib.sha256(meaning.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"

    def load(self, theorem: ShapeTheorem, shape: Shape) -> tuple[str, float] | None:
        """Return (result, seconds) of an earlier run, None if there is no sound record."""
        try:
            record = json.loads(self._path(theorem, shape).read_text("utf-8"))
            result, seconds = record["result"], record["seconds"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sound = record.get("schema") == SCHEMA and result in {"holds", "fails"}
        if not sound or record.get("shape") != list(shape.parents):
            return None
        return result, float(seconds) if isinstance(seconds, int | float) else 0.0

    def save(self, theorem: ShapeTheorem, shape: Shape, result: str, seconds: float) -> None:
        """Keep an answer. Unknown ones are not kept: the next run may have more time."""
        path = self._path(theorem, shape)
        record = {
            "schema": SCHEMA,
            "theorem": theorem.id,
            "shape": list(shape.parents),
            "result": result,
            "seconds": round(seconds, 4),
        }
        path.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
