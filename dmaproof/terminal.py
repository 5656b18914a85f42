"""What the commands write with: styled and wrapped on a terminal, plain whole lines elsewhere."""

from __future__ import annotations

import os
import sys
from textwrap import wrap
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from dmaproof.cli import printable

Piece = str | tuple[str, str]
"""Text, or text with a rich style."""


PIPE_WIDTH = 200
"""Columns of tables where there is no terminal: nothing is cut off in a file."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command line: rich would exit with 1, which means refuted."""
        raise BrokenPipeError


class Screen:
    """Standard output. Colours only on a terminal, and never with NO_COLOR.

    Attributes:
        console: the rich console, for tables and progress.
        fancy: whether box-drawing characters can be shown.

    """

    def __init__(self) -> None:
        self.console = _Console(highlight=False, markup=False, emoji=False)
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            self.console.width = PIPE_WIDTH
        self.fancy = (self.console.encoding or "").lower().startswith("utf")

    def line(self, *pieces: Piece) -> None:
        """Write one line, never wrapped."""
        self.console.print(_text(pieces), soft_wrap=True)

    def item(self, *head: Piece, text: str, style: str = "") -> None:
        """Write *head* and *text*; a terminal wraps *text* in the columns right of *head*."""
        start = _text(head)
        room = self.console.width - start.cell_len
        if not self.console.is_terminal or room < 20:
            self.line(*head, (text, style))
            return
        lines = wrap(printable(text), room) or [""]
        self.line(*head, (lines[0], style))
        for more in lines[1:]:
            self.line(" " * start.cell_len, (more, style))


def _text(pieces: tuple[Piece, ...]) -> Text:
    text = Text()
    for piece in pieces:
        content, style = piece if isinstance(piece, tuple) else (piece, "")
        text.append(printable(content).replace("\n", " "), style)
    return text


def warn(text: str) -> None:
    """Write a warning to standard error."""
    print(f"warning: {printable(text)}", file=sys.stderr)
