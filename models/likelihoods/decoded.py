"""What likelihoods with one decoder share."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.nn import MLP
from pyro_vae.runtime.checks import check_count


class DecodedLikelihood(nn.Module):
    """p(x | z) that a subclass's ``forward(z)`` reads off the features of one decoder.

    Args:
        x_shape, latent_dim, hidden_dims, activation: the constructor arguments of every such likelihood.
        outputs: how many numbers the decoder gives for each element of x.
    """

    bias_for: Callable[[Tensor], Tensor]
    """From a mean ``x_shape`` to the decoder's first outputs, whose distribution has it; a subclass's own."""

    def __init__(
        self, x_shape: Sequence[int], latent_dim: int, hidden_dims: Sequence[int], activation: str, outputs: int = 1
    ) -> None:
        super().__init__()
        check_count(type(self).__name__, "latent_dim", latent_dim)
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.decoder = MLP(latent_dim, self.hidden_dims, outputs * math.prod(self.x_shape), activation)

    def features(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return what the decoder gives for z ``(*batch, latent_dim)``: tensors ``(*batch, *x_shape)``.

        Raises:
            ValueError: z has another number of dims.
        """
        if z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"{type(self).__name__}: z must have latent_dim = {self.latent_dim} dims; got {z.shape[-1]}. Give "
                f"prior, likelihood and guide the same latent_dim."
            )
        found = self.decoder(z)
        return tuple(part.unflatten(-1, self.x_shape) for part in found.split(math.prod(self.x_shape), dim=-1))

    def initialize_bias(self, mean: Tensor) -> None:
        """Set the output bias so that z = 0 starts near the training mean.

        Args:
            mean: mean of the training data, shape ``x_shape``.

        Raises:
            ValueError: ``mean`` has another shape.

        References:
            Y. Burda, R. Grosse, R. Salakhutdinov (2015), arXiv 1509.00519, the authors' released code.
        """
        if tuple(mean.shape) != self.x_shape:
            raise ValueError(f"{type(self).__name__}: mean must have shape {self.x_shape}; got {tuple(mean.shape)}.")
        bias = self.bias_for(mean).flatten()
        with torch.no_grad():
            self.decoder.output.bias[: len(bias)] = bias
