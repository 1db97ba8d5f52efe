"""How many latent dimensions carry information about x."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.posterior_means import PosteriorMeans, posterior_means
from pyro_vae.evaluation.result import Result
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_number
from pyro_vae.runtime.wording import count

LEVEL = 0.01
"""Chance, at most, that noise alone gives any of the units a wrong verdict."""


@dataclass(frozen=True, eq=False)
class ActiveUnits(Result):
    """What :func:`active_units` returns."""

    columns = MappingProxyType({"active_units": ""})

    variance: Tensor = field(repr=False)
    """Var_x(E_q[z | x]) of each unit, ``(units,)``, float64; unbiased, so below 0 at times. NaN for one datum."""
    threshold: float = 0.01
    units: tuple[str, ...] = ()
    """Name of each unit, as ``z[0]``."""
    standard_errors: Tensor | None = field(default=None, repr=False)
    """Monte Carlo standard error of each variance, ``(units,)``: what another seed would change. None: all exact."""
    undecided: Tensor | None = field(default=None, repr=False)
    """Units that noise leaves undecided, neither active nor inactive, ``(units,)``. None: there are none."""
    num_samples: int | None = None
    """Samples for each datum, where means were sampled."""

    @classmethod
    def of(cls, means: PosteriorMeans, threshold: float) -> "ActiveUnits":
        """Return which units are active, which are not, and which the noise in their means leaves undecided."""
        variance, size, noise = means.variance_over_data(), means.counted(), means.over_data(means.noise)
        samples = means.num_samples
        # The square of the noise: the square of its estimate from so many normal draws is larger in expectation.
        fourth = means.over_data(means.noise.square()) * max(samples - 1, 1) / (samples + 1)

        def variance_of_spread(signal: Tensor) -> Tensor:
            """The variance of the noisy means' variance, where the exact means have the variance ``signal``."""
            return (4 * signal * noise + 2 * fourth * size / (size - 1)) / (size - 1)

        variance_of_noise = 2 * fourth / (size * max(samples - 1, 1))
        errors = (variance_of_spread(variance.clamp(min=0)) + variance_of_noise).sqrt()
        if not errors.nan_to_num().any():
            return cls(variance, threshold, means.units)
        # Slow to import, and seldom needed.
        from scipy.special import fdtrc

        # Were the variance at the threshold, both parts of this ratio would be about chi-squared (two moments each).
        expected = threshold + noise
        of_means = 2 * expected.square() / variance_of_spread(torch.full_like(noise, threshold))
        of_noise = 2 * expected.square() / variance_of_noise
        ratio = means.spread() / expected
        above = torch.from_numpy(fdtrc(of_means.numpy(), of_noise.numpy(), ratio.numpy()))
        level = LEVEL / len(variance)
        undecided = (above > level) & (1 - above > level) & (noise > 0)
        return cls(variance, threshold, means.units, errors, undecided, samples)

    @property
    def active(self) -> Tensor:
        """Which units are active, ``(units,)``: beyond what noise explains, where there is any."""
        above = self.variance > self.threshold
        return above if self.undecided is None else above & ~self.undecided

    @property
    def inactive(self) -> Tensor:
        """Which units are inactive, ``(units,)``; the others are active, undecided, or unknown."""
        below = self.variance <= self.threshold
        return below if self.undecided is None else below & ~self.undecided

    @property
    def count(self) -> int | None:
        """How many are active; None where no variance is known, as of one datum."""
        return None if self.variance.isnan().all() else int(self.active.sum())

    @property
    def num_undecided(self) -> int:
        """How many are neither active nor inactive beyond noise."""
        return len(self.variance) - int(self.active.sum()) - int(self.inactive.sum())

    @property
    def most_active(self) -> list[int]:
        """All units, the one with the largest variance first."""
        return self.variance.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist()

    @property
    def by_site(self) -> dict[str, "ActiveUnits"]:
        """The same of each latent site by its name."""
        names = [unit.rpartition("[")[0] for unit in self.units]
        by_site = {}
        for name in dict.fromkeys(names):
            at = torch.tensor([index for index, owner in enumerate(names) if owner == name])
            errors, undecided = (None if part is None else part[at] for part in (self.standard_errors, self.undecided))
            units = tuple(self.units[index] for index in at.tolist())
            by_site[name] = ActiveUnits(
                self.variance[at], self.threshold, units, errors, undecided, self.num_samples
            )  # fmt: skip
        return by_site

    def facts(self) -> dict[str, Any]:
        """Return how many units are active, how many are undecided, and which vary most."""
        return {
            "active_units": self.count,
            "active_by_site": {name: part.count for name, part in self.by_site.items()},
            "num_undecided": self.num_undecided,
            "latent_dim": len(self.variance),
            "threshold": self.threshold,
            "most_active": self.most_active,
        }

    @property
    def in_words(self) -> str:
        """How many units are active and undecided, in words."""
        if self.count is None:
            return f"how many of {count(len(self.variance), 'latent unit')} are active is unknown"
        text = f"{self.count} of {count(len(self.variance), 'latent unit')} active"
        return f"{text}, {self.num_undecided} undecided" if self.num_undecided else text

    def __str__(self) -> str:
        text = f"{self.in_words} (variance of the mean > {self.threshold:g})"
        if len(self.by_site) > 1:
            parts = (f"{part.count} of {len(part.units)} in {name}" for name, part in self.by_site.items())
            text += f": {', '.join(parts)}"
        if self.count is None:
            return f"{text}; the means of one datum have no variance, and laws without a mean have none either"
        if self.num_undecided and self.num_samples is not None:
            text += f"; {self.num_samples} samples a datum leave too much noise for the undecided: use more num_samples"
        return text


def active_units(
    guide: Program,
    x: Any,
    threshold: float = 0.01,
    *,
    site: str | None = None,
    num_samples: int = 50,
    plate: str | None = None,
) -> ActiveUnits:
    r"""Find the latent units whose posterior mean varies over the data: Var_x(E_q[z | x]) > threshold.

    The mean is that of ``posterior(x)``, or of the law of a site that the guide samples first, where they have one.
    Else it is taken over samples, and the variance that sampling adds is subtracted (unbiased). A unit then counts as
    active or as inactive only if noise does not explain its side of the threshold, at a chance of 1 % for all units
    together; the other units are undecided. The mean of a Categorical site is that of the class index, which depends on
    the order of the classes.

    Args:
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments of the guide, of which tensors of length N are cut
            along their first dim.
        threshold: Burda et al. use 0.01.
        site: a latent site; None for all of them, as :attr:`ActiveUnits.by_site` has them apart.
        num_samples: samples for each datum, where they are needed.
        plate: the batch plate's name, needed only where several would do.

    Raises:
        ValueError: the guide has no such site or none in a plate over the data, ``threshold`` is negative, or
            ``num_samples`` is below 2 where samples are needed.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, section 5,
        arXiv 1509.00519.
    """
    check_number("active_units", "threshold", threshold)
    if threshold < 0:
        raise ValueError(f"active_units: threshold must not be negative; got {threshold}.")
    return ActiveUnits.of(posterior_means("active_units", guide, x, site, num_samples, plate=plate), threshold)
