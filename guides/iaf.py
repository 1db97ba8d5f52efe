"""The guide with inverse autoregressive flows."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.flow import FlowDistribution, FlowStep
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.nn.made import MADE
from pyro_vae.runtime.checks import check_count

GATE_BIAS = 2.0
"""Where the gates start: s = sigmoid(2) = 0.88 keeps most of z, as the paper advises."""

OUTPUT_SCALE = 0.1
"""What the last layers' first weights are multiplied by, so that the gates start near their bias at every z."""


def gated(z: Tensor, context: Tensor, made: MADE) -> tuple[Tensor, Tensor]:
    """Return s * z + (1 - s) * m and log|det|, in one pass through the network that gives m and s from z."""
    m, gate = made(z, context)
    return torch.sigmoid(gate) * z + torch.sigmoid(-gate) * m, logsigmoid(gate).sum(-1)


def ungated(z: Tensor, context: Tensor, made: MADE) -> tuple[Tensor, Tensor]:
    """Return what :func:`gated` takes to z, and its log|det| there: one pass for each dimension, in their order."""
    dims = range(z.shape[-1])
    known = [torch.zeros_like(z[..., 0]) for _ in dims]
    log_det = torch.zeros_like(z[..., 0])
    for i in sorted(dims, key=made.positions.__getitem__):
        m, gate = (output[..., i] for output in made(torch.stack(known, -1), context))
        known[i] = (z[..., i] - torch.sigmoid(-gate) * m) / torch.sigmoid(gate)
        log_det = log_det + logsigmoid(gate)
    return torch.stack(known, -1), log_det


class InverseAutoregressiveGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian pushed through ``num_flows`` inverse autoregressive flows with gates.

    .. math:: z'_i = s_i z_i + (1 - s_i) m_i, \quad (m_i, \mathrm{logit}\, s_i) = \mathrm{MADE}(z_{<i}, c(x)).

    The order of the dimensions is reversed from flow to flow. A sample and its density are one pass through the
    networks, whatever ``latent_dim``; to score another z takes ``latent_dim`` passes a flow, one after the other.

    Args:
        x_shape, hidden_dims: as of :class:`AmortizedGuide`.
        latent_dim: dimension of z, at least 2.
        activation: activation of the default encoder and of the flows' networks.
        num_flows: T, at least 1.
        flow_hidden_dims: hidden layers of each flow's network, each at least ``latent_dim`` wide.
        context_dim: how many features c(x) of the encoder the flows see.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * latent_dim + context_dim)``: the locations
            and log scales before the flows, and the context.

    Raises:
        ValueError: ``num_flows``, ``latent_dim``, ``context_dim`` or a hidden layer is too small.

    References:
        D. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016), *Improving variational
        inference with inverse autoregressive flow*, arXiv 1606.04934.

    >>> guide = InverseAutoregressiveGuide((1, 28, 28), latent_dim=50, num_flows=2)
    >>> q = guide.posterior(torch.zeros(7, 1, 28, 28))
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
        *,
        encoder: Network | None = None,
    ) -> None:
        why = " (with one, MeanFieldGuide is the same and PlanarGuide is more flexible)"
        check_count("InverseAutoregressiveGuide", "latent_dim", latent_dim, least=2, why=why)
        for argument, value in (("num_flows", num_flows), ("context_dim", context_dim)):
            check_count("InverseAutoregressiveGuide", argument, value)
        blocks = {"location": latent_dim, "log scale": latent_dim, "context": context_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_flows = num_flows
        self.flow_hidden_dims = tuple(flow_hidden_dims)
        self.context_dim = context_dim
        orders = (range(latent_dim), range(latent_dim - 1, -1, -1))
        networks = [MADE(orders[t % 2], context_dim, self.flow_hidden_dims, 2, activation) for t in range(num_flows)]
        self.networks = nn.ModuleList(networks)
        with torch.no_grad():
            for made in networks:
                made.output.weight.mul_(OUTPUT_SCALE)
                made.output.bias[latent_dim:] = GATE_BIAS

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, context = self.features(x, *rest)
        steps = [
            FlowStep(partial(gated, context=context, made=made), partial(ungated, context=context, made=made))
            for made in cast(Iterable[MADE], self.networks)
        ]
        return FlowDistribution(loc, log_scale.exp(), steps, owner="InverseAutoregressiveGuide")
