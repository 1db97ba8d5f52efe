"""Pages whose blocks are run, and print what they show.

Blocks of a page run in their order, in a new folder with a copy of examples/: Python in one namespace, bash word for
word. The copy is made small: grids have tiny settings, examples run as with `--smoke`, and annealing has fewer
temperatures. A Python or YAML block whose first line is `# NAME` is a file, saved under that name, a grid with tiny
settings. Comments above a block mark it: `<!-- slow -->` leaves it to `-m slow`, `<!-- numbers vary -->` compares all
of an output but its numbers, which a small copy has otherwise, `<!-- numbers within 20 % -->` compares those to such a
share of what is shown. What a Python block prints is compared with the comments behind its prints, or with a text block
right after it.
"""

import contextlib
import functools
import io
import math
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.comparison import Grid
from pyro_vae.comparison.grid import KEYS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))

KINDS = ("python", "bash", "yaml", "toml", "text")
SLOW, VARIES = "<!-- slow -->", "<!-- numbers vary -->"
WITHIN = re.compile(r"<!-- numbers within (\d+) % -->")

TINY: dict[str, Any] = {
    "data": "mnist-5k", "epochs": 1, "hidden_dims": [10], "latent_dim": 2, "batch_size": 500, "num_test": 10,
    "num_samples": 30, "elbo_samples": 5, "compile": "off", "num_gaps": 0,
}  # fmt: skip
"""What a copied grid has in place of its own settings."""

SLOW_PAGES = ("cluster", "extending", "frey_faces", "papers")
"""Pages whose blocks run with the slow tests alone: they take longer than those of all other pages together."""

WITH_GAPS = ("inference_gaps.yaml",)
"""Grids that are about gaps, which take seconds an image."""

TEMPERATURES, MOST_TEMPERATURES = 500, 100
"""Of annealing on a copied page: where the page does not say how many, and where it does."""

NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")

PATIENCE_S = 300
"""No block should need this long, also on a busy machine."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    where: str
    kind: str
    text: str
    marks: frozenset[str]

    @property
    def slow(self) -> bool:
        return SLOW in self.marks

    @property
    def within(self) -> float:
        """The share by which a number may be off: none where nothing is marked, any where it varies."""
        if VARIES in self.marks:
            return math.inf
        return max((int(found[1]) / 100 for mark in self.marks if (found := WITHIN.fullmatch(mark))), default=0.0)

    @property
    def file(self) -> str | None:
        """The name that its first line gives it."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


def blocks_of(text: str, name: str) -> list[Block]:
    """Return a page's blocks.

    Raises:
        ValueError: one is of no known kind, has no end, or is where no one would look for it.
    """
    found: list[Block] = []
    marks: set[str] = set()
    kind, start, lines = "", 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"(\s*)(```+|~~~+)(.*)", line)
        if kind and line == "```":
            found.append(Block(f"{name}:{start}", kind, "\n".join(lines) + "\n", frozenset(marks)))
            kind, marks = "", set()
        elif kind:
            lines.append(line)
        elif fence:
            kind, start, lines = fence[3].strip(), number, []
            if fence[1] or fence[2] != "```" or kind not in KINDS:
                raise ValueError(f"{name}:{number}: {line!r} starts no block of {', '.join(KINDS)}.")
        elif line in (SLOW, VARIES) or WITHIN.fullmatch(line):
            marks.add(line)
        elif marks:
            raise ValueError(f"{name}:{number}: {' '.join(marks)} must stand right above a block.")
    if kind or marks:
        raise ValueError(f"{name}: a block or a mark at the end has no end.")
    return found


def tiny(description: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a grid whose cells take a second, of at most two values of each setting."""
    settings = TINY | ({"num_gaps": 3} if name in WITH_GAPS else {})

    def left(found: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key not in settings}

    small = {**description, "common": left(description.get("common", {})) | settings}
    if "grid" in description:
        small["grid"] = {key: values[:2] for key, values in left(description["grid"]).items()}
        if "encoder_dims" in small["grid"]:
            small["grid"]["encoder_dims"] = [[10], [20]]
    if "cells" in description:
        small["cells"] = [left(cell) for cell in description["cells"][:2]]
    if "fitted_model" in description:
        small["fitted_model"] = left(description["fitted_model"])
    Grid.of(small)
    return small


def whole_grid(found: Any) -> Grid:
    """Return the grid of a YAML block, which may be a part of one: settings of a cell, or without cells."""
    if not set(found) & set(KEYS):
        return Grid.of({"cells": [found]})
    return Grid.of(found if {"grid", "cells"} & set(found) else {**found, "cells": [{}]})


def briefly(anneal: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same with fewer temperatures."""

    @functools.wraps(anneal)
    def brief(*args: Any, num_temperatures: int | None = None, **options: Any) -> Any:
        few = TEMPERATURES if num_temperatures is None else min(num_temperatures, MOST_TEMPERATURES)
        return anneal(*args, num_temperatures=few, **options)

    return brief


class Page:
    """A page at work: a folder, a namespace, and what was printed last."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self._scratch = folder, scratch
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.printed: str | None = None
        self.outputs: list[str] = []

    def run(self, block: Block) -> None:
        """Run a block, or compare it with what the one before printed."""
        printed, self.printed = self.printed, None
        if block.kind == "text":
            assert printed is not None, f"{block.where}: no block right before it prints this"
            assert as_lines(printed, block) == as_lines(block.text, block), block.where
            for number, shown in zip(numbers(printed), numbers(block.text), strict=True):
                assert abs(number - shown) <= block.within * abs(shown) or block.within == math.inf, block.where
        elif block.kind == "toml":
            tomllib.loads(block.text)
        elif block.kind == "yaml":
            self._yaml(block)
        elif block.kind == "bash":
            self.printed = self._bash(block)
        elif block.file:
            (self.folder / block.file).write_text(block.text)
        else:
            self.printed = self._python(block)

    def _yaml(self, block: Block) -> None:
        found = yaml.safe_load(block.text)
        whole_grid(found)
        if block.file:
            (self.folder / block.file).write_text(yaml.safe_dump(tiny(found, block.file)))

    def _python(self, block: Block) -> str:
        code = compile(block.text, block.where, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, self.namespace)
        self.outputs.append(out.getvalue())
        shown = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.M)
        if shown:
            assert out.getvalue().splitlines() == shown, block.where
        return out.getvalue()

    def _bash(self, block: Block) -> str:
        """Run it by bash, and end what it leaves running."""
        out, err = self._scratch / "stdout", self._scratch / "stderr"
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        command = ["bash", "-e", "-o", "pipefail", "-c", block.text]
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(PATIENCE_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert code == 0, f"{block.where}: exit code {code}\n{out.read_text()}\n{err.read_text()}"
        return out.read_text()


def as_lines(text: str, block: Block) -> list[str]:
    """Return what must be equal: the lines, without numbers and alignment where the numbers vary."""
    lines = text.rstrip().splitlines()
    return [" ".join(NUMBER.sub("#", line).split()) for line in lines] if block.within else lines


def numbers(text: str) -> list[float]:
    """Return all numbers of a text."""
    return [float(found[0]) for found in NUMBER.finditer(text)]


def run_all(blocks, page):
    for block in blocks:
        page.run(block)


def has_slow_blocks(path):
    return path.stem in SLOW_PAGES or any(block.slow for block in blocks_of(path.read_text(), path.name))
