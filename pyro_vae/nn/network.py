"""Encoders and decoders: how their owner makes the network, and checks the features that it returns."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from pyro_vae.nn.mlp import MLP
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import told

Network = Callable[..., Any]
"""A module from ``(*batch, in_features)`` to ``(*batch, out_features)``, or a class of such modules.

A class, or a ``functools.partial`` of one, is called with those of ``in_features``, ``out_features``, ``hidden_dims``,
``activation``, ``x_shape``, ``role`` and ``blocks`` that its constructor names. An encoder whose ``forward`` names
further arguments, as ``forward(x, observed)``, is called with the further tensors of a datum.
"""

ONLY_BY_NAME = ("role", "blocks")
"""What is offered to a constructor that names it, and not to one that takes any keywords."""


def make_network(network: Network | None, who: str, role: str, **sizes: Any) -> Callable[[Tensor], Tensor]:
    """Return the network of an owner, made if it is a class.

    Args:
        network: a module or another function of tensors, which is taken as it is; a class of modules, or a partial of
            one; None makes an :class:`MLP`.
        who: the owner's name, for the message.
        role: what the owner calls the network, for the message and for a class that is made: ``"encoder"`` and
            ``"decoder"`` tell a network of images which way it goes.
        sizes: what a class may be made of: ``in_features``, ``out_features``, ``hidden_dims``, ``activation``,
            ``x_shape`` and, for a decoder, ``blocks``: the number of features of each element of x for each purpose.

    Raises:
        ValueError: the network cannot be called.

    >>> sizes = {"in_features": 6, "out_features": 4, "hidden_dims": (5,), "activation": "tanh", "x_shape": (1, 3, 2)}
    >>> make_network(partial(MLP, activation="relu"), "MeanFieldGuide", "encoder", **sizes).activation
    'relu'
    """
    network = MLP if network is None else network
    if inspect.isclass(network) or isinstance(network, partial):
        settled = network.keywords if isinstance(network, partial) else {}
        parameters = inspect.signature(network).parameters.values()
        names = {p.name for p in parameters} - settled.keys()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        offered = sizes | {"role": role}
        names |= offered.keys() - ONLY_BY_NAME if takes_all else set()
        made: Any = network(**{name: value for name, value in offered.items() if name in names})
    else:
        made = network
    if not callable(made):
        raise ValueError(
            f"{who}: `{role}` must be a torch module, or a class of one; got {type(made).__name__}. Write {role}=MLP "
            f"or {role}=functools.partial(MLP, activation='relu') with MLP of pyro_vae.nn or your own class. Only "
            f"pyro_vae.parts.make_pair and the command line take the name of a network, as --{role} mlp."
        )
    return made


def output_bias_of(network: Any) -> Tensor | None:
    """Return the parameter of a network that is added to its output features, in their order; None if it has none.

    It is the attribute ``output_bias``, or the bias of ``output``, the last linear layer.

    >>> output_bias_of(MLP(6, (5,), 4)).shape
    torch.Size([4])
    """
    bias = getattr(network, "output_bias", None)
    return getattr(getattr(network, "output", None), "bias", None) if bias is None else bias


def features_of(
    network: Callable[..., Tensor],
    inputs: Tensor,
    blocks: Mapping[str, int],
    who: str,
    role: str,
    further: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Return a network's features of inputs ``(*batch, in_features)``: a tensor ``(*batch, size)`` for each block.

    Args:
        network: that is run.
        inputs: a row for each datum or draw.
        blocks: the number of features for each purpose, in their order.
        who: the network's owner, for the message.
        role: what the owner calls it, for the message.
        further: what the network is called with after the inputs.

    Raises:
        ValueError: the network takes other inputs, or returns another number of features or other leading dims.
    """
    num_features = sum(blocks.values())
    try:
        features = network(inputs, *further)
    except RuntimeError as error:
        # A subclass of RuntimeError tells of something else than the features.
        if type(error) is not RuntimeError or is_out_of_memory(error):
            raise
        raise ValueError(
            f"{who}: `{role}` must take {inputs.shape[-1]} features; given inputs of shape {tuple(inputs.shape)} it "
            f"fails: {told(error)}."
        ) from error
    if features.shape == (*inputs.shape[:-1], num_features):
        return features.split(list(blocks.values()), dim=-1)
    layout = " + ".join(f"{size} ({what})" for what, size in blocks.items())
    event = features.shape[inputs.ndim - 1 :]
    fix = ""
    if len(event) > 1 and math.prod(event) == num_features:
        fix = f" Flatten what it returns: .flatten(-{len(event)})."
    elif features.shape[-1] == num_features:
        fix = " It must keep all dims before the last one."
    raise ValueError(
        f"{who}: `{role}` must return {layout} = {num_features} features; got shape {tuple(features.shape)} for "
        f"inputs of shape {tuple(inputs.shape)}.{fix}"
    )
