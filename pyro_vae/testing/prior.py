"""What every prior owes."""

from typing import Any

import pyro
import torch
from torch.distributions import Distribution, Independent, StudentT

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.protocols import Prior
from pyro_vae.testing.suite import DTYPES, HIDDEN, ModuleSuite, assert_tensor, refuses


class PriorSuite(ModuleSuite):
    """Tests of a prior of z of 4 dims, for images of shape (1, 3, 2)."""

    starts_at_random = False

    def make(self) -> Any:
        """Return a new prior."""
        guide = MeanFieldGuide(self.x_shape, self.latent_dim, HIDDEN)
        data = torch.rand(9, *self.x_shape)
        return make_part("prior", self.part, x_shape=self.x_shape, latent_dim=self.latent_dim, guide=guide, data=data)

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a VAE with the prior, and a guide."""
        model = VAE(self.x_shape, self.latent_dim, HIDDEN, prior=part)
        return model, MeanFieldGuide(self.x_shape, self.latent_dim, HIDDEN)

    def test_shape_and_dtype(self) -> None:
        """Return a distribution with an empty batch, whose event is z."""
        for dtype in DTYPES:
            prior = self.make().to(dtype)
            assert isinstance(prior, Prior)
            p = prior()
            assert isinstance(p, Distribution)
            assert (p.batch_shape, p.event_shape) == ((), (self.latent_dim,)), f"{p.batch_shape}, {p.event_shape}"
            z = p.sample(torch.Size([3, 5]))
            assert_tensor(z, (3, 5, self.latent_dim), dtype)
            assert_tensor(p.log_prob(z), (3, 5), dtype)
            assert p.expand(torch.Size([6])).batch_shape == (6,)

    def test_gradient_reaches_z(self) -> None:
        """Have a gradient in z."""
        prior = self.make()
        z = prior().sample((50,)).requires_grad_()
        prior().log_prob(z).sum().backward()
        assert z.grad.abs().sum() > 0, "the gradient in z is 0"

    def test_the_density_integrates_to_one(self) -> None:
        """E_q[p(z) / q(z)] = 1 with a Student-t as q, wider than p's draws; 200000 draws, 4 standard errors."""
        p = self.make().double()()
        draws = p.sample((10_000,))
        q = Independent(StudentT(torch.tensor(5.0).double(), draws.mean(0), 1.5 * draws.std(0)), 1)
        z = q.sample(torch.Size([200_000]))
        ratio = (p.log_prob(z) - q.log_prob(z)).exp()
        mean, standard_error = ratio.mean().item(), (ratio.std() / len(ratio) ** 0.5).item()
        assert abs(mean - 1) < 4 * standard_error, f"the density integrates to {mean:.4f} (s.e. {standard_error:.4f})"

    def test_an_expanded_prior_keeps_its_validation(self) -> None:
        """Refuse NaN where validation is on, expanded or not."""
        with pyro.validation_enabled(True):
            p = self.make()()
        for q in (p, p.expand((6,))):
            with refuses("support"):
                q.log_prob(torch.full((6, self.latent_dim), torch.nan))
