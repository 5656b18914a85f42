"""A comparison as JUnit XML and as SARIF 2.1.0, for continuous integration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from dmaproof import __version__
from dmaproof.counterexamples.gate.changes import (
    HARMFUL,
    Change,
    Comparison,
    Operation,
    Relation,
)

SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT: Final = "dmaproofGate/v1"


def _title(change: Change) -> str:
    literals = "".join(f", {n}={v}" for n, v in change.assumptions.items())
    return f"{change.property}{f' on {change.machine}' if change.machine else ''}{literals}"


def _told(change: Change) -> str:
    runs = [f"A run of the {run.side} design:\n" + "\n".join(run.lines) for run in change.runs]
    return "\n\n".join([f"{change.says}\n{change.old} -> {change.new}: {change.reason}", *runs])


# -- JUnit ----------------------------------------------------------------------------------


def junit(comparison: Comparison) -> str:
    """Return a suite with a test case for each property on each machine."""
    name = f"dmaproof gate {comparison.old} {comparison.new}"
    suite = TestSuite(name)
    for change in comparison.changes:
        case = TestCase(_title(change), f"dmaproof.{comparison.new}")
        if not change.ability and change.relation in HARMFUL:
            failure = Failure(f"{change.relation}: {change.reason}", change.relation.value)
            failure.text = _told(change)
            case.result = [failure]
        elif not change.ability and change.relation is Relation.UNDECIDED:
            case.result = [Error(change.reason, change.relation.value)]
        else:
            case.system_out = f"{change.relation}: {change.reason}"
        suite.add_testcase(case)
    for operation in comparison.operations:
        suite.add_property(f"{operation.kind}: {operation.call}", _operation(operation))
    xml = JUnitXml(name)
    xml.add_testsuite(suite)
    return str(xml.tostring().decode("utf-8"))


def _operation(operation: Operation) -> str:
    where = f" on {operation.machine}" if operation.machine else ""
    after = f", after: {'; '.join(operation.calls)}" if operation.calls else ""
    return (f"{operation.says}{where} (otherwise {operation.errno} by guard {operation.guard})"
            f"{after}")


# -- SARIF ----------------------------------------------------------------------------------


def sarif(comparison: Comparison, file: str = "") -> dict[str, Any]:
    """Return a SARIF 2.1.0 log: what a reviewer of the new design has to look at.

    Args:
        comparison: the pair.
        file: the file of the new design ("" for a built-in one).
    """
    results = list(_results(comparison, file))
    says = {c.property: c.says for c in comparison.changes}
    says |= {o.kind.replace(" ", "-"): f"a call is {o.kind}" for o in comparison.operations}
    rules = [
        {"id": rule, "shortDescription": {"text": says[rule]}}
        for rule in sorted({r["ruleId"] for r in results})
    ]
    places = {rule["id"]: place for place, rule in enumerate(rules)}
    for result in results:
        result["ruleIndex"] = places[result["ruleId"]]
    driver = {"name": "dmaproof", "version": __version__, "rules": rules}
    return {
        "$schema": SARIF_SCHEMA, "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints",
                  "results": results}],
    }


def _results(comparison: Comparison, file: str) -> Iterator[dict[str, Any]]:
    for change in comparison.changes:
        if change.ability or change.relation not in (*HARMFUL, Relation.UNDECIDED):
            continue
        level = "warning" if change.relation is Relation.UNDECIDED else "error"
        text = f"{_title(change)} is {change.relation}: {change.reason}"
        literals = sorted(f"{n}={v}" for n, v in change.assumptions.items())
        result = _result(change.property, level, text, comparison, file,
                         (change.machine, *literals))
        if change.runs:
            result["codeFlows"] = [_flow(run.lines) for run in change.runs]
        yield result
    for operation in comparison.operations:
        rule = operation.kind.replace(" ", "-")
        text = f"{operation.kind}: {_operation(operation)}"
        result = _result(rule, "note", text, comparison, file, (operation.call,))
        if operation.calls:
            result["codeFlows"] = [_flow((*operation.calls, operation.says))]
        yield result


def _result(
    rule: str, level: str, text: str, comparison: Comparison, file: str, about: tuple[str, ...]
) -> dict[str, Any]:
    # Neither times nor runs nor the old design's name: the same finding keeps its identity while
    # designs and engines change around it.
    identity = "\0".join((comparison.new, rule, *about))
    return {
        "ruleId": rule, "level": level, "message": {"text": text},
        "locations": [_location(comparison.new, file)],
        "partialFingerprints": {FINGERPRINT: hashlib.sha256(identity.encode()).hexdigest()},
    }


def _location(design: str, file: str) -> dict[str, Any]:
    logical = {"logicalLocations": [{"name": design, "kind": "module"}]}
    if not file:
        return logical
    path = Path(file)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    return logical | {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    }


def _flow(steps: tuple[str, ...]) -> dict[str, Any]:
    places = [{"location": {"message": {"text": step.strip()}}} for step in steps]
    return {"threadFlows": [{"locations": places}]}
