"""The VampPrior: the average posterior of learned inputs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.checks import check_count, check_number


class InwardClamp(torch.autograd.Function):
    """Clamp to [low, high], with a gradient that a minimiser can follow back inside from beyond the edges.

    Plain clamping has none there: a value that one step has carried over an edge would stay for good.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        """Return the clamped values."""
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Drop the part of the gradient that would lead a descent further out."""
        (value,), (grad,) = ctx.saved_tensors, grads
        outward = ((value < ctx.low) & (grad > 0)) | ((value > ctx.high) & (grad < 0))
        return torch.where(outward, torch.zeros_like(grad), grad), None, None


class VampPrior(nn.Module):
    r"""p(z) = :math:`\frac{1}{K} \sum_k q(z | u_k)`: the guide's posterior, averaged over learned pseudo-inputs.

    The prior with the largest ELBO is the average of q(z | x) over all data; this one is the average over K learned
    inputs, which start at data. Each call encodes all K, and each z is scored under K posteriors.

    The guide is not copied: its parameters, registered here too, are those of the pair's guide, which are trained once
    and stored once in a checkpoint.

    Args:
        latent_dim: dimension of z.
        guide: q(z | x) with ``posterior(x)``; the one that the model is trained with.
        data: model inputs ``(N, *x_shape)``, floating point, from which the pseudo-inputs are drawn without
            repetition, by torch's global generator; or ``x_shape`` alone: the pseudo-inputs are then 0, to be loaded.
        num_components: K, at most N.
        low: smallest value of the pseudo-inputs: 0 for pixels, ``-inf`` for no bound.
        high: their largest value, above ``low``: 1 for pixels, ``inf`` for no bound.

    Raises:
        ValueError: the guide has no ``posterior``; there are fewer data than components, or no components; data
            are not floating point; ``low`` is not below ``high``; or, when called, the guide's z is not
            ``(latent_dim,)``.

    References:
        J. Tomczak, M. Welling (2018), *VAE with a VampPrior*, arXiv 1705.07120.

    >>> from pyro_vae.guides import MeanFieldGuide
    >>> prior = VampPrior(2, MeanFieldGuide((1, 4, 4), latent_dim=2), torch.rand(100, 1, 4, 4), num_components=10)
    >>> prior().batch_shape, prior().event_shape, prior.pseudo_inputs.shape
    (torch.Size([]), torch.Size([2]), torch.Size([10, 1, 4, 4]))
    """

    guide: PosteriorGuide

    def __init__(
        self,
        latent_dim: int,
        guide: PosteriorGuide,
        data: Tensor | Sequence[int],
        num_components: int = 500,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(guide, PosteriorGuide):
            raise ValueError(
                f"VampPrior: the guide must have posterior(x), its density for given x; {type(guide).__name__} has "
                f"none. MeanFieldGuide has it, for one."
            )
        check_count("VampPrior", "latent_dim", latent_dim)
        for name, end in (("low", low), ("high", high)):
            if end not in (-math.inf, math.inf):
                check_number("VampPrior", name, end)
        if not low < high:
            raise ValueError(f"VampPrior: low must be below high = {high}; got {low}.")
        most = len(data) if isinstance(data, Tensor) else None
        why = " (the number of data, of which the pseudo-inputs start as copies)" if most else ""
        check_count("VampPrior", "num_components", num_components, most=most, why=why)
        if not isinstance(data, Tensor):
            data = torch.zeros(1, *data).expand(num_components, *data)
        if not data.is_floating_point():
            raise ValueError(
                f"VampPrior: data must be floating point model inputs; got {data.dtype}. If these are data.train, "
                f"pass data.observe(data.train)."
            )
        self.latent_dim = latent_dim
        self.guide = guide
        # What builds the prior again, once its pseudo-inputs are loaded.
        self.data = tuple(data.shape[1:])
        self.num_components = num_components
        self.low = low
        self.high = high
        # On the data's device, but drawn as on the CPU: the same seed, the same rows.
        rows = torch.randperm(len(data))[:num_components].to(data.device)
        self.pseudo_inputs = nn.Parameter(data[rows].clone())

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        inputs: Tensor = InwardClamp.apply(self.pseudo_inputs, self.low, self.high)
        posteriors = self.guide.posterior(inputs)
        if posteriors.event_shape != (self.latent_dim,):
            raise ValueError(
                f"VampPrior: latent_dim is {self.latent_dim}, and the guide's z has shape "
                f"{tuple(posteriors.event_shape)}. Give both the same latent_dim."
            )
        weights = dist.Categorical(logits=inputs.new_zeros(self.num_components))
        return dist.MixtureSameFamily(weights, posteriors)
