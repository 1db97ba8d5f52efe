"""Every public call with what is easily got wrong: the right number, or one sentence that says what to do."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

from pyro_vae import (
    active_units,
    ais,
    elbo_terms,
    fit,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    log_weights,
    reference_posterior,
    sbc,
    to_inference_data,
)
from pyro_vae.evaluation import bdmc, evidence_budget, linear_probe
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.priors import StandardNormalPrior

ANNEALED = {"num_chains": 2, "num_temperatures": 3, "burn_in": 2, "num_leapfrog": 1, "seed": 0}
LABELS = torch.arange(9) % 2


def fitted(model, guide, x):
    """The validation bound of a fit that moves nothing."""
    still = torch.optim.SGD
    run = fit(model, guide, x, epochs=1, batch_size=9, compile="off", optimizer=lambda p: still(p, lr=0.0))
    return torch.tensor(run.history[0]["train_bound_nats"])


def weights(model, guide, x):
    torch.manual_seed(0)
    return log_weights(model, guide, x, 3)


CALLS = {
    "fit": fitted,
    "log_weights": weights,
    "log_likelihood": lambda m, g, x: log_likelihood(m, g, x, 3, seed=0).per_datum,
    "elbo_terms": lambda m, g, x: elbo_terms(m, g, x, 3, seed=0).elbo.per_datum,
    "inference_gaps": lambda m, g, x: (
        inference_gaps(m, g, x, num_samples=3, evidence_samples=3, max_steps=2, seed=0).elbo.per_datum
    ),
    "latent_statistics": lambda m, g, x: latent_statistics(m, g, x, num_samples=3, seed=0).kl_per_unit,
    "evidence_budget": lambda m, g, x: evidence_budget(m, g, x, ks=(1, 2), seed=0).terms["elbo"].per_datum,
    "ais": lambda m, _, x: ais(m, x, **ANNEALED).per_datum,
    "bdmc": lambda m, _, x: bdmc(m, x, **ANNEALED).lower.per_datum,
    "reference_posterior": lambda m, _, x: (
        reference_posterior(
            m,
            x[:1] if torch.is_tensor(x) and len(x.shape) == 2 and not x.is_sparse else x,
            num_chains=2,
            num_samples=4,
            warmup=2,
            seed=0,
        ).draws
    ),
    "sbc": lambda m, g, x: sbc(m, g, x, num_data=4, num_draws=3, seed=0).ranks,
    "active_units": lambda _, g, x: active_units(g, x).variance,
    "linear_probe": lambda _, g, x: linear_probe(g, x, LABELS, x, LABELS).accuracy.per_datum,
    "to_inference_data": lambda m, g, x: torch.as_tensor(
        to_inference_data(m, g, x, num_samples=3, num_chains=2, seed=0)["posterior"]["z"].values
    ),
}


def pair(latent_dim=2, guide_dim=2, **options):
    torch.manual_seed(1)
    return VAE((4,), latent_dim, (5,), **options), MeanFieldGuide((4,), guide_dim, (5,))


def data():
    return (torch.arange(36).view(9, 4) % 5 < 2).float()


@pytest.mark.parametrize("call", CALLS)
def test_float64_data_are_cast_to_the_dtype_of_the_parameters(call):
    """As `fit` does; data of a narrower dtype than the parameters are cast up."""
    assert_close(CALLS[call](*pair(), data().double()), CALLS[call](*pair(), data()), rtol=0, atol=0, equal_nan=True)
    wide = [part.double() for part in pair()]
    up = CALLS[call](*wide, data())
    assert_close(up, CALLS[call](*wide, data().double()), rtol=0, atol=0, equal_nan=True)


class Foreign(nn.Module):
    """A Pyro program that is none of this package's, whose decoder takes as many latents as it is told."""

    def __init__(self, prior_dim: int, decoder_dim: int) -> None:
        super().__init__()
        self.prior_dim, self.decoder = prior_dim, nn.Linear(decoder_dim, 4)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            w = pyro.sample("w", dist.Normal(torch.zeros(self.prior_dim), 1.0).to_event(1))
            pyro.sample("pixels", dist.Bernoulli(logits=self.decoder(w)).to_event(1), obs=x)


class ForeignGuide(nn.Module):
    """Its guide."""

    def __init__(self, latent_dim: int, x_dim: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Linear(x_dim, latent_dim)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("w", dist.Normal(self.encoder(x), 1.0).to_event(1))


def narrow_prior(x):
    """A model of float64 data that runs at float64 latents, and not at the float32 ones of its own prior."""
    with pyro.plate("rows", len(x)):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w @ torch.eye(2, 4, dtype=torch.float64), 1.0).to_event(1), obs=x)


ALONE = {"active_units", "linear_probe"}
"""Calls of a guide without a model."""
OF_THE_MODEL = {"ais", "bdmc", "reference_posterior"}
WRONG = {
    "an array": (lambda: (*pair(), data().numpy()), "ndarray", set()),
    "a list": (lambda: (*pair(), data().tolist()), "list", set()),
    "classes": (lambda: (VAE, MeanFieldGuide, data()), "make an object of it", set()),
    "names": (lambda: ("vae", "mean_field", data()), "Pyro programs", set()),
    "another latent dim": (lambda: (*pair(guide_dim=3), data()), "latent_dim|differ in shape", ALONE | OF_THE_MODEL),
    "a prior of another dim": (
        lambda: (*pair(prior=StandardNormalPrior(3)), data()), "latent_dim|differ in shape", ALONE,
    ),
    "a foreign guide of another dim": (
        lambda: (Foreign(2, 2), ForeignGuide(3), data()), "same latent dims|cannot be run", ALONE | OF_THE_MODEL,
    ),
    "a foreign prior of another dim": (lambda: (Foreign(3, 2), ForeignGuide(2), data()), "w|cannot be run", ALONE),
    "a foreign encoder of other data": (
        lambda: (Foreign(2, 2), ForeignGuide(2, 7), data()), "guide cannot be run", OF_THE_MODEL,
    ),
    "a prior of another type": (
        lambda: (narrow_prior, ForeignGuide(2).double(), data().double()), "the model cannot be run",
        ALONE | {"log_weights", "latent_statistics"},
    ),
    # A guide alone leaves out what it does not use.
    "more tensors than arguments": (
        lambda: (*pair(), (data(), data())), "2 positional arguments", {"active_units", "linear_probe"},
    ),
    "whole numbers": (lambda: (*pair(), data().long()), "floating point", set()),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_easily_got_wrong_is_said_in_one_sentence(wrong, call):
    made, key, right = WRONG[wrong]
    if call in right:
        return
    with pytest.raises(ValueError, match=key) as caught:
        CALLS[call](*made())
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400


ODD = {
    "nothing": None,
    "a number": torch.tensor(3.0),
    "no data": torch.zeros(0, 4),
    "a set of data": TensorDataset(torch.zeros(4, 4)),
    "a mapping": {"x": torch.zeros(4, 4)},
    "sparse": torch.eye(4).to_sparse(),
    "without values": torch.zeros(4, 4, device="meta"),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("call", CALLS)
def test_data_that_are_no_rows_are_said_in_a_sentence(call, what):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is asked below)
        CALLS[call](*pair(), ODD[what])
    (line,) = str(caught.value).splitlines()
    assert len(line) < 300
