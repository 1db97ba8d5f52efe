"""How many latent dimensions carry information about x."""

from dataclasses import dataclass, field

from torch import Tensor

from pyro_vae.evaluation.posterior_means import posterior_means
from pyro_vae.protocols import Program
from pyro_vae.sites import LATENT


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """What :func:`active_units` returns."""

    variance: Tensor = field(repr=False)
    """Var_x(E_q[z | x]) of each latent dimension, ``(latent_dim,)``, float64."""
    threshold: float = 0.01

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, ``(latent_dim,)``."""
        return self.variance > self.threshold

    @property
    def count(self) -> int:
        """How many are."""
        return int(self.active.sum())

    @property
    def most_active(self) -> list[int]:
        """All dimensions, the one with the largest variance first."""
        return self.variance.argsort(descending=True).tolist()

    def __str__(self) -> str:
        return f"{self.count} of {len(self.variance)} latent units active (variance of the mean > {self.threshold:g})"


def active_units(
    guide: Program, x: Tensor, threshold: float = 0.01, *, site: str = LATENT, num_samples: int = 50
) -> ActiveUnits:
    r"""Latent units whose posterior mean varies over the data: Var_x(E_q[z | x]) > threshold.

    Where the guide offers ``posterior(x)`` with a mean, that is used; else the mean is taken over samples, and
    the variance which this adds is taken off again (unbiased).

    Args:
        guide: q(z | x).
        x: data ``(N, ...)``.
        threshold: Burda et al. use 0.01.
        site: the latent site.
        num_samples: samples for each datum, where they are needed.

    Raises:
        ValueError: the guide has no such site, or ``num_samples`` is below 2 where samples are needed.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, section 5,
        arXiv 1509.00519.
    """
    means = posterior_means("active_units", guide, x, site, num_samples)
    return ActiveUnits(means.variance_over_data(), threshold)
