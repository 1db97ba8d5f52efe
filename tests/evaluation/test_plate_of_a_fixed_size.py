"""scVI's idiom, plate(N, subsample_size=len(x)) with all data given: N is a scale of the loss, and of no density."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import (
    ais,
    bdmc,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    reference_posterior,
    sbc,
    to_inference_data,
)

ONE = torch.ones((), dtype=torch.float64)


def pair(size):
    def model(x):
        with pyro.plate("cells", size or len(x), subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("cells", size or len(x), subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, (ONE / 2).sqrt()).to_event(1))

    return model, guide


def evidence(x):
    return dist.Normal(0 * ONE, (2 * ONE).sqrt()).log_prob(x).sum(-1)


@pytest.mark.parametrize("rows", [1, 7, 127, 300, 1000])
def test_evaluations_are_exact(rows):
    x = torch.randn(rows, 2).double()
    model, guide = pair(1000)
    assert_close(log_likelihood(model, guide, x, 5).per_datum, evidence(x))
    found = to_inference_data(model, guide, x, num_samples=2, num_chains=1)
    assert_close(torch.tensor(found["sample_stats"]["log_weight"].values[0]), evidence(x).expand(2, -1))
    if rows > 1:
        statistics = latent_statistics(model, guide, x, num_samples=5, seed=0)
        elbo = -statistics.distortion.mean - statistics.rate.mean
        assert elbo == pytest.approx(evidence(x).mean().item(), rel=1e-9)


def test_evaluations_of_a_few_data_are_those_of_a_plate_of_their_length():
    x = torch.randn(4, 2).double()
    quick = {"num_temperatures": 5, "num_chains": 2, "burn_in": 2, "seed": 0, "compile": "off"}
    found = []
    for size in (1000, None):
        model, guide = pair(size)
        gaps = inference_gaps(model, guide, x, num_samples=10, evidence_samples=50, max_steps=20, seed=0)
        drawn = reference_posterior(model, x[:1], num_chains=2, num_samples=5, warmup=5, seed=0)
        found.append(
            [
                ais(model, x, **quick).per_datum,
                bdmc(model, x, **quick).upper.per_datum,
                sbc(model, guide, x, num_data=20, num_draws=9, seed=0).ranks,
                gaps.elbo.per_datum,
                drawn.draws,
            ]
        )
    for fixed, own in zip(*found, strict=True):
        assert fixed.shape == own.shape
    assert_close(found[0][3], evidence(x))
    assert torch.isfinite(torch.cat([part.double().flatten() for part in found[0]])).all()
