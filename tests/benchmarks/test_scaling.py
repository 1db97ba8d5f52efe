import json

import pytest

from benchmarks import scaling


@pytest.mark.slow
def test_measures_every_axis_and_draws_a_panel_for_each(capsys, tmp_path):
    path = tmp_path / "scaling.png"
    tiny = ["--values", "1", "2", "--steps", "1", "--rounds", "1", "--level", "off"]
    scaling.main(["--json", *tiny, "--figure", str(path)])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == scaling.AXES.keys()
    assert all(row.keys() == {"1", "2"} and min(row.values()) > 0 for row in found.values())
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_panel_shows_the_median_and_the_spread_on_logarithmic_axes():
    found = {"batch": {16: scaling.Spread.of([1.0, 2.0, 4.0]), 64: scaling.Spread.of([3.0, 5.0, 6.0])}}
    (panel,) = scaling.draw(found).axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    ((line, _, (bars,)),) = panel.containers
    assert line.get_xydata().tolist() == [[16, 2], [64, 5]]
    assert [[tuple(end) for end in bar] for bar in bars.get_segments()] == [
        [(16, 1), (16, 4)],
        [(64, 3), (64, 6)],
    ]


def test_a_point_trains_networks_of_its_sizes_by_its_objective(monkeypatch):
    seen = []
    monkeypatch.setattr(scaling, "in_fit", lambda model, guide, *rest: seen.append((model, guide, *rest)))
    scaling.Point(hidden=7, latent_dim=3, batch=5, particles=4).step(2, "off")
    model, guide, batches, level, objective = seen[0]
    assert [*map(len, guide.encoder.layers[::2].parameters())] == [7, 7, 7, 7, 6, 6]
    assert next(model.parameters()).shape == (7, 3)
    assert (batches.batch_size, batches.steps, level, objective.num_particles) == (5, 2, "off", 4)
    scaling.Point(num_flows=3).step(1, "trace")
    assert seen[1][1].num_flows == 3
