"""The importance-weighted log-likelihood, with what is needed to doubt it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.pareto import MIN_SAMPLES, khat_threshold, pareto_k, tail_length
from pyro_vae.evaluation.stream import Stream
from pyro_vae.protocols import Program


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What :func:`log_likelihood` returns; everything in nats, float64, on the CPU."""

    per_datum: Tensor = field(repr=False)
    """log p^(x), ``(N,)``: the log of the mean weight, a lower bound on log p(x) in expectation."""
    standard_errors: Tensor = field(repr=False)
    """Monte Carlo standard error of each, ``(N,)``, to first order (delta method); NaN for one sample."""
    ess: Tensor = field(repr=False)
    """Effective sample size (sum w)^2 / sum w^2 of each, ``(N,)``."""
    pareto_k: Tensor = field(repr=False)
    """Pareto k-hat of each, ``(N,)``: above :attr:`khat_threshold` the estimate and its error are not dependable."""
    num_samples: int
    bound: bool = True
    """False where the numbers are no lower bound on a log-likelihood (soft targets)."""
    unit: str = "datum"
    num_dims: int | None = None
    """Elements of a datum, where x is discrete with more than two values; else None."""

    @property
    def mean(self) -> float:
        """Mean over the data."""
        return self.per_datum.mean().item()

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean: what another seed would change."""
        return (self.standard_errors.square().sum().sqrt() / len(self.per_datum)).item()

    @property
    def data_standard_error(self) -> float:
        """Standard error of the mean over data: what another test set would change."""
        return (self.per_datum.std() / math.sqrt(len(self.per_datum))).item()

    @property
    def khat_threshold(self) -> float:
        """min(1 - 1 / log10 K, 0.7)."""
        return khat_threshold(self.num_samples)

    @property
    def flagged(self) -> Tensor:
        """Which data have a k-hat above the threshold, ``(N,)``."""
        return self.pareto_k > self.khat_threshold

    @property
    def bits_per_dim(self) -> BitsPerDim | None:
        """Minus the mean in bits for each element, where x is discrete with more than two values; else None."""
        return BitsPerDim.of_nats(self.mean, self.standard_error, self.data_standard_error, self.num_dims)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of ``str(self)``, for a file."""
        return {
            "log_likelihood_nats": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "num_samples": self.num_samples,
            "num_data": len(self.per_datum),
            "khat_threshold": self.khat_threshold,
            "share_above_threshold": self.flagged.double().mean().item(),
            "median_ess": self.ess.median().item(),
            "bound": self.bound,
            **(self.bits_per_dim.summary() if self.bits_per_dim else {}),
        }

    def __str__(self) -> str:
        n = len(self.per_datum)
        if self.num_samples < MIN_SAMPLES:
            khat = f"k-hat needs K >= {MIN_SAMPLES}; {n} {self.unit}s"
        else:
            share = 100 * self.flagged.double().mean().item()
            khat = f"k-hat > {self.khat_threshold:.2f} for {share:.1f} % of {n} {self.unit}s"
        kind = "log p(x) >=" if self.bound else "no log-likelihood (soft targets):"
        text = (
            f"{kind} {self.mean:.2f} nats/{self.unit} (Monte Carlo s.e. {_error(self.standard_error)}, "
            f"data s.e. {_error(self.data_standard_error)}; K = {self.num_samples}; {khat})"
        )
        if self.bits_per_dim:
            text += f"; {self.bits_per_dim}"
        if self.flagged.double().mean() > 0.5:
            text += (
                "; most weights have too heavy a tail: the bound is loose and its Monte Carlo error understated. "
                "Use more samples or a better guide"
            )
        return text


def _error(value: float) -> str:
    """Two decimals, or two significant digits where that says more."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def log_likelihood(
    model: Program,
    guide: Program,
    x: Any,
    num_samples: int = 5000,
    *,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    compile: str = "auto",
) -> LogLikelihood:
    r"""Importance-weighted log-likelihood of each datum.

    .. math::
        \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}, \qquad z_k \sim q(z | x)

    Its expectation is below log p(x) and rises with K. Weights are drawn and forgotten a few thousand at a
    time: memory grows neither with K nor with N. Modules run in evaluation mode and come back as they were.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim. On any device; the parameters' is used.
        num_samples: K.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of the samples; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.
        compile: how the weights are computed: "off" by Pyro; "trace" by a graph that is captured once, where there
            are calls enough to repay that; "inductor" by that graph in native code, which takes seconds to compile
            and a fifth or more off the rest; "auto" by the graph, and in native code where the first calls' pace
            says that this pays, so that the level can differ from run to run. A seed gives the same noise at every
            level, and numbers that differ by rounding only. What cannot be captured or compiled runs a level below,
            and says so.

    Returns:
        :class:`LogLikelihood`; ``print`` it for one line.

    Raises:
        ValueError: ``num_samples`` is below 1, there is no such level, or x is empty or not finite.
        PairError: model and guide do not fit each other, or have no batch plate.
        SupportError: x lies outside the likelihood's support.
        NonFiniteError: a weight is NaN or +inf; the message names the site.
        OutOfMemoryError: memory does not do for half of the rows a call that are tried first either.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, equation 8,
        arXiv 1509.00519.
        A. Vehtari et al. (2024), *Pareto smoothed importance sampling*, arXiv 1507.02646.
    """
    stream = Stream("log_likelihood", model, guide, x, num_samples, plate, progress, compile)
    n, tail = stream.size, tail_length(num_samples) + 1
    peak = torch.full((n,), -math.inf, dtype=torch.float64)
    first, second = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    khat = torch.zeros(n, dtype=torch.float64)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for where, chunks in _by_data(stream):
            largest: Tensor | None = None
            for log_weight in chunks:
                # Running sums of w and w^2 relative to the largest log-weight so far.
                weights = log_weight.double().cpu()
                top = torch.maximum(peak[where], weights.amax(0))
                shift = torch.where(top.isfinite(), top, torch.zeros_like(top))
                scale = (peak[where] - shift).exp()
                relative = (weights - shift).exp()
                first[where] = first[where] * scale + relative.sum(0)
                second[where] = second[where] * scale.square() + relative.square().sum(0)
                peak[where] = top
                seen = log_weight.mT.cpu() if largest is None else torch.cat([largest, log_weight.mT.cpu()], dim=1)
                largest = seen.topk(min(tail, seen.shape[1]), dim=1).values
            khat[where] = pareto_k(largest, num_samples) if largest is not None else math.nan
    shift = torch.where(peak.isfinite(), peak, torch.zeros_like(peak))
    per_datum = shift + first.log() - math.log(num_samples)
    concentration = second / first.square()
    variance = (concentration - 1 / num_samples).clamp(min=0) * num_samples / max(num_samples - 1, 1)
    errors = variance.sqrt() if num_samples > 1 else torch.full_like(variance, math.nan)
    unit = "image" if stream.event_dim > 1 else "datum"
    pair = stream.pair
    return LogLikelihood(
        per_datum, errors, 1 / concentration, khat, num_samples, pair.normalized, unit, pair.discrete_dims
    )


def _by_data(stream: Stream) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """Group the stream's chunks by the data they are of."""
    for (start, stop), chunks in groupby(stream, key=lambda chunk: (chunk.data.start, chunk.data.stop)):
        yield slice(start, stop), (chunk.log_weight for chunk in chunks)
