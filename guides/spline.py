"""The guide with neural spline flows."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.distributions.coupling import CouplingLayer, Halves
from pyro_vae.distributions.flow import FlowDistribution, FlowStep
from pyro_vae.distributions.rational_quadratic import RationalQuadraticSpline
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import MLP, Network
from pyro_vae.runtime.checks import check_count


def stretch(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return loc + scale * z and its log|det|."""
    return loc + scale * z, scale.log().sum(-1)


def unstretch(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`stretch` takes to z, and its log|det|."""
    return (z - loc) / scale, scale.log().sum(-1)


class SplineGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian with ``num_flows`` layers of rational-quadratic splines beneath its axes.

    .. math:: z = loc(x) + scale(x) \, (f_T \circ \cdots \circ f_1)(\epsilon), \quad \epsilon \sim N(0, I).

    Each :math:`f_t` moves half of the dimensions along monotonic splines within [-5, 5], and leaves them alone outside.
    The knots come from the features c(x) and from the other half, which stays where it is (a coupling). The halves
    change roles from layer to layer, and are the lower and the upper dimensions, then the even and the odd ones. To
    sample is one pass through each layer's network, and so is to score any other z.

    Args:
        x_shape, hidden_dims: as of :class:`AmortizedGuide`.
        latent_dim: dimension of z; a single one has nothing to couple with, but every layer bends it all the same.
        activation: activation of the default encoder and of the layers' networks.
        num_flows: T, at least 1; two layers bend every dimension, four couple each with every other.
        flow_hidden_dims: hidden layers of each spline layer's network.
        context_dim: how many features c(x) of the encoder the splines see.
        num_bins: pieces of each spline, at least 2: with both ends held, one alone is straight.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * latent_dim + context_dim)``: the locations,
            the log scales, and the context.

    Raises:
        ValueError: ``num_flows``, ``context_dim`` or ``num_bins`` is too small, or the activation is unknown.

    References:
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019), *Neural spline flows*, arXiv 1906.04032.

    >>> q = SplineGuide((1, 28, 28), latent_dim=50, num_flows=2).posterior(torch.zeros(7, 1, 28, 28))
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
        flow_hidden_dims: Sequence[int] = (200,),
        context_dim: int = 50,
        num_bins: int = 8,
        *,
        encoder: Network | None = None,
    ) -> None:
        for argument, value, least in (
            ("num_flows", num_flows, 1),
            ("context_dim", context_dim, 1),
            ("num_bins", num_bins, 2),
        ):
            check_count("SplineGuide", argument, value, least)
        blocks = {"location": latent_dim, "log scale": latent_dim, "context": context_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_flows = num_flows
        self.flow_hidden_dims = tuple(flow_hidden_dims)
        self.context_dim = context_dim
        self.num_bins = num_bins
        self.layers = nn.ModuleList(self._layer(_halves(latent_dim, t)) for t in range(num_flows))

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, context = self.features(x, *rest)
        # Splines end at 5: they bend a standard normal, which is then stretched to where it belongs.
        place = {"loc": loc, "scale": log_scale.exp()}
        steps = [layer.step(context) for layer in cast(Iterable[CouplingLayer], self.layers)]
        steps.append(FlowStep(partial(stretch, **place), partial(unstretch, **place)))
        return FlowDistribution(torch.zeros_like(loc), torch.ones_like(loc), steps, owner="SplineGuide")

    def _layer(self, halves: Halves) -> CouplingLayer:
        """Return a layer whose network finds the knots of the splines."""
        num_moved, num_knots = len(halves.moved), 3 * self.num_bins - 1
        network = MLP(
            len(halves.fixed) + self.context_dim, self.flow_hidden_dims, num_moved * num_knots, self.activation
        )
        return CouplingLayer(halves, network, partial(_splines, num_moved=num_moved))


def _halves(dim: int, layer: int) -> Halves:
    """Return the dimensions that a layer leaves where they are, and those that it moves."""
    if dim == 1:
        return Halves(1)
    return Halves(dim, swapped=layer % 2 == 1, interleaved=layer % 4 >= 2)


def _splines(features: Tensor, num_moved: int) -> RationalQuadraticSpline:
    return RationalQuadraticSpline(features.unflatten(-1, (-1, num_moved)))
