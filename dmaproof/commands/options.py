"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def grouping_option(function: F) -> F:
    """Add ``--grouping linux|v3|components``."""
    return click.option(
        "--grouping",
        type=click.Choice(("linux", "v3", "components")),
        default="linux",
        show_default=True,
        help="Grouping algorithm: Linux's (up to 7.0), the proposal of 2025, or whatever leaks connect.",
    )(function)


def assume_option(function: F) -> F:
    """Add ``--assume NAME=VALUE``, repeatable."""
    return click.option(
        "--assume",
        metavar="NAME=VALUE",
        multiple=True,
        help="Set an assumption to on, off or free (deputy, spoof, mfd_rid_honest, mf_loopback,"
        " rp_loopback, rc_p2p, ...). Repeatable.",
    )(function)


def json_option(function: F) -> F:
    """Add ``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
