"""Means of data with two errors, against their formulas; and what every result of an evaluation says of its own."""

import json
import math
from dataclasses import fields, replace
from functools import cache
from typing import get_type_hints

import pyro
import pytest
import torch
from torch.testing import assert_close

from pyro_vae import evaluation
from pyro_vae.comparison.evaluations import find_evaluation
from pyro_vae.evaluation import Estimate
from pyro_vae.evaluation.estimate import html_table
from pyro_vae.evaluation.result import BoundResult, LogProbabilityResult, Result
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE, LinearGaussian
from pyro_vae.models.likelihoods import CategoricalLikelihood
from pyro_vae.runtime.wording import rounded_error

KEYS = ["mean", "standard_error", "data_standard_error", "num_data", "num_left_out", "unit"]


# ---------------------------------------------------------------- one estimate


def test_the_error_is_that_of_a_mean_of_independent_means():
    draws = torch.randn(7, 30, dtype=torch.float64) * torch.arange(1.0, 31).double()
    found = Estimate.of_draws(draws)
    assert found.mean == float(found) == pytest.approx(draws.mean().item())
    assert found.standard_error == pytest.approx(math.sqrt((draws.var(0) / 7).sum().item()) / 30)
    assert found.data_standard_error == pytest.approx(draws.mean(0).std().item() / math.sqrt(30))
    assert_close(found.standard_errors, (draws.var(0) / 7).sqrt())
    assert_close(found.per_datum, draws.mean(0))
    assert (found.num_data, found.left_out.any().item(), found.flagged.any().item()) == (30, False, False)


def test_data_with_a_nan_are_left_out():
    draws = torch.randn(7, 30, dtype=torch.float64)
    spoiled = draws.clone()
    spoiled[3, 29] = math.nan
    found, expected = Estimate.of_draws(spoiled, datum="image"), Estimate.of_draws(draws[:, :29], datum="image")
    assert found.per_datum[29].isnan()
    assert found.left_out.tolist() == found.flagged.tolist() == [index == 29 for index in range(30)]
    assert found.mean == pytest.approx(expected.mean)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.data_standard_error == pytest.approx(expected.data_standard_error)
    assert str(found) == str(expected).replace("29 images", "30 images, 1 left out")
    assert found.summary() == {**expected.summary(), "num_data": 30, "num_left_out": 1}


def test_an_error_counts_for_the_data_that_are_in_the_mean_alone():
    values, errors = torch.tensor([-1.0, math.nan, -3.0]).double(), torch.tensor([0.3, 99.0, 0.4]).double()
    assert Estimate(values, errors).standard_error == pytest.approx(0.25)
    errors[1] = math.nan
    assert Estimate(values, errors).standard_error == pytest.approx(0.25)
    # One that is not known makes that of the mean unknown.
    errors[0] = math.nan
    found = Estimate(values, errors)
    assert math.isnan(found.standard_error)
    assert str(found) == "-2.00 nats/datum (Monte Carlo s.e. unknown, data s.e. 1.00; 3 data, 1 left out)"


def test_where_nothing_is_left_nothing_is_known():
    found = Estimate(torch.full((2,), math.nan), torch.zeros(2))
    assert all(math.isnan(number) for number in (found.mean, found.standard_error, found.data_standard_error))
    assert str(found) == "nan nats/datum (Monte Carlo s.e. unknown, data s.e. unknown; 2 data, 2 left out)"
    assert "<td>nan</td><td>unknown</td><td>unknown</td><td>0</td>" in found._repr_html_()


def test_one_datum_has_no_error_over_data():
    found = Estimate(torch.tensor([-1.0]), torch.tensor([0.2]))
    assert math.isnan(found.data_standard_error)
    assert str(found) == "-1.00 nats/datum (Monte Carlo s.e. 0.20, data s.e. unknown; 1 datum)"


