"""What bounds made of each datum's importance weights share: the run, the scales, the gradient, Pyro's interface."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae.programs.modules import WithKeywords, modules_of
from pyro_vae.programs.pair import Pair, Revision, unchanged
from pyro_vae.programs.particles import LogTerms, Particles
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count


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
        names = ", ".join(repr(name) for name, _ in self.runs[0].scores())
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

    Observed sites must carry one scale: with several there is no weight that they share.

    A subclass has ``bound``, and where the gradient is not the bound's own also ``surrogate``. For a latent site
    without reparameterized sampling :math:`\sum_k L(x) \nabla \log q(z_k | x)` is added to the gradient, the score
    function's: unbiased, and noisy.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is no integer from 1; (when called) observed sites carry different scales.
        PairError: (when called) as for :func:`pyro_vae.log_weights`.
    """

    def __init__(self, num_particles: int = 1, *, plate: str | None = None) -> None:
        check_count(type(self).__name__, "num_particles", num_particles)
        super().__init__(num_particles=num_particles)
        self.plate = plate
        self._pairs: dict[tuple[bool, ...], Pair] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pairs that were seen: a copy or a file of an objective holds no model and no data."""
        return {**vars(self), "_pairs": {}}

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
        scores = [score.sum(0) for run in sampled.runs for _, score in run.scores()]
        return value + value.detach() * torch.stack(torch.broadcast_tensors(*scores)).sum(0) if scores else value

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, with the gradient of the surrogate, as a tensor."""
        sampled = self._sample(model, guide, args, kwargs)
        value = self.value(sampled)
        surrogate = self.surrogate(sampled, value)
        loss = -(sampled.weight * value).sum()
        if surrogate is value:
            return loss
        attached = -(sampled.weight * surrogate).sum()
        return loss.detach() + (attached - attached.detach())

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, with the gradient of the surrogate, as a tensor."""
        return self.tensor_loss(model, guide, *args, **kwargs)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss alone."""
        with torch.no_grad():
            sampled = self._sample(model, guide, args, kwargs)
            return -(sampled.weight * self.value(sampled)).sum().item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss, and add its gradient to that of the parameters."""
        loss = self.tensor_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _sample(self, model: Program, guide: Program, x: tuple[Any, ...], kwargs: dict[str, Any]) -> Sampled:
        if kwargs:
            # As positional ones, tensors of the data among them can be repeated with the data.
            model, guide = (WithKeywords(program, tuple(kwargs)) for program in (model, guide))
            x = (*x, *kwargs.values())
        pair = self._pair(model, guide, x)
        if not pair.scales_agree:
            raise ValueError(
                f"{type(self).__name__}: the observed sites carry different scales, which have no place in a "
                f"logarithm. Use Trace_ELBO, or temper a site's distribution instead of scaling it."
            )
        runs = pair.run(x, self.total_particles, at=self.at)
        scaled = [run.scaled_terms() for run in runs]
        return Sampled(pair, x, runs, LogTerms.together([terms for terms, _ in scaled]), scaled[0][1])

    def _pair(self, model: Program, guide: Program, x: tuple[Any, ...]) -> Pair:
        """Return the pair's structure, found at the first call with it in each train or evaluation mode."""
        if any(pair.model != model or pair.guide != guide for pair in self._pairs.values()):
            self._pairs = {}
        mode = tuple(part.training for module in modules_of(model, guide) for part in module.modules())
        if mode not in self._pairs:
            self._pairs[mode] = Pair(model, guide, x, self.plate, local=False)
        return self._pairs[mode]


def log_mean_exp(log_weight: Tensor, dim: int = 0) -> Tensor:
    """Return the logarithm of the mean of exponentials."""
    return log_weight.logsumexp(dim) - math.log(log_weight.shape[dim])
