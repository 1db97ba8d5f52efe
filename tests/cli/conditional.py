"""A conditional VAE, p(x, z | y) and q(z | x, y), as a user would have it in a file."""

import math

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.nn import MLP

CLASSES = 3


def with_label(rows, y):
    """Return rows ``(*batch, features)`` with the label of each in one-hot coding beside them."""
    codes = nn.functional.one_hot(y, CLASSES).to(rows)
    return torch.cat([rows, codes.expand(*rows.shape[:-1], CLASSES)], -1)


class StandardNormal(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


class Pixels(nn.Module):
    """p(x | z, y)."""

    def __init__(self, x_shape, latent_dim, hidden_dims):
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.decoder = MLP(latent_dim + CLASSES, hidden_dims, math.prod(x_shape))

    def forward(self, z, y):
        logits = self.decoder(with_label(z, y)).unflatten(-1, self.x_shape)
        return dist.Bernoulli(logits=logits).to_event(len(self.x_shape))


class Conditional(PyroModule):
    """p(z) p(x | z, y)."""

    def __init__(self, x_shape, latent_dim, hidden_dims):
        super().__init__()
        self.prior = StandardNormal(latent_dim)
        self.likelihood = Pixels(x_shape, latent_dim, hidden_dims)

    def forward(self, x, y):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("code", self.prior())
            pyro.sample("image", self.likelihood(z, y), obs=x)


class Encoder(PyroModule):
    """q(z | x, y)."""

    def __init__(self, x_shape, latent_dim, hidden_dims, widened: bool = False):
        super().__init__()
        self.network = MLP(math.prod(x_shape) + CLASSES, (*hidden_dims, 4) if widened else hidden_dims, 2 * latent_dim)

    def forward(self, x, y):
        loc, log_scale = self.network(with_label(x.flatten(1), y)).chunk(2, -1)
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("code", dist.Normal(loc, log_scale.exp()).to_event(1))
