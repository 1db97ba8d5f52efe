"""What every prior owes."""

from typing import Any

import pyro
import torch
from torch.distributions import Distribution, Independent, StudentT
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Prior
from pyro_vae.testing.suite import DTYPES, Suite, assert_captured, refuses

X_SHAPE, LATENT_DIM, HIDDEN = (1, 3, 2), 4, (5,)


class PriorSuite(Suite):
    """Tests of a prior of z of 4 dims, for images of shape (1, 3, 2)."""

    def make(self) -> Any:
        """Return a new prior."""
        guide = MeanFieldGuide(X_SHAPE, LATENT_DIM, HIDDEN)
        data = torch.rand(9, *X_SHAPE)
        return make_part("prior", self.part, x_shape=X_SHAPE, latent_dim=LATENT_DIM, guide=guide, data=data)

    def test_shape_and_dtype(self) -> None:
        """Return a distribution with an empty batch, whose event is z."""
        for dtype in DTYPES:
            prior = self.make().to(dtype)
            assert isinstance(prior, Prior)
            p = prior()
            assert isinstance(p, Distribution)
            assert (p.batch_shape, p.event_shape) == ((), (LATENT_DIM,)), f"{p.batch_shape}, {p.event_shape}"
            z = p.sample(torch.Size([3, 5]))
            assert (z.shape, z.dtype) == ((3, 5, LATENT_DIM), dtype), f"draws of {z.shape} and {z.dtype}"
            assert (p.log_prob(z).shape, p.log_prob(z).dtype) == ((3, 5), dtype)
            assert p.expand(torch.Size([6])).batch_shape == (6,)

    def test_state_dict_round_trip(self) -> None:
        """Score the same once another prior's state is loaded."""
        first, second = self.make(), self.make()
        second.load_state_dict(first.state_dict())
        z = first().sample((5,))
        assert_close(second().log_prob(z), first().log_prob(z), rtol=0, atol=0)

    def test_gradient_reaches_z_and_every_parameter(self) -> None:
        """Have a gradient in z, and a finite one in every parameter."""
        prior = self.make()
        z = prior().sample((50,)).requires_grad_()
        prior().log_prob(z).sum().backward()
        assert z.grad.abs().sum() > 0, "the gradient in z is 0"
        for name, parameter in prior.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches the parameter {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of the parameter {name} is not finite"

    def test_the_density_integrates_to_one(self) -> None:
        """E_q[p(z) / q(z)] = 1 with a Student-t as q, wider than p's draws; 200000 draws, 4 standard errors."""
        p = self.make().double()()
        draws = p.sample((10_000,))
        q = Independent(StudentT(torch.tensor(5.0).double(), draws.mean(0), 1.5 * draws.std(0)), 1)
        z = q.sample(torch.Size([200_000]))
        ratio = (p.log_prob(z) - q.log_prob(z)).exp()
        mean, standard_error = ratio.mean().item(), (ratio.std() / len(ratio) ** 0.5).item()
        assert abs(mean - 1) < 4 * standard_error, f"the density integrates to {mean:.4f} (s.e. {standard_error:.4f})"

    def test_it_survives_being_captured_with_its_gradient(self) -> None:
        """Run as a recorded graph on other data, as in compiled training."""
        for dtype in DTYPES:
            prior, guide = self.make().to(dtype), MeanFieldGuide(X_SHAPE, LATENT_DIM, HIDDEN).to(dtype)
            x, other = torch.rand(2, 4, *X_SHAPE, dtype=dtype).round()
            pair = Pair(VAE(X_SHAPE, LATENT_DIM, HIDDEN, prior=prior).to(dtype), guide, x)
            assert_captured(pair, [*prior.parameters(), *guide.parameters()], x, other)

    def test_an_expanded_prior_keeps_its_validation(self) -> None:
        """Refuse NaN where validation is on, expanded or not."""
        with pyro.validation_enabled(True):
            p = self.make()()
        for q in (p, p.expand((6,))):
            with refuses("support"):
                q.log_prob(torch.full((6, LATENT_DIM), torch.nan))
