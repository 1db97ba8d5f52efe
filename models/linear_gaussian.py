"""Probabilistic PCA: the model whose evidence and posterior are known exactly."""

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn import flatten_event
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.runtime.checks import check_count, is_positive


class LinearGaussian(PyroModule):
    r"""p(z) = N(0, I), p(x | z) = N(Wz + b, s^2 I), so that p(x) and p(z | x) are Gaussian and closed.

    .. math::
        p(x) = N(b, W W^T + s^2 I), \qquad
        p(z | x) = N(M^{-1} W^T (x - b), s^2 M^{-1}), \quad M = W^T W + s^2 I

    Sites: plate ``"data"`` (dim -1) with latent ``"z"``, event ``(latent_dim,)``, and observed ``"x"``, event
    ``(x_dim,)``. The loadings W ``(x_dim, latent_dim)`` start standard normal, the bias b ``(x_dim,)`` at 0.

    Args:
        x_dim: dimension of x.
        latent_dim: dimension of z.
        scale: the noise's standard deviation s, at the start of training.

    References:
        M. Tipping, C. Bishop (1999), *Probabilistic principal component analysis*, JRSS B 61, equations 5 to 7.

    >>> model = LinearGaussian(x_dim=4, latent_dim=2)
    >>> model.evidence().event_shape, model.posterior(torch.zeros(7, 4)).batch_shape
    (torch.Size([4]), torch.Size([7]))
    """

    def __init__(self, x_dim: int, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        check_count("LinearGaussian", "x_dim", x_dim)
        check_count("LinearGaussian", "latent_dim", latent_dim)
        if not is_positive(scale):
            raise ValueError(f"LinearGaussian: scale must be a positive number; got {scale!r}.")
        self.x_dim, self.latent_dim, self.scale = x_dim, latent_dim, scale
        self.loadings = nn.Parameter(torch.randn(x_dim, latent_dim))
        self.bias = nn.Parameter(torch.zeros(x_dim))
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    @classmethod
    def from_values(cls, loadings: Tensor, bias: Tensor, scale: float) -> "LinearGaussian":
        """Return the model with loadings ``(x_dim, latent_dim)``, bias ``(x_dim,)`` and noise scale."""
        x_dim, latent_dim = loadings.shape
        model = cls(x_dim, latent_dim, scale).to(loadings.dtype)
        with torch.no_grad():
            model.loadings.copy_(loadings)
            model.bias.copy_(bias)
            model.log_scale.copy_(torch.tensor(scale, dtype=loadings.dtype).log())
        return model

    def forward(self, x: Tensor) -> Tensor:
        """Run the model on x ``(batch, x_dim)``; returns z ``(batch, latent_dim)``."""
        flatten_event(x, (self.x_dim,), "LinearGaussian")
        loc = self.loadings.new_zeros(self.latent_dim)
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(LATENT, dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            mean = z @ self.loadings.mT + self.bias
            pyro.sample(OBSERVED, dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)
        return z

    def evidence(self) -> dist.LowRankMultivariateNormal:
        """Return p(x): batch ``()``, event ``(x_dim,)``."""
        variance = (2 * self.log_scale).exp()
        return dist.LowRankMultivariateNormal(self.bias, self.loadings, variance.expand(self.x_dim))

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Return p(z | x) for x ``(batch, x_dim)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        x = flatten_event(x, (self.x_dim,), "LinearGaussian")
        variance = (2 * self.log_scale).exp()
        eye = torch.eye(self.latent_dim, dtype=self.loadings.dtype, device=self.loadings.device)
        precision = self.loadings.mT @ self.loadings / variance + eye
        mean = torch.linalg.solve(precision, ((x - self.bias) @ self.loadings / variance).unsqueeze(-1))
        return dist.MultivariateNormal(mean.squeeze(-1), precision_matrix=precision)
