"""The comparison, run as its user runs it: a table whose numbers are kept, and a figure."""

import json

import pytest
from matplotlib import image
from run_an_example import run_example


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "run"
    return run_example("compare_guides.py", "--smoke", "--out", str(out)), out


def test_every_guide_has_a_row_in_print_and_on_disk(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table = json.loads((out / "table.json").read_text())
    assert table["data"]["name"] == "mnist-5k"
    assert list(table["guides"]) == ["mean_field", "full_rank", "mixture"]
    for name, row in table["guides"].items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(name)]
        assert f"{row['elbo'][0]:.2f}" in line
        assert f"{row['gap'][0]:.2f}" in line
        assert row["gap"][0] == pytest.approx(row["log_likelihood"][0] - row["elbo"][0], abs=1e-3)
        assert row["gap"][0] > -4 * row["gap"][1]
    assert table["guides"]["mean_field"]["elbo_over_first"] == [0, 0]


def test_the_figure_shows_something(smoke):
    pixels = image.imread(smoke[1] / "posteriors.png")
    assert pixels[..., :3].std() > 0.05
