"""The command line: one lazy group, and the one place where errors become exit codes.

Start-up time is a promise: this module and every command module import click and nothing heavy at
the top; z3, networkx, pydantic and rich are imported when a command runs.

Exit codes: 0 answered or proved, 1 something is refuted, 2 bad input or usage, 3 something is
undecided, 70 a bug in dmaproof, 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from dmaproof import __version__
from dmaproof.model.errors import InputError

BAD_INPUT, BUG, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141

COMMANDS: dict[str, str] = {
    "check": "Prove or refute isolation for designs on machines.",
    "study": "Decide every row of the study: claims, regressions, known bugs.",
    "diff": "What a change of a design strengthens, weakens, refuses and allows.",
    "gate": "Let a change of a design pass, or say what it weakens.",
    "groups": "IOMMU groups of machines, and why.",
    "reach": "Why one function acts as another, and what would cut it.",
    "fabric": "Theorems about groups and leaks over all topologies up to a size.",
    "translate": "Outcomes of requests on recorded or made-up table images.",
    "export": "A question about a finite instance, for other model checkers.",
    "trace": "Show or replay a refutation.",
    "certify": "Re-check the certificate of a proof with cvc5.",
    "design": "List, show and validate bind designs.",
    "machine": "List and show machines.",
    "explain": "The cited rule behind a name in a verdict.",
}
"""Every command with its line in ``--help``; module ``dmaproof.commands.NAME`` defines ``NAME``."""


class CommandLine(click.Group):
    """A group whose commands are imported when they run, and whose errors end in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands whose module is there."""
        return [name for name in COMMANDS if _module(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, None if there is none of that name."""
        if cmd_name not in COMMANDS or not _module(cmd_name):
            return None
        module = importlib.import_module(f"dmaproof.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named; an unknown one gets the nearest name as advice."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            advice = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"No command is called {args[0]!r}.{advice}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run, report errors, and exit.

        A command returns None or its exit code. With `standalone_mode` off, exceptions pass
        through, as click promises.
        """
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
        except BaseException as error:
            if _debugging(given) and not isinstance(error, (SystemExit, click.ClickException)):
                traceback.print_exc()
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        """Run the command; a reader that went away must not look like a refutation."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise SystemExit(_silence()) from None


def _module(name: str) -> bool:
    return importlib.util.find_spec(f"dmaproof.commands.{name}") is not None


def _debugging(args: Sequence[str]) -> bool:
    return "--debug" in args or os.environ.get("DMAPROOF_DEBUG", "") not in {"", "0"}


def _silence() -> int:
    """Point standard output at nothing, so that the interpreter's last flush does not complain."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
    return BROKEN_PIPE


def _report(error: BaseException) -> int:
    """Tell the user about an error and return the exit code it stands for."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case InputError():
            complain(str(error))
            return BAD_INPUT
        case click.ClickException():
            error.show()
            return BAD_INPUT
        case click.Abort() | KeyboardInterrupt():
            complain("interrupted; nothing was decided beyond what is printed above")
            return INTERRUPTED
        case BrokenPipeError():
            return _silence()
        case OSError():
            complain(
                f"{error.filename or 'output'}: {error.strerror or error}\n"
                "  likely cause: no permission, a missing folder or a full disk\n"
                "  next: check the path, or name another one"
            )
            return BAD_INPUT
    return _bug(error)


def _bug(error: BaseException) -> int:
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    place = ""
    if error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({os.path.basename(last.filename)}:{last.lineno})"  # noqa: PTH119
    complain(
        f"this is a bug in dmaproof: {line}{place}\n"
        f"  version: dmaproof {__version__}, Python {platform.python_version()}\n"
        "  next: run the same command with --debug before the command name and report its\n"
        "        traceback, the command line and the input file"
    )
    return BUG


def printable(text: str) -> str:
    """Return *text* with control characters escaped: file names must not drive the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def complain(text: str) -> None:
    """Write an error to standard error, in colour where that is wanted."""
    colour = not os.environ.get("NO_COLOR") and sys.stderr.isatty()
    head = click.style("error:", fg="red", bold=True) if colour else "error:"
    with suppress(OSError):
        click.echo(f"{head} {printable(text)}", err=True, color=colour)


@click.command(
    cls=CommandLine,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 answered or proved, 1 refuted, 2 bad input, 3 undecided, 70 a bug.",
)
@click.version_option(__version__, prog_name="dmaproof", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of errors (or DMAPROOF_DEBUG=1).")
def cli(debug: bool) -> None:
    """Prove or refute that a way of binding PASIDs to devices keeps them isolated.

    Start with `dmaproof check`, or give it your machine: `lspci -xxxx` as root, then
    `dmaproof check --machine FILE`.
    """


def main() -> NoReturn:
    """Entry point of the ``dmaproof`` command."""
    cli.main(prog_name="dmaproof")
    raise AssertionError("the command line always exits")
