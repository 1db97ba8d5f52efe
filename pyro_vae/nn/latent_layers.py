"""Sizes of several latent layers and of the networks between them, checked once for the model and its guides."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pyro_vae.runtime.checks import check_count, in_short

BOUNDED = ("tanh",)
"""Activations whose values have bounds."""

START = 0.1
"""What the last layers' first weights are multiplied by: scales that follow a draw z start within exp(0.1 |z|)."""


def layer_dims(who: str, latent_dim: int, inner_latent_dims: Sequence[int]) -> tuple[int, ...]:
    """Return the dimensions of all latent layers, nearest to x first.

    Args:
        who: the caller, for messages.
        latent_dim: dimension of the top layer.
        inner_latent_dims: dimensions of the layers below it, nearest to x first.

    Raises:
        ValueError: one of them is no whole number from 1.

    >>> layer_dims("here", 50, (100,))
    (100, 50)
    """
    check_count(who, "latent_dim", latent_dim)
    _check_dims(who, "inner_latent_dims", inner_latent_dims)
    return (*inner_latent_dims, latent_dim)


def between_layers(
    who: str, inner_hidden_dims: Sequence[int] | Sequence[Sequence[int]], num_pairs: int
) -> tuple[tuple[int, ...], ...]:
    """Return the hidden layers between each latent layer and the one above it, nearest to x first.

    Args:
        who: the caller, for messages.
        inner_hidden_dims: one sequence of widths for all pairs of neighbours, or one sequence for each pair.
        num_pairs: the number of latent layers less one.

    Raises:
        ValueError: it is neither, or a width is no whole number from 1.

    >>> between_layers("here", (100, 100), 2), between_layers("here", ((64,), (32, 16)), 2)
    (((100, 100), (100, 100)), ((64,), (32, 16)))
    """
    given: Any = inner_hidden_dims
    is_sequence = isinstance(given, Sequence) and not isinstance(given, str)
    if not (is_sequence and any(isinstance(dims, Sequence) for dims in given)):
        _check_dims(who, "inner_hidden_dims", given)
        return (tuple(given),) * num_pairs
    if len(given) != num_pairs:
        raise ValueError(
            f"{who}: inner_hidden_dims must be one tuple of widths, or one for each of the {num_pairs} pairs of "
            f"neighbouring latent layers; got {len(given)} tuples."
        )
    for dims in given:
        _check_dims(who, "inner_hidden_dims", dims)
    return tuple(tuple(dims) for dims in given)


def start_small(network: Any, activation: str) -> None:
    """Start a network whose input is a draw with small features, where its activation has no bounds.

    Its features, log scales among them, then grow with the tails of the draw. At Glorot's size, the scales of a few
    such layers on top of each other overflow before anything is learned.

    Args:
        network: its last linear layer is its attribute ``output``; without one it is left as it is.
        activation: of its hidden layers.
    """
    output = getattr(network, "output", None)
    if activation not in BOUNDED and isinstance(output, nn.Linear):
        with torch.no_grad():
            output.weight.mul_(START)


def _check_dims(who: str, name: str, dims: Any) -> None:
    if isinstance(dims, str) or not isinstance(dims, Sequence):
        write = f": write ({dims},)" if isinstance(dims, int) else ""
        raise ValueError(f"{who}: {name} must be a tuple of whole numbers; got {in_short(dims)}{write}.")
    for dim in dims:
        check_count(who, name, dim)
