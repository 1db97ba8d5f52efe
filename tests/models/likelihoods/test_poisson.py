"""The Poisson likelihood of counts, with a library size of each datum and without."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

import pyro_vae
from pyro_vae import log_weights
from pyro_vae.errors import PairError, SupportError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import PoissonLikelihood
from pyro_vae.testing import LikelihoodSuite


def test_log_probability_by_scipy():
    likelihood = PoissonLikelihood((2, 3), 2, (4,)).double()
    z, x = torch.randn(5, 2).double(), torch.randint(30, (5, 2, 3)).double()
    mean = likelihood.decoder(z).exp().reshape(5, 2, 3).detach()
    expected = torch.from_numpy(stats.poisson.logpmf(x.numpy(), mean.numpy())).sum((1, 2))
    assert_close(likelihood(z).log_prob(x).detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_library_size_times_a_softmax_is_the_mean():
    likelihood = PoissonLikelihood((2, 3), 2, (4,), library=True).double()
    z, library = torch.randn(4, 5, 2).double(), torch.tensor([1.0, 7.0, 100.0, 3e4, 1e6])
    share = likelihood.decoder(z).softmax(-1).reshape(4, 5, 2, 3)
    p = likelihood(z, library)
    assert_close(p.mean, library.double()[:, None, None] * share, rtol=1e-12, atol=0)
    assert_close(likelihood(z, library.long()).mean, p.mean)


def test_all_draws_of_a_datum_have_its_library_size():
    """Weights by hand: a row of a run with several samples meets the size of its own datum."""
    model = VAE((6,), 2, likelihood=PoissonLikelihood((6,), 2, (4,), library=True)).double()
    guide = MeanFieldGuide((6,), 2, (4,)).double()
    library = torch.tensor([3.0, 50.0, 700.0]).double()
    x = torch.tensor([[3.0, 0, 0, 0, 0, 0], [9, 9, 9, 9, 9, 5], [700, 0, 0, 0, 0, 0]]).double()
    torch.manual_seed(3)
    found = log_weights(model, guide, (x, library), 4)
    torch.manual_seed(3)
    z = guide.posterior(x).rsample((4,))
    mean = library[:, None] * model.likelihood.decoder(z).softmax(-1)
    density = torch.from_numpy(stats.poisson.logpmf(x.numpy(), mean.detach().numpy())).sum(-1)
    expected = density + model.prior().log_prob(z) - guide.posterior(x).log_prob(z)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_bias_of_a_library_size_starts_at_the_mean_shares():
    likelihood = PoissonLikelihood((4,), 2, (), library=True).double()
    mean = torch.tensor([1.0, 2.0, 3.0, 14.0]).double()
    likelihood.initialize_bias(mean)
    p = likelihood(torch.zeros(3, 2).double(), torch.tensor([20.0, 40.0, 1.0]).double())
    assert_close(p.mean, torch.tensor([[1.0], [2.0], [0.05]]).double() * mean)


def test_a_feature_that_is_never_seen_starts_at_a_small_mean():
    likelihood = PoissonLikelihood((2,), 2, ())
    likelihood.initialize_bias(torch.tensor([0.0, 4.0]))
    assert_close(likelihood(torch.zeros(2)).mean, torch.tensor([0.001, 4.0]))


def pair(library):
    return (
        VAE((3,), 2, likelihood=PoissonLikelihood((3,), 2, (4,), library=library)),
        MeanFieldGuide((3,), 2, (4,)),
    )


COUNTS, SIZES = torch.tensor([[0.0, 2, 5], [1, 1, 0]]), torch.tensor([7.0, 2.0])


@pytest.mark.parametrize(
    ("library", "data", "message"),
    [
        (True, COUNTS, r"needs the library size"),
        (False, (COUNTS, SIZES), r"further tensor, of shape"),
        (True, (COUNTS, SIZES, SIZES), r"with this likelihood takes"),
        (True, (COUNTS, SIZES[:, None]), r"must have shape \(batch,\)"),
        (True, (COUNTS, SIZES - 2), r"1 of 2 size factors are not"),
        (True, (COUNTS, SIZES * torch.nan), r"2 of 2 size factors are"),
    ],
)
def test_a_library_size_that_is_missing_or_of_no_use_is_refused(library, data, message):
    with pytest.raises(PairError, match=message) as caught:
        log_weights(*pair(library), data, 2)
    assert "\n" not in str(caught.value)


def test_what_is_no_count_is_refused_by_fit():
    model, guide = pair(False)
    with pytest.raises(SupportError, match=r"which 1.099 is not: give"):
        pyro_vae.fit(model, guide, COUNTS.log1p(), epochs=1, batch_size=2)


@pytest.mark.parametrize("library", ["yes", 1, None])
def test_library_is_true_or_false(library):
    with pytest.raises(ValueError, match="library must be True or False"):
        PoissonLikelihood((3,), 2, library=library)


def test_a_fit_with_library_sizes_finds_the_shares():
    """Rows that all have one composition: the reconstructions' mean shares are these within 0.02."""
    rng = np.random.default_rng(0)
    shares, library = np.array([0.1, 0.2, 0.7]), rng.integers(50, 2000, 400)
    x = torch.tensor(np.stack([rng.multinomial(n, shares) for n in library]), dtype=torch.float32)
    model, guide = pair(True)
    data = (x, torch.tensor(library, dtype=torch.float32))
    pyro_vae.fit(model, guide, data, epochs=40, batch_size=100, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    with torch.no_grad():
        p = model.likelihood(guide.posterior(x).mean, torch.ones(400))
    assert_close(p.mean.mean(0).double(), torch.from_numpy(shares), rtol=0, atol=0.02)


class TestContract(LikelihoodSuite):
    part = "poisson"


class TestLibrary(LikelihoodSuite):
    part = "poisson(library=True)"

    def further(self, batch, dtype):
        # The sum of the means, at which the bias of all starts.
        return (torch.full(batch, 3.1, dtype=dtype),)
