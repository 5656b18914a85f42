"""What oracles tell, whichever process ran them: seeds that repeat a run, and what was met."""

from __future__ import annotations

import pytest

ORACLE = "oracle"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the property `oracle` of every test that recorded one (pytest -n hides its output)."""
    for status in ("passed", "failed"):
        for report in terminalreporter.getreports(status):
            for name, value in getattr(report, "user_properties", ()):
                if name == ORACLE and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")
