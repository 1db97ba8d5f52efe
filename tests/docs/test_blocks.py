"""What runs the blocks of a page: it refuses what it would not run, and finds out what prints something else."""

import time

import psutil
import pytest
from documented_pages import PATIENCE_S, SLOW, VARIES, blocks_of, run_all


@pytest.mark.parametrize(
    "text",
    [
        "```rust\n```\n",
        "```\n```\n",
        "```bash\nls\n",
        "- a list\n  ```bash\n  ls\n  ```\n",
        "~~~bash\n~~~\n",
        f"{SLOW}\nx\n",
    ],
)
def test_a_block_that_would_not_be_run_is_refused(text):
    with pytest.raises(ValueError, match=r"page\.md"):
        blocks_of(text, "page.md")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)  # 2\n```\n",
        "```bash\necho 1\n```\n```text\n2\n```\n",
        f"```bash\necho 1 nat\n```\n{VARIES}\n```text\n2 bits\n```\n",
        "```bash\necho 1.3 nats\n```\n<!-- numbers within 20 % -->\n```text\n1.0 nats\n```\n",
        "```bash\necho -1 nats\n```\n<!-- numbers within 20 % -->\n```text\n1 nats\n```\n",
        "```text\n2\n```\n",
        "```bash\nfalse\ntrue\n```\n",
    ],
)
def test_a_block_that_shows_something_else_is_found_out(text, page):
    with pytest.raises(AssertionError, match=r"page\.md:\d"):
        run_all(blocks_of(text, "page.md"), page)


def test_a_block_that_shows_nearly_the_same_is_not(page):
    run_all(
        blocks_of("```bash\necho 1.1 nats\n```\n<!-- numbers within 20 % -->\n```text\n1.0 nats\n```\n", "page.md"),
        page,
    )


def test_what_a_block_leaves_running_ends_with_it(page):
    (block,) = blocks_of("```bash\nsleep 1000 &\necho $!\n```\n", "page.md")
    page.run(block)
    left = psutil.Process(int(page.printed)) if psutil.pid_exists(int(page.printed)) else None
    deadline = time.monotonic() + PATIENCE_S
    while left is not None and left.is_running() and left.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it outlives its block"
        time.sleep(0.05)
