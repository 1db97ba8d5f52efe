"""What is said of latents where some are masked: NaN or left out, and right for the rest."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from masked_pairs import PAIRS, ByDatum, ByElement, Missing, Nowhere, Padded
from pyro import distributions as dist
from pyro import poutine

from pyro_vae.evaluation import (
    active_units,
    guide_error,
    latent_statistics,
    reference_posterior,
    sbc,
    to_inference_data,
)
from pyro_vae.evaluation.reference.bridge import LEAST_OVERLAP


@pytest.fixture(params=PAIRS)
def case(request):
    return PAIRS[request.param]()


@pytest.mark.parametrize(
    ("case", "rows", "apart"),
    [
        (ByElement(), [3, 4], []),
        # The guide is off by three standard deviations of the first posterior, in two dims.
        pytest.param(ByDatum(), [0, 1, 3], [0], marks=pytest.mark.slow),
        pytest.param(Padded(), [0, 1], [], marks=pytest.mark.slow),
        pytest.param(Missing(), [0, 1], [], marks=pytest.mark.slow),
    ],
)
def test_a_reference_moves_what_is_there_and_measures_the_guide(case, rows, apart):
    """``apart`` are the data whose posterior has too few draws in common with the guide, which alone have no KL."""
    args = tuple(arg[rows] for arg in case.args())
    counted = case.counted(args[1])
    reference = reference_posterior(case.model, args, num_chains=2, num_samples=120, warmup=50, seed=0, progress=False)
    assert torch.equal(reference.counted, counted)
    assert torch.equal(reference.draws.isnan(), (~counted).expand(reference.draws.shape))
    assert torch.equal(reference.r_hat.isnan(), ~counted)
    hidden = torch.cat([reference.values[name].reshape(2, 120, len(rows), -1).isnan() for name in case.sites], -1)
    assert torch.equal(hidden, (~counted).expand(hidden.shape))
    assert math.isfinite(reference.summary()["largest_r_hat"])
    # So few draws are trusted for a test of masks alone; a datum without any coordinate has no reference.
    reference = replace(reference, r_hat=torch.where(counted, 1.0, math.nan))
    assert torch.equal(reference.trusted, counted.any(-1))
    found = guide_error(
        reference, case.model, case.guide, args, num_samples=200, num_permutations=19, seed=0, progress=False
    )
    assert torch.equal(found.compared, reference.trusted)
    assert torch.equal(found.mean_error.isnan(), ~counted)
    assert math.isfinite(found.summary()["mean_error_rms"])
    assert torch.equal(found.p_values.isfinite(), found.compared)
    few = torch.zeros(len(rows), dtype=torch.bool)
    few[apart] = True
    assert torch.equal(found.overlap < LEAST_OVERLAP, few)
    assert not found.unresolved.any()
    known = found.compared & ~few
    for estimate in (found.kl, found.forward_kl, found.log_likelihood):
        assert torch.equal(estimate.per_datum.isfinite(), known)
        assert torch.equal(estimate.standard_errors.isfinite(), known)
    assert ("the others overlap too little" in str(found)) == bool(apart)
    assert found.summary()["kl"]["num_left_out"] == (~known).sum()
    error = (found.log_likelihood.per_datum - case.evidence(*args)).abs()
    assert (error[known] < 5 * found.log_likelihood.standard_errors[known] + 0.01).all()


def test_ranks_are_of_what_is_there(case):
    args = case.args()
    if isinstance(case, Missing):
        with pytest.raises(ValueError, match="must observe one site"):
            sbc(case.model, case.guide, args, num_data=10)
        return
    counted = case.counted(args[1])
    # Not the posterior: told apart in each dim that some data have.
    found = sbc(case.model, case.guide, args, num_data=400, num_draws=19, seed=0, progress=False)
    there = counted[torch.arange(400) % len(counted)]
    assert torch.equal(found.ranks >= 0, there)
    assert torch.equal(found.num_ranks, there.sum(0))
    assert torch.equal(found.p_values.isnan(), ~there.any(0))
    assert found.summary()["dim"] == int(there.any(0).sum())
    shares = torch.stack([((found.ranks <= rank) & there).sum(0) for rank in range(19)]).double() / there.sum(0)
    uniform = torch.arange(1, 20).double().unsqueeze(-1) / 20
    torch.testing.assert_close(found.ecdf_difference, shares - uniform, equal_nan=True)
    assert "dims" in str(found)


def test_the_prior_is_calibrated_where_nothing_is_seen():
    """A guide that returns the prior, masked as the model, passes; the masked ranks would not."""

    class Blind(Padded):
        def guide(self, x, lengths):
            with pyro.plate("data", len(x), dim=-1):
                z = x.new_zeros(len(x))
                for t in range(self.STEPS):
                    with poutine.mask(mask=t < lengths):
                        z = pyro.sample(f"z_{t}", dist.Normal(0.8 * z, 1.0))

    case = Blind()
    found = sbc(case.model, case.guide, case.args(), num_data=500, num_draws=19, seed=0, progress=False)
    assert found.calibrated
    assert found.num_ranks.tolist() == [500, 400, 300, 200]


def test_statistics_count_what_is_there(case):
    args = case.args()
    counted = case.counted(args[1])
    found = latent_statistics(case.model, case.guide, args, num_samples=400, seed=0, progress=False)
    if found.units[0].startswith("w"):
        # Units are in the guide's order.
        counted = counted[:, [2, 0, 1]]
    torch.testing.assert_close(found.shares, counted.double().mean(0))
    variance = found.active_units.variance
    assert torch.equal(variance.isnan(), counted.sum(0) < 2)
    if found.kl_per_unit is not None:
        assert found.kl_per_unit.sum().item() == pytest.approx(
            found.rate.mean, abs=6 * found.rate.standard_error + 1e-6
        )
        assert not found.kl_per_unit[~counted.any(0)].any()
        assert not found.collapsed[~counted.any(0)].any()
    if isinstance(case, Nowhere):
        assert found.mutual_information is not None
    else:
        assert found.mutual_information is None
        assert "the data mask different latent elements" in found.why_not["mutual_information"]


def test_the_variance_of_a_unit_is_over_the_data_that_have_it():
    case = ByElement()
    x, counts = case.args()
    means = 0.3 * x
    truth = torch.stack([means[counts[:, k], k].var() for k in range(3)])
    found = active_units(case.guide, (x, counts))
    torch.testing.assert_close(found.variance, truth)
    again = latent_statistics(case.model, case.guide, (x, counts), num_samples=2, progress=False)
    torch.testing.assert_close(again.active_units.variance, truth)


def test_arviz_is_given_no_masked_element(case):
    args = case.args()
    counted = case.counted(args[1])
    found = to_inference_data(case.model, case.guide, args, num_samples=5, num_chains=2, seed=0, progress=False)
    for group in ("posterior", "prior"):
        values = [torch.from_numpy(found[group][name].values).reshape(2, 5, len(counted), -1) for name in case.sites]
        hidden = torch.cat(values, -1).isnan()
        assert torch.equal(hidden, (~counted).expand(hidden.shape)), group
    assert torch.from_numpy(found["sample_stats"]["log_weight"].values).isfinite().all()


@pytest.mark.parametrize("case", [ByDatum(), Nowhere()])
def test_what_is_observed_is_there(case):
    x, counts = case.args()
    found = to_inference_data(case.model, case.guide, (x, counts), num_samples=2, num_chains=1, progress=False)
    torch.testing.assert_close(torch.from_numpy(found["observed_data"]["x"].values), x)


def test_padding_is_no_data():
    case = Padded()
    x, lengths = case.args()
    found = to_inference_data(case.model, case.guide, (x, lengths), num_samples=2, num_chains=1, progress=False)
    values = torch.from_numpy(found["observed_data"]["x"].values)
    assert torch.equal(values.isnan(), torch.arange(4) >= lengths.unsqueeze(-1))
