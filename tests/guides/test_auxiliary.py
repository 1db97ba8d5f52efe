"""The auxiliary guide where its marginal, its reverse and the price of a wrong reverse are all closed."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal
from torch.optim import Adam
from torch.testing import assert_close

from pyro_vae import active_units, elbo_terms, fit, log_likelihood, log_weights
from pyro_vae.guides import AuxiliaryGuide
from pyro_vae.guides.auxiliary import LIMIT
from pyro_vae.models import LinearGaussian
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.testing import GuideSuite


def before_bound(log_scale):
    """What a network returns for this log scale."""
    return LIMIT * torch.atanh(torch.as_tensor(log_scale / LIMIT))


def linear(blocks, bias):
    """The linear layer with this weight, in blocks row by row, and this bias."""
    weight = torch.cat([torch.cat(row, 1) for row in blocks])
    layer = nn.Linear(*weight.T.shape).double()
    layer.weight.data, layer.bias.data = weight, torch.cat(bias)
    return layer


class LinearAuxiliary:
    """A guide with linear networks whose marginal is N(gain x + offset, covariance), and its exact reverse.

    z = loc(x) + U diag(a) v + t e, with U the axes of the covariance, t^2 half its least eigenvalue and a^2 what t^2
    leaves of each. Then v given z is N(diag(a / variances) U^T (z - loc(x)), diag(t^2 / variances)): diagonal, as r is.
    What z is drawn from is m(x) + s v, and the context, loc(x) - U diag(a) m(x) / s; the reverse is given loc(x).
    """

    def __init__(self, gain, offset, covariance):
        dim, x_dim = gain.shape
        self.gain, self.offset, self.covariance = gain, offset, covariance
        variances, axes = torch.linalg.eigh(covariance)
        noise = variances.min() / 2
        self.scale = torch.linspace(0.4, 1.7, dim).double()
        self.stretch = (noise / variances).sqrt()
        loadings = axes * (variances - noise).sqrt()
        v_gain, v_offset = torch.randn(dim, x_dim).double(), torch.randn(dim).double()
        turned = loadings / self.scale
        back = ((variances - noise).sqrt() / variances * axes).T
        eye, none = torch.eye(dim).double(), torch.zeros(dim, dim).double()
        encoder = linear(
            [[v_gain], [torch.zeros_like(v_gain)], [gain - turned @ v_gain], [gain]],
            [v_offset, (self.scale / 2).logit(), offset - turned @ v_offset, offset],
        )
        self.guide = AuxiliaryGuide((x_dim,), dim, context_dim=2 * dim, encoder=encoder)
        noise_scale = before_bound(0.5 * noise.log()).expand(dim)
        self.guide.conditional = linear([[eye, none, turned], [none, none, none]], [none[0], noise_scale])
        self.guide.reverse = linear(
            [[none, -back, back], [none, none, none]], [none[0], before_bound(self.stretch.log())]
        )
        self.guide.requires_grad_(False)

    @classmethod
    def at_the_posterior(cls, model):
        x_dim = len(model.bias)
        origin = model.posterior(torch.zeros(1, x_dim).double())
        unit = model.posterior(torch.eye(x_dim).double())
        return cls((unit.mean - origin.mean).T, origin.mean[0], origin.covariance_matrix[0])

    def marginal(self, x):
        return MultivariateNormal(x @ self.gain.T + self.offset, self.covariance)

    def spoil_reverse(self):
        """Make r wrong in mean and scale; return E_q[KL(q(v | x, z) || r(v | x, z))], the same at every x."""
        dim = len(self.scale)
        tilt, shift, log_widen = 0.3 * torch.randn(dim, dim).double(), 0.2 * torch.randn(dim).double(), 0.25
        reverse = self.guide.reverse
        # By tilt @ (z - loc(x)) + shift.
        reverse.weight[:dim] += torch.cat([torch.zeros_like(tilt), -tilt, tilt], 1)
        reverse.bias[:dim] += shift
        reverse.bias[dim:] = before_bound(self.stretch.log() + log_widen)
        # The mean square of that, over z, in units of the true scale.
        off = ((tilt @ self.covariance @ tilt.T).diagonal() + shift.square()) / self.stretch.square()
        return (log_widen + 0.5 * (1 + off) * torch.tensor(-2 * log_widen).exp() - 0.5).sum().item()


def test_with_the_exact_reverse_weights_are_those_of_the_marginal(linear_gaussian, recorder):
    case = linear_gaussian
    root = torch.randn(3, 3).double()
    auxiliary = LinearAuxiliary(torch.randn(3, 5).double(), torch.randn(3).double(), root @ root.T + 0.1 * torch.eye(3))
    x, guide = case.data(7), recorder(auxiliary.guide)
    found = log_weights(case.model, guide, x, num_samples=4)
    z, v = guide.values["z"], guide.values["v"]
    prior = torch.distributions.Normal(torch.zeros(3).double(), 1.0).log_prob(z).sum(-1)
    mean = z @ case.model.loadings.T + case.model.bias
    likelihood = torch.distributions.Normal(mean, case.model.log_scale.exp()).log_prob(x).sum(-1)
    assert_close(found, prior + likelihood - auxiliary.marginal(x).log_prob(z), rtol=1e-10, atol=1e-10)
    assert v.shape == z.shape == (4, 7, 3)


def test_every_weight_equals_the_evidence_where_the_marginal_is_the_posterior(linear_gaussian):
    """A full covariance, out of diagonal Gaussians."""
    case = linear_gaussian
    auxiliary, x = LinearAuxiliary.at_the_posterior(case.model), case.data(7)
    off_diagonal = auxiliary.covariance - auxiliary.covariance.diagonal().diag()
    assert off_diagonal.abs().max() > 0.01
    found = log_weights(case.model, auxiliary.guide, x, num_samples=3)
    assert_close(found, case.evidence(x).expand(3, 7), rtol=1e-10, atol=1e-10)


def test_a_wrong_reverse_costs_its_divergence(linear_gaussian):
    """The mean bound is below the evidence by E[KL(q(v | x, z) || r)], to 4 of its standard errors."""
    case = linear_gaussian
    auxiliary, x = LinearAuxiliary.at_the_posterior(case.model), case.data(50)
    cost = auxiliary.spoil_reverse()
    found = elbo_terms(case.model, auxiliary.guide, x, num_samples=4000, seed=0).elbo
    lost = case.evidence(x).mean().item() - found.mean
    assert abs(lost - cost) < 4 * found.standard_error
    assert cost > 100 * found.standard_error


def test_importance_weighting_closes_the_gap_from_below(linear_gaussian):
    """With a wrong reverse: ELBO < bound at K = 5 < evidence by 4 standard errors each; at K = 1000 a tenth is left."""
    case = linear_gaussian
    auxiliary, x = LinearAuxiliary.at_the_posterior(case.model), case.data(100)
    auxiliary.spoil_reverse()
    elbo = elbo_terms(case.model, auxiliary.guide, x, num_samples=100, seed=0).elbo
    evidence = case.evidence(x).mean().item()
    few, many = (log_likelihood(case.model, auxiliary.guide, x, num_samples=k, seed=1) for k in (5, 1000))
    assert few.mean - elbo.mean > 4 * (few.standard_error + elbo.standard_error)
    assert evidence - few.mean > 4 * few.standard_error
    assert abs(evidence - many.mean) < 0.1 * (evidence - few.mean)


def test_the_reverse_is_a_density_of_v():
    """Its integral over v is 1 at any x and z, with networks far from linear; a grid in one dimension."""
    guide = AuxiliaryGuide((3,), 2, (6,), auxiliary_dim=1, context_dim=4).double()
    x = torch.randn(5, 3).double()
    v = torch.linspace(-200, 200, 40_001, dtype=torch.float64)
    with torch.no_grad():
        guide.encoder.output.weight.mul_(2)
        guide.reverse.output.weight.mul_(20)
        fixed = poutine.trace(guide).get_trace(x)
        fixed.nodes["v"]["value"] = v[:, None, None].expand(-1, 5, 1)
        fixed.nodes["z"]["value"] = 2 * torch.randn(5, 2).double()
        with pyro.plate("grid", len(v), dim=-2):
            trace = poutine.trace(poutine.replay(guide, trace=fixed)).get_trace(x)
        trace.compute_log_prob()
    density = (-trace.nodes["log_reverse"]["log_prob"]).exp()
    assert_close(density.sum(0) * (v[1] - v[0]), torch.ones(5).double(), rtol=1e-8, atol=1e-8)
    # Far from q(v), the law that it starts at.
    assert (-trace.nodes["log_reverse"]["log_prob"] - trace.nodes["v"]["log_prob"])[len(v) // 2].abs().median() > 0.1


def test_training_beats_every_mean_field_guide():
    """In 200 steps, by ten standard errors and more, where correlations cost a mean-field guide a nat."""
    model = LinearGaussian.from_values(torch.tensor([[1.0, 0.9], [0.9, 1.0], [1.0, 1.0]]), torch.zeros(3), 0.4)
    model.requires_grad_(False)
    precision = model.loadings.T @ model.loadings / 0.4**2 + torch.eye(2)
    mean_field_gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    x = model.evidence().sample((2000,))
    guide = AuxiliaryGuide((3,), 2, (16,), context_dim=8)
    fit(model, guide, x, optimizer=partial(Adam, lr=5e-3), epochs=10, batch_size=100, progress=False)
    found = elbo_terms(model, guide, x, num_samples=20, seed=0).elbo
    gap = model.evidence().log_prob(x).mean().item() - found.mean
    assert mean_field_gap > 1
    assert -4 * found.standard_error < gap < 0.6 * mean_field_gap - 10 * found.standard_error


def test_it_starts_near_mean_field():
    """The reverse model costs little at first, and v moves z by a small part of z's own scale."""
    guide = AuxiliaryGuide((1, 28, 28), 50)
    with torch.no_grad(), pyro.plate("samples", 200, dim=-2):
        trace = poutine.trace(guide).get_trace(torch.rand(20, 1, 28, 28))
    trace.compute_log_prob()
    price = trace.nodes["v"]["log_prob"] + trace.nodes["log_reverse"]["log_prob"]
    assert price.mean() < 0.05 * guide.auxiliary_dim
    q = trace.nodes["z"]["fn"].base_dist
    moved = q.loc.std(0) / q.scale.mean(0)
    assert 0.001 < moved.mean() < 0.2


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_scales_made_of_large_samples_neither_overflow_nor_vanish(activation, size):
    guide = AuxiliaryGuide((3,), 2, (8,), activation)
    trace = poutine.trace(guide).get_trace(size * torch.randn(50, 3))
    total = trace.log_prob_sum()
    assert total.isfinite()
    total.backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_density_does_not_depend_on_how_little_v_is_heard():
    """In float32, where m(x) + s v has lost v: log r - log q has the mean -KL(N(0, 1) || r) whatever the scale s is.

    Scored by (m + s v - m) / s, as it was, each dim would gain -log(stretch) = 0.4 nats instead of losing 0.3.
    """
    guide = AuxiliaryGuide((3,), 2, (8,))
    shift, log_stretch = 0.3, -0.4
    with torch.no_grad():
        for network, first, second in ((guide.encoder, 3.0, -30.0), (guide.reverse, shift, before_bound(log_stretch))):
            network.output.weight.zero_()
            network.output.bias[:2], network.output.bias[2:4] = first, second
        trace = poutine.trace(guide).get_trace(torch.zeros(100_000, 3))
    trace.compute_log_prob()
    gain = -(trace.nodes["v"]["log_prob"] + trace.nodes["log_reverse"]["log_prob"]) / 2
    divergence = log_stretch + 0.5 * (1 + shift**2) * math.exp(-2 * log_stretch) - 0.5
    assert abs(gain.mean() + divergence) < 4 * gain.std() / math.sqrt(len(gain))


