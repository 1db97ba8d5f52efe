"""Every third page in docs/, from the third on: blocks run and print what they show. One file for each process."""

import pytest
from documented_pages import PAGES, SLOW_PAGES, blocks_of, run_all

PAGES_HERE = PAGES[2::3]


@pytest.mark.parametrize(
    "path", [path for path in PAGES_HERE if path.stem not in SLOW_PAGES], ids=lambda path: path.stem
)
def test_the_blocks_of_a_page_do_what_they_show(path, page):
    run_all([block for block in blocks_of(path.read_text(), path.name) if not block.slow], page)
