"""Monotonic rational-quadratic splines, the elementwise functions of spline flows."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import softmax, softplus

BOUND = 5.0
"""Splines map [-BOUND, BOUND] onto itself."""

LEAST = 1e-3
"""Of a bin's width and height, as a share of all, and of a slope at a knot."""

SLOPE_ONE = math.log(math.expm1(1 - LEAST))
"""What softplus takes to the slope 1, less LEAST."""


class RationalQuadraticSpline:
    r"""Monotonic functions of one variable: a quotient of two quadratics in each bin, and the identity outside of all.

    In a bin of width w and height h, with h / w = s and slopes :math:`d_0, d_1` at its ends, where
    :math:`\xi = (x - x_0) / w`,

    .. math:: y = y_0 + \frac{h \, (s \xi^2 + d_0 \xi (1 - \xi))}{s + (d_0 + d_1 - 2 s) \, \xi (1 - \xi)}.

    The slope is continuous; at both ends of [-5, 5] it is 1.

    Args:
        features: any numbers ``(*batch, 3 * num_bins - 1, d)`` for d splines: logits of the widths, of the heights, and
            the slopes at the inner knots before a softplus. Zeros make the identity.

    References:
        J. Gregory, R. Delbourgo (1982), *Piecewise rational quadratic interpolation to monotonic data*.
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019), *Neural spline flows*, equations 4 to 8,
        arXiv 1906.04032.

    >>> y, log_slope = RationalQuadraticSpline(torch.zeros(7, 23, 3))(torch.zeros(7, 3))
    >>> y.shape, log_slope.shape
    (torch.Size([7, 3]), torch.Size([7, 3]))
    """

    def __init__(self, features: Tensor) -> None:
        num_bins = (features.shape[-2] + 1) // 3
        widths, heights, slopes = features.split([num_bins, num_bins, num_bins - 1], -2)
        self.widths, self.heights = _shares(widths), _shares(heights)
        self.left, self.bottom = _starts(self.widths), _starts(self.heights)
        end = torch.ones_like(self.widths[0])
        self.slopes = [end, *(softplus(slopes + SLOPE_ONE) + LEAST).unbind(-2), end]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log dy/dx at x ``(*sample, *batch, d)``."""
        within = x.clamp(-BOUND, BOUND)
        x0, width, y0, height, slope0, slope1 = self._bin(within, self.left)
        slope, xi = height / width, (within - x0) / width
        mixed = xi * (1 - xi)
        below = slope + (slope0 + slope1 - 2 * slope) * mixed
        y = y0 + height * (slope * xi.square() + slope0 * mixed) / below
        above = slope1 * xi.square() + 2 * slope * mixed + slope0 * (1 - xi).square()
        log_slope = 2 * (slope / below).log() + above.log()
        inside = within == x
        return torch.where(inside, y, x), torch.where(inside, log_slope, torch.zeros_like(log_slope))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the splines take to y ``(*batch, d)``, and log dy/dx there."""
        within = y.clamp(-BOUND, BOUND)
        x0, width, y0, height, slope0, slope1 = self._bin(within, self.bottom)
        slope, above = height / width, within - y0
        curve = above * (slope0 + slope1 - 2 * slope)
        a, b, c = height * (slope - slope0) + curve, height * slope0 - curve, -slope * above
        # The root that does not cancel.
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        x = torch.where(within == y, x0 + xi * width, y)
        return x, self(x)[1]

    def _bin(self, value: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
        """Return left, width, bottom, height and both slopes of the bin that each value is in."""
        # Bin by bin: an index would be slower, as would its gradient.
        rows = (self.left, self.widths, self.bottom, self.heights, self.slopes[:-1], self.slopes[1:])
        bins = [row[0] for row in rows]
        for start, *entries in zip(starts[1:], *(row[1:] for row in rows), strict=True):
            reached = value >= start
            bins = [torch.where(reached, entry, before) for entry, before in zip(entries, bins, strict=True)]
        return bins


def _shares(logits: Tensor) -> tuple[Tensor, ...]:
    """Divide the length of the whole interval into bins."""
    return (2 * BOUND * (LEAST + (1 - LEAST * logits.shape[-2]) * softmax(logits, -2))).unbind(-2)


def _starts(lengths: Sequence[Tensor]) -> list[Tensor]:
    """Return where each bin starts."""
    return list(accumulate(lengths[:-1], initial=torch.full_like(lengths[0], -BOUND)))
