"""The house rules: layers, names, sizes, documentation, citations, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmaproof.commands.explain import register_all
from dmaproof.engine.assumptions import ASSUMPTIONS
from dmaproof.model.rules import all_rules
from dmaproof.properties.base import Premise
from dmaproof.properties.registry import PROPERTIES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("model", "properties", "engine", "counterexamples")
TOP = len(ROOMS)  # the import root: public interface and command line
MAX_LINES = 600
SKIPPED = {".git", ".venv", "venv", "build", "dist", "__pycache__", "node_modules"}
SKIPPED |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def files(*folders: str, suffix: str = ".py") -> list[Path]:
    """Files of the project, each once: the links under dmaproof/ are not followed."""
    found = []
    for folder in folders:
        for here, inner, names in os.walk(ROOT / folder):
            inner[:] = sorted(d for d in inner if d not in SKIPPED and not d.endswith(".egg-info"))
            found += [Path(here) / name for name in sorted(names) if name.endswith(suffix)]
    return found


SOURCES = files(*ROOMS, "dmaproof")
EVERYTHING = [*SOURCES, *files("tests", "bench")]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute import, also inside functions: (line, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rank(module: str) -> int:
    """Floor of a module: model 0, properties 1, engine 2, counterexamples 3, the rest 4."""
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else TOP


def test_imports_run_downwards_only() -> None:
    wrong = []
    for path in SOURCES:
        floor = rank(f"dmaproof.{short(path).replace('/', '.')}")
        for line, name in imports(path):
            if name.split(".")[0] != "dmaproof" or name == "dmaproof.__version__":
                continue
            if rank(name) > floor:
                wrong.append(f"{short(path)}:{line} imports {name}")
    assert not wrong


def test_rooms_are_imported_under_one_name() -> None:
    wrong = [
        f"{short(path)}:{line} imports {name}"
        for path in EVERYTHING
        for line, name in imports(path)
        if name.split(".")[0] in ROOMS
    ]
    assert not wrong


def test_no_relative_imports_outside_tests() -> None:
    wrong = [
        f"{short(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not wrong


def test_no_long_files() -> None:
    long = {
        short(path): lines
        for path in EVERYTHING
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert not long


Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Def]]:
    for node in body:
        if isinstance(node, Def) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def test_everything_public_is_documented() -> None:
    bare = []
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        if ast.get_docstring(tree) is None:
            bare.append(short(path))
        for name, node in public(tree.body, f"{short(path)}: "):
            overloads = any(
                isinstance(mark, ast.Name) and mark.id in {"overload", "override"}
                for mark in node.decorator_list
            )
            if ast.get_docstring(node) is None and not overloads:
                bare.append(name)
    assert not bare


RULE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+")
SPECIFICATION = r"VT-d|rev 2\.x|PCI|SEMANTICS|docs/semantics"
KERNEL = r"drivers/|include/|uapi/|virt/|/\d\d\b|[a-z_]+\.[ch]\b"
CITATION = re.compile(f"{SPECIFICATION}|{KERNEL}")


def test_every_rule_is_cited_and_where_it_says() -> None:
    register_all()
    rules = list(all_rules())
    assert len(rules) > 20
    for rule in rules:
        assert RULE_NAME.fullmatch(rule.name), rule
        assert CITATION.search(rule.source), f"{rule.name}: no citation in {rule.source!r}"
        assert len(rule.meaning.split()) >= 3, rule
        parts = rule.where.split(".")
        found: object = None
        for cut in range(len(parts) - 1, 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for name in parts[cut:]:
                found = getattr(found, name)
            break
        assert callable(found), rule.where


def test_no_paths_or_names_of_a_machine() -> None:
    # Written in pieces, so that this file does not name them itself.
    private = ["/" + "work/", "/" + "root/", "/" + "home/", "/" + "Users/"]
    found = []
    for path in files("", suffix=""):
        if path.stat().st_size > 4 << 20 or ".lspci" in path.name:
            continue
        text = path.read_bytes()
        found += [f"{short(path)}: {word}" for word in private if word.encode() in text]
    assert not found


def test_links_are_relative() -> None:
    for room in ROOMS:
        link = ROOT / "dmaproof" / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room
        module = importlib.import_module(f"dmaproof.{room}")
        assert module.__name__ == f"dmaproof.{room}"


def test_commands_of_the_readme_are_as_promised() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    install = "python3 -m venv .venv && .venv/bin/pip install --quiet -e"
    first = f"{install} . && .venv/bin/dmaproof check"
    second = f"{install} '.[test]' && .venv/bin/python -m pytest -n 2"
    assert f"\n{first}\n" in text
    assert f"\n{second}\n" in text
    assert second in (ROOT / ".ci" / "run").read_text("utf-8")


def test_semantics_has_every_word_of_a_verdict() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text("utf-8")
    words = [*(p.id for p in PROPERTIES), *ASSUMPTIONS, *Premise]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_the_readme_shows_what_is_printed() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    golden = ROOT / "tests" / "cli" / "golden" / "reach-swr.txt"
    shown = golden.read_text("utf-8").removesuffix("--- exit code 0\n")
    assert f"```console\n{shown}```" in text


def test_documents_link_to_what_exists() -> None:
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{short(path)}: {target}")
    assert not broken


@pytest.mark.slow
def test_the_wheel_holds_real_files(tmp_path: Path) -> None:
    """Builds the wheel from a copy, since a build writes into its tree."""
    copy = tmp_path / "copy"
    skip = shutil.ignore_patterns(*SKIPPED, "*.egg-info", "tests", "bench")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, copy],
        capture_output=True, text=True, check=False, timeout=300,
    )
    if done.returncode and re.search(r"No matching distribution|connection", done.stderr):
        pytest.skip("no package index within reach to fetch the build tool from")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("dmaproof-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    for entry in entries:
        assert entry.external_attr >> 28 != 0xA, f"{entry.filename} is a link"
    for path in [*SOURCES, *files(*ROOMS, suffix=".toml"), *files(*ROOMS, suffix=".json")]:
        assert f"dmaproof/{short(path).removeprefix('dmaproof/')}" in names
    assert "dmaproof/py.typed" in names
    others = {name.split("/")[0] for name in names}
    assert {o for o in others if not o.endswith(".dist-info")} == {"dmaproof"}
