"""The guide of free parameters: the best mean-field solution of each datum, and how a datum is found."""

from functools import partial

import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

import pyro_vae
from pyro_vae import log_likelihood, log_weights
from pyro_vae.data import ImageData
from pyro_vae.fit.batches import TensorBatches
from pyro_vae.graphs.capture import capture
from pyro_vae.guides import LocalGuide, MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.testing import GuideSuite

SHAPE = (1, 2, 3)
UNKNOWN = "{} of {} rows .* {} data"
both_levels = pytest.mark.parametrize("level", ["trace", "off"])


def images(n):
    """Distinct binary images."""
    codes = torch.randperm(64)[:n]
    return (codes[:, None] >> torch.arange(6) & 1).float().reshape(n, *SHAPE)


def test_fitted_it_is_the_best_mean_field_solution_of_each_datum(linear_gaussian):
    r"""loc = the posterior's mean, scale_d^2 = 1 / its precision's diagonal.

    The log joint is quadratic in z: a cubature of degree two, :math:`loc \pm \sqrt{d} scale_i e_i`, gives the exact
    ELBO.
    """
    case = linear_gaussian
    x, d = case.data(6), case.latent_dim
    guide = LocalGuide((5,), d, data=x).double()
    points = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    optimizer = torch.optim.LBFGS(
        guide.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        q = guide.posterior(x)
        value = -q.entropy().sum()
        for point in points:
            at = poutine.condition(case.model, {"z": q.mean + q.stddev * point})
            value = value - poutine.trace(at).get_trace(x).log_prob_sum() / len(points)
        value.backward()
        return value

    optimizer.step(loss)
    exact, found = case.model.posterior(x), guide.posterior(x)
    assert_close(found.mean, exact.mean, rtol=0, atol=1e-6)
    assert_close(found.variance, 1 / exact.precision_matrix.diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=0)


def test_every_weight_equals_the_evidence_in_any_block(make_linear_gaussian):
    """Started from a posterior that is diagonal; with and without a graph, in blocks of their own each."""
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(2000)
    guide = LocalGuide((5,), 3, data=x, init=case.model).double()
    guide.load_state_dict(LocalGuide((5,), 3, data=x.flip(0), init=case.model).double().state_dict())
    with torch.no_grad():
        assert_close(
            log_weights(case.model, guide, x[::7], 2), case.evidence(x[::7]).expand(2, -1), rtol=1e-5, atol=1e-5
        )
    found = log_likelihood(case.model, guide, x, num_samples=100)
    assert_close(found.per_datum, case.evidence(x), rtol=1e-5, atol=1e-5)


def test_it_starts_from_another_guides_posterior():
    first, x = MeanFieldGuide(SHAPE, 4, (5,)), images(20)
    q, found = first.posterior(x), LocalGuide(SHAPE, 4, data=x, init=first).posterior(x)
    assert_close(found.mean, q.mean)
    assert_close(found.stddev, q.stddev)


def test_equal_data_share_their_parameters_wherever_they_stand():
    x = images(20)
    guide = LocalGuide(SHAPE, 4, data=torch.cat([x, x[:5]]))
    assert guide.loc.shape == (20, 4)
    mean = guide.posterior(x).mean
    assert len(mean.unique(dim=0)) == 20
    assert torch.equal(guide.posterior(x.flip(0)).mean, mean.flip(0))
    assert torch.equal(guide.posterior(x[7:8]).mean, mean[7:8])
    assert torch.equal(guide.posterior(x.double()).mean, mean)
    assert torch.equal(guide.posterior(x * (1 - 2 * (x == 0).float())).mean, mean)  # zeros of either sign


def test_grey_data_are_told_apart_by_one_rounding():
    x = torch.rand(1, *SHAPE).expand(7, *SHAPE).clone()
    x.view(7, -1)[torch.arange(1, 7), torch.arange(6)] = x.view(7, -1)[0].nextafter(torch.tensor(2.0))
    assert LocalGuide(SHAPE, 4, data=x).loc.shape == (7, 4)


def test_keys_of_binary_images_use_all_their_bits():
    every = (torch.arange(2**14)[:, None] >> torch.arange(14) & 1).float()
    keys = LocalGuide((14,), 1, data=every).keys
    assert len(keys) == 2**14
    for shift in range(0, 64, 8):
        assert len((keys >> shift & 255).unique()) == 256


@both_levels
def test_fit_brings_it_near_the_best_mean_field_solution(level, make_linear_gaussian, caplog):
    """The mean KL(q || p) in closed form, with noisy gradients from mini-batches: within 0.05 nats of no gap."""
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(40)
    guide = LocalGuide((5,), 3, data=x).double()

    def gap():
        q = guide.posterior(x)
        q = torch.distributions.MultivariateNormal(q.mean, q.variance.diag_embed())
        return torch.distributions.kl_divergence(q, case.model.posterior(x)).mean().item()

    before = gap()
    run = pyro_vae.fit(
        case.model,
        guide,
        x,
        epochs=300,
        batch_size=20,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=300),
        compile=level,
    )
    assert gap() < 0.05 < 1 < before
    assert "runs eagerly" not in caplog.text
    args = {"x_shape": [5], "latent_dim": 3, "data": 40, "init": None}
    assert run.config["guide"] == {"class": "pyro_vae.guides.local:LocalGuide", "args": args}


