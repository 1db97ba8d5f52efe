"""The flow prior: a normal at first, its Jacobian by autograd, its mass by quadrature, its draws by its density."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.priors import FlowPrior
from pyro_vae.testing import PriorSuite


def flow(latent_dim, num_flows=3, std=0.3):
    """One whose layers stretch and bend."""
    torch.manual_seed(1)
    prior = FlowPrior(latent_dim, num_flows, (8,)).double().requires_grad_(False)
    for layer in prior.layers:
        torch.nn.init.normal_(layer.network.output.weight, std=std)
        torch.nn.init.normal_(layer.network.output.bias, std=0.2)
    return prior


def plane():
    """A grid over the plane: points ``(N, 2)`` and the area of each."""
    axis = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_it_starts_as_the_standard_normal(latent_dim):
    p, z = FlowPrior(latent_dim)(), torch.randn(7, latent_dim)
    assert_close(p.log_prob(z), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1), rtol=0, atol=0)
    torch.manual_seed(0)
    draws = p.sample((7,))
    torch.manual_seed(0)
    assert torch.equal(draws, torch.randn(7, latent_dim))


@pytest.mark.parametrize("latent_dim", [2, 3, 5])
def test_the_density_is_the_normals_times_the_jacobian_by_autograd(latent_dim):
    prior = flow(latent_dim)
    base = torch.randn(6, latent_dim, dtype=torch.float64)

    def transform(start):
        for layer in prior.layers:
            start, _ = layer(start)
        return start

    jacobian = torch.func.vmap(torch.func.jacrev(transform))(base)
    z = transform(base)
    assert (z - base).abs().mean() > 0.1
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(base).sum(-1) - jacobian.det().abs().log()
    assert_close(prior().log_prob(z), expected, rtol=1e-10, atol=1e-10)


def test_it_integrates_to_one_over_the_plane():
    """A sum over a grid of a smooth density that vanishes at the ends is exact to rounding."""
    z, area = plane()
    assert_close((flow(2)().log_prob(z).exp().sum() * area).item(), 1.0, rtol=1e-12, atol=0)


def test_draws_follow_the_density():
    """Means of five functions of z within 4 standard errors of their integrals."""
    p, n = flow(2)(), 100_000
    grid, area = plane()
    mass = p.log_prob(grid).exp() * area

    def functions(z):
        return torch.stack([z[:, 0], z[:, 1], z[:, 0] * z[:, 1], (z[:, 0] > 0.5).double(), z[:, 1].cos()], dim=1)

    exact, draws = mass @ functions(grid), functions(p.sample((n,)))
    assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / n**0.5).all()


def test_the_same_z_is_scored_anew_after_a_step():
    prior = flow(2)
    p, z = prior(), torch.randn(7, 2).double()
    before = p.log_prob(z)
    prior.layers[0].network.output.bias.add_(0.5)
    assert (p.log_prob(z) - before).abs().min() > 1e-3
    drawn = p.sample((7,))
    density = p.log_prob(drawn)
    prior.layers[0].network.output.bias.sub_(0.5)
    assert (p.log_prob(drawn) - density).abs().min() > 1e-3


def test_samples_carry_the_gradient_of_every_layer():
    prior = flow(3).requires_grad_()
    prior().rsample((20,)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in prior.parameters())


def test_no_feature_is_too_large():
    prior = flow(4, std=1e4).float()
    z = 10 * torch.randn(50, 4)
    z.requires_grad_()
    value = prior().log_prob(z)
    value.sum().backward()
    assert value.isfinite().all()
    assert z.grad.isfinite().all()


def test_dimensions_and_numbers_it_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"latent_dim must .*MixturePrior"):
        FlowPrior(1)
    with pytest.raises(ValueError, match="num_flows must be at least"):
        FlowPrior(2, num_flows=0)


class TestContract(PriorSuite):
    part = "flow(num_flows=3, hidden_dims=(5,))"

    def make(self):
        """One that has left its start, at which it is the standard normal."""
        prior = super().make()
        for layer in prior.layers:
            torch.nn.init.normal_(layer.network.output.weight, std=0.3)
        return prior
