"""The opponent: the VAE in the shape of Pyro's own example, written afresh.

As its authors do: an ``nn.Module`` whose ``model`` and ``guide`` methods register the networks by ``pyro.module``,
a prior and a Bernoulli with probabilities made anew in each call, two heads on the encoder; trained by
``SVI(model, guide, pyro.optim.Adam, Trace_ELBO())`` under Pyro's default settings, validation on.
Only the activation (tanh) and the number of layers are those of the other sides.
"""

from collections.abc import Sequence
from itertools import pairwise

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn


class Encoder(nn.Module):
    """From pixels to the location and scale of q(z | x), by two heads."""

    def __init__(self, x_dim: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.hidden = _hidden((x_dim, *hidden_dims))
        self.loc = nn.Linear(hidden_dims[-1], latent_dim)
        self.log_scale = nn.Linear(hidden_dims[-1], latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale, each ``(batch, latent_dim)``."""
        hidden = self.hidden(x)
        return self.loc(hidden), torch.exp(self.log_scale(hidden))


class Decoder(nn.Module):
    """From z to the probability of each pixel."""

    def __init__(self, x_dim: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.hidden = _hidden((latent_dim, *reversed(hidden_dims)))
        self.output = nn.Linear(hidden_dims[0], x_dim)

    def forward(self, z: Tensor) -> Tensor:
        """Return probabilities ``(batch, x_dim)``."""
        return torch.sigmoid(self.output(self.hidden(z)))


class ExampleVAE(nn.Module):
    """Model and guide as methods of one module.

    Args:
        x_dim: pixels.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the encoder; the decoder has them in reverse.
    """

    def __init__(self, x_dim: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = Encoder(x_dim, latent_dim, hidden_dims)
        self.decoder = Decoder(x_dim, latent_dim, hidden_dims)

    def model(self, x: Tensor) -> Tensor:
        """p(z) p(x | z); returns the pixels' probabilities."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], self.latent_dim, dtype=x.dtype, device=x.device)
            scale = torch.ones(x.shape[0], self.latent_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            probs = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)
        return probs

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


def _hidden(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers)
