"""What every network owes."""

import math
from typing import Any, ClassVar

import torch
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.nn import output_bias_of
from pyro_vae.parts import make_part
from pyro_vae.testing.suite import DTYPES, HIDDEN, ModuleSuite, assert_tensor


class NetworkSuite(ModuleSuite):
    """Tests of a network, as decoder from z to images, and as encoder from flat images to two features for each dim.

    Attributes:
        x_shape: shape of the images, which the network may need larger.
        latent_dim: dimension of z.
        is_encoder: whether it is an encoder as well.
    """

    x_shape = (1, 4, 2)
    latent_dim = 3
    is_encoder: ClassVar[bool] = True

    def make(self, in_features: int | None = None, out_features: int | None = None, role: str = "decoder") -> Any:
        """Return a new network, with other parameters at each call; from z to images unless sizes are given."""
        sizes = {
            "in_features": self.latent_dim if in_features is None else in_features,
            "out_features": self.num_pixels if out_features is None else out_features,
            "x_shape": self.x_shape, "role": role,
        }  # fmt: skip
        return make_part(role, self.part, **sizes, hidden_dims=HIDDEN, activation="tanh")

    @property
    def num_pixels(self) -> int:
        """The number of elements of an image."""
        return math.prod(self.x_shape)

    def made_in_all_roles(self) -> list[tuple[Any, int, int]]:
        """Return a network for each role, with its numbers of inputs and of outputs."""
        made = [(self.make(), self.latent_dim, self.num_pixels)]
        if self.is_encoder:
            sizes = (self.num_pixels, 2 * self.latent_dim)
            made.append((self.make(*sizes, role="encoder"), *sizes))
        return made

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a VAE with the network as decoder, and a guide with another one as encoder if it is one."""
        model = VAE(self.x_shape, self.latent_dim, HIDDEN, decoder=part)
        sizes = (self.num_pixels, 2 * self.latent_dim)
        encoder = self.make(*sizes, role="encoder") if self.is_encoder else None
        guide = MeanFieldGuide(self.x_shape, self.latent_dim, HIDDEN, encoder=encoder)
        return model, guide

    def test_any_leading_batch_shape(self) -> None:
        """Map the last dim, whatever dims are before it, and each row as if it were alone."""
        for network, n_in, n_out in self.made_in_all_roles():
            for dtype in DTYPES:
                network = network.to(dtype).eval()
                for batch in ((), (5,), (3, 5)):
                    assert_tensor(network(torch.randn(*batch, n_in, dtype=dtype)), (*batch, n_out), dtype)
            rows = torch.randn(6, n_in, dtype=torch.float64)
            assert_close(network(rows), torch.stack([network(row) for row in rows]), rtol=1e-10, atol=1e-10)

    def test_gradient_reaches_the_inputs(self) -> None:
        """Have a gradient in the inputs."""
        for network, n_in, _ in self.made_in_all_roles():
            rows = torch.randn(20, n_in, requires_grad=True)
            network(rows).square().sum().backward()
            assert rows.grad is not None
            assert rows.grad.abs().sum() > 0, "the gradient in the inputs is 0"

    def test_the_output_bias_is_added_to_the_features(self) -> None:
        """Move each feature by what its number in the output bias is moved, where the network names one."""
        for network, n_in, n_out in self.made_in_all_roles():
            network = network.double().eval()
            bias = output_bias_of(network)
            if bias is not None:
                rows, shift = torch.randn(4, n_in, dtype=torch.float64), torch.randn(n_out, dtype=torch.float64)
                with torch.no_grad():
                    before = network(rows)
                    bias += shift
                    assert_close(network(rows), before + shift, rtol=1e-10, atol=1e-10)
