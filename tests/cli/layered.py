"""A model with two latent layers and its guide, as a user would have them in a file of their own."""

import math

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.nn import MLP


class Layered(PyroModule):
    """p(top) p(bottom | top) p(image | bottom), with linear Gaussian layers and Bernoulli pixels.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of the bottom layer.
        hidden_dims: hidden layers from bottom to image.
        activation: of the decoder.
        top_dim: dimension of the top layer.
    """

    def __init__(self, x_shape, latent_dim=3, hidden_dims=(8,), activation="tanh", top_dim: int = 2):
        super().__init__()
        self.x_shape, self.latent_dim, self.hidden_dims = tuple(x_shape), latent_dim, tuple(hidden_dims)
        self.activation, self.top_dim = activation, top_dim
        self.down = nn.Linear(top_dim, latent_dim)
        self.decoder = MLP(latent_dim, hidden_dims, math.prod(x_shape), activation)

    def forward(self, x):
        loc = self.down.weight.new_zeros(self.top_dim)
        with pyro.plate("images", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(loc, 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(self.down(top), 0.5).to_event(1))
            logits = self.decoder(bottom).unflatten(-1, self.x_shape)
            pyro.sample("image", dist.Bernoulli(logits=logits).to_event(len(self.x_shape)), obs=x)


class BottomUp(PyroModule):
    """q(bottom | image) q(top | bottom): the layers in the other order.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of the bottom layer.
        hidden_dims: hidden layers from image to bottom.
        activation: of the encoder.
        top_dim: dimension of the top layer.
    """

    def __init__(self, x_shape, latent_dim=3, hidden_dims=(8,), activation="tanh", top_dim: int = 2):
        super().__init__()
        self.x_shape, self.latent_dim, self.hidden_dims = tuple(x_shape), latent_dim, tuple(hidden_dims)
        self.activation, self.top_dim = activation, top_dim
        self.encoder = MLP(math.prod(x_shape), hidden_dims, 2 * latent_dim, activation)
        self.up = nn.Linear(latent_dim, 2 * top_dim)

    def forward(self, x):
        with pyro.plate("images", len(x), dim=-1):
            bottom = pyro.sample("bottom", _normal(self.encoder(x.flatten(-len(self.x_shape)))))
            pyro.sample("top", _normal(self.up(bottom)))


def _normal(features):
    loc, log_scale = features.chunk(2, dim=-1)
    return dist.Normal(loc, torch.exp(log_scale)).to_event(1)
