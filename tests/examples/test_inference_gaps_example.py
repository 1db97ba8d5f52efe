"""The table of gaps, run as its user runs it: a row a guide and encoder, kept and drawn."""

import json

import pytest
from matplotlib import image
from run_an_example import run_from_scratch


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("gaps") / "run"
    return run_from_scratch("inference_gaps.py", "--smoke", "--out", str(out)), out


@pytest.mark.slow
def test_every_guide_and_encoder_has_a_row_in_print_and_on_disk(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table = json.loads((out / "table.json").read_text())
    assert table["data"]["name"] == "mnist-5k"
    assert table["data"]["binarization"] == "threshold"
    assert list(table["pairs"]) == ["mean_field, small", "mean_field, large", "iaf, small", "iaf, large"]
    for pair, row in table["pairs"].items():
        name, size = pair.split(", ")
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:2] == [name, size]]
        for quantity in ("log_likelihood", "best_elbo", "elbo", "approximation_gap", "amortization_gap"):
            assert f" {row[quantity]['mean']:.2f} (" in line
        assert row["family"] == ("diagonal" if name == "mean_field" else "flow")
        assert row["amortization_gap"]["mean"] > -4 * row["amortization_gap"]["standard_error"]
        assert row["elbo"]["num_left_out"] == 0


def test_the_figure_shows_something(smoke):
    pixels = image.imread(smoke[1] / "gaps.png")
    assert pixels[..., :3].std() > 0.05
