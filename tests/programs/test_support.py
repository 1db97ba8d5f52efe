"""Values outside a likelihood's support are found wherever they are."""

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_vae import (
    ais,
    elbo_terms,
    fit,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    log_weights,
    reference_posterior,
    to_inference_data,
)
from pyro_vae.errors import SupportError
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.programs.support import BLOCK, check_support
from pyro_vae.runtime.arguments import named_as


def binary(n=BLOCK + 500):
    return torch.rand(n, 1, 2, 2).round()


def test_binary_images_pass():
    check_support(VAE((1, 2, 2), 2, ()), binary(), binary(3))


@pytest.mark.parametrize("row", [0, BLOCK - 1, BLOCK, -1])
def test_one_value_outside_is_found_in_any_block(row):
    x = binary()
    x[row, 0, 1, 1] = 7.5
    with pytest.raises(SupportError, match=r"1 of .*7\.5 to 7\.5\)\. Rescale"):
        check_support(VAE((1, 2, 2), 2, ()), x, x[:3])


def test_grey_pixels_get_the_two_ways_out():
    x = torch.rand(9, 1, 2, 2)
    with pytest.raises(SupportError, match=r"grey pixels.*soft_targets=True"):
        check_support(VAE((1, 2, 2), 2, ()), x, x[:3])


def test_grey_pixels_beyond_the_first_block_are_not_averaged_in():
    """Pyro's validation sees the head only; behind it validation is off for speed."""
    x = binary(40)
    x[33] = 0.5
    with pytest.raises(SupportError, match="grey pixels"), run_sizes(rows=10, head=10):
        log_likelihood(VAE((1, 2, 2), 2, ()), MeanFieldGuide((1, 2, 2), 2, ()), x, 5)


def test_soft_targets_are_taken_and_are_no_bound():
    soft = BernoulliLikelihood((1, 2, 2), 2, (), soft_targets=True)
    model, guide = VAE((1, 2, 2), 2, likelihood=soft), MeanFieldGuide((1, 2, 2), 2, ())
    x = torch.rand(9, 1, 2, 2)
    check_support(model, x, x[:3])
    found = log_likelihood(model, guide, x, 30)
    assert found.bound is False
    assert str(found).startswith("no log-likelihood (soft targets): ")
    assert found.summary()["bound"] is False
    assert elbo_terms(model, guide, x, 2).bound is False
    x[0] = 1.5
    with pytest.raises(SupportError, match=r"SoftBernoulli .*1\.5 to 1\.5"):
        check_support(model, x, x[:3])
    assert log_likelihood(VAE((1, 2, 2), 2, ()), guide, binary(9), 30).bound is True


def test_other_supports_and_other_names():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("counts", dist.Poisson(z.exp()).to_event(1), obs=x)

    check_support(model, torch.tensor([[0.0, 4, 2]] * 5), torch.tensor([[0.0, 4, 2]]))
    x = torch.tensor([[0.0, 4, 2]] * 5)
    x[4, 1] = -1
    with pytest.raises(SupportError, match=r"'counts': Poisson .*1 of 15"):
        check_support(model, x, x[:1])


def test_flattened_images_are_checked_too():
    """Pyro's own example observes x.reshape(-1, 784)."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Bernoulli(torch.full((4,), 0.5)).to_event(1), obs=x.reshape(-1, 4))

    x = binary()
    check_support(model, x, x[:3])
    x[-1] = 0.5
    with pytest.raises(SupportError, match=r"site 'obs': .* grey pixels"):
        check_support(model, x, x[:3])


def test_bounds_that_follow_z_say_nothing_about_x():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z, z + 1, validate_args=False), obs=x)

    check_support(model, torch.full((5,), 100.0), torch.full((5,), 100.0))


def test_the_generator_is_left_alone():
    model, x = VAE((1, 2, 2), 2, ()), binary(3)
    before = torch.get_rng_state()
    check_support(model, x, x[:1])
    assert torch.equal(torch.get_rng_state(), before)


def flat(x):
    """Observes something made of x, which no argument is equal to."""
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("twice", dist.Bernoulli(torch.full((4,), 0.5)).to_event(1), obs=2 * x)


def flat_guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


PAIRS = {
    "an image": (VAE((4,), 2, ()), MeanFieldGuide((4,), 2, ()), torch.rand(300, 4)),
    "made of x": (flat, flat_guide, torch.rand(300, 4)),
}
CALLS = {
    "fit": lambda model, guide, x: fit(model, guide, x, epochs=1, batch_size=100),
    "log_weights": log_weights,
    "log_likelihood": log_likelihood,
    "elbo_terms": elbo_terms,
    "inference_gaps": inference_gaps,
    "latent_statistics": latent_statistics,
    "to_inference_data": to_inference_data,
    "ais": lambda model, _, x: ais(model, x),
    "reference_posterior": lambda model, _, x: reference_posterior(model, x),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_data_outside_the_support_are_said_in_one_sentence(pair, call):
    """Pyro's own validation prints the tensor; every call says the site, the range and what to do."""
    site = "twice" if pair == "made of x" else "x"
    with pytest.raises(SupportError, match=f"site '{site}': Bernoulli") as caught:
        CALLS[call](*PAIRS[pair])
    text = str(caught.value)
    assert "tensor(" not in text
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        (
            torch.rand(9, 4, dtype=torch.float64) * (1 + 2.2e-16),
            {"flags": "--binarization stochastic", "python": "load_data(..., binarization='stochastic')"},
        ),
        (
            torch.full((9, 4), 1 + 2.2e-16, dtype=torch.float64),
            {"flags": "--likelihood.soft_targets", "python": "BernoulliLikelihood(..., soft_targets=True)"},
        ),
        (
            torch.linspace(-2, 2, 36).view(9, 4),
            {"settings": "likelihood: gaussian", "python": "GaussianLikelihood(...)"},
        ),
        (255 * torch.rand(9, 4), {"flags": "Rescale", "python": "Rescale"}),
    ],
)
def test_the_advice_fits_the_values_in_the_words_of_its_reader(x, advice):
    model = VAE((4,), 2, ()).double()
    for reader, words in advice.items():
        with named_as(reader), pytest.raises(SupportError) as caught:
            check_support(model, x, x)
        assert words in str(caught.value)
        assert not any(other in str(caught.value) for other in set(advice.values()) - {words})
        assert "255" not in str(caught.value).replace(f"{x.max():.3g}", "")


def test_several_tensors_are_each_checked():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Bernoulli(0.5), obs=y)

    x, y = torch.randn(9, 4), torch.ones(9)
    check_support(model, (x, y), (x[:2], y[:2]))
    y[7] = 2.0
    with pytest.raises(SupportError, match="site 'y': Bernoulli"):
        check_support(model, (x, y), (x[:2], y[:2]))
