"""Parts as the contract suites make them: what each part's own test file says."""

import ast
from functools import cache
from pathlib import Path

from pyro_vae.parts import parse_part


def held_parts(kind: str) -> dict[str, list[str]]:
    """Name of each part of a kind whose test file has a suite of it, and the texts of all its suites."""
    parts: dict[str, list[str]] = {}
    for suite, text in _suites():
        if suite.lower() == f"{kind}suite":
            parts.setdefault(parse_part(kind, text)[0], []).append(text)
    return parts


@cache
def _suites() -> list[tuple[str, str]]:
    """Base and part of each class in a test file that names a part."""
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    return [suite for file in files for suite in suites_in(file.read_text())]


def suites_in(source: str) -> list[tuple[str, str]]:
    """Base and part of each class of a module whose body sets `part` to a text."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            found += [(base, text) for base in bases for text in _part_of(node)]
    return found


def _part_of(suite: ast.ClassDef) -> list[str]:
    """Text of the attribute `part`, with an annotation or without."""
    texts = []
    for statement in suite.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if "part" in names and isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts.append(value.value)
    return texts
