"""The guide with neural spline flows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.guides.flow import FlowDistribution, FlowStep
from pyro_vae.nn.mlp import ACTIVATIONS


@contextmanager
def same_distributions() -> Iterator[None]:
    """Put back what zuko's import sets for all of torch.distributions: no validation, no constraints to check."""
    names = ("_validate_args", "arg_constraints")
    before = {name: vars(Distribution)[name] for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(Distribution, name, value)


with same_distributions():
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.transforms import MonotonicRQSTransform


def warp(z: Tensor, context: Tensor, spline: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
    """Move z by one layer of splines, whose knots come from the context and from other dimensions of z."""
    return spline(context).call_and_ladj(z)


def unwarp(z: Tensor, context: Tensor, spline: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
    """Return what :func:`warp` takes to z, and its log|det| there."""
    layer = spline(context)
    before = layer.inv(z)
    return before, layer.call_and_ladj(before)[1]


def stretch(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return loc + scale * z and its log|det|."""
    return loc + scale * z, scale.log().sum(-1)


def unstretch(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`stretch` takes to z, and its log|det|."""
    return (z - loc) / scale, scale.log().sum(-1)


class SplineGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian with ``num_flows`` layers of rational-quadratic splines beneath its axes.

    .. math:: z = loc(x) + scale(x) \, (f_T \circ \cdots \circ f_1)(\epsilon), \quad \epsilon \sim N(0, I).

    Each :math:`f_t` moves each dimension along a monotonic spline within [-5, 5] and leaves it alone outside. The knots
    of one half of the dimensions come from the features c(x), those of the other half from the first half as well
    (a coupling). The halves change roles from layer to layer, and are the lower and the upper dimensions, then the
    even and the odd ones. A sample is one pass through each layer's network; to score any other z takes three.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z; a single one has nothing to couple with, but is bent all the same.
        hidden_dims: hidden layers of the default encoder, nearest to x first.
        activation: activation of the default encoder and of the layers' networks.
        num_flows: T, at least 1.
        flow_hidden_dims: hidden layers of each spline layer's network.
        context_dim: how many features c(x) of the encoder the splines see.
        num_bins: pieces of each spline, at least 2: with both ends held, one alone is straight.
        encoder: a module from flat x ``(*batch, prod(x_shape))`` to ``(*batch, 2 * latent_dim + context_dim)``: the
            locations, the log scales, and the context; an :class:`pyro_vae.nn.MLP` unless given.

    Raises:
        ValueError: ``num_flows``, ``context_dim`` or ``num_bins`` is too small, the activation is unknown, x does
            not have ``x_shape``, or the encoder returns another number of features.

    References:
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019), *Neural spline flows*, arXiv 1906.04032. The
        splines are those of the zuko library.

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
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        for argument, value, least in (
            ("num_flows", num_flows, 1),
            ("context_dim", context_dim, 1),
            ("num_bins", num_bins, 2),
        ):
            if value < least:
                raise ValueError(f"SplineGuide: {argument} must be at least {least}; got {value}.")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"SplineGuide: unknown activation {activation!r}; there are {', '.join(sorted(ACTIVATIONS))}."
            )
        blocks = {"location": latent_dim, "log scale": latent_dim, "context": context_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_flows = num_flows
        self.flow_hidden_dims = tuple(flow_hidden_dims)
        self.context_dim = context_dim
        self.num_bins = num_bins
        self.splines = nn.ModuleList(
            MaskedAutoregressiveTransform(
                latent_dim,
                context_dim,
                passes=2,
                order=_order(latent_dim, t),
                univariate=MonotonicRQSTransform,
                shapes=[(num_bins,), (num_bins,), (num_bins - 1,)],
                hidden_features=self.flow_hidden_dims,
                activation=ACTIVATIONS[activation],
            )
            for t in range(num_flows)
        )

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, context = self.features(x)
        # Splines end at 5: they bend a standard normal, which is then stretched to where it belongs.
        place = {"loc": loc, "scale": log_scale.exp()}
        steps = [
            *(
                FlowStep(partial(warp, context=context, spline=spline), partial(unwarp, context=context, spline=spline))
                for spline in self.splines
            ),
            FlowStep(partial(stretch, **place), partial(unstretch, **place)),
        ]
        return FlowDistribution(torch.zeros_like(loc), torch.ones_like(loc), steps, owner="SplineGuide")


def _order(dim: int, layer: int) -> Tensor:
    """Return the rank of each dimension, the lower half of ranks being what the upper half is coupled to."""
    rank = torch.arange(dim)
    if layer % 4 >= 2:
        rank = torch.cat([rank[::2], rank[1::2]]).argsort()
    return rank if layer % 2 == 0 else dim - 1 - rank
