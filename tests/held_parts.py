"""Parts as the contract suites make them: what each part's own test file says."""

import re
from pathlib import Path

from pyro_vae.parts import parse_part

HELD = re.compile(r'^class \w+\((\w+)Suite\):\n    part = ("[^"\n]+")$', re.M)


def held_parts(kind: str) -> dict[str, str]:
    """Name and text of each part of a kind whose test file has a suite of it."""
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    found = [match for file in files for match in HELD.findall(file.read_text())]
    texts = [text.strip('"') for suite, text in found if suite.lower() == kind]
    return {parse_part(kind, text)[0]: text for text in texts}
