"""Whole answers of earlier runs, for the same program and the same files.

The caches of the engines keep what was *found*, and whatever a program of today finds there is
verified and replayed anew. This one keeps what was *answered*: by this very package, byte for byte,
under the same versions of its solvers, after that verification and replay. An answer counts while
the trace or certificate that it names is still there as it was written. Entries carry the cache's
authentication code; what is undecided is never kept.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from dmaproof.counterexamples.study.answers import Answer
from dmaproof.engine.cache import Cache, key_of

_ROOMS: Final = ("model", "properties", "engine", "counterexamples")
_LIBRARIES: Final = ("z3-solver", "networkx", "numpy", "pydantic")
_SOURCES: Final = (".py", ".toml", ".json")


@cache
def package() -> str:
    """Return the SHA-256 of all that answers: code, designs, rows, library, solvers' versions."""
    found = hashlib.sha256(platform.python_version().encode())
    for name in _LIBRARIES:
        found.update(f"{name} {metadata.version(name)}\n".encode())
    for room in _ROOMS:
        for name, data in _files(resources.files(f"dmaproof.{room}"), room):
            found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()


def _files(folder: Traversable, place: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        name = f"{place}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry, name)
        elif entry.name.endswith(_SOURCES):
            yield name, entry.read_bytes()


@dataclass(frozen=True)
class Memo:
    """Answers by question.

    Attributes:
        cache: where they are kept.
        setting: what else an answer depends on, such as where its files are written.
    """

    cache: Cache
    setting: tuple[str, ...] = ()

    def get(self, question: tuple[Any, ...]) -> list[Answer] | None:
        """Return the answers to a question, None unless all of them are there and their files."""
        kept = self.cache.get(self._key(question))
        try:
            if not kept or any(prints(e["answer"]) != e["files"] for e in kept):
                return None
            return [_answer(question, e["answer"]) for e in kept]
        except (TypeError, KeyError):
            return None

    def put(self, question: tuple[Any, ...], answers: Sequence[Answer]) -> None:
        """Keep the answers to a question, unless one is undecided."""
        if not answers or any(a.found == "undecided" for a in answers):
            return
        entries = []
        for answer in answers:
            data = {k: v for k, v in asdict(answer).items() if k != "question"}
            entries.append({"answer": data, "files": prints(data)})
        if all(None not in e["files"] for e in entries):
            self.cache.put(self._key(question), entries)

    def _key(self, question: tuple[Any, ...]) -> str:
        return key_of(["answer", package(), *self.setting, repr(question)])


def _answer(question: tuple[Any, ...], data: dict[str, Any]) -> Answer:
    changed = {"wrong": tuple(data["wrong"]), "origin": "cache", "seconds": 0.0}
    return Answer(question, **{**data, **changed})


def prints(answer: dict[str, Any]) -> list[str | None]:
    """Return the SHA-256 of each file or folder that an answer names, None where there is none."""
    return [_print(Path(p)) for p in (answer["trace"], answer["certificate"]) if p is not None]


def _print(path: Path) -> str | None:
    found = hashlib.sha256()
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            data = file.read_bytes()
            found.update(f"{file.name} {len(data)}\n".encode() + data)
    except OSError:
        return None
    return found.hexdigest()