def test_what_is_infinite_stays_in_the_mean():
    """A bound of minus infinity for one datum is that of the mean; no text fails for it."""
    found = Estimate(torch.tensor([-1.0, -math.inf]), torch.tensor([0.1, math.inf]))
    assert (found.mean, found.standard_error) == (-math.inf, math.inf)
    assert math.isnan(found.data_standard_error)
    assert str(found) == "-inf nats/datum (Monte Carlo s.e. inf, data s.e. unknown; 2 data)"
    assert "<td>-inf</td><td>inf</td><td>unknown</td><td>2</td>" in found._repr_html_()
    assert found.in_bits(8).mean == math.inf


GOOD = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("per_datum", "standard_errors", "named"),
    [
        ([1.0, 2.0], GOOD, "per_datum"),
        (torch.ones(2, 1), GOOD, "per_datum"),
        (torch.tensor(1.0), torch.tensor(0.1), "per_datum"),
        (torch.tensor([1, 2]), GOOD, "per_datum"),
        (torch.ones(2, dtype=torch.complex64), GOOD, "per_datum"),
        (GOOD, 0.1, "standard_errors"),
        (GOOD, torch.ones(3), "standard_errors"),
        (GOOD, torch.ones(2, 1), "standard_errors"),
        (GOOD, torch.tensor([0, 1]), "standard_errors"),
        (GOOD, torch.tensor([0.1, -0.2]), "standard_errors"),
        (GOOD, torch.tensor([0.1, -math.inf]), "standard_errors"),
    ],
)
def test_what_is_no_number_of_each_datum_is_refused_by_name(per_datum, standard_errors, named):
    with pytest.raises(ValueError, match=rf"^Estimate: {named} "):
        Estimate(per_datum, standard_errors)


@pytest.mark.parametrize("flagged", [torch.tensor([True]), torch.tensor([1.0, 0.0]), [True, False]])
def test_flags_of_a_subclass_are_one_for_each_datum(flagged):
    class Flagged(Estimate):
        @property
        def flagged(self):
            return flagged

    with pytest.raises(ValueError, match=r"^Flagged: flagged "):
        Flagged(GOOD, GOOD)


@pytest.mark.parametrize("unit", ["nats", "share"])
@pytest.mark.parametrize("mean", [1.2345e-6, -4.9e-3, 3e-12])
def test_a_small_mean_shows_its_digits(mean, unit):
    """A mean that would be rounded to 0 is shown to two significant digits, also in a table; 0 stays 0."""
    small = Estimate(torch.full((3,), mean).double(), torch.full((3,), 1e-3 * abs(mean)).double(), unit=unit)
    if unit == "nats" or abs(mean) < 1e-4:
        assert float(str(small).split()[0]) == pytest.approx(mean, rel=0.05)
    assert float(str(small).split("s.e. ")[1].split(",")[0]) == pytest.approx(small.standard_error, rel=0.05)
    cell = small._repr_html_().split("<td>")[3]
    assert float(cell.removesuffix("</td>")) == pytest.approx(mean, rel=0.05)
    assert str(Estimate(torch.zeros(3), torch.zeros(3))).startswith("0.00 nats")


def test_bits_are_minus_nats_over_elements_and_log_two():
    """256 equal levels: log(1 / 256) nats for each of 8 elements are 8 bits."""
    values = torch.tensor([-8 * math.log(256), math.nan, -4 * math.log(256)], dtype=torch.float64)
    found = Estimate(values, torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64)).in_bits(8)
    assert_close(found.per_datum, torch.tensor([8.0, math.nan, 4.0]).double(), equal_nan=True, rtol=1e-15, atol=0)
    assert found.mean == pytest.approx(6.0, rel=1e-15)
    assert found.standard_error == pytest.approx(0.25 / (8 * math.log(2)), rel=1e-15)
    assert found.data_standard_error == pytest.approx(2.0, rel=1e-15)
    assert (found.unit, found.datum) == ("bits/dim", "datum")
    assert str(found) == "6.00 bits/dim (Monte Carlo s.e. 0.045, data s.e. 2.00; 3 data, 1 left out)"