def test_the_scale_of_v_does_not_run_away():
    """Nothing in the bound holds it back: whatever the encoder says, m(x) + s v is m(x) to within twice a normal v."""
    guide, moved = AuxiliaryGuide((3,), 2, (8,)), []
    guide.conditional.register_forward_pre_hook(lambda _, inputs: moved.append(inputs[0][..., -2:]))
    with torch.no_grad():
        guide.encoder.output.bias[2:4] = 12.0
        guide(torch.zeros(50, 3))
        shift = guide.features(torch.zeros(50, 3))[0]
    assert 1 < (moved[0] - shift).std() < 3


def test_active_units_of_a_guide_without_a_posterior(linear_gaussian):
    """Sampled, against the closed variance of its marginal's mean."""
    case = linear_gaussian
    gain = torch.randn(3, 5).double()
    gain[1] = 0
    auxiliary, x = LinearAuxiliary(gain, torch.randn(3).double(), 0.01 * torch.eye(3).double()), case.data(500)
    assert not isinstance(auxiliary.guide, PosteriorGuide)
    found = active_units(auxiliary.guide, x)
    assert found.active.tolist() == [True, False, True]
    assert_close(found.variance, (x @ gain.T).var(0), rtol=0.02, atol=1e-3)


def test_v_may_have_another_dimension_than_z():
    guide = AuxiliaryGuide((3,), 2, (6,), auxiliary_dim=4, context_dim=5)
    trace = poutine.trace(guide).get_trace(torch.randn(7, 3))
    assert trace.nodes["v"]["value"].shape == (7, 4)
    assert trace.nodes["z"]["value"].shape == (7, 2)
    assert AuxiliaryGuide((3,), 2, (6,)).auxiliary_dim == 2


@pytest.mark.parametrize("name", ["auxiliary_dim", "context_dim"])
def test_no_auxiliary_dimension_or_context_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        AuxiliaryGuide((3,), 4, **{name: 0})


class TestContract(GuideSuite):
    part = "auxiliary(context_dim=3)"
