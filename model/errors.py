"""Errors a user can act on.

Every complaint about an input names what is wrong, where, the likely cause and what to do next.
The command line prints it and ends with exit code 2; the library raises it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class InputError(Exception):
    """Input that cannot be used.

    Attributes:
        what: the fault in one sentence.
        where: file, line, key or object that shows it ("" when there is no better place).
        cause: the likely cause ("" when unknown).
        remedy: what to do next.
    """

    what: str
    where: str = ""
    cause: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.cause:
            text += f"\n  likely cause: {self.cause}"
        if self.remedy:
            text += f"\n  next: {self.remedy}"
        return text
