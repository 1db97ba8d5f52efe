"""The mixture: its gradients against closed moments and an autograd Jacobian, and posteriors with two modes."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

from pyro_vae.guides import MixtureGuide
from pyro_vae.guides.mixture import DiagonalNormalMixture
from pyro_vae.testing import GuideSuite


def parameters(components, dim, batch=(), apart=1.0):
    logits = 0.5 * torch.randn(*batch, components).double()
    loc = apart * torch.randn(*batch, components, dim).double()
    return logits, loc, (0.3 * torch.randn(*batch, components, dim).double()).exp()


def torchs_own(q):
    return MixtureSameFamily(Categorical(logits=q.logits), Independent(Normal(q.loc, q.scale), 1))


@pytest.mark.parametrize(("components", "dim"), [(1, 2), (3, 1), (2, 4)])
def test_density_and_moments_are_torchs(components, dim):
    q = DiagonalNormalMixture(*parameters(components, dim, (6,)))
    z = 2 * torch.randn(5, 6, dim).double()
    assert_close(q.log_prob(z), torchs_own(q).log_prob(z), rtol=1e-12, atol=1e-12)
    assert_close(q.mean, torchs_own(q).mean, rtol=1e-12, atol=1e-12)
    assert_close(q.variance, torchs_own(q).variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_draws_follow_the_density(dim):
    """The mean of cos and sin of random projections, known in closed form, within 5 standard errors."""
    q, n = DiagonalNormalMixture(*parameters(3, dim, apart=2.0)), 100_000
    directions = torch.randn(4, dim).double()
    angles = q.rsample((n,)) @ directions.T
    damped = (-0.5 * q.scale.square() @ directions.square().T).exp()
    for found, of in ((angles.cos(), torch.cos), (angles.sin(), torch.sin)):
        exact = (q.logits.softmax(-1)[:, None] * of(q.loc @ directions.T) * damped).sum(0)
        assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / n**0.5).all()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_gradients_of_a_polynomials_mean_are_those_of_its_closed_form(dim):
    """E[y + y^2 - y^3 / 3], y = a.z, whose moments are closed: each parameter within 5 standard errors."""
    given = parameters(3, dim)
    a, n = torch.randn(dim).double(), 400_000

    def closed(logits, loc, scale):
        m, v = loc @ a, scale.square() @ a.square()
        return (logits.softmax(-1) * (m + m**2 + v - (m**3 + 3 * m * v) / 3)).sum()

    exact = torch.autograd.functional.jacobian(closed, given)
    each = [part.expand(n, *part.shape).clone().requires_grad_() for part in given]
    y = DiagonalNormalMixture(*each).rsample() @ a
    found = torch.autograd.grad((y + y**2 - y**3 / 3).sum(), each)
    for gradient, closed_one in zip(found, exact, strict=True):
        error = gradient.std(0) / n**0.5
        assert ((gradient.mean(0) - closed_one).abs() < 5 * error).all()
        assert error.max() < 0.05 * closed_one.abs().max()  # the check can tell it from a wrong one


@pytest.mark.parametrize(("components", "dim"), [(2, 1), (3, 4)])
def test_weights_move_a_draw_so_that_conditional_distribution_functions_stay(components, dim):
    """dz = -(du/dz)^-1 du/dlogits, both Jacobians by autograd of u_d = F(z_d | z_<d) written down dim by dim."""
    logits, loc, scale = parameters(components, dim)

    def conditional(z, logits):
        log_weights, found = logits.log_softmax(-1), []
        for d in range(dim):
            component = Normal(loc[:, d], scale[:, d])
            found.append((log_weights.softmax(-1) * component.cdf(z[d])).sum())
            log_weights = log_weights + component.log_prob(z[d])
        return torch.stack(found)

    def draw(logits):
        torch.manual_seed(3)
        return DiagonalNormalMixture(logits, loc, scale).rsample()

    in_z, in_logits = torch.autograd.functional.jacobian(conditional, (draw(logits), logits))
    found = torch.autograd.functional.jacobian(draw, logits)
    assert_close(found, -torch.linalg.solve(in_z, in_logits), rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 0.01


def test_one_component_is_a_gaussian():
    logits, loc, scale = (part.requires_grad_() for part in parameters(1, 3, (5,)))
    z = DiagonalNormalMixture(logits, loc, scale).rsample()
    found = torch.autograd.grad(z.sum(), (logits, loc, scale))
    assert_close(found[0], torch.zeros(5, 1).double())
    assert_close(found[1], torch.ones(5, 1, 3).double())
    assert_close(found[2], (z.detach()[:, None] - loc.detach()) / scale.detach())


@pytest.mark.parametrize("apart", [0.0, 1.0, 1e2, 1e4])
def test_fifty_dims_with_components_together_or_far_apart_stay_finite_in_float32(apart):
    given = [part.float().requires_grad_() for part in parameters(4, 50, (200,), apart)]
    q = DiagonalNormalMixture(*given)
    z = q.rsample((10,))
    q.log_prob(z).sum().backward()
    assert z.isfinite().all()
    assert all(part.grad.isfinite().all() for part in given)


def test_a_value_without_gradient_is_the_one_with_it():
    given = parameters(3, 2, (4,))
    torch.manual_seed(1)
    plain = DiagonalNormalMixture(*given).sample((5,))
    torch.manual_seed(1)
    attached = DiagonalNormalMixture(*(part.requires_grad_() for part in given)).rsample((5,))
    assert attached.requires_grad
    assert torch.equal(plain, attached)


def test_a_wider_batch_is_checked_as_well():
    q = DiagonalNormalMixture(torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3), validate_args=True).expand((5,))
    assert q.rsample().shape == (5, 3)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((5, 3), float("nan")))


def test_no_components_are_refused():
    with pytest.raises(ValueError, match="num_components must be at least"):
        MixtureGuide((3,), 4, num_components=0)


def bimodal(dim):
    """A model whose posterior has two modes of unequal mass, and its log-density on a grid with cells of that size."""
    axes = [torch.linspace(-5, 5, 201 if dim == 1 else 101).double()] * dim
    grid = torch.cartesian_prod(*axes).reshape(-1, dim)
    cell = (axes[0][1] - axes[0][0]).item() ** dim

    def likelihood(z):
        # The sign of the first coordinate is lost; where there is a second one, it leans on the first.
        seen = [z[..., :1].square(), z.sum(-1, keepdim=True)]
        return dist.Normal(torch.cat(seen[:dim], -1), 1.0).to_event(1)

    prior = dist.Normal(torch.tensor([-0.3, 0.3]).double()[:dim], 1.0).to_event(1)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior)
            pyro.sample("x", likelihood(z), obs=x)

    x = torch.tensor([2.0, 0.0]).double()[:dim]
    joint = prior.log_prob(grid) + likelihood(grid).log_prob(x)
    posterior = joint - joint.logsumexp(0) - torch.tensor(cell).log()
    return model, x, grid, cell, posterior


def best_mean_field(grid, cell, posterior):
    """The least KL(q || p) of a diagonal Gaussian, by quadrature, from a start in either mode and between them."""
    starts = torch.tensor([-1.2, 0.0, 1.2]).double()
    loc = (starts[:, None] * torch.tensor([1.0, -1.0]).double()[: grid.shape[-1]]).requires_grad_()
    log_scale = torch.full_like(loc, -0.7).requires_grad_()
    optimizer = torch.optim.Adam([loc, log_scale], lr=0.02)
    for _ in range(300):
        log_q = Normal(loc, log_scale.exp()).log_prob(grid[:, None]).sum(-1)
        gaps = (log_q.exp() * (log_q - posterior[:, None])).sum(0) * cell
        optimizer.zero_grad()
        gaps.sum().backward()
        optimizer.step()
    return gaps.min().item()


@pytest.mark.parametrize("dim", [1, 2])
def test_two_modes_are_found_with_their_masses_where_mean_field_finds_one(dim):
    """By quadrature: the gap is below a fifth of the best Gaussian's, and either mode's mass within 0.05."""
    model, x, grid, cell, posterior = bimodal(dim)
    right = grid[:, 0] > 0
    mass = (posterior.exp() * right).sum().item() * cell
    assert 0.1 < mass < 0.4  # two modes, unequal
    guide = MixtureGuide((dim,), dim, (8,), num_components=2).double()
    optimizer = pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.02 ** (1 / 400)})
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    for _ in range(400):
        svi.step(x.expand(64, dim))
    with torch.no_grad():
        log_q = guide.posterior(x[None]).log_prob(grid)
    gap = ((log_q.exp() * (log_q - posterior)).sum() * cell).item()
    assert abs(log_q.exp().sum().item() * cell - 1) < 1e-3
    assert gap < 0.2 * best_mean_field(grid, cell, posterior)
    assert abs((log_q.exp() * right).sum().item() * cell - mass) < 0.05


def test_features_are_locations_then_log_scales_then_logits():
    encoder = nn.Linear(1, 10)
    nn.init.zeros_(encoder.weight)
    with torch.no_grad():
        encoder.bias.copy_(torch.arange(10.0))
    q = MixtureGuide((1,), 2, num_components=2, encoder=encoder).posterior(torch.zeros(1, 1))
    assert_close(q.loc, torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]))
    assert_close(q.scale, torch.tensor([[[4.0, 5.0], [6.0, 7.0]]]).exp())
    assert_close(q.logits, torch.tensor([[8.0, 9.0]]))


class TestContract(GuideSuite):
    part = "mixture(num_components=3)"
