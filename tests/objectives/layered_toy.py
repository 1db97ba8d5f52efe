"""A hierarchy on one datum many times over, each copy with parameters of its own: a gradient row is one draw."""

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

X = torch.tensor([0.9, -1.3], dtype=torch.float64)
DIM = 2
"""Of x and of each layer."""


class Layers:
    """A top-down model of ``layers`` layers and a guide in an order, both normal; ``rows`` copies.

    Args:
        order: ``"bottom_up"``: z_1 from x, z_2 from z_1; ``"top_down"``: z_L from x, each other from x and the one
            above; ``"shared"``: as that, with the model's own loc and scale, to which what x says is added.
        linear: whether layers are linear in one another; else through a tanh.
    """

    def __init__(self, rows: int, layers: int, order: str, linear: bool = True) -> None:
        self.rows, self.layers, self.order, self.linear = rows, layers, order, linear
        self.x = X.expand(rows, DIM)
        generator = torch.Generator().manual_seed(3)
        self.parameters: dict[str, Tensor] = {}

        def new(name: str, *shape: int, at: float = 0.0, spread: float = 0.4) -> None:
            value = at + spread * torch.randn(*shape, generator=generator, dtype=torch.float64)
            self.parameters[name] = value.expand(rows, *shape).clone().requires_grad_()

        for layer in range(layers):
            new(f"p{layer}.weight", DIM, DIM, spread=0.7)
            new(f"p{layer}.loc", DIM)
            new(f"p{layer}.log_scale", DIM, at=-0.4, spread=0.1)
        new(f"p{layers}.loc", DIM)
        new(f"p{layers}.log_scale", DIM, spread=0.1)
        for layer in range(1, layers + 1):
            new(f"q{layer}.weight", DIM, DIM)
            if order == "top_down" and layer < layers:
                new(f"q{layer}.of_x", DIM, DIM)
            new(f"q{layer}.loc", DIM)
            new(f"q{layer}.log_scale", DIM, at=-0.2, spread=0.1)

    def model(self, x: Tensor) -> None:
        n = len(x)
        with pyro.plate("data", n):
            z = pyro.sample(f"z{self.layers}", self._normal(n, f"p{self.layers}", 0.0))
            for layer in reversed(range(1, self.layers)):
                z = pyro.sample(f"z{layer}", self._below(n, layer, z))
            pyro.sample("x", self._below(n, 0, z), obs=x)

    def guide(self, x: Tensor) -> None:
        n = len(x)
        with pyro.plate("data", n):
            if self.order == "bottom_up":
                z = x
                for layer in range(1, self.layers + 1):
                    z = pyro.sample(f"z{layer}", self._normal(n, f"q{layer}", self._times(n, f"q{layer}.weight", z)))
                return
            top = f"q{self.layers}"
            z = pyro.sample(f"z{self.layers}", self._normal(n, top, self._times(n, f"{top}.weight", x)))
            for layer in reversed(range(1, self.layers)):
                name = f"q{layer}"
                if self.order == "shared":
                    prior = self._below(n, layer, z).base_dist
                    of_x = self._normal(n, name, self._times(n, f"{name}.weight", x)).base_dist
                    law = dist.Normal(prior.loc + of_x.loc, prior.scale * of_x.scale).to_event(1)
                else:
                    of_x = self._times(n, f"{name}.of_x", x)
                    law = self._normal(n, name, of_x + self._times(n, f"{name}.weight", z))
                z = pyro.sample(f"z{layer}", law)

    def gradients(self, objective: Any, seed: int = 0) -> dict[str, Tensor]:
        """Of the bound, by parameter, ``(rows, its number of elements)``."""
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(self.model, self.guide, self.x)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        return {name: -value.flatten(1) for name, value in zip(self.parameters, gradients, strict=True)}

    def _below(self, n: int, layer: int, above: Tensor) -> dist.TorchDistribution:
        return self._normal(n, f"p{layer}", self._times(n, f"p{layer}.weight", above))

    def _times(self, n: int, name: str, value: Tensor) -> Tensor:
        product = (self.parameters[name][:n] @ value.unsqueeze(-1)).squeeze(-1)
        return product if self.linear else 1.5 * product.tanh()

    def _normal(self, n: int, name: str, loc: Any) -> dist.TorchDistribution:
        loc = loc + self.parameters[f"{name}.loc"][:n]
        return dist.Normal(loc, self.parameters[f"{name}.log_scale"][:n].exp()).to_event(1)
