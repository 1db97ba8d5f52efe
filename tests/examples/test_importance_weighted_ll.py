"""The bound against K, run as its user runs it: trained on the way, and from a run folder."""

import json

import pytest
from matplotlib import image
from run_an_example import run_example, run_from_scratch


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("importance") / "out"
    return run_from_scratch("importance_weighted_ll.py", "--smoke", "--out", str(out)), out


@pytest.mark.slow
def test_every_k_has_a_row_in_print_and_on_disk(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table = json.loads((out / "table.json").read_text())
    assert list(table["K"]) == ["1", "10", "100", "500"]
    for k, row in table["K"].items():
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [k]]
        assert f"{row['log_likelihood']['mean']:.2f} " in line
        assert ("too few" in line) == (int(k) < 26)
        assert row["log_likelihood"]["num_data"] == 40
    # One K to the next is a factor of ten or five: the bound rises by far more than its noise.
    bounds = [row["log_likelihood"]["mean"] for row in table["K"].values()]
    assert bounds == sorted(bounds)


def test_the_k_of_each_image_is_reported(smoke):
    done, out = smoke
    target = json.loads((out / "table.json").read_text())["target"]
    assert target["target_se"] == 0.1
    assert 128 <= target["least_samples"] <= target["most_samples"] <= 500 - target["num_deciding"]
    assert f"target s.e. 0.1 reached for {100 * target['share_reached']:.1f} %" in done.stdout


def test_the_figure_shows_something(smoke):
    assert image.imread(smoke[1] / "bound_against_k.png")[..., :3].std() > 0.05


def test_a_run_folder_is_evaluated_on_its_own_data(tmp_path):
    flags = ("--smoke", "--latent-dim", "2", "--hidden-dims", "20", "--seed", "3", "--out", str(tmp_path / "run"))
    assert run_example("svi_mnist.py", *flags).returncode == 0
    done = run_example(
        "importance_weighted_ll.py", "--smoke", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert table["data"] == evaluation["data"]
    assert table["data"]["seed"] == 3
