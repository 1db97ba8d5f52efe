"""Probabilistic PCA in several layers: a hierarchy whose evidence and posterior are known exactly."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn import flatten_event
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.runtime.checks import check_count, in_short, is_positive


class LinearGaussianChain(PyroModule):
    r"""p(z_L) = N(0, I), p(z_l | z_{l+1}) = N(W_l z_{l+1} + b_l, s_l^2 I), down to x = z_0: all laws are Gaussian.

    .. math::
        p(x) = N(\mu_0, S_0), \quad \mu_l = W_l \mu_{l+1} + b_l, \quad S_l = W_l S_{l+1} W_l^T + s_l^2 I, \qquad
        \Lambda_{l,l} = s_l^{-2} I + s_{l-1}^{-2} W_{l-1}^T W_{l-1}, \quad \Lambda_{l,l+1} = -s_l^{-2} W_l

    :math:`\mu_L = 0`, :math:`S_L = I`, :math:`s_L = 1`. The posterior of all layers has the block tridiagonal precision
    :math:`\Lambda`. As a chain it factorises from x upwards, :math:`\prod_l p(z_{l+1} | z_l)`, and from the top
    downwards, :math:`\prod_l p(z_l | z_{l+1}, x)`: :meth:`bottom_up` and :meth:`top_down` are the posterior as guides.

    Sites: plate ``"data"`` (dim -1) with latent ``"z1"`` (nearest to x) to ``"zL"``, sampled from the top, and
    observed ``"x"``, event ``(x_dim,)``. Loadings start standard normal over the square root of their columns, so that
    all layers start with variances near 1, biases at 0.

    Args:
        x_dim: dimension of x.
        latent_dim: dimension of the top layer z_L.
        inner_latent_dims: dimensions of z_1, nearest to x, to z_{L-1}; with none there is one layer, ``"z1"``.
        scale: the noise's standard deviation s of every layer but the top one, at the start of training.

    Attributes:
        loadings: W_0 ``(x_dim, dim of z_1)`` to W_{L-1} ``(dim of z_{L-1}, latent_dim)``.
        biases: b_0 to b_{L-1}.
        log_scales: log s_0 to log s_{L-1}, each of no dim.

    References:
        M. Tipping, C. Bishop (1999), *Probabilistic principal component analysis*, JRSS B 61, equations 5 to 7, for one
        layer.

    >>> model = LinearGaussianChain(x_dim=4, latent_dim=2, inner_latent_dims=(3,))
    >>> model.sites, model.evidence().event_shape, model.posterior(torch.zeros(7, 4)).mean.shape
    (('z1', 'z2'), torch.Size([4]), torch.Size([7, 5]))
    """

    default_guide: ClassVar[str] = "bottom_up"

    def __init__(
        self, x_dim: int, latent_dim: int, inner_latent_dims: Sequence[int] = (3,), scale: float = 1.0
    ) -> None:
        super().__init__()
        who = "LinearGaussianChain"
        check_count(who, "x_dim", x_dim)
        check_count(who, "latent_dim", latent_dim)
        if isinstance(inner_latent_dims, str) or not isinstance(inner_latent_dims, Sequence):
            raise ValueError(
                f"{who}: inner_latent_dims must be a list of whole numbers; got {in_short(inner_latent_dims)}."
            )
        for dim in inner_latent_dims:
            check_count(who, "each of inner_latent_dims", dim)
        if not is_positive(scale):
            raise ValueError(f"{who}: scale must be a positive number; got {in_short(scale)}.")
        self.x_dim, self.latent_dim, self.scale = x_dim, latent_dim, scale
        self.inner_latent_dims = tuple(inner_latent_dims)
        widths = [*pairwise((x_dim, *self.latent_dims))]
        self.loadings = nn.ParameterList(torch.randn(below, above) / above**0.5 for below, above in widths)
        self.biases = nn.ParameterList(torch.zeros(below) for below, _ in widths)
        self.log_scales = nn.ParameterList(torch.tensor(float(scale)).log() for _ in widths)

    @classmethod
    def from_values(
        cls, loadings: Sequence[Tensor], biases: Sequence[Tensor], scales: Sequence[float]
    ) -> "LinearGaussianChain":
        """Return the model with these loadings, biases and noise scales, those of p(x | z_1) first."""
        x_dim, latent_dim = loadings[0].shape[0], loadings[-1].shape[1]
        model = cls(x_dim, latent_dim, [weight.shape[0] for weight in loadings[1:]]).to(loadings[0].dtype)
        with torch.no_grad():
            for layer, (weight, bias, scale) in enumerate(zip(loadings, biases, scales, strict=True)):
                model.loadings[layer].copy_(weight)
                model.biases[layer].copy_(bias)
                model.log_scales[layer].copy_(torch.tensor(scale, dtype=weight.dtype).log())
        return model

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Dimensions of z_1 to z_L."""
        return (*self.inner_latent_dims, self.latent_dim)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites, ``"z1"`` to ``"zL"``."""
        return tuple(f"{LATENT}{layer}" for layer in range(1, len(self.latent_dims) + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the model on x ``(batch, x_dim)``; returns z_1 to z_L, each ``(batch, its dim)``."""
        flatten_event(x, (self.x_dim,), "LinearGaussianChain")
        loc = self.loadings[0].new_zeros(self.latent_dim)
        values: list[Tensor] = []
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(self.sites[-1], dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            values.append(z)
            for layer in range(len(self.latent_dims) - 1, 0, -1):
                z = pyro.sample(self.sites[layer - 1], self._below(layer, z))
                values.append(z)
            pyro.sample(OBSERVED, self._below(0, z), obs=x)
        return tuple(reversed(values))

    def bottom_up(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the posterior as a guide that samples p(z_1 | x), then each p(z_{l+1} | z_l); returns z_1 to z_L."""
        x = flatten_event(x, (self.x_dim,), "LinearGaussianChain")
        means, covariances = self._moments()
        values, below = [], x
        with pyro.plate(PLATE, len(x), dim=-1):
            for layer, name in enumerate(self.sites):
                precision = torch.linalg.inv(covariances[layer + 1])
                law = _given(
                    means[layer + 1], precision, self.loadings[layer], self._noise(layer), below - means[layer]
                )
                below = pyro.sample(name, law)
                values.append(below)
        return tuple(values)

    def top_down(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the posterior as a guide that samples p(z_L | x), then each p(z_l | z_{l+1}, x); returns z_1 to z_L."""
        x = flatten_event(x, (self.x_dim,), "LinearGaussianChain")
        means, _ = self._moments()
        # p(x | z_l) = N(mu_0 + gain (z_l - mu_l), noise).
        gains, noises = [self.loadings[0]], [self._noise(0)]
        for layer in range(1, len(self.sites)):
            gain = gains[-1]
            noises.append(noises[-1] + gain @ self._noise(layer) @ gain.mT)
            gains.append(gain @ self.loadings[layer])
        values: list[Tensor] = []
        with pyro.plate(PLATE, len(x), dim=-1):
            mean, precision = means[-1], torch.eye(self.latent_dim, dtype=x.dtype, device=x.device)
            for layer in range(len(self.sites), 0, -1):
                shift = (mean - means[layer]) @ gains[layer - 1].mT
                law = _given(mean, precision, gains[layer - 1], noises[layer - 1], x - means[0] - shift)
                values.append(pyro.sample(self.sites[layer - 1], law))
                if layer > 1:
                    mean = self._below(layer - 1, values[-1]).mean
                    precision = torch.linalg.inv(self._noise(layer - 1))
        return tuple(reversed(values))

    def evidence(self) -> dist.MultivariateNormal:
        """Return p(x): batch ``()``, event ``(x_dim,)``."""
        means, covariances = self._moments()
        return dist.MultivariateNormal(means[0], covariances[0])

    def prior(self) -> dist.MultivariateNormal:
        """Return p(z_1, ..., z_L), the layers in one vector: batch ``()``, event ``(sum of their dims,)``."""
        means, _ = self._moments()
        return dist.MultivariateNormal(torch.cat(means[1:]), precision_matrix=self._precision(observed=False))

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Return p(z_1, ..., z_L | x) for x ``(batch, x_dim)``, the layers in one vector, z_1 first.

        Its batch is ``(batch,)``, its event ``(sum of the layers' dims,)``.
        """
        x = flatten_event(x, (self.x_dim,), "LinearGaussianChain")
        means, _ = self._moments()
        precision, mean = self._precision(observed=True), torch.cat(means[1:])
        direct = (x - means[0]) @ self.loadings[0] * (-2 * self.log_scales[0]).exp()
        pull = nn.functional.pad(direct, (0, len(mean) - direct.shape[-1]))
        shift = torch.linalg.solve(precision, pull.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(mean + shift, precision_matrix=precision)

    def _below(self, layer: int, above: Tensor) -> dist.TorchDistribution:
        """Return p(z_l | z_{l+1}) of layer l, where layer 0 is x."""
        loc = above @ self.loadings[layer].mT + self.biases[layer]
        return dist.Normal(loc, self.log_scales[layer].exp()).to_event(1)

    def _noise(self, layer: int) -> Tensor:
        """Return s_l^2 I."""
        bias = self.biases[layer]
        return (2 * self.log_scales[layer]).exp() * torch.eye(len(bias), dtype=bias.dtype, device=bias.device)

    def _moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return mean and covariance of each layer alone, of x first."""
        top = self.loadings[-1]
        means = [top.new_zeros(self.latent_dim)]
        covariances = [torch.eye(self.latent_dim, dtype=top.dtype, device=top.device)]
        for layer in range(len(self.sites) - 1, -1, -1):
            weight = self.loadings[layer]
            means.insert(0, weight @ means[0] + self.biases[layer])
            covariances.insert(0, weight @ covariances[0] @ weight.mT + self._noise(layer))
        return means, covariances

    def _precision(self, *, observed: bool) -> Tensor:
        """Return the precision of all latent layers in one vector, given x or not."""
        dims = self.latent_dims
        rows = []
        for row in range(len(dims)):
            blocks = []
            for column in range(len(dims)):
                block = self.loadings[0].new_zeros(dims[row], dims[column])
                if row == column:
                    block = torch.eye(dims[row], dtype=block.dtype, device=block.device)
                    if row + 1 < len(dims):
                        block = block * (-2 * self.log_scales[row + 1]).exp()
                    if row > 0 or observed:
                        weight = self.loadings[row]
                        block = block + weight.mT @ weight * (-2 * self.log_scales[row]).exp()
                elif abs(row - column) == 1:
                    lower = max(row, column)
                    coupling = -self.loadings[lower] * (-2 * self.log_scales[lower]).exp()
                    block = coupling if row < column else coupling.mT
                blocks.append(block)
            rows.append(torch.cat(blocks, 1))
        return torch.cat(rows)


def _given(mean: Tensor, precision: Tensor, gain: Tensor, noise: Tensor, residual: Tensor) -> dist.MultivariateNormal:
    """Return the law of z ~ N(mean, precision^-1), given that y ~ N(gain z, noise) is ``residual`` above gain mean."""
    pull = torch.linalg.solve(noise, gain).mT
    total = precision + pull @ gain
    shift = torch.linalg.solve(total, (residual @ pull.mT).unsqueeze(-1)).squeeze(-1)
    return dist.MultivariateNormal(mean + shift, precision_matrix=total)
