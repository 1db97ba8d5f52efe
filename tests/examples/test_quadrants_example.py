"""The missing quadrants, run as their user runs it: a row for each number of given quadrants, kept and drawn."""

import json

import pytest
from matplotlib import image
from run_an_example import run_example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("quadrants") / "run"
    return run_example("quadrants.py", "--smoke", "--out", str(out)), out


def test_both_are_measured_on_the_same_missing_pixels(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    table = json.loads((out / "table.json").read_text())
    assert list(table["given"]) == ["1", "2"]
    for given, row in table["given"].items():
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [given]]
        for quantity in ("plain", "conditional", "minus_elbo", "difference"):
            assert f" {row[quantity]['mean']:.2f} (" in line
        assert row["difference"]["mean"] == pytest.approx(row["plain"]["mean"] - row["conditional"]["mean"])
        assert row["conditional"]["mean"] <= row["minus_elbo"]["mean"]
    # Fewer pixels have fewer nats.
    assert table["given"]["2"]["plain"]["mean"] < table["given"]["1"]["plain"]["mean"]


def test_the_completions_are_drawn(smoke):
    for given in (1, 2):
        assert image.imread(smoke[1] / f"completions_{given}.png")[..., :3].std() > 0.05
