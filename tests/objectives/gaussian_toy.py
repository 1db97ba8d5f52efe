"""One datum many times over, each copy with parameters of its own: a gradient row is one draw of the estimator."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

X = torch.tensor([0.7, -1.1], dtype=torch.float64)
SCALE = 0.8
"""Of x given z. z has as many dims as x and a standard normal prior; the posterior is a product."""


class Toy:
    """p(x | z) = N(z + shift, SCALE^2), q(z) = N(loc, exp(log_scale)^2), ``rows`` copies."""

    def __init__(
        self, rows: int, loc: float = 0.2, log_scale: float = -0.3, shift: float = 0.1, dims: int = len(X)
    ) -> None:
        values = (loc, log_scale, shift)
        self.loc, self.log_scale, self.shift = (
            torch.full((rows, dims), value, dtype=torch.float64, requires_grad=True) for value in values
        )
        self.x = X[:dims].expand(rows, dims)
        self.zeros = torch.zeros(dims, dtype=torch.float64)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.shift[: len(x)], SCALE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc[: len(x)], self.log_scale[: len(x)].exp()).to_event(1))

    def at_the_posterior(self) -> "Toy":
        """Put the guide where it is exact."""
        precision = 1 + SCALE**-2
        with torch.no_grad():
            self.loc.copy_((self.x - self.shift) / SCALE**2 / precision)
            self.log_scale.fill_(-0.5 * math.log(precision))
        return self

    def parameters(self) -> list[Tensor]:
        return [self.loc, self.log_scale, self.shift]

    def gradients(self, objective: Any, seed: int = 0) -> list[Tensor]:
        """Of the bound (not the loss): loc's, log_scale's and shift's, ``(rows, 2)`` each."""
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(self.model, self.guide, self.x)
        grads = torch.autograd.grad(loss, self.parameters(), allow_unused=True, materialize_grads=True)
        return [-grad for grad in grads]

    def log_weight(self, noise: Tensor) -> Tensor:
        """By hand, from standard normal noise ``(K, rows, 2)``: log-weights ``(K, rows)``."""
        z = self.loc + self.log_scale.exp() * noise
        prior, q = dist.Normal(self.zeros, 1.0), dist.Normal(self.loc, self.log_scale.exp())
        likelihood = dist.Normal(z + self.shift, SCALE)
        return (likelihood.log_prob(self.x) + prior.log_prob(z) - q.log_prob(z)).sum(-1)

    def noise(self, num_samples: int, seed: int = 0) -> Tensor:
        """What a run under this seed draws."""
        torch.manual_seed(seed)
        return torch.randn(num_samples, *self.loc.shape, dtype=torch.float64)

    def autograd(self, bound: Callable[[Tensor], Tensor], noise: Tensor) -> list[Tensor]:
        """Return the gradients of a bound written out by hand."""
        return list(torch.autograd.grad(bound(self.log_weight(noise)).sum(), self.parameters()))

    def elbo(self) -> Tensor:
        """In closed form, ``(rows,)``."""
        variance = (2 * self.log_scale).exp()
        square = (self.x - self.loc - self.shift).square() + variance
        reconstruction = -0.5 * square / SCALE**2 - math.log(SCALE * (2 * math.pi) ** 0.5)
        kl = 0.5 * (self.loc.square() + variance - 1) - self.log_scale
        return (reconstruction - kl).sum(-1)


def z_scores(draws: Tensor, exact: Tensor) -> Tensor:
    """How many standard errors the mean of draws ``(rows, ...)`` is off."""
    return (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5)
