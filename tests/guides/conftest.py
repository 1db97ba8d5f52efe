"""What the tests of flows measure against: densities on grids, and a posterior that no Gaussian matches."""

import math
from functools import cached_property

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import nn


def grid(reach, points, dim=2):
    """The ``points ** 2`` points of an equally spaced grid in one or two dimensions, and the volume of a cell."""
    axis = torch.linspace(-reach, reach, points ** (2 // dim), dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), (axis[1] - axis[0]).item() ** dim


class Quadrature:
    """Exact sums over a flow distribution in float64, for each datum of its batch."""

    def __init__(self, reach=9.0, points=361):
        self.reach, self.points = reach, points

    def expectation(self, q, function):
        """E_q[function(z, log q(z))], summed over the noise that q is pushed from."""
        d = q.event_shape[0]
        noise, cell = grid(self.reach, self.points, d)
        noise = noise.reshape(-1, *[1] * len(q.batch_shape), d).expand(-1, *q.batch_shape, d)
        weight = torch.exp(-0.5 * noise.square().sum(-1)) * cell / (2 * math.pi) ** (d / 2)
        return (weight * function(*q.push(noise))).sum(0)

    def mass_of_another_density(self, q):
        """What the densities of samples make of the mass of a Gaussian: E_q[p(z) / q(z)] = 1 for a true density.

        The Gaussian lies well within q, so that the grid covers it. What a map folds over is counted twice.
        """
        inside = q.push(torch.zeros(q.event_shape).double())[0].detach()
        p = dist.Normal(inside, 0.3).to_event(1)
        return self.expectation(q, lambda z, log_q: (p.log_prob(z) - log_q).exp())

    def mass(self, q):
        """The integral of q's density over z, each point scored as a foreign one."""
        z, cell = grid(self.reach, self.points, q.event_shape[0])
        return q.log_prob(z.reshape(-1, *[1] * len(q.batch_shape), *q.event_shape)).exp().sum(0) * cell


@pytest.fixture
def quadrature():
    return Quadrature()


class Banana(nn.Module):
    """z ~ N(0, I), x ~ N(z_1 - z_0^2, 0.3^2): given x, z lies along a parabola."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 0.3).to_event(1), obs=x)

    @staticmethod
    def mean(z):
        return z[..., 1:] - z[..., :1] ** 2


class BananaCase:
    """The model, its evidence at x = -1 by quadrature, and the gap of its best diagonal Gaussian."""

    model = Banana()
    x = torch.full((1, 1), -1.0, dtype=torch.float64)

    def log_joint(self, z):
        likelihood = dist.Normal(self.model.mean(z), 0.3).log_prob(self.x[0]).sum(-1)
        return likelihood + dist.Normal(torch.zeros(2).double(), 1.0).log_prob(z).sum(-1)

    @cached_property
    def evidence(self):
        z, cell = grid(7.0, 701)
        return (self.log_joint(z).logsumexp(0) + math.log(cell)).item()

    def gap(self, q):
        """KL(q | posterior), by quadrature over the noise."""
        with torch.no_grad():
            return self.evidence - Quadrature().expectation(q, lambda z, log_q: self.log_joint(z) - log_q).item()

    @cached_property
    def mean_field_gap(self):
        """The smallest KL of a diagonal Gaussian, from several starts of a full-batch optimisation."""
        noise, cell = grid(6.0, 49)
        weight = torch.exp(-0.5 * noise.square().sum(-1)) * cell / (2 * math.pi)
        best = math.inf
        for start in (0.0, 1.0):
            loc = torch.tensor([start, 0.0]).double().requires_grad_()
            log_scale = torch.full((2,), -1.0).double().requires_grad_()
            optimizer = torch.optim.LBFGS([loc, log_scale], max_iter=200, line_search_fn="strong_wolfe")

            def negative_elbo(loc=loc, log_scale=log_scale, optimizer=optimizer):
                optimizer.zero_grad()
                energy = -(weight * self.log_joint(loc + log_scale.exp() * noise)).sum()
                loss = energy - log_scale.sum() - 1 - math.log(2 * math.pi)
                loss.backward()
                return loss

            best = min(best, optimizer.step(negative_elbo).item(), negative_elbo().item())
        return self.evidence + best

    def fit(self, guide, steps=800, copies=32, rate=0.05):
        """Plain SVI on copies of the one datum; returns q(z | x) for it, batch ``(1,)``."""
        x = self.x.expand(copies, 1)
        guide.double()
        # The last steps average out what is left of the noise.
        optimizer = pyro.optim.ExponentialLR({
            "optimizer": torch.optim.Adam, "optim_args": {"lr": rate}, "gamma": 0.01 ** (1 / steps)
        })  # fmt: skip
        svi = SVI(self.model, guide, optimizer, Trace_ELBO())
        for _ in range(steps):
            svi.step(x)
            optimizer.step()
        return guide.posterior(self.x)


@pytest.fixture(scope="session")
def banana():
    return BananaCase()
