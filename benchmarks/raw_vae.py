"""The opponent: a variational autoencoder as one writes it by hand in PyTorch, with no probabilistic programming."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class RawVAE(nn.Module):
    r"""Encoder, decoder and the negative ELBO, eager.

    The loss is the usual hand-written one: binary cross-entropy with logits and the closed-form KL,
    :math:`-\tfrac12 \sum (1 + \log\sigma^2 - \mu^2 - \sigma^2)`. That is *less* arithmetic than
    ``Trace_ELBO``, which scores its sample under q and p: the opponent has the better of it.

    Args:
        x_dim: pixels.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the encoder; the decoder has them in reverse.
    """

    def __init__(self, x_dim: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.encoder = _mlp((x_dim, *hidden_dims, 2 * latent_dim))
        self.decoder = _mlp((latent_dim, *reversed(hidden_dims), x_dim))

    def loss(self, x: Tensor) -> Tensor:
        """Return the negative ELBO of x ``(batch, x_dim)``, summed over the batch."""
        loc, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        reconstruction = binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        rate = -0.5 * (1 + log_variance - loc.square() - log_variance.exp()).sum()
        return reconstruction + rate


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])
