"""What bounds made of each datum's importance weights share: the run, the scales, the gradient, Pyro's interface."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae.pair import Pair, Revision, unchanged
from pyro_vae.particles import LogTerms, Particles
from pyro_vae.protocols import Program


@dataclass(frozen=True)
class Sampled:
    """A batch with its particles: what a bound and its gradient are made of."""

    pair: Pair
    x: Any
    runs: list[Particles]
    terms: LogTerms
    """Of all runs, ``(total_particles, batch)``."""
    weight: Any
    """What multiplies the bound of a datum: a number, or ``(batch,)``."""

    def require_reparameterized(self, who: str) -> None:
        """Refuse a guide some of whose samples carry no gradient.

        Raises:
            ValueError: names the sites.
        """
        names = ", ".join(repr(site["name"]) for site in not_reparameterized(self.runs[0]))
        if names:
            raise ValueError(
                f"{who}: needs reparameterized samples, and the guide's site {names} has none. Objectives that do "
                f"without: IWAE, RenyiBound, MIWAE, CIWAE (score function) and ReweightedWakeSleep."
            )


class ParticleBound(Trace_ELBO):
    r"""A bound on log p(x) of each datum, made of the weights of samples from its guide.

    As a loss it is minus the bounds' sum over the batch, each times the datum's weight (what its plate's subsample
    stands for, and any ``poutine.scale`` around the pair). That weight is never inside a logarithm; a scale on
    latent sites alone, as a KL weight :math:`\beta`, is: :math:`\log w = \log p(x|z) + \beta (\log p(z) - \log q)`.

    A subclass has ``bound``, and where the gradient is not the bound's own also ``surrogate``. For a latent site
    without reparameterized sampling :math:`\sum_k L(x) \nabla \log q(z_k | x)` is added to the gradient, the score
    function's: unbiased, and noisy.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is below 1.
        PairError: (when called) as for :func:`pyro_vae.log_weights`.
    """

    def __init__(self, num_particles: int = 1, *, plate: str | None = None) -> None:
        if num_particles < 1:
            raise ValueError(f"{type(self).__name__}: num_particles must be at least 1; got {num_particles}.")
        super().__init__(num_particles=num_particles)
        self.plate = plate
        self._pair: Pair | None = None

    @property
    def total_particles(self) -> int:
        """Samples drawn for each datum."""
        return self.num_particles

    @property
    def at(self) -> Revision:
        """Where the model is run, given what the guide drew."""
        return unchanged

    def bound(self, terms: LogTerms) -> Tensor:
        """Return the bound of each datum ``(batch,)`` from terms ``(total_particles, batch)``."""
        return terms.log_weight.mean(0)

    def value(self, sampled: Sampled) -> Tensor:
        """Return the bound of each datum ``(batch,)``."""
        return self.bound(sampled.terms)

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:
        """Return what is differentiated in place of the bound's value, ``(batch,)``."""
        score = [run.log_prob(sites, [1.0] * len(sites)) for run in sampled.runs if (sites := not_reparameterized(run))]
        return value + value.detach() * torch.cat(score).sum(0) if score else value

    def tensor_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss, with the gradient of the surrogate, as a tensor."""
        sampled = self._sample(model, guide, args)
        value = self.value(sampled)
        surrogate = self.surrogate(sampled, value)
        loss = -(sampled.weight * value).sum()
        if surrogate is value:
            return loss
        attached = -(sampled.weight * surrogate).sum()
        return loss.detach() + (attached - attached.detach())

    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss, with the gradient of the surrogate, as a tensor."""
        return self.tensor_loss(model, guide, *args)

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the loss alone."""
        with torch.no_grad():
            sampled = self._sample(model, guide, args)
            return -(sampled.weight * self.value(sampled)).sum().item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the loss, and add its gradient to that of the parameters."""
        loss = self.tensor_loss(model, guide, *args)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _sample(self, model: Program, guide: Program, x: Any) -> Sampled:
        pair = self._pair
        if pair is None or pair.model != model or pair.guide != guide:
            pair = self._pair = Pair(model, guide, x, self.plate, local=False)
        runs = pair.run(x, self.total_particles, at=self.at)
        scaled = [run.scaled_terms() for run in runs]
        return Sampled(pair, x, runs, LogTerms.together([terms for terms, _ in scaled]), scaled[0][1])


def not_reparameterized(run: Particles) -> list[dict[str, Any]]:
    """Return the latent sites whose values carry no gradient of the guide's parameters."""
    return [site for site in run.latents if not site["fn"].has_rsample]


def log_mean_exp(log_weight: Tensor, dim: int = 0) -> Tensor:
    """Return the logarithm of the mean of exponentials."""
    return log_weight.logsumexp(dim) - math.log(log_weight.shape[dim])
