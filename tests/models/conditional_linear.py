"""A linear conditional Gaussian model with its exact guide: log p(x | y) and p(z | x, y) are closed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae.guides import ConditionalGuide
from pyro_vae.models import ConditionalVAE
from pyro_vae.models.likelihoods import GaussianLikelihood

X_DIM, LATENT_DIM, NOISE = 4, 2, 0.7


@dataclass
class ConditionalLinear:
    """x = W z + V c(y) + b + noise, z ~ N(0, I) or N(A c(y) + a, S^2), with c(y) the features of y."""

    model: ConditionalVAE
    guide: ConditionalGuide
    y: Tensor

    @property
    def features(self) -> Tensor:
        """c(y), by hand."""
        if self.model.num_classes is None:
            return self.y
        return torch.eye(self.model.num_classes, dtype=torch.float64)[self.y]

    def evidence(self, features: Tensor) -> MultivariateNormal:
        """p(x | y): batch of the features, event (X_DIM,)."""
        mean, scale = self._prior(features)
        weight, shift = self._map(features)
        covariance = (weight * scale**2) @ weight.T + NOISE**2 * torch.eye(X_DIM, dtype=torch.float64)
        return MultivariateNormal(mean @ weight.T + shift, covariance)

    def posterior(self, x: Tensor, features: Tensor) -> MultivariateNormal:
        """p(z | x, y)."""
        mean, scale = self._prior(features)
        weight, shift = self._map(features)
        precision = weight.T @ weight / NOISE**2 + torch.diag(scale**-2)
        drive = (x - shift) @ weight / NOISE**2 + mean / scale**2
        return MultivariateNormal(torch.linalg.solve(precision, drive.T).T, precision_matrix=precision)

    def draw(self) -> Tensor:
        """One x for each y."""
        return self.evidence(self.features).sample()

    def _map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.model.likelihood.decoder
        weight, by_y = decoder.weight.split([LATENT_DIM, self.model.condition.dim], dim=1)
        return weight, features @ by_y.T + decoder.bias

    def _prior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if not self.model.conditional_prior:
            return torch.zeros(LATENT_DIM, dtype=torch.float64), torch.ones(LATENT_DIM, dtype=torch.float64)
        loc, log_scale = self.model.prior_network(features).chunk(2, dim=-1)
        return loc, log_scale[0].exp()


def conditional_linear(y: Tensor, conditional_prior: bool = False, **condition: object) -> ConditionalLinear:
    """The case of these y, with random parameters; the guide is the posterior."""
    sizes = {"hidden_dims": (), "conditional_prior": conditional_prior, **condition}
    dim = ConditionalVAE.likelihood_dim(LATENT_DIM, **condition)
    likelihood = GaussianLikelihood((X_DIM,), LATENT_DIM + dim - LATENT_DIM, scale=NOISE, decoder=nn.Linear(dim, X_DIM))
    model = ConditionalVAE((X_DIM,), LATENT_DIM, likelihood=likelihood, **sizes).double().requires_grad_(False)
    if conditional_prior:
        # One scale for all y, so that the covariance does not depend on y.
        model.prior_network.output.weight[LATENT_DIM:] = 0
        model.prior_network.output.bias.copy_(torch.tensor([0.3, -0.5, -0.2, 0.4]))
    encoder = nn.Linear(X_DIM + dim - LATENT_DIM, LATENT_DIM * (LATENT_DIM + 3) // 2).double()
    guide = ConditionalGuide((X_DIM,), LATENT_DIM, base="full_rank", encoder=encoder, **condition)
    case = ConditionalLinear(model, guide, y)
    make_exact(case, encoder)
    return case


@torch.no_grad()
def make_exact(case: ConditionalLinear, encoder: nn.Linear) -> None:
    """Read the posterior, linear in x and the features of y, off its values at the origin and at unit vectors."""
    dim = encoder.in_features
    inputs = torch.cat([torch.zeros(1, dim), torch.eye(dim)]).double()
    q = case.posterior(*inputs.split([X_DIM, dim - X_DIM], dim=1))
    cholesky = torch.linalg.cholesky(q.covariance_matrix[0])
    encoder.weight.zero_()[:LATENT_DIM] = (q.mean[1:] - q.mean[0]).T
    encoder.bias[:LATENT_DIM] = q.mean[0]
    encoder.bias[LATENT_DIM : 2 * LATENT_DIM] = cholesky.diagonal().log()
    rows, columns = torch.tril_indices(LATENT_DIM, LATENT_DIM, offset=-1)
    encoder.bias[2 * LATENT_DIM :] = cholesky[rows, columns]