def image_data(train, valid, binarization):
    return ImageData(
        name="here",
        train=train,
        valid=valid,
        test=valid,
        binarization=binarization,
        seed=0,
        content_hash="",
        source="",
    )


@both_levels
def test_fit_says_that_stochastic_binarization_makes_new_data(level):
    grey = torch.rand(20, *SHAPE)
    data, guide = image_data(grey, grey[:0], "stochastic"), LocalGuide(SHAPE, 2, data=images(3))
    with pytest.raises(ValueError, match=UNKNOWN.format(r"\d+", 20, 3)):
        pyro_vae.fit(VAE(SHAPE, 2, (5,)), guide, data, epochs=1, batch_size=20, compile=level)


def test_fit_validates_on_unknown_data_unless_told_not_to():
    x = images(30)
    data, model, guide = image_data(x[:20], x[20:], "static"), VAE(SHAPE, 2, (5,)), LocalGuide(SHAPE, 2, data=x[:20])
    with pytest.raises(ValueError, match=UNKNOWN.format(10, 10, 20)):
        pyro_vae.fit(model, guide, data, epochs=1, batch_size=20)
    assert len(pyro_vae.fit(model, guide, data, valid=data.valid[:0], epochs=1, batch_size=20).history) == 1


@both_levels
def test_fit_says_so_as_well_where_unknown_data_come_late(level, caplog):
    """Those that capture the graph are known; the next ones are not, and a graph cannot raise."""
    x = images(40)
    early = x[next(TensorBatches(x, 10, 0, torch.device("cpu"), torch.float32).epoch(0))]
    guide = LocalGuide(SHAPE, 2, data=torch.cat([x[:10], early]))
    with pytest.raises(ValueError, match=UNKNOWN.format(r"\d+", 10, len(guide.loc))):
        pyro_vae.fit(VAE(SHAPE, 2, (5,)), guide, x, epochs=1, batch_size=10, seed=0, compile=level)
    assert "runs eagerly" not in caplog.text


def test_a_graph_makes_what_it_does_not_know_nan():
    x = images(20)
    guide = LocalGuide(SHAPE, 4, data=x[:10])

    def moments(x):
        q = guide.posterior(x)
        return [q.mean.detach(), q.stddev.detach()]

    for found in capture(moments, [x[:6]], [x[4:10]], [guide])(x[7:13]):
        assert found[:3].isfinite().all()
        assert found[3:].isnan().all()


def test_the_state_of_a_guide_made_with_the_same_data_in_another_order_fits():
    x = images(20)
    first, second = LocalGuide(SHAPE, 4, data=x), LocalGuide(SHAPE, 4, data=x[torch.randperm(20)])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.posterior(x).mean, second.posterior(x).mean)


def test_what_it_cannot_be_made_of_is_refused():
    with pytest.raises(ValueError, match="data must be a whole number"):
        LocalGuide(SHAPE, 4, data=None)
    with pytest.raises(ValueError, match="there are no data"):
        LocalGuide(SHAPE, 4, data=torch.zeros(0, *SHAPE))
    with pytest.raises(ValueError, match="LocalGuide: x must have shape"):
        LocalGuide(SHAPE, 4, data=torch.zeros(7, 6))
    with pytest.raises(ValueError, match=r"init must be .*got Linear"):
        LocalGuide(SHAPE, 4, data=images(3), init=nn.Linear(6, 4))
    with pytest.raises(ValueError, match="init must have latent_dim = 4"):
        LocalGuide(SHAPE, 4, data=images(3), init=MeanFieldGuide(SHAPE, 3, (5,)))


class TestContract(GuideSuite):
    part = "local"
