"""The chain: its evidence and its posterior against the joint Gaussian, and every evaluation against closed forms."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch.testing import assert_close

from pyro_vae import ais, inference_gaps, log_likelihood, log_weights
from pyro_vae.evaluation import bdmc, elbo_terms, reference_posterior
from pyro_vae.models import LinearGaussian, LinearGaussianChain
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.testing import ModelSuite
from pyro_vae.testing.suite import DTYPES, assert_site

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def make(x_dim=4, latent_dim=2, inner=(3,)):
    """A float64 chain with biases and different noise scales, without gradients."""
    widths = [*zip((x_dim, *inner), (*inner, latent_dim), strict=True)]
    loadings = [torch.randn(below, above, dtype=torch.float64) / above**0.5 for below, above in widths]
    biases = [torch.randn(below, dtype=torch.float64) for below, _ in widths]
    scales = [0.6, 0.8, 0.5][: len(widths)]
    return LinearGaussianChain.from_values(loadings, biases, scales).requires_grad_(False)


CHAINS = {"1 layer": {"inner": ()}, "2 layers": {}, "3 layers": {"inner": (3, 4)}}


@pytest.fixture(params=CHAINS.values(), ids=CHAINS.keys())
def chain(request):
    return make(**request.param)


def joint(model):
    """Mean and covariance of (x, z_1, ..., z_L): each layer is a linear map of the noise of itself and those above."""
    dims = [model.x_dim, *model.latent_dims]
    maps, means = [None] * len(dims), [None] * len(dims)
    starts = [sum(dims[:layer]) for layer in range(len(dims) + 1)]
    for layer in reversed(range(len(dims))):
        own = torch.zeros(dims[layer], starts[-1], dtype=torch.float64)
        top = layer + 1 == len(dims)
        scale = 1.0 if top else model.log_scales[layer].exp()
        own[:, starts[layer] : starts[layer + 1]] = scale * torch.eye(dims[layer], dtype=torch.float64)
        maps[layer] = own if top else model.loadings[layer] @ maps[layer + 1] + own
        above = torch.zeros(dims[layer]) if top else model.loadings[layer] @ means[layer + 1] + model.biases[layer]
        means[layer] = above.double()
    whole = torch.cat(maps)
    return torch.cat(means), whole @ whole.T


def conditional(model, x):
    """Mean and covariance of all latents given x, by Schur's complement."""
    mean, covariance = joint(model)
    d = model.x_dim
    gain = covariance[d:, :d] @ torch.linalg.inv(covariance[:d, :d])
    return mean[d:] + (x - mean[:d]) @ gain.T, covariance[d:, d:] - gain @ covariance[:d, d:]


def blocks_of(model):
    """Where each layer is in the vector of all."""
    start, blocks = 0, []
    for dim in model.latent_dims:
        blocks.append(slice(start, start + dim))
        start += dim
    return blocks


