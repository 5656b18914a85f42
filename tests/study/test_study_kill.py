"""A study that is killed, or robbed of a worker, or not alone: no wrong verdict, nothing left."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dmaproof.engine import cache as caches
from dmaproof.engine.cache import Cache

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="no /proc to look into"
)

FEW = ("R25", "P5", "R16")
"""Rows of every kind: runs and invariants of scenarios, bind designs on machines, a lemma."""

MORE = (*FEW, "R2", "R27", "P46", "R14")

Verdicts = dict[tuple[str, str], tuple[str, str, str]]


class Study:
    """A study in a process of its own, whose processes can be told from all others."""

    def __init__(self, folder: Path, rows: tuple[str, ...], *options: str) -> None:
        """Start it; its cache and its files are below *folder*."""
        self.mark = f"dmaproof-test-{secrets.token_hex(8)}"
        chosen = [x for row in rows for x in ("--row", row)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dmaproof", "study", "--json", "--out", str(folder / "out"),
             "--seconds", "240", *chosen, *options],  # a busy machine is no reason for a verdict
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "DMAPROOF_MARK": self.mark},
        )

    def result(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end; the exit code and what was printed."""
        out, err = self.process.communicate(timeout=300)
        assert not err
        return self.process.returncode, json.loads(out)

    def kill(self) -> None:
        """End the parent at once, and wait until none of its workers is left."""
        self.process.kill()
        self.process.communicate()
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == [], "a worker outlives the study"

    def processes(self) -> list[int]:
        """All processes of the study that are alive."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # a zombie's environment is empty
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def workers(self) -> list[int]:
        """Its workers."""
        return [n for n in self.processes() if n != self.process.pid]


def essence(data: dict[str, Any]) -> Verdicts:
    found = {(r["row"], r["part"]): (r["expected"], r["found"], r["scope"]) for r in data["rows"]}
    assert len(found) == len(data["rows"])
    return found


def whole(folder: Path) -> None:
    """Every answer that is kept is authentic, and every file of the study is whole."""
    caches._secret.cache_clear()
    cache = Cache(folder / "cache" / "dmaproof")
    for path in (folder / "cache" / "dmaproof" / "answers").glob("*/[!.]*"):
        assert cache.get(path.name) is not None, path
    for path in (folder / "out").rglob("[!.]*.json"):
        json.loads(path.read_bytes())


def tidied(folder: Path) -> None:
    """A draft that is old enough does not outlive the next study."""
    drafts = [p for p in folder.rglob(".draft-*") if p.is_file()]
    drafts.append(folder / "cache" / "dmaproof" / "answers" / "00" / ".draft-1-0123456789abcdef")
    drafts.append(folder / "out" / "traces" / ".draft-1-0123456789abcdef")
    for draft in drafts:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(draft.read_bytes() if draft.exists() else b"half")
        long_ago = time.time() - caches.LEFTOVER_SECONDS - 60
        os.utime(draft, (long_ago, long_ago))


def certified(data: dict[str, Any], most: int) -> None:
    """Certificates of some verdicts are accepted by the second solver."""
    folders = sorted({r["certificate"] for r in data["rows"]
                      if r["certificate"] and r["kind"] != "lemma"})
    assert folders
    for folder in folders[:most]:
        ran = subprocess.run([sys.executable, "-m", "dmaproof", "certify", folder], check=False,
                             capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdicts, float]:
    """What the rows of `FEW` come to, and how long that takes from an empty cache."""
    start = time.monotonic()
    code, data = Study(tmp_path_factory.mktemp("reference"), FEW).result()
    assert code == 0
    return essence(data), time.monotonic() - start


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_nothing_wrong(
    reference: tuple[Verdicts, float], tmp_path: Path, rounds: int
) -> None:
    expected, seconds = reference
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for number in range(rounds):
        # Half of the kills meet an empty cache, the others what earlier ones have left.
        folder = tmp_path / "again" if moments.random() < 0.5 else tmp_path / str(number)
        victim = Study(folder, FEW)
        time.sleep(moments.uniform(0.1, seconds))
        victim.kill()
        whole(folder)
        tidied(folder)
        code, data = Study(folder, FEW).result()
        assert (code, essence(data)) == (0, expected)
        whole(folder)
        assert not list(folder.rglob(".draft-*"))
        certified(data, 1)


def test_a_worker_that_is_killed_costs_its_job_at_most(
    reference: tuple[Verdicts, float], tmp_path: Path
) -> None:
    expected, _ = reference
    # Without the library, inference takes seconds: the worker dies in the middle of a job.
    study = Study(tmp_path, FEW, "--no-library", "--jobs", "1")
    deadline = time.monotonic() + 30
    while not busy(study) and study.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for number in study.workers():
        os.kill(number, signal.SIGKILL)
    code, data = study.result()
    assert study.processes() == []
    found = essence(data)
    assert {row for row, _ in found} == {row for row, _ in expected}, "a row is lost"
    lost = [v for v in data["rows"] if v["found"] == "undecided"]
    assert lost
    assert all("killed" in v["reason"] for v in lost)
    assert code == 3
    for key, verdict in found.items():
        if verdict[1] != "undecided":
            assert verdict == expected[key]
    code, data = Study(tmp_path, FEW).result()
    assert (code, essence(data)) == (0, expected)


def busy(study: Study) -> bool:
    """Whether a worker has used the processor for longer than it takes to get ready."""
    ticks = os.sysconf("SC_CLK_TCK")
    for number in study.workers():
        with suppress(OSError):
            words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            if (int(words[11]) + int(words[12])) / ticks > 2.0:
                return True
    return False


@pytest.mark.slow
def test_two_studies_on_one_cache_agree(tmp_path: Path) -> None:
    alone = Study(tmp_path / "alone", MORE).result()
    (tmp_path / "shared").mkdir()
    pair = [Study(tmp_path / "shared", MORE, "--jobs", "2") for _ in range(2)]
    for study in pair:
        code, data = study.result()
        assert (code, essence(data)) == (alone[0], essence(alone[1]))
        certified(data, 3)
    whole(tmp_path / "shared")
