"""What every network owes."""

from typing import Any, ClassVar

import torch
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.testing.suite import DTYPES, HIDDEN, ModuleSuite, assert_tensor


class NetworkSuite(ModuleSuite):
    """Tests of a network, as decoder from z of 3 dims to images of shape (1, 4, 2).

    Attributes:
        is_encoder: whether it is an encoder as well, from the flat images to two features for each dimension of z.
    """

    x_shape = (1, 4, 2)
    latent_dim = 3
    is_encoder: ClassVar[bool] = True

    def make(self, in_features: int = 3, out_features: int = 8) -> Any:
        """Return a new network, with other parameters at each call."""
        sizes = {"in_features": in_features, "out_features": out_features, "x_shape": self.x_shape}
        return make_part("decoder", self.part, **sizes, hidden_dims=HIDDEN, activation="tanh")

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a VAE with the network as decoder, and a guide with another one as encoder if it is one."""
        model = VAE(self.x_shape, self.latent_dim, HIDDEN, decoder=part)
        encoder = self.make(8, 2 * self.latent_dim) if self.is_encoder else None
        guide = MeanFieldGuide(self.x_shape, self.latent_dim, HIDDEN, encoder=encoder)
        return model, guide

    def test_any_leading_batch_shape(self) -> None:
        """Map the last dim, whatever dims are before it, and each row as if it were alone."""
        for dtype in DTYPES:
            network = self.make().to(dtype).eval()
            for batch in ((), (5,), (3, 5)):
                assert_tensor(network(torch.randn(*batch, self.latent_dim, dtype=dtype)), (*batch, 8), dtype)
        network = self.make().double().eval()
        z = torch.randn(6, self.latent_dim, dtype=torch.float64)
        assert_close(network(z), torch.stack([network(row) for row in z]), rtol=1e-10, atol=1e-10)

    def test_gradient_reaches_the_inputs(self) -> None:
        """Have a gradient in the inputs."""
        network = self.make()
        z = torch.randn(20, self.latent_dim, requires_grad=True)
        network(z).square().sum().backward()
        assert z.grad is not None
        assert z.grad.abs().sum() > 0, "the gradient in the inputs is 0"