def test_evidence_prior_and_posterior_are_those_of_the_joint_gaussian(chain):
    mean, covariance = joint(chain)
    d = chain.x_dim
    assert_close(chain.evidence().mean, mean[:d], **EXACT)
    assert_close(chain.evidence().covariance_matrix, covariance[:d, :d], **EXACT)
    assert_close(chain.prior().mean, mean[d:], **EXACT)
    assert_close(chain.prior().covariance_matrix, covariance[d:, d:], **EXACT)
    x = torch.randn(9, d, dtype=torch.float64)
    loc, by_hand = conditional(chain, x)
    assert_close(chain.posterior(x).mean, loc, **EXACT)
    assert_close(chain.posterior(x).covariance_matrix, by_hand.expand(9, -1, -1), **EXACT)


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_every_weight_of_an_exact_guide_is_the_evidence(chain, order):
    x = chain.evidence().sample((7,))
    weights = log_weights(chain, getattr(chain, order), x, num_samples=3)
    assert_close(weights, chain.evidence().log_prob(x).expand(3, 7), rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_the_guides_density_is_the_joint_posteriors(chain, order):
    x = chain.evidence().sample((7,))
    trace = poutine.trace(getattr(chain, order)).get_trace(x)
    trace.compute_log_prob()
    density = sum(trace.nodes[name]["log_prob"] for name in chain.sites)
    values = torch.cat([trace.nodes[name]["value"] for name in chain.sites], -1)
    assert_close(density, chain.posterior(x).log_prob(values), **EXACT)


def test_one_layer_is_probabilistic_pca():
    model = make(inner=())
    plain = LinearGaussian.from_values(model.loadings[0], model.biases[0], 0.6)
    x = plain.evidence().sample((5,)).detach()
    assert_close(model.evidence().log_prob(x), plain.evidence().log_prob(x), **EXACT)
    assert_close(model.posterior(x).mean, plain.posterior(x).mean, **EXACT)


class Wrong:
    """A guide off by a shift in each layer and too wide: independent normals; its ELBO is closed."""

    def __init__(self, model, shift=0.2, stretch=1.2):
        self.model, self.shift, self.stretch = model, shift, stretch

    def laws(self, x):
        exact = self.model.posterior(x)
        scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        loc, scale = exact.mean + self.shift * scale, self.stretch * scale
        return [dist.Normal(loc[:, block], scale[:, block]).to_event(1) for block in blocks_of(self.model)]

    def joint(self, x):
        laws = self.laws(x)
        loc = torch.cat([law.mean for law in laws], -1)
        return dist.MultivariateNormal(loc, torch.cat([law.variance for law in laws], -1).diag_embed())

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            for name, law in zip(self.model.sites, self.laws(x), strict=True):
                pyro.sample(name, law)


def kl(q, p):
    return torch.distributions.kl_divergence(q, p)


def within(estimate, exact, limit=4.0):
    """Each datum, and the mean, within so many standard errors."""
    errors = estimate.standard_errors
    assert ((estimate.per_datum - exact).abs() < limit * errors + 1e-9).all(), (estimate.per_datum - exact) / errors
    assert abs(estimate.mean - exact.mean().item()) < limit * estimate.standard_error + 1e-9


@pytest.mark.parametrize("inner", [(3,), (3, 4)])
def test_elbo_and_importance_weighted_evidence_of_a_wrong_guide(inner):
    """20 data, 2000 samples: log p(x) and log p(x) - KL(q || p(z | x)) within 4 standard errors."""
    model = make(inner=inner)
    guide, x = Wrong(model), model.evidence().sample((20,))
    evidence = model.evidence().log_prob(x)
    elbo = evidence - kl(guide.joint(x), model.posterior(x))
    within(elbo_terms(model, guide, x, 2000, seed=0).elbo, elbo)
    within(log_likelihood(model, guide, x, num_samples=2000, seed=0), evidence)


@pytest.mark.parametrize("inner", [(3,), pytest.param((3, 4), marks=pytest.mark.slow)])
def test_annealing_finds_the_evidence(inner):
    """5 data, 16 chains of 100 temperatures; BDMC's two bounds hold the evidence between them."""
    model = make(inner=inner)
    x = model.evidence().sample((5,))
    settings = {"num_temperatures": 100, "num_chains": 16, "seed": 0, "progress": False}
    found, exact = ais(model, x, **settings), model.evidence().log_prob(x)
    assert ((found.per_datum - exact).abs() < 5 * found.standard_errors + 0.02).all()
    bounds = bdmc(model, x, **settings)
    assert bounds.width.mean < 0.3
    assert bounds.width.mean > -4 * bounds.width.standard_error


@pytest.mark.slow
def test_a_full_rank_family_has_no_approximation_gap():
    model = make()
    x = model.evidence().sample((4,))
    gaps = inference_gaps(
        model, Wrong(model), x, family="full_rank", num_samples=200, evidence_samples=2000, seed=0, progress=False
    )  # fmt: skip
    gap = gaps.approximation_gap
    assert ((gap.per_datum).abs() < 4 * gap.standard_errors + 0.01).all(), (gap.per_datum, gap.standard_errors)
    exact = kl(Wrong(model).joint(x), model.posterior(x))
    assert ((gaps.inference_gap.per_datum - exact).abs() < 4 * gaps.inference_gap.standard_errors + 0.01).all()


def test_a_diagonal_family_has_the_closed_optimal_kl():
    """Of a Gaussian with precision P the best product has variances 1 / P_ii: KL = (sum log P_ii - log det P) / 2."""
    model = make()
    x = model.evidence().sample((4,))
    gaps = inference_gaps(
        model, Wrong(model), x, family="diagonal", num_samples=200, evidence_samples=2000, seed=0, progress=False
    )  # fmt: skip
    precision = model.posterior(x).precision_matrix
    exact = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())
    gap = gaps.approximation_gap
    assert ((gap.per_datum - exact).abs() < 4 * gap.standard_errors + 0.01).all(), (gap.per_datum, exact)


