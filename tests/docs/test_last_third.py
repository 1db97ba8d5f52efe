"""Every third page in docs/, from the third on: blocks run and print what they show. A file for each of three processes."""

import pytest
from documented_pages import PAGES, SLOW_PAGES, blocks_of, has_slow_blocks, run_all

PAGES_HERE = PAGES[2::3]


@pytest.mark.parametrize(
    "path", [path for path in PAGES_HERE if path.stem not in SLOW_PAGES], ids=lambda path: path.stem
)
def test_the_blocks_of_a_page_do_what_they_show(path, page):
    run_all([block for block in blocks_of(path.read_text(), path.name) if not block.slow], page)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES_HERE if has_slow_blocks(path)], ids=lambda path: path.stem)
def test_so_do_those_that_take_longer(path, page):
    run_all(blocks_of(path.read_text(), path.name), page)
