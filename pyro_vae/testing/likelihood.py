"""What every likelihood owes."""

import re
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.protocols import Likelihood
from pyro_vae.testing.suite import DTYPES, HIDDEN, ModuleSuite, assert_tensor, refuses


class LikelihoodSuite(ModuleSuite):
    """Tests of a likelihood of images of shape (1, 3, 2), z of 4 dims.

    Attributes:
        mean: a mean of training data, element by element, at which an output bias can start.
    """

    mean: ClassVar[Tensor] = torch.tensor([0.1, 0.25, 0.5, 0.6, 0.75, 0.9])

    def make(self) -> Any:
        """Return a new likelihood, with other parameters at each call."""
        return make_part("likelihood", self.part, x_shape=self.x_shape, latent_dim=self.latent_dim, hidden_dims=HIDDEN)

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a VAE with the likelihood, and a guide."""
        model = VAE(self.x_shape, self.latent_dim, likelihood=part)
        return model, MeanFieldGuide(self.x_shape, self.latent_dim, HIDDEN)

    def further(self, batch: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:  # noqa: ARG002 (a subclass's)
        """Return what the likelihood is called with after z, each ``(*batch, ...)``: the further tensors of data."""
        return ()

    def at(self, part: Any, z: Tensor) -> Distribution:
        """Return the likelihood at z and further tensors."""
        p: Distribution = part(z, *self.further(tuple(z.shape[:-1]), z.dtype))
        return p

    def data(self, part: Any, n: int, dtype: torch.dtype = torch.float32) -> Any:
        """Return draws of the likelihood, with the further tensors of each datum."""
        further = self.further((n,), dtype)
        x: Tensor = part(torch.randn(n, self.latent_dim, dtype=dtype), *further).sample()
        return (x, *further) if further else x

    def test_shape_and_dtype(self) -> None:
        """Return a distribution with z's batch, whose event is the whole datum."""
        for dtype in DTYPES:
            likelihood = self.make().to(dtype)
            assert isinstance(likelihood, Likelihood)
            for batch in ((), (5,), (3, 5)):
                p = self.at(likelihood, torch.randn(*batch, self.latent_dim, dtype=dtype))
                assert isinstance(p, Distribution)
                assert (p.batch_shape, p.event_shape) == (batch, self.x_shape), f"{p.batch_shape}, {p.event_shape}"
                x = p.sample()
                assert_tensor(x, (*batch, *self.x_shape), dtype)
                assert_tensor(p.log_prob(x), batch, dtype)

    def test_a_datum_depends_on_its_own_z_alone(self) -> None:
        """Score a datum alone as in a batch."""
        likelihood = self.make().double()
        z = torch.randn(5, self.latent_dim, dtype=torch.float64)
        further = self.further((5,), torch.float64)
        p = likelihood(z, *further)
        x = p.sample()
        alone = [likelihood(z[n], *(tensor[n] for tensor in further)).log_prob(x[n]) for n in range(5)]
        assert_close(p.log_prob(x), torch.stack(alone), rtol=1e-12, atol=1e-12)

    def test_gradient_reaches_z(self) -> None:
        """Have a gradient in z."""
        likelihood = self.make()
        z = torch.randn(20, self.latent_dim, requires_grad=True)
        p = self.at(likelihood, z)
        p.log_prob(p.sample()).sum().backward()
        assert z.grad is not None
        assert (z.grad.abs().sum(1) > 0).all(), "the gradient in z is 0"

    def test_the_bias_starts_at_the_mean(self) -> None:
        """Give the training mean at z = 0 after ``initialize_bias``, where there is such a method."""
        likelihood = self.make().double()
        if not hasattr(likelihood, "initialize_bias"):
            return
        mean = self.mean.double().reshape(self.x_shape)
        likelihood.initialize_bias(mean)
        torch.nn.init.zeros_(likelihood.decoder.output.weight)
        p = self.at(likelihood, torch.zeros(self.latent_dim).double())
        assert_close(p.mean, mean, rtol=1e-8, atol=1e-8)
        shape = re.escape(str(self.x_shape))
        with refuses(rf"{type(likelihood).__name__}: mean must have shape {shape}; got \({mean.numel()},\)"):
            likelihood.initialize_bias(mean.flatten())
