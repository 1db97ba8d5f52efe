"""What figures show, read off what was drawn."""

import math
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from made_up import LARGE, TWO_BY_TWO, made_up_comparison

from pyro_vae.comparison.estimates import BOUND_GAP, estimate
from pyro_vae.report import figures as report_figures
from pyro_vae.report.figures import BINS, khat_shares, which_curve, which_gap
from pyro_vae.report.series import COLOURS, OTHERS, series_of
from pyro_vae.report.svg import STYLE, to_svg
from pyro_vae.report.table import in_order


@pytest.fixture(autouse=True)
def style_of_the_page():
    with matplotlib.rc_context(STYLE):
        yield


ONE_SEED = {"grid": {"guide": ["mean_field", "full_rank"]}}


def made_up_series(tmp_path, description=TWO_BY_TWO, failed=(), **options):
    return series_of(in_order(made_up_comparison(tmp_path, description, failed, **options)))


def mean(one, quantity):
    return estimate(one.configuration, quantity).mean


def axes_of(figure):
    (axes,) = figure.axes
    return axes


def contrast(colour, ground):
    def luminance(text):
        channels = [int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(colour), luminance(ground)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*COLOURS, OTHERS])
def test_colours_stand_out_in_light_and_dark(colour):
    # 3 to 1 is what the Web Content Accessibility Guidelines ask of graphics.
    assert min(contrast(colour, "#ffffff"), contrast(colour, "#14171a")) >= 3


def test_the_first_configurations_have_colours_and_all_have_numbers(tmp_path):
    series = made_up_series(tmp_path, LARGE, failed=[0, 1])
    assert [one.number for one in series] == list(range(1, 27))
    assert [one.colour for one in series] == [*COLOURS, *[OTHERS] * 18]
    assert [one.highlighted for one in series] == [True] * 8 + [False] * 18


def test_bars_of_the_budget_add_up_to_minus_the_elbo(tmp_path):
    series = made_up_series(tmp_path)
    axes = axes_of(report_figures.budgets(series))
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    costs, totals = ends[::2], ends[1::2]
    assert costs == pytest.approx([-mean(one, "reconstruction") for one in series])
    assert totals == pytest.approx([-mean(one, "elbo") for one in series])
    ticks = [line.get_xdata()[0] for line in axes.lines]
    assert ticks == pytest.approx([-mean(one, "log_likelihood") for one in series])
    assert [label.get_text() for label in axes.get_yticklabels()] == [one.label for one in series]


def test_gaps_are_stacked_to_the_inference_gap(tmp_path):
    series = made_up_series(tmp_path)
    axes = axes_of(report_figures.gaps(series))
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends[::2] == pytest.approx([mean(one, "approximation_gap") for one in series])
    assert ends[1::2] == pytest.approx([mean(one, "inference_gap") for one in series])


def test_a_gap_that_was_not_split_is_shown_whole(tmp_path):
    series = made_up_series(tmp_path, num_gaps=0)
    axes = axes_of(report_figures.gaps(series))
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([mean(one, BOUND_GAP) for one in series])
    assert which_gap(series) == BOUND_GAP
    assert which_gap(made_up_series(tmp_path)) == "inference_gap"


@pytest.mark.parametrize("valid", [True, False])
def test_a_learning_curve_is_a_line_a_cell(tmp_path, valid):
    series = made_up_series(tmp_path, valid=valid)
    curve = which_curve(series)
    assert curve == ("valid" if valid else "train")
    axes = axes_of(report_figures.learning_curves(series, curve))
    histories = [result.history for one in reversed(series) for result in one.configuration.results]
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[row[f"{curve}_bound_nats"] for row in history] for history in histories]
    assert {text.get_text() for text in axes.texts} == {"1", "2"}


