"""The base of likelihoods with one decoder: its features, and its first bias."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.nn import Network, features_of, make_network, output_bias_of
from pyro_vae.runtime.checks import check_count, in_short, is_positive

logger = logging.getLogger("pyro_vae")

LEARNED = ("shared", "per_feature", "predicted")
"""How a positive quantity is learned: one number for all elements of x and all data; one for each element; or one for
each element of each datum, by the decoder."""


def check_learned(who: str, name: str, value: Any, kinds: Sequence[str] = LEARNED) -> None:
    """Refuse what is neither a positive number nor one of the ways to learn one.

    >>> check_learned("GaussianLikelihood", "scale", "big")
    Traceback (most recent call last):
        ...
    ValueError: GaussianLikelihood: scale must be a positive number, 'shared', 'per_feature' or 'predicted'; got 'big'.
    """
    if not is_positive(value) and not (isinstance(value, str) and value in kinds):
        listed = ", ".join(repr(kind) for kind in kinds[:-1])
        raise ValueError(f"{who}: {name} must be a positive number, {listed} or {kinds[-1]!r}; got {in_short(value)}.")


class DecodedLikelihood(nn.Module):
    """p(x | z) that a subclass's ``forward(z)`` reads off the features of one decoder.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default decoder, nearest to z first.
        activation: see :class:`pyro_vae.nn.MLP`.
        decoder: a module, or a class of modules, from z ``(*batch, latent_dim)`` to the features that the subclass
            names; an :class:`pyro_vae.nn.MLP` unless given.
        blocks: the number of features of each element of x for each purpose, in their order; given by the subclass.
    """

    decoder: Callable[[Tensor], Tensor]
    bias_for: Callable[[Tensor], Tensor]
    """From a mean of the data, ``x_shape``, to first outputs of the decoder whose distribution has that mean."""

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        decoder: Network | None,
        blocks: Mapping[str, int],
    ) -> None:
        super().__init__()
        check_count(type(self).__name__, "latent_dim", latent_dim)
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.blocks = dict(blocks)
        self.decoder = make_network(
            decoder, type(self).__name__, "decoder", x_shape=self.x_shape, in_features=latent_dim,
            out_features=sum(blocks.values()) * math.prod(self.x_shape), hidden_dims=self.hidden_dims,
            activation=activation, blocks=tuple(blocks.values()),
        )  # fmt: skip

    def features(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return what the decoder gives for z ``(*batch, latent_dim)``: a tensor for each block.

        It is ``(*batch, *x_shape)``, or ``(*batch, *x_shape, size)`` where the block has a size other than 1.

        Raises:
            ValueError: z has another number of dims, or the decoder takes or returns another number of features.
        """
        if z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"{type(self).__name__}: z must have latent_dim = {self.latent_dim} dims; got {z.shape[-1]}. Give "
                f"prior, likelihood and guide the same latent_dim."
            )
        blocks = {what: size * math.prod(self.x_shape) for what, size in self.blocks.items()}
        features = features_of(self.decoder, z, blocks, type(self).__name__, "decoder")
        shapes = [self.x_shape if size == 1 else (*self.x_shape, size) for size in self.blocks.values()]
        return tuple(block.unflatten(-1, shape) for block, shape in zip(features, shapes, strict=True))

    def add_learned(self, name: str, kind: float | str, start: float = 1.0) -> None:
        """Add the parameter ``log_NAME`` of a positive quantity where it is learned and not predicted.

        Args:
            name: of the quantity.
            kind: a positive number, which stays fixed, or one of ``LEARNED``.
            start: its first value.
        """
        if isinstance(kind, str) and kind != "predicted":
            shape = () if kind == "shared" else self.x_shape
            setattr(self, f"log_{name}", nn.Parameter(torch.full(shape, math.log(start))))

    def log_learned(self, name: str, kind: float | str, predicted: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return the logarithm of a positive quantity, of a shape that broadcasts with ``(*batch, *x_shape)``.

        Args:
            name: of the quantity.
            kind: as for :meth:`add_learned`.
            predicted: what the decoder gives for it, one tensor or none.
            like: a tensor of the dtype and device that a fixed number takes.
        """
        if kind == "predicted":
            return predicted[0]
        return getattr(self, f"log_{name}") if isinstance(kind, str) else like.new_tensor(float(kind)).log()

    def initialize_bias(self, mean: Tensor) -> None:
        """Set the output bias so that z = 0 starts near the training mean.

        It is the parameter that :func:`pyro_vae.nn.output_bias_of` finds: the decoder's attribute ``output_bias``, or
        the bias of its last linear layer ``output``. A decoder without one for each output is left as it is, and a
        line says so.

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
        output_bias = output_bias_of(self.decoder)
        if output_bias is None or output_bias.ndim != 1 or len(output_bias) < len(bias):
            logger.warning(
                "%s: the output bias starts as the decoder %s made it, and not at the training mean: the decoder has "
                "no parameter `output_bias` and no linear layer `output` with a number for each of its %d outputs.",
                type(self).__name__, type(self.decoder).__name__, sum(self.blocks.values()) * mean.numel(),
            )  # fmt: skip
            return
        with torch.no_grad():
            output_bias[: len(bias)] = bias
