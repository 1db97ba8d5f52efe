import json

import pytest

from benchmarks import objectives


@pytest.mark.parametrize("level", ["trace", "off"])
def test_prints_the_ratio_of_each_objective(level, capsys, caplog):
    objectives.main(
        ["--json", "--level", level, "--batch", "2", "--particles", "3", "--steps", "2", "--rounds", "1"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"IWAE", "DReG"}
    assert all(row.keys() == {"raw_ms", level} and min(row.values()) > 0 for row in found.values())
    # No line that a step could not be captured: what is timed is the level that is printed.
    assert not caplog.records
