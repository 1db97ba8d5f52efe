"""Inputs damaged at random are taken, or refused in one plain line, in bounded memory and time.

The same inputs without damage are taken, and a run that is taken has the parameters that were written.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = {"grids": 300, "arguments": 300, "arrays": 300, "images": 300, "runs": 300, "comparisons": 40}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_what_is_damaged_is_taken_or_refused_in_a_line(kind, tmp_path):
    attempts = Path(__file__).parent / "attempts.py"
    words = [sys.executable, attempts, kind, COUNTS[kind], 0, tmp_path]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = json.loads(done.stdout)
    assert ends["wrong"] == []
    # Damage that nothing notices, or that nothing survives, would try nothing.
    assert min(ends["taken"], ends["refused"]) >= COUNTS[kind] // 20
