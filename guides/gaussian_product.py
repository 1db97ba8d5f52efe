"""The product of a density with a diagonal Gaussian one, normalized: the merge of a ladder."""

from functools import singledispatch
from typing import cast

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.flow import FlowDistribution
from pyro_vae.guides.mixture import DiagonalNormalMixture


@singledispatch
def gaussian_product(q: Distribution, p: Normal) -> Distribution:
    r"""Return the law whose density is that of q times that of p, normalized; for a flow, see below.

    .. math:: N(\hat\mu, \hat\Sigma)\, N(\mu_p, \Sigma_p) \propto N(\mu, \Sigma), \qquad
        \Sigma^{-1} = \hat\Sigma^{-1} + \Sigma_p^{-1}, \quad
        \mu = \Sigma (\hat\Sigma^{-1} \hat\mu + \Sigma_p^{-1} \mu_p)

    It has q's family: diagonal, diagonal plus low rank, full, or a mixture of diagonal Gaussians. No precision and no
    full matrix is formed that q does not have. A flow keeps its steps, and its base is multiplied, as the flow on top
    of a ladder's merge in Kingma et al. (2016), section 4; its density is then no product.

    Args:
        q: batch ``(*batch,)``, event ``(dim,)``.
        p: batch ``(*batch, dim)``, a diagonal Gaussian dimension by dimension.

    Returns:
        Batch ``batch``, event ``(dim,)``.

    Raises:
        ValueError: q is none of these.

    References:
        C. Sonderby, T. Raiko, L. Maaloe, S. Sonderby, O. Winther (2016), *Ladder variational autoencoders*,
        arXiv 1602.02282, section 2.2; D. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016),
        *Improving variational inference with inverse autoregressive flow*, arXiv 1606.04934.

    >>> q = dist.Normal(torch.tensor([3.0]), 1.0).to_event(1)
    >>> merged = gaussian_product(q, Normal(torch.tensor([0.0]), 1.0))
    >>> merged.mean, merged.variance
    (tensor([1.5000]), tensor([0.5000]))
    """
    del p
    raise _no_product(type(q))


@gaussian_product.register
def _(q: Independent, p: Normal) -> Distribution:
    if not isinstance(q.base_dist, Normal):
        raise _no_product(type(q.base_dist))
    loc, scale = _diagonal(q.base_dist.loc, q.base_dist.scale, p)
    return cast(Distribution, dist.Normal(loc, scale).to_event(1))


@gaussian_product.register
def _(q: FlowDistribution, p: Normal) -> Distribution:
    return FlowDistribution(*_diagonal(q.loc, q.scale, p), q.steps, q.owner, q.remembers)


@gaussian_product.register
def _(q: DiagonalNormalMixture, p: Normal) -> Distribution:
    """Each component by itself, weighted by its overlap with p."""
    each = Normal(p.loc.unsqueeze(-2), p.scale.unsqueeze(-2))
    spread = (q.scale.square() + each.variance).sqrt()
    overlap = Normal(each.loc, spread, validate_args=False).log_prob(q.loc).sum(-1)
    return DiagonalNormalMixture(q.logits + overlap, *_diagonal(q.loc, q.scale, each))


@gaussian_product.register
def _(q: LowRankMultivariateNormal, p: Normal) -> Distribution:
    r"""With :math:`w = \sigma_p^2 / (d + \sigma_p^2)`: diagonal :math:`w d`, and F becomes w F M^{-1/2}.

    By the Woodbury identity on :math:`\Sigma = \Sigma_p - \Sigma_p (\hat\Sigma + \Sigma_p)^{-1} \Sigma_p`, with
    :math:`M = I + F^T \mathrm{diag}(d + \sigma_p^2)^{-1} F`.
    """
    diagonal, factor, variance = q.cov_diag, q.cov_factor, p.variance
    total = diagonal + variance
    weight = variance / total
    scaled = factor / total.unsqueeze(-1)
    root = _cholesky_of_identity_plus(factor.mT @ scaled)
    # Columns times the inverse transpose of the root: (root^-1 F^T)^T.
    merged = torch.linalg.solve_triangular(root, (weight.unsqueeze(-1) * factor).mT, upper=False).mT
    away = q.loc - p.loc
    inner = torch.linalg.solve_triangular(root, scaled.mT @ away.unsqueeze(-1), upper=False)
    loc = p.loc + weight * away - (merged @ inner).squeeze(-1)
    return cast(Distribution, dist.LowRankMultivariateNormal(loc, merged, weight * diagonal))


@gaussian_product.register
def _(q: MultivariateNormal, p: Normal) -> Distribution:
    r"""With :math:`\hat\Sigma = L L^T`: :math:`\Sigma = L U^{-T} U^{-1} L^T`, whose factor is lower triangular.

    U is upper triangular, :math:`U U^T = I + L^T \Sigma_p^{-1} L`.
    """
    root = q.scale_tril
    whitened = root / p.scale.unsqueeze(-1)
    upper = _cholesky_of_identity_plus((whitened.mT @ whitened).flip(-2, -1)).flip(-2, -1)
    scale_tril = torch.linalg.solve_triangular(upper, root.mT, upper=True).mT
    away = torch.linalg.solve_triangular(root, (q.loc - p.loc).unsqueeze(-1), upper=False)
    loc = p.loc + (scale_tril @ torch.linalg.solve_triangular(upper, away, upper=True)).squeeze(-1)
    return cast(Distribution, type(q)(loc, scale_tril=scale_tril))


def _no_product(family: type) -> ValueError:
    return ValueError(
        f"TopDownGuide: to be merged with the model's path, the posterior of a layer's guide must be Gaussian, a "
        f"mixture of diagonal Gaussians, or a flow from a diagonal Gaussian; {family.__name__} is none of them. "
        f"BottomUpGuide takes any."
    )


def _diagonal(loc: Tensor, scale: Tensor, p: Normal) -> tuple[Tensor, Tensor]:
    r"""Return location and scale of the product, by the share of the first precision in the sum.

    .. math:: w = \mathrm{sigmoid}(2 \log(\sigma_p / \hat\sigma)), \quad \mu = \mu_p + w (\hat\mu - \mu_p), \quad
        \sigma^2 = w \hat\sigma^2

    so that no precision overflows.
    """
    log_odds = 2 * (p.scale.log() - scale.log())
    return p.loc + log_odds.sigmoid() * (loc - p.loc), scale * (0.5 * logsigmoid(log_odds)).exp()


def _cholesky_of_identity_plus(matrix: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky(identity + matrix)
