"""``dmaproof certify``: ask a second solver about the certificate of a proof."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from dmaproof.commands.options import json_option


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...",
                type=click.Path(path_type=Path))
@click.option("--seconds", default=60.0, show_default=True, help="Time for one obligation.")
@json_option
def certify(folders: tuple[Path, ...], seconds: float, as_json: bool) -> int:
    """Rebuild the obligations of certificates, compare them with the files, and ask cvc5.

    FOLDER is a certificate, or a folder of some, such as the one that `check` or `study` wrote.
    Exit code: 0 accepted, 1 rejected, 2 no certificate or one of another model, 3 undecided.
    """
    from dmaproof.cli import complain
    from dmaproof.engine.certificate import Report
    from dmaproof.engine.certificate import certify as ask
    from dmaproof.model.errors import InputError

    worst = 0
    results: Counter[str] = Counter()
    for folder in (each for given in folders for each in _certificates(given)):
        try:
            report: Report = ask(folder, seconds)
        except InputError as error:
            worst = 2
            results["refused"] += 1
            if as_json:
                click.echo(json.dumps({"folder": str(folder), "error": str(error)}))
            else:
                complain(str(error))
            continue
        results[report.result] += 1
        code = {"accepted": 0, "rejected": 1, "undecided": 3}[report.result]
        worst = 2 if worst == 2 else _worse(worst, code)
        if as_json:
            click.echo(json.dumps({
                "schema": "dmaproof/certify/1", "folder": str(folder), "result": report.result,
                "theorem": report.manifest.theorem, "open": report.open,
                "obligations": len(report.replies),
            }))
        else:
            left = f"; not unsat: {', '.join(report.open)}" if report.open else ""
            click.echo(f"{folder}: {report.result} ({report.manifest.theorem},"
                       f" {len(report.replies)} obligations{left})")
    if results.total() > 1 and not as_json:
        parts = ", ".join(f"{number} {result}" for result, number in results.items())
        click.echo(f"{results.total()} certificates: {parts}")
    return worst


def _certificates(folder: Path) -> list[Path]:
    """Return the certificates in a folder of some; otherwise the folder itself."""
    if (folder / "manifest.json").exists():
        return [folder]
    found = [*folder.glob("*/manifest.json"), *folder.glob("certificates/*/manifest.json")]
    return sorted(path.parent for path in found) or [folder]


def _worse(one: int, two: int) -> int:
    if 1 in (one, two):
        return 1
    return max(one, two)
