"""The guide with planar flows."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.flow import FlowDistribution, FlowStep
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count

SHIFT = math.log(math.e - 1)
"""Where softplus is 1."""


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Move z along u by the hyperbolic tangent of its position along w, and return log|det| as well.

    .. math::
        z' = z + \hat u \tanh(w^T z + b), \quad
        \hat u = u + (m(w^T u) - w^T u) \frac{w}{|w|^2}, \quad m(a) = -1 + \log(1 + (e - 1) e^a).

    As :math:`w^T \hat u = m(w^T u) > -1`, the map is invertible. The paper has :math:`\log(1 + e^a)`; with the factor
    e - 1, m(0) = 0: u = 0 leaves z alone, and a small w asks for no large step.

    Args:
        z: ``(*batch, d)``.
        u: ``(*batch, d)``.
        w: ``(*batch, d)``; where it is 0, :math:`\hat u = u`.
        b: ``(*batch,)``.

    >>> z, log_det = planar(torch.zeros(5, 7, 3), torch.zeros(7, 3), torch.ones(7, 3), torch.ones(7))
    >>> z.shape, bool((z == 0).all()), log_det.abs().max().item() < 1e-6
    (torch.Size([5, 7, 3]), True, True)
    """
    # To a length near 1, whose square neither overflows nor vanishes.
    largest = w.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    shortened = w / largest
    squares = shortened.square().sum(-1, keepdim=True)
    squares = torch.where(squares == 0, torch.ones_like(squares), squares)
    a = (w * u).sum(-1, keepdim=True)
    along = shortened / squares * (_lift(a) / largest)
    h = torch.tanh((w * z).sum(-1) + b)
    # 1 + h' m, with m > -1 taken apart so that no digits cancel; torch's softplus would be cut off at 20.
    det = h.square() - (1 - h.square()) * logsigmoid(-a.squeeze(-1) - SHIFT)
    return z + (u + along) * h.unsqueeze(-1), det.log()


def _lift(a: Tensor) -> Tensor:
    """Return m(a) - a, exact to relative rounding near 0, where it is divided by the length of w."""
    near = torch.log1p(torch.expm1(-a.clamp(min=-1)) / math.e)
    return torch.where(a > -1, near, SHIFT - 1 - logsigmoid(a + SHIFT))


class PlanarGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian pushed through ``num_flows`` planar flows, whose u, w and b come from x.

    .. math:: z' = z + \hat u(x) \tanh(w(x)^T z + b(x)), \quad w^T \hat u > -1.

    Planar flows have no closed inverse: the density of a sample is known as it is drawn, that of another z is not.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`AmortizedGuide`.
        num_flows: T, at least 1.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * latent_dim + T * (2 * latent_dim + 1))``:
            the locations and log scales before the flows, and u, w and b of each flow, those of the first flow before
            the others.

    Raises:
        ValueError: ``num_flows`` is below 1; from the posterior, a z is scored that it did not just draw.

    References:
        D. Rezende, S. Mohamed (2015), *Variational inference with normalizing flows*, arXiv 1505.05770.

    >>> q = PlanarGuide((1, 28, 28), latent_dim=50, num_flows=8).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_flows: int = 4,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("PlanarGuide", "latent_dim", latent_dim)
        check_count("PlanarGuide", "num_flows", num_flows)
        blocks = {"location": latent_dim, "log scale": latent_dim, "flows": num_flows * (2 * latent_dim + 1)}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_flows = num_flows

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, flows = self.features(x, *rest)
        steps = []
        for flow in flows.unflatten(-1, (self.num_flows, 2 * self.latent_dim + 1)).unbind(-2):
            u, w, b = flow.split([self.latent_dim, self.latent_dim, 1], dim=-1)
            steps.append(FlowStep(partial(planar, u=u, w=w, b=b.squeeze(-1))))
        return FlowDistribution(loc, log_scale.exp(), steps, owner="PlanarGuide")
