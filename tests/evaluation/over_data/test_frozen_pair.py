"""Draws of a frozen q in unconstrained coordinates: their density, programs of many kinds, refusals."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from refusals import LAYOUTS, leave
from torch.testing import assert_close

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.guides import AuxiliaryGuide, MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.programs.layouts import OneByOne


def gamma_model(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def log_normal_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rate", dist.LogNormal(x.log1p() - 0.3, 0.5))


def index(n):
    return torch.arange(n)


def test_the_density_is_that_of_the_coordinates():
    """A LogNormal rate has a normal logarithm."""
    x = torch.tensor([0.0, 1, 5, 2]).double()
    pair = FrozenPair("test", gamma_model, log_normal_guide, x)
    assert pair.vectorizes
    u, log_q = pair.draw(pair.take(index(4)), 6)
    assert u.shape == (6, 4, 1)
    assert_close(log_q, dist.Normal(x.log1p() - 0.3, 0.5).log_prob(u[..., 0]))
    rate = u[..., 0].exp()
    by_hand = dist.Gamma(2.0, 1.0).log_prob(rate) + u[..., 0] + dist.Poisson(rate).log_prob(x)
    assert_close(pair.log_joint(pair.take(index(4)), u), by_hand)


def test_every_weight_of_an_exact_guide_is_the_evidence_for_any_of_the_data(linear_gaussian):
    x = linear_gaussian.data(9)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.exact_guide, x)
    chosen = torch.tensor([7, 2, 2, 0])
    block = pair.take(chosen)
    u, log_q = pair.draw(block, 5)
    assert_close(pair.log_joint(block, u) - log_q, linear_gaussian.evidence(x)[chosen].expand(5, 4))


def test_what_a_guide_draws_beside_the_latent_sites_is_in_its_density():
    """E[w] is p(x) for any auxiliary law; here z and x are independent, so that p(x) is known."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), obs=x)

    x = torch.randn(6, 3)
    pair = FrozenPair("test", model, AuxiliaryGuide((3,), 2, (8,)).double(), x.double())
    u, log_q = pair.draw(pair.take(index(6)), 4000)
    assert u.shape == (4000, 6, 2)
    weights = (pair.log_joint(pair.take(index(6)), u) - log_q).exp()
    expected = dist.Normal(0.0, 1.0).log_prob(x.double()).sum(-1).exp()
    assert ((weights.mean(0) - expected).abs() < 4 * weights.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_draws_in_every_layout(linear_gaussian, layout, caplog):
    x = linear_gaussian.data(5)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", linear_gaussian.model.posterior(x))
            leave(layout, z, ndim=2, rows=127)

    pair = FrozenPair("test", linear_gaussian.model, guide, x)
    assert pair.vectorizes == (layout is not OneByOne)
    u, log_q = pair.draw(pair.take(index(5)), 3)
    assert u.shape == (3, 5, 3)
    assert_close(pair.log_joint((x,), u) - log_q, linear_gaussian.evidence(x).expand(3, 5))
    assert ("run one by one" in caplog.text) == (layout is OneByOne)


def test_a_guide_may_have_plates_that_the_model_has_not(linear_gaussian):
    """Its auxiliary draws lie in a plate outside that of the data, which moves the samples a dim further."""
    x = linear_gaussian.data(5)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", linear_gaussian.model.posterior(x))
            with pyro.plate("more", 3, dim=-2):
                v = pyro.sample("v", dist.Normal(x.new_tensor(0.0), 1.0), infer={"is_auxiliary": True})
                pyro.factor("reverse", -dist.Normal(x.new_tensor(0.0), 1.0).log_prob(v), has_rsample=True)

    pair = FrozenPair("test", linear_gaussian.model, guide, x)
    u, log_q = pair.draw((x,), 4)
    assert u.shape == (4, 5, 3)
    assert_close(pair.log_joint((x,), u) - log_q, linear_gaussian.evidence(x).expand(4, 5))


def test_a_second_argument_is_cut_with_the_data_and_may_be_unknown_to_the_posterior(linear_gaussian):
    x, side, program = linear_gaussian.data(5), torch.arange(5).double(), linear_gaussian.model

    class Guide:
        def __call__(self, x, side):
            with pyro.plate("data", len(side), dim=-1):
                pyro.sample("z", self.posterior(x))

        def posterior(self, x):
            return linear_gaussian.model.posterior(x)

    def model(x, side):
        assert len(side) == len(x)
        return program(x)

    pair = FrozenPair("test", model, Guide(), (x, side))
    assert pair.take(torch.tensor([3, 1]))[1].tolist() == [3, 1]


@pytest.mark.parametrize("size", [4, None])
def test_a_plate_that_does_not_follow_the_data_is_refused(size):
    """Of a fixed size, or with a subsample: blocks of the data would be something else than they seem."""

    def model(x):
        with pyro.plate("data", size or len(x), subsample_size=None if size else 2, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", size or len(x), subsample_size=None if size else 2, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"all 4 data at once|takes 2 of"):
        FrozenPair("test", model, guide, torch.randn(4, 2))


def test_images_of_another_shape_are_refused_with_the_shape_that_is_wanted():
    model, guide = VAE((1, 2, 2), 2, (4,)), MeanFieldGuide((1, 2, 2), 2, (4,))
    with pytest.raises(ValueError, match="x must have shape"):
        FrozenPair("test", model, guide, torch.zeros(3, 1, 3, 3))


def test_a_datum_that_the_guide_cannot_do_does_not_keep_others_out():
    x = torch.tensor([math.nan, 1.0, 3.0]).double()

    def guide(y):
        with pyro.plate("data", len(y), dim=-1):
            pyro.sample("rate", dist.LogNormal(torch.where(y == 7, math.nan, y.log1p()), 0.5))

    with pytest.raises(ValueError, match="test: x: 1 value is NaN"):
        FrozenPair("test", gamma_model, guide, x)
    pair = FrozenPair("test", gamma_model, guide, torch.tensor([7.0, 1.0, 3.0]).double())
    with pyro.validation_enabled(False):
        _, log_q = pair.draw(pair.take(index(3)), 2)
    assert log_q.isnan().all(0).tolist() == [True, False, False]
    with pytest.raises(NonFiniteError, match="rate"):
        FrozenPair("test", gamma_model, guide, torch.full((3,), 7.0).double())


def test_discrete_latents_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            which = pyro.sample("which", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(which, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("which", dist.Bernoulli(x.sigmoid()))

    with pytest.raises(ValueError, match=r"test: .*'which' is discrete"):
        FrozenPair("test", model, guide, torch.randn(3))
