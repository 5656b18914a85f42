"""``dmaproof explain``: the record of a cited rule."""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import asdict
from difflib import get_close_matches

import click

from dmaproof.commands.options import json_option
from dmaproof.model.errors import InputError
from dmaproof.model.rules import Rule, all_rules

ROOMS = ("model", "properties", "engine", "counterexamples")


@click.command()
@click.argument("rule", required=False)
@click.option("--list", "everything", is_flag=True, help="List every rule.")
@json_option
def explain(rule: str | None, everything: bool, as_json: bool) -> None:
    """Print where RULE is written, what it says and which function implements it.

    RULE is a name as it stands in verdicts and traces, such as pcie.acs.enabled, or the beginning
    of one, such as pcie.acs.
    """
    if (rule is None) == (not everything):
        raise click.UsageError("Give the name of a rule, or --list.")
    register_all()
    chosen = list(all_rules()) if rule is None else _named(rule)
    if as_json:
        body = {"schema": "dmaproof/rules/1", "rules": [asdict(r) for r in chosen]}
        click.echo(json.dumps(body, indent=1))
        return
    from dmaproof.terminal import Screen

    screen = Screen()
    if everything:
        wide = max(len(r.name) for r in chosen)
        for r in chosen:
            screen.item((f"{r.name:{wide}}", "cyan"), "  ", text=r.source)
        return
    for r in chosen:
        screen.line((r.name, "bold cyan"))
        parts = {"says": r.meaning, "source": r.source, "modelled in": r.where,
                 "unconfirmed": r.unconfirmed}
        for head, text in parts.items():
            if text:
                screen.item((f"  {head:12}", "dim"), text=text)


def register_all() -> None:
    """Import every module of the rooms, so that each rule is registered."""
    for room in ROOMS:
        package = importlib.import_module(f"dmaproof.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"dmaproof.{room}."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("dmaproof"):
                    raise  # only an optional package such as cvc5 may be absent


def _named(name: str) -> list[Rule]:
    known = list(all_rules())
    exact = [r for r in known if r.name == name]
    under = [r for r in known if r.name.startswith(name.rstrip(".") + ".")]
    if exact or under:
        return exact or under
    near = get_close_matches(name, [r.name for r in known], 3, 0.5)
    raise InputError(
        f"no rule is called {name[:60]!r}", "", "a typing error",
        f"nearest: {', '.join(near)}" if near else "`dmaproof explain --list` prints every rule",
    )