@pytest.mark.parametrize(
    ("unit", "spread", "text"),
    [
        ("nats", 0.0, "0.50 nats/image (Monte Carlo s.e. 0, data s.e. 0; 4 images)"),
        ("share", 0.0, "0.50 share (Monte Carlo s.e. 0, data s.e. 0; 4 images)"),
        ("share", 0.02, "0.500 share (Monte Carlo s.e. 0, data s.e. 0.012; 4 images)"),
        ("share", 2e-6, "0.5000 share (Monte Carlo s.e. 0, data s.e. 1.2e-06; 4 images)"),
    ],
)
def test_units_and_decimals(unit, spread, text):
    values = 0.5 + spread * torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    found = Estimate(values, torch.zeros(4), unit=unit, datum="image")
    # Four values at +-spread have a standard error of spread / sqrt(3).
    assert found.data_standard_error == pytest.approx(spread / math.sqrt(3))
    assert str(found) == text


def test_a_table_shows_names_as_they_are_written_and_escapes_them():
    estimate = Estimate(torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4]), unit="<b>")
    table = html_table({"best_<i>": estimate}, "a < b\nsecond line")
    assert (
        "<tr><td>best &lt;i&gt;</td><td>&lt;b&gt;</td><td>2.00</td><td>0.25</td><td>1.00</td><td>2</td></tr>" in table
    )
    assert table.endswith(">a &lt; b\nsecond line</pre>")
    assert "<table>" not in html_table({}, "alone")


# ---------------------------------------------------------------- the results of all evaluations


@cache
def results() -> dict[str, Result]:
    """A result of each evaluation, with all that it can have in it."""
    pyro.set_rng_seed(0)
    model, guide, x = LinearGaussian(4, 2).double(), MeanFieldGuide((4,), 2, (5,)).double(), torch.randn(6, 4).double()
    pixels = torch.randint(256, (6, 1, 4, 4)) / 255
    vae = VAE((1, 4, 4), 2, likelihood=CategoricalLikelihood((1, 4, 4), 2, (4,)))
    of_pixels = MeanFieldGuide((1, 4, 4), 2, (4,))
    few = {"num_temperatures": 4, "num_chains": 3, "num_leapfrog": 2, "burn_in": 2, "seed": 0, "progress": False}
    gaps = evaluation.inference_gaps(model, guide, x, num_samples=20, evidence_samples=30, max_steps=50, seed=0)
    annealed = evaluation.ais(model, x, **few)
    reference = evaluation.reference_posterior(model, x[:2], num_chains=2, num_samples=100, warmup=20, seed=0)
    trusted = replace(reference, r_hat=torch.ones_like(reference.r_hat), divergences=0 * reference.divergences)
    labels = torch.arange(6) % 2
    made = {
        "log_likelihood": evaluation.log_likelihood(vae, of_pixels, pixels, 30, seed=0),
        "elbo_terms": evaluation.elbo_terms(vae, of_pixels, pixels, 5, seed=0),
        "inference_gaps": gaps,
        "ais": annealed,
        "bdmc": evaluation.bdmc(model, x, **few),
        "evidence_budget": evaluation.evidence_budget(model, guide, x, ks=(1, 10), gaps=gaps, ais=annealed, seed=0),
        "latent_statistics": evaluation.latent_statistics(model, guide, x, seed=0),
        "active_units": evaluation.active_units(guide, x),
        "linear_probe": evaluation.linear_probe(guide, x, labels, x, labels),
        "reference_posterior": reference,
        "guide_error": evaluation.guide_error(trusted, model, guide, x[:2], num_samples=200, seed=0),
        "sbc": evaluation.sbc(model, guide, x, num_data=20, num_draws=9, seed=0),
        "reconstruction_sharpness": evaluation.reconstruction_sharpness(vae, of_pixels, pixels, seed=0),
        "sharpness_ratio": evaluation.sharpness_ratio(torch.rand(4, 1, 5, 5), torch.rand(4, 1, 5, 5)),
    }
    # An evaluation that is not listed is called with images and its own options.
    inputs = {"model": vae, "guide": of_pixels, "x": pixels, "train_x": pixels, "train_labels": labels,
              "test_x": pixels, "test_labels": labels}  # fmt: skip
    for name in NAMES:
        if name not in made:
            made[name] = find_evaluation(name).measure(inputs, {}, seed=0, progress=False, compile="off")
    return made


