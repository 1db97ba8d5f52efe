"""A page at work, for all tests of pages."""

import shutil
import sys

import pytest
import torch
import yaml
from documented_pages import ROOT, Page, briefly, tiny

import pyro_vae


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page in a folder of its own, where Python is as well."""
    folder, scratch = tmp_path / "page", tmp_path / "scratch"
    scratch.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "examples" / "grids").glob("*.yaml"):
        path.write_text(yaml.safe_dump(tiny(yaml.safe_load(path.read_text()), path.name)))
    for path in (folder / "examples").glob("*.py"):
        path.write_text(f'import sys; sys.argv.append("--smoke")\n{path.read_text()}')
    for name in ("ais", "bdmc"):
        monkeypatch.setattr(pyro_vae, name, briefly(getattr(pyro_vae, name)))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    threads, modules = torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)
    yield Page(folder, scratch)
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
