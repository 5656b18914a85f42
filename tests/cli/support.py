"""Running the command line inside the test's process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from dmaproof.cli import cli

ENVIRONMENT = {"NO_COLOR": "1", "COLUMNS": "100", "DMAPROOF_DEBUG": "", "TERM": "dumb"}


def run(*args: str, **env: str) -> Result:
    """Run one command; an exception that escapes the command line fails the test."""
    result = CliRunner().invoke(cli, list(args), prog_name="dmaproof", env=ENVIRONMENT | env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def complaint(result: Result) -> str:
    """Check that there is one complete error message, and return it."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error:") == 1, result.stderr
    assert "  next: " in result.stderr
    return result.stderr
