"""A hierarchical model with linear networks, whose every marginal and conditional is a Gaussian of block matrices."""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae.models import HierarchicalVAE
from pyro_vae.models.likelihoods import GaussianLikelihood


class LinearChain:
    """z_L ~ N(0, I), z_l = A_l z_{l+1} + a_l + s_l e_l, x = A_0 z_1 + a_0 + s_0 e_0, float64.

    Args:
        x_dim: dimension of x.
        dims: of z_1 to z_L.
        orthogonal: whether the columns of A_0 are.
    """

    def __init__(self, x_dim: int = 5, dims: tuple[int, ...] = (3, 2), orthogonal: bool = False) -> None:
        self.sizes = (x_dim, *dims)
        likelihood = GaussianLikelihood((x_dim,), dims[0], (), scale=0.6)
        self.model = HierarchicalVAE(
            (x_dim,), dims[-1], (), inner_latent_dims=dims[:-1], inner_hidden_dims=(), likelihood=likelihood
        ).double()
        self.model.requires_grad_(False).eval()
        self.maps = [likelihood.decoder.output.weight, *(net.output.weight[:d] for net, d in self._inner(dims))]
        self.shifts = [likelihood.decoder.output.bias, *(net.output.bias[:d] for net, d in self._inner(dims))]
        for matrix, shift in zip(self.maps, self.shifts, strict=True):
            matrix.normal_()
            shift.normal_()
        if orthogonal:
            norms = torch.linspace(0.5, 2, dims[0]).double()
            self.maps[0].copy_(torch.linalg.qr(self.maps[0]).Q * norms)
        self.scales = [0.6]
        for level, (net, d) in enumerate(self._inner(dims), start=1):
            net.output.weight[d:] = 0
            net.output.bias[d:] = math.log(0.5 + 0.2 * level)
            self.scales.append(0.5 + 0.2 * level)

    def _inner(self, dims):
        return zip(self.model.networks, dims, strict=False)

    def moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """Means of x, z_1, ..., z_L, and each of them as a matrix times all independent noises."""
        offsets = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        noise = torch.eye(sum(self.sizes)).double()
        mean, loadings = torch.zeros(self.sizes[-1]).double(), noise[offsets[-1] :]
        means, matrices = [mean], [loadings]
        for level in range(len(self.maps) - 1, -1, -1):
            mean = self.maps[level] @ mean + self.shifts[level]
            own = noise[offsets[level] : offsets[level] + self.sizes[level]]
            loadings = self.maps[level] @ loadings + self.scales[level] * own
            means.insert(0, mean)
            matrices.insert(0, loadings)
        return means, matrices

    def marginal(self, level: int) -> MultivariateNormal:
        """Law of z_level; of x, the evidence, at level 0."""
        means, matrices = self.moments()
        return MultivariateNormal(means[level], matrices[level] @ matrices[level].mT)

    def conditional(self, level: int, given: int) -> tuple[Tensor, Tensor, Tensor]:
        """Slope, intercept and covariance of the Gaussian law of one level given another."""
        means, matrices = self.moments()
        cross = matrices[level] @ matrices[given].mT
        slope = cross @ torch.linalg.inv(matrices[given] @ matrices[given].mT)
        covariance = matrices[level] @ matrices[level].mT - slope @ cross.mT
        return slope, means[level] - slope @ means[given], covariance
