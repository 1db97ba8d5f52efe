"""The guide with an auxiliary variable of its own."""

from collections.abc import Callable, Sequence

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import MLP, Network
from pyro_vae.programs.sites import AUXILIARY, LATENT, PLATE, REVERSE
from pyro_vae.runtime.checks import check_count

START = 0.1
"""Factor on the initial weights from v to z, and from z to r.

At 1, a new guide is far from mean-field, while its reverse model is not trained yet. At 0, z does not depend on v, and
to first order neither network gains by changing that alone.
"""

LIMIT = 10.0
"""Bound on the absolute value of the log scales of z and r.

A network without bounds of its own (``"relu"``, or no hidden layer) would make them grow with the tails of v, and r's
with those of z, whose scale is an exponential already: the scale of r would overflow or vanish in single draws.
"""


class AuxiliaryGuide(AmortizedGuide):
    r"""q(z, v | x) = q(v) q(z | x, v): a continuous mixture of Gaussians, with a reverse model r(v | x, z).

    The marginal q(z | x) may have any correlations, skewness and modes, but no closed density, so that there is no
    ``posterior``. A log-weight takes the reverse model in its place,

    .. math:: \log w = \log p(x, z) + \log r(v | x, z) - \log q(v) - \log q(z | x, v), \qquad
        E_q[\log w] = E_q[\log p(x, z) - \log q(z | x)] - E_q[\mathrm{KL}(q(v | x, z) \| r(v | x, z))],

    which is a lower bound on the ELBO of q(z | x), tight where r is q(v | x, z). The mean of w is p(x) for any r, and
    importance-weighted estimates stay lower bounds on log p(x).

    The laws of z and r are diagonal Gaussians, and v is standard normal: z is drawn from a network of m(x) + s(x) v.
    The papers call that sum v, with q(v | x) = N(m(x), s(x)^2), which is the same guide. But the bound is the same in
    any units of v, and does not keep s(x) from becoming so small that float32 rounds m(x) + s(x) v to m(x), whose
    density is then wrong, or so large that z is anything. Here v is scored as it was drawn, and s(x) stays below 2. The
    guide starts near a mean-field one.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``, ``"v"``, event ``(auxiliary_dim,)``, and the
    factor ``"log_reverse"``, which is -log r(v | x, z); the last two are marked auxiliary.

    Args:
        x_shape, latent_dim: as of :class:`AmortizedGuide`.
        hidden_dims: hidden layers of the default encoder, nearest to x first, and of ``conditional`` and ``reverse``.
        activation: of the same three networks.
        auxiliary_dim: dimension of v; ``latent_dim`` unless given.
        context_dim: how many features of x are given to ``conditional`` and ``reverse``.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * auxiliary_dim + context_dim)``: m(x), what
            s(x) is twice the sigmoid of, and the context.

    Attributes:
        conditional: the network from context and m(x) + s(x) v to the locations of z and, before a smooth bound of
            10 tanh(./10), its log scales.
        reverse: the network from context and z to the locations of r and, before the same bound, its log scales.

    Raises:
        ValueError: ``auxiliary_dim`` or ``context_dim`` is below 1.

    References:
        F. Agakov, D. Barber (2004), *An auxiliary variational method*; T. Salimans, D. Kingma, M. Welling (2015),
        *Markov chain Monte Carlo and variational inference: bridging the gap*, arXiv 1410.6460; L. Maaloe et al.
        (2016), *Auxiliary deep generative models*, arXiv 1602.05473; R. Ranganath, D. Tran, D. Blei (2016),
        *Hierarchical variational models*, arXiv 1511.02386; C. Cremer, X. Li, D. Duvenaud (2018), *Inference
        suboptimality in variational autoencoders*, arXiv 1801.03558.

    >>> AuxiliaryGuide((1, 28, 28), latent_dim=50, auxiliary_dim=20)(torch.zeros(7, 1, 28, 28)).shape
    torch.Size([7, 50])
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        auxiliary_dim: int | None = None,
        context_dim: int = 50,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("AuxiliaryGuide", "latent_dim", latent_dim)
        auxiliary_dim = latent_dim if auxiliary_dim is None else auxiliary_dim
        for name, size in (("auxiliary_dim", auxiliary_dim), ("context_dim", context_dim)):
            check_count("AuxiliaryGuide", name, size)
        blocks = {"location": auxiliary_dim, "logit of scale": auxiliary_dim, "context": context_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.auxiliary_dim, self.context_dim = auxiliary_dim, context_dim
        self.conditional = MLP(context_dim + auxiliary_dim, self.hidden_dims, 2 * latent_dim, activation)
        self.reverse = MLP(context_dim + latent_dim, self.hidden_dims, 2 * auxiliary_dim, activation)
        with torch.no_grad():
            next(self.conditional.parameters())[:, context_dim:] *= START
            self.reverse.output.weight *= START

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)`` and the further tensors of each datum."""
        shift, logit, context = self.features(x, *rest)
        with pyro.plate(PLATE, len(x), dim=-1):
            standard = dist.Normal(torch.zeros_like(shift), 1.0).to_event(1)
            v = pyro.sample(AUXILIARY, standard, infer={"is_auxiliary": True})
            moved = shift + 2 * logit.sigmoid() * v
            z = pyro.sample(LATENT, dist.Normal(*_loc_and_scale(self.conditional, context, moved)).to_event(1))
            reverse = dist.Normal(*_loc_and_scale(self.reverse, context, z)).to_event(1)
            pyro.factor(REVERSE, -reverse.log_prob(v), has_rsample=True)
        return z


def _loc_and_scale(network: Callable[[Tensor], Tensor], context: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return a network's location and scale, given a context without sample dims and a sample that may have some."""
    batch = torch.broadcast_shapes(context.shape[:-1], sample.shape[:-1])
    joined = torch.cat([context.expand(*batch, -1), sample.expand(*batch, -1)], dim=-1)
    loc, log_scale = network(joined).chunk(2, dim=-1)
    return loc, (LIMIT * (log_scale / LIMIT).tanh()).exp()
