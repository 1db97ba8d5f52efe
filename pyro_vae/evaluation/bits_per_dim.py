"""Nats of a datum as bits of each of its elements."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BitsPerDim:
    r"""Minus the mean nats of a datum over :math:`D \log 2`, D its number of elements.

    For discrete x it is the mean length of an ideal code. Lower is better; where the nats are a lower bound, this is
    an upper one.

    >>> print(BitsPerDim.of_nats(-1663.55, 0.2, 8.0, num_dims=560))
    4.286 bits/dim (Monte Carlo s.e. 0.00052, data s.e. 0.021; D = 560)
    """

    mean: float
    standard_error: float
    """Monte Carlo standard error of the mean."""
    data_standard_error: float
    """Standard error of the mean over data."""
    num_dims: int

    @classmethod
    def of_nats(
        cls, mean: float, standard_error: float, data_standard_error: float, num_dims: int | None
    ) -> "BitsPerDim | None":
        """Return the same numbers in bits, or None where there is no ``num_dims``.

        Args:
            mean: mean nats per datum, a log-probability.
            standard_error: its Monte Carlo standard error.
            data_standard_error: its standard error over data.
            num_dims: D, or None where x is not discrete.
        """
        if num_dims is None:
            return None
        nats = num_dims * math.log(2)
        return cls(-mean / nats, standard_error / nats, data_standard_error / nats, num_dims)

    def __float__(self) -> float:
        return self.mean

    def __str__(self) -> str:
        return (
            f"{self.mean:.3f} bits/dim (Monte Carlo s.e. {self.standard_error:.2g}, "
            f"data s.e. {self.data_standard_error:.2g}; D = {self.num_dims})"
        )

    def summary(self) -> dict[str, float]:
        """Return the numbers of ``str(self)``, for a file."""
        return {
            "bits_per_dim": self.mean,
            "bits_per_dim_standard_error": self.standard_error,
            "bits_per_dim_data_standard_error": self.data_standard_error,
        }