def test_numbers_at_the_ends_of_curves_do_not_hide_each_other(tmp_path):
    series = made_up_series(tmp_path, {"grid": {"latent_dim": list(range(2, 10))}}, epochs=100, num_images=4000)
    axes = axes_of(report_figures.learning_curves(series, "valid"))
    heights = sorted(text.get_position()[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert np.diff(heights).min() > 0.99 * (high - low) / 22
    assert [text.get_text() for text in axes.texts] == list("12345678")


def test_the_first_epochs_of_a_long_run_do_not_flatten_the_others(tmp_path):
    short, long = (axes_of(report_figures.learning_curves(made_up_series(tmp_path, epochs=epochs), "valid"))
                   for epochs in (20, 200))  # fmt: skip
    assert short.get_ylim()[0] < -180 < -110 < long.get_ylim()[0]


def test_the_plane_shows_means_and_seeds(tmp_path):
    series = made_up_series(tmp_path)
    axes = axes_of(report_figures.rate_distortion(series))
    points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    expected = [(-mean(one, "reconstruction"), mean(one, "rate")) for one in reversed(series)]
    np.testing.assert_allclose(points, expected)
    dots = [line.get_xydata() for line in axes.lines if line.get_marker() == "."]
    assert [len(pair) for pair in dots] == [2, 2]
    np.testing.assert_allclose([pair.mean(0) for pair in dots], expected)
    dashed = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed
    assert all(np.ptp(line.sum(1)) == pytest.approx(0, abs=1e-9) for line in dashed)


@pytest.mark.parametrize(("description", "error"), [(TWO_BY_TWO, "spread"), (ONE_SEED, "data")])
def test_the_planes_arms_are_of_seeds_or_of_images(tmp_path, description, error):
    series = made_up_series(tmp_path, description)
    axes = axes_of(report_figures.rate_distortion(series))
    across = axes.containers[0][2][0].get_segments()[0]
    found = estimate(series[-1].configuration, "reconstruction")
    assert np.ptp(across[:, 0]) == pytest.approx(2 * getattr(found, error))


def test_gaps_against_what_they_cost(tmp_path):
    series = made_up_series(tmp_path)
    axes = axes_of(report_figures.gap_against(series, "fit_seconds"))
    points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [(10.5, mean(one, "inference_gap")) for one in reversed(series)])
    assert axes.get_xlabel() == "seconds to fit"


def test_a_guide_without_parameters_has_its_place(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    results = [replace(r, evaluation={**r.evaluation, "guide_parameters": 0}) for r in comparison.results[:2]]
    series = series_of(in_order(replace(comparison, results=[*results, *comparison.results[2:]])))
    axes = axes_of(report_figures.gap_against(series, "guide_parameters"))
    assert axes.get_xscale() == "linear"
    assert min(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o") == 0


@pytest.mark.parametrize("seconds", [(10.0, 11.0), (3.0, 20.0), (8.0, 4000.0)])
def test_an_axis_has_ticks_however_near_or_far_its_values(tmp_path, seconds):
    comparison = made_up_comparison(tmp_path, ONE_SEED)
    results = [
        replace(result, evaluation={**result.evaluation, "fit_seconds": value})
        for result, value in zip(comparison.results, seconds, strict=True)
    ]
    figure = report_figures.gap_against(series_of(in_order(replace(comparison, results=results))), "fit_seconds")
    axes = axes_of(figure)
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3


def test_khats_are_counted_over_all_seeds_and_none_is_lost(tmp_path):
    (one, _) = made_up_series(tmp_path)
    values = [[0.32, 0.33, -math.inf, 7.0], [0.32, math.nan, 0.9, 1.2]]
    results = [
        replace(result, per_datum={**result.per_datum, "log_likelihood.pareto_k": torch.tensor(row)})
        for result, row in zip(one.configuration.results, values, strict=True)
    ]
    shares = khat_shares(replace(one, configuration=replace(one.configuration, results=results)))
    # Of all eight: the one without a k-hat is in no bin, and makes no other's share larger.
    assert shares.sum() == pytest.approx(7 / 8)
    assert shares[0] == shares[-1] == pytest.approx(1 / 8)
    assert shares[np.searchsorted(BINS, 0.32) - 1] == pytest.approx(3 / 8)


def test_the_khat_threshold_is_drawn(tmp_path):
    series = made_up_series(tmp_path)
    axes = axes_of(report_figures.khats(series[:1], 0.5))
    assert list(axes.lines[0].get_xdata()) == [0.63, 0.63]
    assert axes.get_ylim() == pytest.approx((0, 52.5))


def test_khats_that_were_not_computed_leave_an_empty_figure(tmp_path):
    (one, _) = made_up_series(tmp_path)
    results = [replace(r, per_datum={**r.per_datum, "log_likelihood.pareto_k": torch.full((20,), math.nan)})
               for r in one.configuration.results]  # fmt: skip
    one = replace(one, configuration=replace(one.configuration, results=results))
    assert khat_shares(one).sum() == 0
    assert axes_of(report_figures.khats([one], 0.0)).get_ylim() == (0, 1)


def test_every_figure_can_be_written_for_few_and_for_many_with_any_name(tmp_path):
    odd = {"grid": {"data": ["/gone/_hidden $x_1$", "/gone/<b>&" + "very" * 40]}}
    for description, options in ((odd, {}), (ONE_SEED, {"num_gaps": 0, "epochs": 1}), (LARGE, {})):
        series = made_up_series(tmp_path, description, **options)
        for figure in (
            report_figures.budgets(series), report_figures.gaps(series), report_figures.rate_distortion(series),
            report_figures.learning_curves(series, "valid"), report_figures.gap_against(series, "guide_parameters"),
        ):  # fmt: skip
            assert to_svg(figure, "", "x").startswith("<svg")
