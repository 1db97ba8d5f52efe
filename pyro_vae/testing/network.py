"""What every network owes."""

from typing import Any, ClassVar

import torch
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_part
from pyro_vae.programs.pair import Pair
from pyro_vae.testing.suite import DTYPES, Suite, assert_captured, assert_every_gradient

X_SHAPE, LATENT_DIM, HIDDEN = (1, 4, 2), 3, (5,)


class NetworkSuite(Suite):
    """Tests of a network, as decoder from z of 3 dims to images of shape (1, 4, 2).

    Attributes:
        is_encoder: whether it is an encoder as well, from the flat images to two features for each dimension of z.
    """

    is_encoder: ClassVar[bool] = True

    def make(self, in_features: int = LATENT_DIM, out_features: int = 8) -> Any:
        """Return a new network, with other parameters at each call."""
        sizes = {"in_features": in_features, "out_features": out_features, "x_shape": X_SHAPE}
        return make_part("decoder", self.part, **sizes, hidden_dims=HIDDEN, activation="tanh")

    def test_any_leading_batch_shape(self) -> None:
        """Map the last dim, whatever dims are before it, and each row as if it were alone."""
        for dtype in DTYPES:
            network = self.make().to(dtype).eval()
            for batch in ((), (5,), (3, 5)):
                found = network(torch.randn(*batch, LATENT_DIM, dtype=dtype))
                assert (found.shape, found.dtype) == ((*batch, 8), dtype), f"{found.shape} and {found.dtype}"
        network = self.make().double().eval()
        z = torch.randn(6, LATENT_DIM, dtype=torch.float64)
        assert_close(network(z), torch.stack([network(row) for row in z]), rtol=1e-10, atol=1e-10)

    def test_state_dict_round_trip(self) -> None:
        """Map to the same once another network's state is loaded."""
        first, second, z = self.make().eval(), self.make().eval(), torch.randn(5, LATENT_DIM)
        assert not torch.equal(first(z), second(z)), "two networks that were made are the same"
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(z), second(z))

    def test_gradient_reaches_the_inputs_and_every_parameter(self) -> None:
        """Have a gradient in the inputs and in every parameter."""
        network = self.make()
        z = torch.randn(20, LATENT_DIM, requires_grad=True)
        network(z).square().sum().backward()
        assert z.grad is not None
        assert z.grad.abs().sum() > 0, "the gradient in the inputs is 0"
        assert_every_gradient(network)

    def test_a_pair_of_it_vectorizes_and_survives_being_captured(self) -> None:
        """Serve as decoder, and as encoder, in one run of many samples, recorded as a graph."""
        model = VAE(X_SHAPE, LATENT_DIM, HIDDEN, decoder=self.make(LATENT_DIM, 8))
        encoder = self.make(8, 2 * LATENT_DIM) if self.is_encoder else None
        guide = MeanFieldGuide(X_SHAPE, LATENT_DIM, HIDDEN, encoder=encoder)
        x, other = torch.rand(2, 4, *X_SHAPE).round()
        assert_captured(Pair(model, guide, x), [*model.parameters(), *guide.parameters()], x, other)
