"""The sides of the log-likelihood benchmark: the same estimate by this library, by hand, and one trace at a time."""

import math
from collections.abc import Callable
from typing import cast

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vae
from benchmarks.timing import Side
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood

Network = Callable[[Tensor], Tensor]

X_DIM = 784
LATENT_DIM = 50
HIDDEN_DIMS = (200, 200)
DECODER_MULTIPLICATIONS = 50 * 200 + 200 * 200 + 200 * 784
"""A decoder call's, for one row; a multiplication with its addition is two FLOPs."""
LOG_2PI = math.log(2 * math.pi)


def pair() -> tuple[VAE, MeanFieldGuide]:
    """Return the model and guide that all sides run, untrained: what they learnt does not change what they cost."""
    return VAE((X_DIM,), LATENT_DIM, HIDDEN_DIMS), MeanFieldGuide((X_DIM,), LATENT_DIM, HIDDEN_DIMS)


def images(count: int) -> Tensor:
    """Return random binary images ``(count, 784)``."""
    return torch.randint(0, 2, (count, X_DIM)).float()


def ours(model: VAE, guide: MeanFieldGuide, x: Tensor, num_samples: int, level: str = "auto") -> Side:
    """Return the whole call, with its checks, its graph, the standard errors and the k-hats."""
    return lambda _: pyro_vae.log_likelihood(model, guide, x, num_samples, progress=False, compile=level).per_datum


def plain(model: VAE, guide: MeanFieldGuide, x: Tensor, num_samples: int, rows: int) -> Side:
    """Return the same estimate as one writes it by hand for this pair, ``rows`` samples a decoder call."""
    decoder = cast(BernoulliLikelihood, model.likelihood).decoder
    return lambda _: plain_log_likelihood(guide.encoder, decoder, x, num_samples, rows)


@torch.inference_mode()
def plain_log_likelihood(encoder: Network, decoder: Network, x: Tensor, num_samples: int, rows: int) -> Tensor:
    """Return log p^(x) of each image by plain PyTorch, image by image, ``(N,)``.

    Args:
        encoder: from ``(784,)`` to the location and log scale of q(z | x).
        decoder: from z to the pixels' logits.
        x: ``(N, 784)``.
        num_samples: K.
        rows: samples a decoder call.
    """
    estimates = []
    for image in x:
        loc, log_scale = encoder(image).chunk(2)
        scale = log_scale.exp()
        log_weights = []
        for start in range(0, num_samples, rows):
            noise = torch.randn(min(rows, num_samples - start), len(loc))
            z = loc + scale * noise
            logits = decoder(z)
            log_p_x = -binary_cross_entropy_with_logits(logits, image.expand_as(logits), reduction="none").sum(-1)
            log_p_z = -0.5 * (z.square() + LOG_2PI).sum(-1)
            log_q_z = -(0.5 * noise.square() + log_scale + 0.5 * LOG_2PI).sum(-1)
            log_weights.append(log_p_x + log_p_z - log_q_z)
        estimates.append(torch.cat(log_weights).logsumexp(0) - math.log(num_samples))
    return torch.stack(estimates)


def one_trace_a_sample(model: VAE, guide: MeanFieldGuide, x: Tensor, num_samples: int) -> Side:
    """Return the loop that Pyro's building blocks suggest, for the first image, under Pyro's default settings."""

    def estimate(_: int) -> Tensor:
        log_weights = []
        with torch.no_grad():
            for _ in range(num_samples):
                guide_trace = poutine.trace(guide).get_trace(x[:1])
                model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x[:1])
                log_weights.append(model_trace.log_prob_sum() - guide_trace.log_prob_sum())
        return torch.stack(log_weights).logsumexp(0) - math.log(num_samples)

    return estimate