@pytest.mark.slow
def test_the_reference_has_the_posteriors_moments():
    """2 chains of 200 draws of a datum: means within 4 s.e. of the draws' effective size, scales within a third."""
    model = make()
    x = model.evidence().sample((1,))
    reference = reference_posterior(model, x, num_chains=2, num_samples=200, warmup=100, seed=0, progress=False)
    blocks = dict(zip(model.sites, blocks_of(model), strict=True))
    order = torch.cat([torch.arange(5)[blocks[name]] for name in reference.values])
    exact = model.posterior(x)
    scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()[:, order]
    draws = reference.draws.flatten(0, 1)
    assert draws.shape == (400, 1, 5)
    z_scores = (draws.mean(0) - exact.mean[:, order]) / scale * reference.ess_bulk.sqrt()
    assert (z_scores.abs() < 4).all(), z_scores
    assert_close(draws.std(0) / scale, torch.ones(1, 5, dtype=torch.float64), rtol=0, atol=0.33)


class TestContract(ModelSuite):
    """The suite, with sites ``"z1"`` and ``"z2"`` in the place of its one."""

    part = "linear_gaussian_chain"
    x_shape = (6,)
    dims = (3, 3)

    def test_sites_plate_shapes_and_dtype(self):
        for dtype in DTYPES:
            for n in (1, 7):
                model = self.make().to(dtype)
                trace = poutine.trace(model).get_trace(self.data(model, n, dtype))
                assert [name for name in trace.stochastic_nodes if name != "data"] == ["z2", "z1"]
                assert trace.observation_nodes == ["x"]
                trace.compute_log_prob()
                for name, event in (("z1", (3,)), ("z2", (3,)), ("x", (6,))):
                    assert_site(trace.nodes[name], n, event, dtype)

    def test_samples_vectorize(self):
        model = self.make()
        with pyro.plate(PARTICLES, 5, dim=-2):
            values = model(self.data(model, 4))
        assert [value.shape for value in values] == [(5, 4, 3), (5, 4, 3)]

    def test_data_are_independent(self):
        model = self.make().double()
        x = self.data(model, 6, torch.float64)
        values = {name: torch.randn(6, 3, dtype=torch.float64) for name in model.sites}

        def joint(rows):
            here = {name: value[rows] for name, value in values.items()}
            trace = poutine.trace(poutine.condition(model, here)).get_trace(x[rows])
            trace.compute_log_prob()
            return sum(trace.nodes[name]["log_prob"] for name in ("z1", "z2", "x"))

        alone = torch.cat([joint(slice(n, n + 1)) for n in range(6)])
        assert_close(joint(slice(None)), alone, rtol=1e-12, atol=1e-12)

    def _guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(x.new_zeros(3), 0.7).to_event(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"inner_latent_dims": "3"}, "a list of whole numbers"),
        ({"inner_latent_dims": (3, 0)}, "inner_latent_dims must be"),
        ({"scale": 0.0}, "scale must be a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearGaussianChain(**{"x_dim": 4, "latent_dim": 2} | arguments)
