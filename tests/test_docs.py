"""Links of the pages lead somewhere, and the README has the table of parts that their docstrings make."""

import contextlib
import io
import re

import pytest
from documented_pages import PAGES, ROOT

from pyro_vae.cli import main

TABLE = "<!-- what `pyro-vae list --markdown` prints -->"

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings_that_exist(path):
    for target in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        if heading:
            assert heading in {anchor(line) for line in there.read_text().splitlines()}, f"{path.name}: {target}"


def anchor(line: str) -> str | None:
    """Return what a link calls a heading: its words in lower case."""
    found = re.match(r"#+ (.*)", line)
    return re.sub(r"[^\w\- ]", "", found[1].lower()).replace(" ", "-") if found else None


def test_the_readmes_table_of_parts_is_what_the_docstrings_say():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["list", "--markdown"]) == 0
    assert f"{TABLE}\n{printed.getvalue()}\n" in (ROOT / "README.md").read_text(), (
        f"put what `pyro-vae list --markdown` prints into README.md, below {TABLE}"
    )
