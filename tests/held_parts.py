"""Parts as the contract suites make them: what each part's own test file says."""

import ast
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.parts import parse_part


class Held(NamedTuple):
    """A class of tests that names a part."""

    suite: str
    part: str
    model: str = "vae"
    """Text of the model that a guide is for."""


def held_parts(kind: str) -> dict[str, list[str]]:
    """Name of each part of a kind whose test file has a suite of it, and the texts of all its suites."""
    parts: dict[str, list[str]] = {}
    for held in _suites():
        if held.suite.lower() == f"{kind}suite":
            parts.setdefault(parse_part(kind, held.part)[0], []).append(held.part)
    return parts


def model_for(guide: str) -> str:
    """Text of the model that a guide, by its name or its text, is for: that of a suite of this text or name."""
    models: dict[str, str] = {}
    for held in _suites():
        if held.suite == "GuideSuite":
            for key in (held.part, parse_part("guide", held.part)[0]):
                models.setdefault(key, held.model)
    return models.get(guide) or models[parse_part("guide", guide)[0]]


def data_for(guide: str, x: Tensor) -> Any:
    """x, or x and labels where these are what the model that a guide is for is given."""
    num_classes = parse_part("model", model_for(guide))[1].get("num_classes")
    return x if num_classes is None else (x, torch.arange(len(x)) % num_classes)


@cache
def _suites() -> list[Held]:
    """Each class in a test file that names a part."""
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    return [suite for file in files for suite in suites_in(file.read_text())]


def suites_in(source: str) -> list[Held]:
    """Each class of a module whose body sets `part` to a text, with its bases outside the module."""
    found = []
    bases: dict[str, list[str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            texts = _texts_of(node)
            direct = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            bases[node.name] = [outer for base in direct for outer in bases.get(base, [base])]
            if "part" in texts:
                found += [Held(base, **texts) for base in bases[node.name]]
    return found


def _texts_of(suite: ast.ClassDef) -> dict[str, str]:
    """Texts of the attributes `part` and `model`, with an annotation or without."""
    texts = {}
    for statement in suite.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            texts |= {name: value.value for name in names if name in ("part", "model")}
    return texts
