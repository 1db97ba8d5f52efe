"""The mean of differences that vary over seeds and over images: its error, an interval and a p-value."""

import math
from dataclasses import dataclass

import numpy as np

TINY = 1e-300
"""p-values below this are not told apart from it."""

HALVINGS = 60
"""Bisections of an interval for a p-value's logarithm, at most 700 wide: enough to reach rounding error."""


@dataclass(frozen=True)
class CrossedEffects:
    """The analysis of variance of differences ``(S, N)`` of S seeds crossed with N images, one value a cell."""

    mean: float
    seed: float
    """Mean square of seeds; NaN with one seed."""
    image: float
    """Mean square of images."""
    residual: float
    """Mean square of residuals; NaN with one seed."""
    seed_df: float
    num_seeds: int
    num_images: int

    @classmethod
    def of(cls, d: np.ndarray) -> "CrossedEffects":
        """Return the mean squares of differences ``(S, N)``."""
        (S, N), mean = d.shape, d.mean()
        seeds, images = d.mean(1, keepdims=True) - mean, d.mean(0, keepdims=True) - mean
        image = S * np.square(images).sum() / (N - 1)
        seed = residual = math.nan
        if S > 1:
            seed = N * np.square(seeds).sum() / (S - 1)
            residual = np.square(d - mean - seeds - images).sum() / ((S - 1) * (N - 1))
        return cls(float(mean), float(seed), float(image), float(residual), S - 1, S, N)

    @property
    def components(self) -> tuple[float, float, float]:
        """Standard deviations of seeds, images and residuals; a difference of mean squares below 0 counts as 0."""
        if self.num_seeds == 1:
            return math.nan, math.sqrt(self.image), math.nan
        seed, image = max(self.seed - self.residual, 0), max(self.image - self.residual, 0)
        return math.sqrt(seed / self.num_images), math.sqrt(image / self.num_seeds), math.sqrt(self.residual)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over new seeds and new images; with one seed over new images."""
        seed_sd, image_sd, residual_sd = self.components
        if self.num_seeds == 1:
            return image_sd / math.sqrt(self.num_images)
        cells = self.num_seeds * self.num_images
        return math.sqrt(seed_sd**2 / self.num_seeds + image_sd**2 / self.num_images + residual_sd**2 / cells)

    @property
    def image_standard_error(self) -> float:
        """The standard error of the mean over new images, for the seeds at hand."""
        return math.sqrt(self.image / (self.num_seeds * self.num_images))

    @property
    def _bounds(self) -> list[list[tuple[float, float]]]:
        """Two sets of parts of the mean's error, each part with its degrees of freedom.

        The first has the parts of Banerjee's interval, over seeds and images. The second has the error over images
        alone, for the seeds at hand. The interval is the wider of the two.
        """
        if self.num_seeds == 1:
            return [[(self.standard_error, self.num_images - 1)]]
        cells = self.num_seeds * self.num_images
        image = math.sqrt(max(self.image - self.residual, 0) / cells)
        over_seeds_and_images = [(math.sqrt(self.seed / cells), self.seed_df), (image, self.num_images - 1)]
        return [over_seeds_and_images, [(math.sqrt(max(self.image, self.residual) / cells), self.num_images - 1)]]

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the ends of an interval that holds the true mean with probability 1 - alpha or more."""
        h = max(_half_width(parts, alpha) for parts in self._bounds)
        return self.mean - h, self.mean + h

    def image_interval(self, alpha: float) -> tuple[float, float]:
        """Return the ends of a t interval over new images, for the seeds at hand."""
        h = _half_width([(self.image_standard_error, self.num_images - 1)], alpha)
        return self.mean - h, self.mean + h

    @property
    def p_value(self) -> float:
        """The alpha for which one end of the interval is 0."""
        return max(_p_value(parts, abs(self.mean)) for parts in self._bounds)


def _half_width(parts: list[tuple[float, float]], alpha: float) -> float:
    """Return Banerjee's h: with probability 1 - alpha or more, the mean's error is smaller.

    Let F be the distribution function of a squared standard normal, w_k the shares of the mean's variance, and x_k the
    squares of the parts divided by their expectations. Then that probability is E F(sum_k w_k t_k^2 x_k). As F is
    concave, it is at least sum_k w_k E F(t_k^2 x_k) = 1 - alpha.
    """
    from scipy.special import stdtrit

    return math.hypot(*(float(stdtrit(df, alpha / 2)) * error for error, df in parts))


def _p_value(parts: list[tuple[float, float]], distance: float) -> float:
    """Return the alpha at which Banerjee's h equals a distance."""
    from scipy.special import stdtr

    error = math.hypot(*(part for part, _ in parts))
    if error == 0:
        return float(distance == 0)
    # The alphas if all parts had the degrees of freedom of one part: the true alpha lies between them.
    ends = [2 * float(stdtr(df, -distance / error)) for _, df in parts]
    low, high = min(ends), max(ends)
    if low == high or high < TINY:
        return high
    below, above = math.log(max(low, TINY)), math.log(high)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        if _half_width(parts, math.exp(middle)) > distance:
            below = middle
        else:
            above = middle
    return math.exp(above)
