"""The guide that is a mixture of diagonal Gaussians."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count

LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


class DiagonalNormalMixture(TorchDistribution):
    r"""Density :math:`q(z) = \sum_k \pi_k N(z; loc_k, diag(scale_k^2))`, sampled with pathwise gradients.

    A draw moves with the parameters along a velocity field v that carries the density:
    :math:`\partial_\theta q + \nabla \cdot (q v) = 0`, so that :math:`\nabla_\theta E_q[f] = E_q[v \cdot \nabla f]`.

    - Of a component's location and scale: the component's motion, weighted by its responsibility for z.
    - Of the weights: the one that keeps every conditional distribution function
      :math:`F(z_d | z_1, ..., z_{d-1})` at its value (implicit reparameterization). Its components solve a
      triangular system; mass that moves between components passes through where q is low. The variance of these
      gradients, though not of the others', therefore grows without bound as the components separate.

    Args:
        logits: log weights up to a constant, ``(*batch, K)``.
        loc: ``(*batch, K, d)``, d from 1.
        scale: ``(*batch, K, d)``.

    References:
        A. Graves (2016), *Stochastic backpropagation through mixture density distributions*, arXiv 1607.05690;
        M. Figurnov, S. Mohamed, A. Mnih (2018), *Implicit reparameterization gradients*, arXiv 1805.08498;
        M. Jankowiak, T. Karaletsos (2018), *Pathwise derivatives for multivariate distributions*,
        arXiv 1806.01856 (the velocity field of locations and scales).

    >>> q = DiagonalNormalMixture(torch.zeros(7, 2), torch.zeros(7, 2, 3), torch.ones(7, 2, 3))
    >>> q.batch_shape, q.event_shape, q.rsample((5,)).shape
    (torch.Size([7]), torch.Size([3]), torch.Size([5, 7, 3]))
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiagonalNormalMixture":
        """Return a view with another batch shape."""
        batch = torch.Size(batch_shape)
        logits = self.logits.expand(batch + self.logits.shape[-1:])
        loc, scale = (part.expand(batch + part.shape[-2:]) for part in (self.loc, self.scale))
        return DiagonalNormalMixture(logits, loc, scale, validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample, with the gradient of all arguments."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            z = self._draw(shape)
        log_weights = self.logits.log_softmax(-1)
        if not (torch.is_grad_enabled() and any(part.requires_grad for part in (log_weights, self.loc, self.scale))):
            return z
        with torch.no_grad():
            standardized = (z.unsqueeze(-2) - self.loc) / self.scale
            log_densities = -0.5 * standardized.square() - self.scale.log() - LOG_ROOT_TWO_PI
            responsibilities = (log_weights + log_densities.sum(-1)).softmax(-1).unsqueeze(-1)
        moved = (responsibilities * (self.loc + self.scale * standardized)).sum(-2)
        if log_weights.requires_grad:
            with torch.no_grad():
                velocity = self._velocity(log_weights, standardized, log_densities)
            moved = moved + (velocity @ log_weights.unsqueeze(-1)).squeeze(-1)
        return z + (moved - moved.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``(*batch,)``."""
        if self._validate_args:
            self._validate_sample(value)
        standardized = (value.unsqueeze(-2) - self.loc) / self.scale
        log_densities = (-0.5 * standardized.square() - self.scale.log() - LOG_ROOT_TWO_PI).sum(-1)
        return (self.logits.log_softmax(-1) + log_densities).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """Return the mean ``(*batch, d)``."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Return the diagonal of the covariance ``(*batch, d)``: within the components and between them."""
        spread = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.logits.softmax(-1).unsqueeze(-1) * spread).sum(-2)

    def _draw(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand((*shape[:-1], 1), dtype=self.loc.dtype, device=self.loc.device)
        component = (uniform >= self.logits.softmax(-1).cumsum(-1)[..., :-1]).sum(-1)
        chosen = component[..., None, None].expand(*shape[:-1], 1, shape[-1])
        stacked = (*shape[:-1], *self.loc.shape[-2:])
        loc, scale = (part.expand(stacked).gather(-2, chosen).squeeze(-2) for part in (self.loc, self.scale))
        return loc + scale * torch.randn(shape, dtype=loc.dtype, device=loc.device)

    def _velocity(self, log_weights: Tensor, standardized: Tensor, log_densities: Tensor) -> Tensor:
        r"""Return :math:`\partial z_d / \partial \log \pi_k`, ``(*sample, *batch, d, K)``.

        With the responsibilities :math:`r_{dk}` of the components given :math:`z_{<d}`, the conditional
        distribution function is :math:`u_d = \sum_k r_{dk} \Phi_{dk}`. In :math:`\log \pi_k` and in
        :math:`\log N_k(z_{<d})` alike its derivative is :math:`r_{dk} (\Phi_{dk} - u_d)`, so that du = 0 reads
        :math:`(I + \mathrm{tril}(A S, -1)) dz = -A d\log\pi`, with A these derivatives over
        :math:`\partial u_d / \partial z_d` and S the derivatives of :math:`\log N_k` in z.
        """
        before = log_weights.unsqueeze(-1) + log_densities.cumsum(-1) - log_densities
        conditional = before.softmax(-2)
        below = torch.special.ndtr(standardized)
        u = (conditional * below).sum(-2, keepdim=True)
        density = (conditional * log_densities.exp()).sum(-2, keepdim=True)
        weights = (conditional * (below - u) / density).mT
        coupling = (weights @ (-standardized / self.scale)).tril(-1)
        return -torch.linalg.solve_triangular(coupling, weights, upper=False, unitriangular=True)


class MixtureGuide(AmortizedGuide):
    r"""q(z | x) = :math:`\sum_k \pi_k(x) N(loc_k(x), diag(scale_k(x)^2))`, all from one encoder.

    The default encoder's last layer gives each component weights of its own, from the features of x: components
    start apart, by about half a prior standard deviation in each dim, and alike only where all features are 0.

    The weights' gradient is unbiased, but its variance grows without bound with the distance of the components (see
    :class:`DiagonalNormalMixture`). Of modes that are six of their standard deviations apart, the masses were
    learned within 0.03; of modes ten apart, both were mostly found, with masses about what they were when the
    components parted.

    Args:
        x_shape, hidden_dims, activation: as of :class:`AmortizedGuide`.
        latent_dim: dimension of z, from 1.
        num_components: K, at least 1.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, K * (2 * latent_dim + 1))``: the locations,
            component by component, the log scales likewise, and the logits of the weights.

    Raises:
        ValueError: ``num_components`` is below 1.

    References:
        E. Nalisnick, L. Hertel, P. Smyth (2016), *Approximate inference for deep latent Gaussian mixtures*;
        and see :class:`DiagonalNormalMixture` for the gradients.

    >>> q = MixtureGuide((1, 28, 28), latent_dim=50, num_components=3).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_components: int = 4,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("MixtureGuide", "latent_dim", latent_dim)
        check_count("MixtureGuide", "num_components", num_components)
        size = num_components * latent_dim
        blocks = {"location": size, "log scale": size, "logits": num_components}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_components = num_components

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, logits = self.features(x, *rest)
        loc, log_scale = (part.unflatten(-1, (self.num_components, self.latent_dim)) for part in (loc, log_scale))
        return DiagonalNormalMixture(logits, loc, log_scale.exp())
