"""Whether two samples come from one law: maximum mean discrepancy with a permutation test."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TwoSample:
    """What :func:`two_sample_test` returns."""

    mmd2: float
    """The unbiased estimate of the squared discrepancy; can be below 0."""
    p_value: float
    """Of the hypothesis that both samples have one law."""


def two_sample_test(
    x: Tensor, y: Tensor, num_permutations: int = 999, generator: torch.Generator | None = None
) -> TwoSample:
    r"""Test by the maximum mean discrepancy whether two independent samples come from one law.

    .. math::
        \mathrm{MMD}^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y), \qquad
        k(a, b) = \exp\left(-\frac{|a - b|^2}{2 h^2}\right)

    Dims are divided by the standard deviation of both samples together, and h is the median distance of their points:
    neither changes when points change sides, so that the permutation test is exact. Its p-value is the share of
    permutations, including the observed one, with a discrepancy at least as large: P(p <= a) <= a for each a.

    Args:
        x: ``(m, dim)``, independent draws, two at least.
        y: ``(n, dim)``.
        num_permutations: B; the smallest p-value is 1 / (B + 1).
        generator: of the permutations.

    Raises:
        ValueError: fewer than two draws, other dims, values that are not finite, or no permutation.

    References:
        A. Gretton, K. Borgwardt, M. Rasch, B. Schoelkopf, A. Smola (2012), *A kernel two-sample test*, JMLR 13,
        equation 3.

    >>> two_sample_test(torch.zeros(50, 2).normal_(), 9 + torch.zeros(50, 2).normal_(), 99).p_value
    0.01
    """
    m, n = len(x), len(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(m, n) < 2 or num_permutations < 1:
        raise ValueError(
            f"two_sample_test: expected samples (m, dim) and (n, dim) of two draws at least, and one permutation at "
            f"least; got shapes {tuple(x.shape)} and {tuple(y.shape)}, and {num_permutations} permutations."
        )
    points = torch.cat([x, y]).double()
    if not points.isfinite().all():
        raise ValueError("two_sample_test: a value is NaN or infinite; leave such draws out.")
    scale = points.std(0)
    points = points / torch.where(scale > 0, scale, torch.ones_like(scale))
    squares = torch.cdist(points, points).square()
    width = squares[~torch.eye(m + n, dtype=torch.bool, device=squares.device)].median()
    kernel = (squares / (-2 * width.clamp(min=torch.finfo(torch.float64).tiny))).exp().fill_diagonal_(0)
    # A column for each assignment of points to x, the one seen first.
    noise = torch.rand(m + n, num_permutations, dtype=torch.float64, generator=generator)
    sides = torch.zeros(m + n, num_permutations + 1, dtype=torch.float64, device=kernel.device)
    sides[:m, 0] = 1
    sides[:, 1:].scatter_(0, noise.argsort(0)[:m].to(kernel.device), 1)
    rows = kernel.sum(1)
    inside_x = (sides * (kernel @ sides)).sum(0)
    across = rows @ sides - inside_x
    inside_y = rows.sum() - inside_x - 2 * across
    mmd2 = inside_x / (m * (m - 1)) + inside_y / (n * (n - 1)) - 2 * across / (m * n)
    # Sums in another order round differently: discrepancies that differ by roundings only count as large.
    large = mmd2 >= mmd2[0] - 1e-12
    return TwoSample(mmd2[0].item(), large.double().mean().item())
