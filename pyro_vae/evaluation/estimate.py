"""A quantity of each datum with its Monte Carlo errors, and the mean over data."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.runtime.checks import in_short
from pyro_vae.runtime.wording import count, rounded_error

MOST_DECIMALS = 4
"""Decimals of a mean, at most, however small its errors are."""


@dataclass(frozen=True, eq=False)
class Estimate:
    r"""A quantity of each of N data, estimated by Monte Carlo, with its errors.

    The data are given and their draws independent, so that the Monte Carlo variance of the mean over N data is
    :math:`N^{-2} \sum_n s_n^2`, with :math:`s_n` the standard error of datum n.

    A difference of two quantities of the same data has paired errors. It is an estimate of its own, which the
    evaluation makes; estimates are therefore not subtracted from one another.

    >>> import torch
    >>> estimate = Estimate.of_draws(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> estimate.mean, estimate.standard_error, estimate.data_standard_error
    (3.0, 0.5, 1.0)
    >>> print(estimate)
    3.00 nats/datum (Monte Carlo s.e. 0.50, data s.e. 1.00; 2 data)
    """

    per_datum: Tensor = field(repr=False)
    """Estimate of each datum, ``(N,)``, float64; NaN where the datum is left out of the mean."""
    standard_errors: Tensor = field(repr=False)
    """Monte Carlo standard error of each, ``(N,)``; NaN where it is unknown, as for a single sample."""
    unit: str = field(default="nats", kw_only=True)
    """The unit of the quantity."""
    datum: str = field(default="datum", kw_only=True)
    """What a datum is called."""

    def __post_init__(self) -> None:
        """Refuse what is no number, error and flag of each datum.

        Raises:
            ValueError: names the attribute.
        """
        who = type(self).__name__
        is_vector = isinstance(self.per_datum, Tensor) and self.per_datum.ndim == 1
        shape = (len(self.per_datum) if is_vector else "N",)
        for name, kind, is_kind in (
            ("per_datum", "floating-point", torch.is_floating_point),
            ("standard_errors", "floating-point", torch.is_floating_point),
            ("flagged", "boolean", _is_boolean),
        ):
            values = getattr(self, name)
            if not isinstance(values, Tensor):
                raise ValueError(f"{who}: {name} must be a tensor; got {in_short(values)}.")
            if values.shape != shape or not is_kind(values):
                raise ValueError(
                    f"{who}: {name} must be {kind} and have a value for each datum, shape ({shape[0]},); got "
                    f"{values.dtype} of shape {tuple(values.shape)}."
                )
        if (self.standard_errors < 0).any():
            raise ValueError(
                f"{who}: standard_errors must not be negative; got {self.standard_errors.min():.3g}. Pass NaN where an "
                f"error is unknown."
            )

    @classmethod
    def of_draws(cls, draws: Tensor, **options: str) -> Self:
        """Return the means of draws ``(num_samples, N)``, two or more for each datum, with their standard errors."""
        draws = draws.double().cpu()
        return cls(draws.mean(0), (draws.var(0) / len(draws)).sqrt(), **options)

    @property
    def num_data(self) -> int:
        """N, with the data that are left out."""
        return len(self.per_datum)

    @property
    def left_out(self) -> Tensor:
        """Which data are not in the mean, ``(N,)``."""
        return self.per_datum.isnan()

    @property
    def flagged(self) -> Tensor:
        """Which data cannot be trusted, ``(N,)``: those that are left out, and others that a subclass adds."""
        return self.left_out

    @property
    def mean(self) -> float:
        """Mean over the data; NaN where all are left out."""
        return self.per_datum[~self.left_out].mean().item()

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean: the effect of another seed; NaN where that of a datum is unknown."""
        errors = self.standard_errors[~self.left_out]
        return (errors.square().sum().sqrt() / len(errors)).item() if len(errors) else math.nan

    @property
    def data_standard_error(self) -> float:
        """Standard error of the mean over data: the effect of another test set; NaN for one datum."""
        values = self.per_datum[~self.left_out]
        return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan

    def __float__(self) -> float:
        return self.mean

    def in_bits(self, num_dims: int) -> "Estimate":
        r"""Return minus the nats of each datum over :math:`D \log 2`, D its number of elements.

        For a log-probability of discrete x it is the mean length of an ideal code. Lower is better; where the nats are
        a lower bound, it is an upper one.

        >>> import torch
        >>> print(Estimate(torch.tensor([-1660.0, -1668.0]), torch.tensor([0.2, 0.2])).in_bits(560))
        4.287 bits/dim (Monte Carlo s.e. 0.00036, data s.e. 0.01; 2 data)
        """
        nats = num_dims * math.log(2)
        return Estimate(-self.per_datum / nats, self.standard_errors / nats, unit="bits/dim", datum=self.datum)

    def summary(self) -> dict[str, Any]:
        """Return the mean, its errors, and over how many data, for a file; the same keys for every quantity."""
        return {
            "mean": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "num_data": self.num_data,
            "num_left_out": int(self.left_out.sum()),
            "unit": self.unit,
        }

    @property
    def errors_in_words(self) -> str:
        """Both errors of the mean, as ``str()`` says them."""
        return (
            f"Monte Carlo s.e. {rounded_error(self.standard_error)}, data s.e. "
            f"{rounded_error(self.data_standard_error)}"
        )

    @property
    def left_out_in_words(self) -> str:
        """How many data are left out of the mean, with a comma before it; nothing where none is."""
        return f", {int(self.left_out.sum())} left out" if self.left_out.any() else ""

    def __str__(self) -> str:
        errors = [error for error in (self.standard_error, self.data_standard_error) if error > 0]
        places = 2 if self.unit == "nats" else decimals(max(errors, default=0.0))
        per = f"/{self.datum}" if self.unit == "nats" else ""
        data = f"{count(self.num_data, self.datum)}{self.left_out_in_words}"
        return f"{rounded_mean(self.mean, places)} {self.unit}{per} ({self.errors_in_words}; {data})"

    def _repr_html_(self) -> str:
        return html_table({"": self}, str(self))


def _is_boolean(values: Tensor) -> bool:
    return values.dtype == torch.bool


def decimals(error: float) -> int:
    """Return how many decimals show two digits of an error: two at least, four at most.

    >>> decimals(0.23), decimals(0.0123), decimals(0.0), decimals(math.inf)
    (2, 3, 2, 2)
    """
    return min(MOST_DECIMALS, max(2, 1 - math.floor(math.log10(error)))) if 0 < error < math.inf else 2


def rounded_mean(mean: float, places: int = 2) -> str:
    """Return a mean to so many decimals, or to two significant digits where they would all be 0.

    >>> rounded_mean(-86.914), rounded_mean(1.23e-6), rounded_mean(0.0)
    ('-86.91', '1.2e-06', '0.00')
    """
    text = f"{mean:.{places}f}"
    return f"{mean:.2g}" if mean != 0 and float(text) == 0 else text


def html_table(estimates: Mapping[str, Estimate], caption: str) -> str:
    """Return estimates as a table for notebooks, a row each, with the text that ``print`` shows below; or it alone.

    Args:
        estimates: by name.
        caption: the text.
    """
    rows = []
    for name, estimate in estimates.items():
        places = decimals(estimate.standard_error)
        numbers = [
            rounded_mean(estimate.mean, places),
            rounded_error(estimate.standard_error),
            rounded_error(estimate.data_standard_error),
            str(estimate.num_data - int(estimate.left_out.sum())),
        ]
        cells = [name.replace("_", " "), estimate.unit, *numbers]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    # Some texts are tables by themselves, whose lines and columns stay.
    text = f'<pre style="white-space: pre-wrap">{html.escape(caption)}</pre>'
    if not rows:
        return text
    titles = ("", "unit", "mean", "Monte Carlo s.e.", "data s.e.", "data")
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{text}"
