"""Answers that were found once, kept on disk between runs.

An entry is named by the *meaning* of its question: a hash of the transition system as SMT-LIB text,
of the goal, of the worlds that are searched and of the program that answers; names of files and of
designs do not count. Entries appear whole or not at all (written aside, then renamed), so runs in
parallel and a kill at any moment leave nothing half written. Each carries an authentication code
under a key that only the user can read: what was truncated, edited or written by somebody else is
no entry.

That is for integrity alone. Whoever asks treats an answer as a candidate wherever checking is
cheaper than finding: invariants are verified, runs are replayed (see `engine.scenarios.Known`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = "dmaproof/cache/1"
MAX_BYTES = 4 << 20  # of an entry; real ones have some kilobytes
LEFTOVER_SECONDS = 3600.0
"""Age at which a draft that no run finished is removed."""


def key_of(parts: Iterable[str]) -> str:
    """Return the name of a question: SHA-256 over its parts, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


_PROGRAMS = ("model", "properties", "engine", "counterexamples")


@cache
def program(*rooms: str) -> str:
    """Return the SHA-256 of the project's own Python files in some rooms (default: all)."""
    found = hashlib.sha256()
    for room in rooms or _PROGRAMS:
        todo = [resources.files(f"dmaproof.{room}")]
        while todo:
            folder = todo.pop()
            for entry in sorted(folder.iterdir(), key=lambda e: e.name):
                if entry.is_dir():
                    todo.append(entry)
                elif entry.name.endswith(".py"):
                    data = entry.read_bytes()
                    found.update(f"{room} {entry.name} {len(data)}\n".encode() + data)
    return found.hexdigest()


def default_folder() -> Path:
    """Return the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``) of the project."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification tells to ignore a relative path.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "dmaproof"


@dataclass(frozen=True)
class Cache:
    """A folder of answers; a folder that cannot be used costs time only.

    Attributes:
        folder: where entries lie; None: nothing is ever found or kept.
    """

    folder: Path | None

    def get(self, key: str) -> Any | None:  # noqa: ANN401
        """Return what was kept under *key*; None if nothing, or nothing authentic."""
        secret = self._secret()
        if self.folder is None or secret is None:
            return None
        try:
            with self._path(key).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                return None
            code, _, body = data.partition(b"\n")
            if not hmac.compare_digest(code, _code(secret, body)):
                return None
            entry = json.loads(body)
            if entry["schema"] != SCHEMA or entry["key"] != key:
                return None
            return entry["answer"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def put(self, key: str, answer: Any) -> None:  # noqa: ANN401
        """Keep an answer (anything JSON can say); failing to is no error."""
        secret = self._secret()
        if self.folder is None or secret is None:
            return
        body = json.dumps({"schema": SCHEMA, "key": key, "answer": answer}).encode()
        with suppress(OSError):
            path = self._path(key)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            appear(path, _code(secret, body) + b"\n" + body)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "answers" / key[:2] / key

    def _secret(self) -> bytes | None:
        return None if self.folder is None else _secret(self.folder)

    def tidy(self) -> None:
        """Remove drafts that a killed run left behind."""
        if self.folder is not None:
            sweep(self.folder, ".draft-*", "answers/*/.draft-*")


def _code(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, body, "sha256").hexdigest().encode()


@cache
def _secret(folder: Path) -> bytes | None:
    """Return the key of a folder, made with its first use; None where that is impossible."""
    path = folder / "key"
    for _ in range(2):
        try:
            found = path.read_bytes()
            if len(found) == 32:
                return found
            path.unlink()  # not one of ours: what was kept under it is void
        except FileNotFoundError:
            pass
        except OSError:
            return None
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            appear(path, secrets.token_bytes(32), replace=False)
    return None


_DRAFT: Final = re.compile(r"\.draft-[0-9]+-[0-9a-f]{16}")


def sweep(folder: Path, *patterns: str) -> None:
    """Remove old drafts that a killed run left in a folder; failing to is no error.

    Args:
        folder: where.
        patterns: which files to look at; whatever is not named as drafts are stays.
    """
    now = time.time()
    with suppress(OSError):
        for draft in [p for pattern in patterns for p in folder.glob(pattern)]:
            with suppress(OSError):
                old = now - draft.stat().st_mtime > LEFTOVER_SECONDS
                if old and _DRAFT.fullmatch(draft.name):
                    draft.unlink()


def appear(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file in one piece: a reader sees it whole or not at all.

    Args:
        path: the file; its folder must exist.
        data: its content.
        replace: in place of an older file; without, whoever comes first wins.

    Raises:
        OSError: it cannot be written, or without *replace* there is one already.
    """
    draft = path.parent / f".draft-{os.getpid()}-{secrets.token_hex(8)}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def keep(path: Path, data: bytes) -> None:
    """Write a file in one piece, unless it is there with that content.

    Raises:
        OSError: it cannot be written.
    """
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    appear(path, data)
