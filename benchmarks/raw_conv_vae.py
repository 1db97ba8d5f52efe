"""The opponent with convolutions: a hand-written VAE in PyTorch, in the memory format in which they run fastest."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class RawConvVAE(nn.Module):
    """Strided convolutions with a hidden linear layer, their mirror, and the negative ELBO, eager.

    The networks are those of ``conv``, the loss is that of :class:`benchmarks.raw_vae.RawVAE`: less arithmetic than
    ours. Convolutions run in channels-last memory.

    Args:
        x_shape: of an image, whose height and width can be halved by each convolution.
        latent_dim: dimension of z.
        channels: of each convolution, from the image inwards.
        hidden: width of the linear layer.
    """

    def __init__(self, x_shape: tuple[int, int, int], latent_dim: int, channels: Sequence[int], hidden: int) -> None:
        super().__init__()
        scale = 2 ** len(channels)
        inner = (channels[-1], x_shape[1] // scale, x_shape[2] // scale)
        widths = (x_shape[0], *channels)
        down: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            down += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.ReLU()]
        up: list[nn.Module] = []
        for n_in, n_out in pairwise(reversed(widths)):
            up += [nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1), nn.ReLU()]
        size = math.prod(inner)
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.ReLU(), nn.Unflatten(1, inner),
            *up[:-1],
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def loss(self, x: Tensor) -> Tensor:
        """Return the negative ELBO of x ``(batch, *x_shape)``, summed over the batch."""
        x = x.contiguous(memory_format=torch.channels_last)
        loc, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        h = self.decoder[:5](z).contiguous(memory_format=torch.channels_last)
        reconstruction = binary_cross_entropy_with_logits(self.decoder[5:](h), x, reduction="sum")
        return reconstruction - 0.5 * (1 + log_variance - loc.square() - log_variance.exp()).sum()
