"""The comparison of posteriors, run as its user runs it: statistics in print, a report and a figure on disk."""

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import image
from run_an_example import EXAMPLES, run_from_scratch

from pyro_vae.comparison import Grid
from pyro_vae.comparison.cautions import seed_outlook


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "run"
    return run_from_scratch("compare_posteriors.py", "--smoke", "--jobs", "1", "--quiet", "--out", str(out)), out


@pytest.mark.slow
def test_every_cell_finishes_and_the_statistics_are_printed(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"4 of 4 cells finished in {out}\n")
    table = pd.read_csv(out / "results.csv")
    assert table["status"].tolist() == ["finished"] * 4
    means = table.groupby("guide")["elbo"].mean()
    elbo = done.stdout.partition("elbo, nats per image")[2].partition("log_likelihood, nats")[0]
    for guide, mean in means.items():
        (line,) = [line for line in elbo.splitlines() if f" {guide} " in line]
        assert float(re.findall(r"-\d+\.?\d*", line)[0]) == pytest.approx(mean, abs=1)


def test_the_report_and_the_figure_are_there(smoke):
    done, out = smoke
    assert f"The report: {out / 'report.html'}" in done.stdout
    assert "mean_field" in (out / "report.html").read_text()
    assert image.imread(out / "posteriors.png")[..., :3].std() > 0.02


@pytest.mark.parametrize("path", sorted((EXAMPLES / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_can_be_read(path):
    grid = Grid.read(path)
    assert len(grid.cells) > 1
    assert seed_outlook(grid) is None  # it has three seeds or more
    assert len({cell.seed for cell in grid.cells}) >= 3


def test_the_grid_of_paper_size_has_what_its_head_says():
    grid = Grid.read(Path(EXAMPLES) / "grids" / "paper.yaml")
    assert len(grid.cells) == 6 * 3 * 3
    assert {cell.epochs for cell in grid.cells} == {sum(3**stage for stage in range(6))}
