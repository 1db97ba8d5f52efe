"""What every likelihood owes."""

from typing import Any

import torch
from torch.distributions import Distribution
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Likelihood
from pyro_vae.testing.suite import DTYPES, Suite, assert_captured, assert_every_gradient, refuses

X_SHAPE, LATENT_DIM, HIDDEN = (1, 3, 2), 4, (5,)


class LikelihoodSuite(Suite):
    """Tests of a likelihood of images of shape (1, 3, 2), z of 4 dims."""

    def make(self) -> Any:
        """Return a new likelihood, with other parameters at each call."""
        return make_part("likelihood", self.part, x_shape=X_SHAPE, latent_dim=LATENT_DIM, hidden_dims=HIDDEN)

    def test_shape_and_dtype(self) -> None:
        """Return a distribution with z's batch, whose event is the whole datum."""
        for dtype in DTYPES:
            likelihood = self.make().to(dtype)
            assert isinstance(likelihood, Likelihood)
            for batch in ((), (5,), (3, 5)):
                p = likelihood(torch.randn(*batch, LATENT_DIM, dtype=dtype))
                assert isinstance(p, Distribution)
                assert (p.batch_shape, p.event_shape) == (batch, X_SHAPE), f"{p.batch_shape}, {p.event_shape}"
                x = p.sample()
                assert (x.shape, x.dtype) == ((*batch, *X_SHAPE), dtype), f"draws of {x.shape} and {x.dtype}"
                log_prob = p.log_prob(x)
                assert (log_prob.shape, log_prob.dtype) == (batch, dtype), f"{log_prob.shape} and {log_prob.dtype}"

    def test_a_datum_depends_on_its_own_z_alone(self) -> None:
        """Score a datum alone as in a batch."""
        likelihood = self.make().double()
        z = torch.randn(5, LATENT_DIM, dtype=torch.float64)
        x = likelihood(z).sample()
        alone = torch.stack([likelihood(z[n]).log_prob(x[n]) for n in range(5)])
        assert_close(likelihood(z).log_prob(x), alone, rtol=1e-12, atol=1e-12)

    def test_state_dict_round_trip(self) -> None:
        """Score the same once another likelihood's state is loaded."""
        first, second = self.make(), self.make()
        z = torch.randn(5, LATENT_DIM)
        x = first(z).sample()
        assert not torch.equal(second(z).log_prob(x), first(z).log_prob(x)), "two that were made are the same"
        second.load_state_dict(first.state_dict())
        assert_close(second(z).log_prob(x), first(z).log_prob(x), rtol=0, atol=0)

    def test_gradient_reaches_z_and_every_parameter(self) -> None:
        """Have a gradient in z and in every parameter."""
        likelihood = self.make()
        z = torch.randn(20, LATENT_DIM, requires_grad=True)
        likelihood(z).log_prob(likelihood(z).sample()).sum().backward()
        assert z.grad is not None
        assert (z.grad.abs().sum(1) > 0).all(), "the gradient in z is 0"
        assert_every_gradient(likelihood)

    def test_the_bias_starts_at_the_mean(self) -> None:
        """Give the training mean at z = 0 after ``initialize_bias``, where there is such a method."""
        likelihood = self.make().double()
        if not hasattr(likelihood, "initialize_bias"):
            return
        mean = torch.tensor([0.1, 0.25, 0.5, 0.6, 0.75, 0.9]).double().reshape(X_SHAPE)
        likelihood.initialize_bias(mean)
        torch.nn.init.zeros_(likelihood.decoder.output.weight)
        assert_close(likelihood(torch.zeros(LATENT_DIM).double()).mean, mean, rtol=1e-8, atol=1e-8)
        with refuses(rf"{type(likelihood).__name__}: mean must have shape \(1, 3, 2\); got \(6,\)"):
            likelihood.initialize_bias(mean.flatten())

    def test_it_survives_being_captured_with_its_gradient(self) -> None:
        """Run as a recorded graph on other data, as in compiled training."""
        for dtype in DTYPES:
            likelihood, guide = self.make().to(dtype), MeanFieldGuide(X_SHAPE, LATENT_DIM, HIDDEN).to(dtype)
            x, other = likelihood(torch.randn(2, 4, LATENT_DIM, dtype=dtype)).sample()
            pair = Pair(VAE(X_SHAPE, LATENT_DIM, likelihood=likelihood), guide, x)
            assert_captured(pair, list(likelihood.parameters()), x, other)
