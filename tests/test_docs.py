"""Links of the pages lead somewhere, and the README has a row for every part."""

import re

import pytest
from documented_pages import PAGES, ROOT

from pyro_vae.parts import part_names

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


@pytest.mark.parametrize("kind", ["guide", "prior", "likelihood", "objective"])
def test_every_part_has_a_row_in_the_readme(kind):
    rows = re.findall(rf"^\| {kind} (`.*?) \|", (ROOT / "README.md").read_text(), re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(part_names(kind))