OTHERS = {"sharpness", "to_inference_data", "two_sample_test"}
"""Functions that return a tensor, ArviZ's data, and a test of two samples, which has no data."""

FUNCTIONS = [name for name in evaluation.__all__ if name.islower() and name not in OTHERS]

NAMES = [name for name in FUNCTIONS if get_type_hints(getattr(evaluation, name))["return"] is not Estimate]
"""Functions whose result holds more than one estimate."""


def test_no_evaluation_is_missing_here():
    assert set(results()) == set(NAMES)
    concrete = {part for part in vars(evaluation).values() if isinstance(part, type) and issubclass(part, Result)}
    assert {type(result) for result in results().values()} == concrete - {Result, BoundResult, LogProbabilityResult}


every_result = pytest.mark.parametrize("name", NAMES)


@every_result
def test_all_estimates_are_summarized_alike(name):
    result = results()[name]
    summary = result.summary()
    for title, estimate in result.estimates.items():
        assert list(summary[title]) == KEYS
        assert summary[title]["mean"] == pytest.approx(estimate.mean, nan_ok=True)
        assert summary[title]["num_data"] == len(estimate.per_datum)
        assert estimate.per_datum.shape == estimate.standard_errors.shape
        assert estimate.datum == result.datum
    assert result.estimates.keys().isdisjoint(result.facts())
    assert list(summary) == [*result.estimates, *result.facts()]
    assert json.loads(json.dumps(summary)).keys() == summary.keys()


@every_result
def test_all_estimates_that_a_result_holds_are_told(name):
    """Also those that subclasses add; a result that is itself an estimate tells itself."""
    result = results()[name]
    held = [value for field in fields(result) if isinstance(value := getattr(result, field.name), Estimate)]
    told = list(result.estimates.values())
    assert all(any(one is other for other in told) for one in held)
    if isinstance(result, Estimate):
        assert any(one is result for one in told)


@every_result
def test_a_notebook_shows_every_estimate_with_both_errors(name):
    result = results()[name]
    shown = result._repr_html_()
    rows = [row.partition("</tr>")[0] for row in shown.split("<tr>")[2:]]
    assert len(rows) == len(result.estimates)
    for row, (title, estimate) in zip(rows, result.estimates.items(), strict=True):
        cells = row.removeprefix("<td>").removesuffix("</td>").split("</td><td>")
        assert cells[:2] == [title.replace("_", " "), estimate.unit]
        assert float(cells[2]) == pytest.approx(estimate.mean, abs=0.005, nan_ok=True)
        assert cells[3:5] == [rounded_error(estimate.standard_error), rounded_error(estimate.data_standard_error)]
        assert cells[5] == str(int((~estimate.left_out).sum()))
    assert ("<table>" in shown) == bool(rows)
    assert shown.endswith("</pre>")
    assert str(result).split()[0] in shown


@every_result
def test_columns_are_of_what_is_summarized(name):
    result = results()[name]
    columns = result.columns or {}
    names = [key.partition("[")[0] if key.endswith("]") else key for key in result.summary()]
    assert {column.removesuffix("[]") for column in columns} <= set(names)
    assert set(columns.values()) <= {"higher", "lower", ""}


@every_result
def test_further_numbers_are_one_for_each_datum(name):
    result = results()[name]
    for values in result.tensors().values():
        assert values.shape == next(iter(result.estimates.values())).per_datum.shape


@every_result
def test_there_is_a_caveat_where_there_is_no_bound(name):
    result = results()[name]
    if isinstance(result, BoundResult):
        assert result.bound
        assert result.caveat is None
        assert not replace(result, caveat="a reason").bound
        assert "a reason" in str(replace(result, caveat="a reason"))
