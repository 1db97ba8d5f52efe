"""Images of fitted cells, and what is said where there are none."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import FITTED, fit_some, made_up_comparison
from PIL import Image

from pyro_vae import plots
from pyro_vae.comparison import Cell
from pyro_vae.comparison.run_cell import fit_cell, load_data_of
from pyro_vae.report.images import _picture, draw_cells


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two configurations of two seeds, of which the first seeds' networks are there."""
    comparison = made_up_comparison(tmp_path_factory.mktemp("images"), FITTED)
    fit_some(comparison, [0, 2])
    return comparison


def pixels_of(picture):
    kind, _, text = picture.uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_each_cell_has_samples_reconstructions_and_a_traversal(fitted):
    drawn = draw_cells([fitted.results[0], fitted.results[2]], fitted.path)
    for cell in drawn:
        assert cell.failures == []
        assert [picture.title for picture in cell.pictures] == ["samples", "reconstructions", "traversal"]
        for picture in cell.pictures:
            assert pixels_of(picture).shape == (picture.height, picture.width)
        # Images of 28 x 28 with a pixel around each: 8 x 8 samples, 10 x 2 of 2 rows, 11 quantiles of 3 units.
        sizes = [(picture.width // 29, picture.height // 29) for picture in cell.pictures]
        assert sizes == [(8, 8), (10, 4), (11, 3)]


def test_reconstructions_are_of_the_test_images(fitted):
    (cell,) = draw_cells([fitted.results[0]], fitted.path)
    pixels = pixels_of(cell.pictures[1])
    test = load_data_of(fitted.results[0].cell).test
    for column in (0, 9):
        shown = pixels[1:29, 1 + 29 * column : 29 * (column + 1)]
        np.testing.assert_array_equal(shown, 255 * test[column, 0].numpy())


def test_drawing_is_repeatable_and_leaves_the_random_state_alone(fitted):
    state = torch.random.get_rng_state()
    first, second = (draw_cells([fitted.results[0]], fitted.path)[0] for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [picture.uri for picture in first.pictures] == [picture.uri for picture in second.pictures]


def test_a_cell_without_networks_says_so_and_the_others_are_drawn(fitted):
    missing, there = draw_cells([fitted.results[1], fitted.results[0]], fitted.path)
    (reason,) = missing.failures
    assert reason.startswith("nothing can be drawn: RunError: no run folder at")
    assert missing.pictures == []
    assert len(there.pictures) == 3


def test_data_that_are_gone_are_named(fitted):
    result = fitted.results[0]
    gone = replace(result, cell=Cell(**{**result.cell.settings(), "data": "gone.npz"}))
    (cell,) = draw_cells([gone], fitted.path)
    assert "gone.npz" in cell.failures[0]


def test_a_guide_that_fails_leaves_the_samples(fitted, monkeypatch):
    from pyro_vae.guides import MeanFieldGuide

    def refuse(*args):
        raise RuntimeError("not these\nimages")

    monkeypatch.setattr(MeanFieldGuide, "forward", refuse)
    (cell,) = draw_cells([fitted.results[0]], fitted.path)
    assert [picture.title for picture in cell.pictures] == ["samples"]
    reason = r"the guide cannot be run on data .*: RuntimeError: not these images \(.*test_images\.py, line \d+\)"
    for failure, name in zip(cell.failures, ("reconstructions", "traversal"), strict=True):
        assert re.fullmatch(f"{name}: PairError: {reason}", failure)


def test_a_model_that_observes_nothing_says_so(fitted, monkeypatch):
    from pyro_vae.report import images as report_images

    monkeypatch.setattr(report_images, "load_pair", lambda *_: (print, print))
    (cell,) = draw_cells([fitted.results[0]], fitted.path)
    assert cell.pictures == []
    assert all("the model observes nothing" in failure for failure in cell.failures)


def test_a_model_that_was_taken_over_is_loaded_from_its_own_folder(tmp_path):
    comparison = made_up_comparison(tmp_path, {**FITTED, "design": "frozen"})
    result = comparison.results[0]
    of_model = result.cell.fitted_model
    fitted_model = replace(result, cell=of_model, path=tmp_path / "cells" / of_model.hash)
    fit_some(replace(comparison, results=[fitted_model]), [0])
    fit_cell(result.cell, result.path, fitted_model=fitted_model.path, progress=False)
    (cell,) = draw_cells([result], tmp_path)
    assert cell.failures == []
    assert len(cell.pictures) == 3


def test_pictures_keep_their_colours_and_grey_ones_have_one_channel():
    levels = torch.linspace(0, 1, 6).reshape(6, 1, 1, 1)
    grey = _picture("grey", plots.image_grid(levels.expand(6, 1, 4, 4), 3, ""), "")
    assert pixels_of(grey).shape == (11, 16)
    assert pixels_of(grey)[2, 2::5].tolist() == [0, 51, 102]
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert pixels_of(_picture("red", plots.image_grid(red.expand(1, 3, 4, 4), 1, ""), ""))[2, 2].tolist() == [255, 0, 0]
