"""Pages in docs/ with blocks that take longer: all blocks run and print what they show."""

import pytest
from documented_pages import PAGES, blocks_of, has_slow_blocks, run_all


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if has_slow_blocks(path)], ids=lambda path: path.stem)
def test_so_do_those_that_take_longer(path, page):
    run_all(blocks_of(path.read_text(), path.name), page)
