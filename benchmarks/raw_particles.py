"""The opponents: steps of the importance-weighted bounds as one writes them by hand in PyTorch, eager."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.raw_vae import RawVAE
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood

LOG_2PI = math.log(2 * math.pi)


class RawParticles(nn.Module):
    """Encoder and decoder, and two losses of K samples for each datum.

    The encoder gives the locations of q(z | x) and then the log scales.

    Args:
        encoder: from x ``(batch, x_dim)`` to ``(batch, 2 * latent_dim)``.
        decoder: from z ``(..., latent_dim)`` to the pixels' logits ``(..., x_dim)``.
        num_particles: K.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, num_particles: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.num_particles = num_particles

    @classmethod
    def new(cls, x_dim: int, latent_dim: int, hidden_dims: tuple[int, ...], num_particles: int) -> "RawParticles":
        """Return one with networks of its own, those of the hand-written VAE."""
        vae = RawVAE(x_dim, latent_dim, hidden_dims)
        return cls(vae.encoder, vae.decoder, num_particles)

    @classmethod
    def like(cls, model: VAE, guide: MeanFieldGuide, num_particles: int) -> "RawParticles":
        """Return one around the networks of a pair."""
        decoder = cast(BernoulliLikelihood, model.likelihood).decoder
        return cls(cast(nn.Module, guide.encoder), cast(nn.Module, decoder), num_particles)

    def iwae(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the negative importance-weighted bound of x ``(batch, x_dim)``, summed, and what to differentiate."""
        loc, scale = self._posterior(x)
        z = self._sample(loc, scale)
        log_weight = self._log_joint(z, x) - _log_normal(z, loc, scale)
        loss = -(log_weight.logsumexp(0) - math.log(self.num_particles)).sum()
        return loss, loss

    def dreg(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same bound, and what has the doubly reparameterized gradient.

        The density of q is held fixed, each sample's share in the sum is its normalized weight, and a hook multiplies
        the gradient that reaches a sample by that weight once more.
        """
        loc, scale = self._posterior(x)
        z = self._sample(loc, scale)
        log_weight = self._log_joint(z, x) - _log_normal(z, loc.detach(), scale.detach())
        normalized = log_weight.detach().softmax(0)
        if z.requires_grad:
            z.register_hook(lambda slope: normalized.unsqueeze(-1) * slope)
        loss = -(log_weight.detach().logsumexp(0) - math.log(self.num_particles)).sum()
        return loss, -(normalized * log_weight).sum()

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        return loc, log_scale.exp()

    def _sample(self, loc: Tensor, scale: Tensor) -> Tensor:
        return loc + scale * torch.randn(self.num_particles, *loc.shape, dtype=loc.dtype)

    def _log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        logits = self.decoder(z)
        log_p_x = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_p_x - 0.5 * (z.square() + LOG_2PI).sum(-1)


def _log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -(0.5 * ((z - loc) / scale).square() + scale.log() + 0.5 * LOG_2PI).sum(-1)
