"""A mean over data of what was sampled for each datum, and its Monte Carlo error."""

from dataclasses import dataclass, field

from torch import Tensor

from pyro_vae.evaluation.data_error import standard_error_of_mean


@dataclass(frozen=True, eq=False)
class MonteCarloMean:
    r"""Means of ``num_samples`` draws for each datum, their spread, and the mean over data.

    The data are given and their draws independent, so that the variance of the mean over N data is
    :math:`N^{-2} \sum_n s_n^2 / S`. Data with a NaN are left out of the mean.

    >>> import torch
    >>> print(MonteCarloMean.of_draws(torch.tensor([[1.0, 4.0], [3.0, 4.0]])))
    3.00 (s.e. 0.5)
    """

    per_datum: Tensor = field(repr=False)
    """Mean over draws of each datum, ``(N,)``; NaN where the datum is left out."""
    sample_variance: Tensor = field(repr=False)
    """Variance of one draw of each datum, ``(N,)``."""
    num_samples: int
    """S."""

    @classmethod
    def of_draws(cls, draws: Tensor) -> "MonteCarloMean":
        """Return the same of draws ``(num_samples, N)``, of which there are at least two for each datum."""
        draws = draws.double().cpu()
        return cls(draws.mean(0), draws.var(0), len(draws))

    @property
    def mean(self) -> float:
        """Mean over data."""
        return self.per_datum.nanmean().item()

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean: what another seed would change."""
        there = ~self.per_datum.isnan()
        return ((self.sample_variance[there] / self.num_samples).sum().sqrt() / there.sum()).item()

    @property
    def data_standard_error(self) -> float:
        """Standard error of the mean over data, where what is averaged is a function of one datum alone."""
        return standard_error_of_mean(self.per_datum[~self.per_datum.isnan()])

    def __str__(self) -> str:
        return f"{self.mean:.2f} (s.e. {self.standard_error:.2g})"
