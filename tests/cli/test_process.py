"""The program as a process: start-up, exit codes, pipes, colours, bugs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from dmaproof.cli import cli

from .support import ENVIRONMENT, run

HEAVY = ("z3", "networkx", "pydantic", "rich", "numpy", "cvc5", "asyncio")

HELP = f"""
import contextlib, io, sys
from dmaproof.cli import cli

def help_of(*args):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main([*args, "--help"])
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, (args, loaded)

help_of()
for name in cli.list_commands(None):
    help_of(name)
"""


def start(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmaproof", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"NO_COLOR": "1"} | env,
    )


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_exit_codes_of_the_process() -> None:
    assert start("reach", "SS", "A", "B").returncode == 0
    bad = start("reach", "SS", "A", "Q")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("error: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dmaproof", "groups", *["SWR"] * 400],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        complaint = process.stderr.read()
        process.wait(60)
    assert complaint == b""
    assert process.returncode == 141


def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "dmaproof", "machine", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_ascii_only_output() -> None:
    done = start("machine", "show", "SWR", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "`- 0000:00:01.0" in done.stdout


def test_colours_only_where_wanted() -> None:
    colour = {"FORCE_COLOR": "1", "NO_COLOR": "", "TERM": "xterm-256color"}
    assert "\x1b[" in start("machine", "show", "SWR", **colour).stdout
    assert "\x1b[" not in start("machine", "show", "SWR").stdout
    assert "\x1b[3" not in start("machine", "show", "SWR", FORCE_COLOR="1").stdout


def test_a_terminal_wraps_and_a_pipe_does_not() -> None:
    wide = start("groups", "SWR").stdout
    narrow = start("groups", "SWR", FORCE_COLOR="1", COLUMNS="80", TERM="dumb").stdout
    assert max(map(len, wide.splitlines())) > 100
    assert len(narrow.splitlines()) > len(wide.splitlines())


def broken(error: BaseException):
    def load(_name: str) -> None:
        raise error

    return load


def test_a_bug_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmaproof.model.pcie import machines

    monkeypatch.setattr(machines, "load", broken(ZeroDivisionError("by zero")))
    result = run("reach", "SS", "A", "B")
    assert result.exit_code == 70
    assert "a bug in dmaproof: ZeroDivisionError: by zero (test_process.py:" in result.stderr
    assert "--debug" in result.stderr


@pytest.mark.parametrize(("args", "env"), [(("--debug",), {}), ((), {"DMAPROOF_DEBUG": "1"})])
def test_debug_shows_the_traceback(
    args: tuple[str, ...], env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmaproof.model.pcie import machines

    monkeypatch.setattr(machines, "load", broken(ZeroDivisionError("by zero")))
    result = CliRunner().invoke(cli, [*args, "machine", "show", "SS"], env=ENVIRONMENT | env)
    assert result.exit_code == 70
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "out.json"), 2),
        (SystemExit(3), 3),
        (SystemExit(), 0),
        (SystemExit("text"), 1),
        (RecursionError("deep"), 70),
    ],
)
def test_every_end_has_its_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmaproof.model.pcie import machines

    monkeypatch.setattr(machines, "load", broken(error))
    assert run("machine", "show", "SS").exit_code == code


def test_a_command_that_is_not_there_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmaproof import cli as module

    monkeypatch.setitem(module.COMMANDS, "unwritten", "Not written yet.")
    assert "unwritten" not in run("--help").stdout
    assert run("unwritten").exit_code == 2
