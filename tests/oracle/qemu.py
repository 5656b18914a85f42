"""The QEMU that the tests of this folder drive: the harness of `trace replay --qemu`."""

from __future__ import annotations

from dmaproof.counterexamples.bits.qemu import BINARY, Qemu, Seen

__all__ = ["BINARY", "Qemu", "Seen"]
