import json

import pytest

from benchmarks import grid


@pytest.mark.slow
def test_it_prints_what_a_grid_costs_and_gains(capsys):
    """In one process: processes of a grid are started by the tests of comparisons, and take seconds each."""
    grid.main(["--json", "--epochs", "1", "--cells", "2", "--rounds", "1", "--jobs", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"cell_seconds", "overhead", "serial_seconds", "speedup"}
    assert found["cell_seconds"] > 0
    assert found["speedup"] > 0
