"""Whether a kernel can be booted here; where it must be (CI), its absence is a failure."""

from __future__ import annotations

import os

import pytest

from .boot import QEMU
from .fetch import Kernel, unpacked


def kernel_or_skip() -> Kernel:
    """Return the unpacked kernel, or skip the test, or fail it if oracles are required."""
    found = unpacked()
    if QEMU is None:
        reason = "qemu-system-x86_64 is not installed"
    elif found is None:
        reason = "no kernel is unpacked: run python3 tests/oracle/kernel/fetch.py"
    else:
        return found
    if os.environ.get("DMAPROOF_REQUIRE_ORACLES"):
        pytest.fail(reason)
    pytest.skip(reason)
