"""Further tensors of a datum, (x, y, ...): which of them a part is called with, by what its forward names."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.errors import PairError
from pyro_vae.nn.shapes import flatten_event


class FurtherArguments(NamedTuple):
    """What a part can be called with after its first argument, all by place."""

    names: tuple[str, ...]
    """Of the arguments that it names, in their order."""
    least: int
    """How many of these have no default."""
    takes_all: bool
    """Whether it takes any number of them, as by ``*rest``."""

    @property
    def in_words(self) -> str:
        """Return the names, or that there are none.

        >>> further_arguments(lambda z, library=None: z).in_words
        'library'
        """
        return ", ".join(self.names) or "none"

    def fit(self, number: int) -> bool:
        """Whether it can be called with so many further tensors.

        >>> [further_arguments(lambda z, library: z).fit(number) for number in (0, 1, 2)]
        [False, True, False]
        """
        return self.least <= number and (self.takes_all or number <= len(self.names))


def further_arguments(part: Callable[..., Any]) -> FurtherArguments:
    """Return what a likelihood, a network or another function of tensors is called with after its first argument.

    >>> further_arguments(lambda z, library: z)
    FurtherArguments(names=('library',), least=1, takes_all=False)
    >>> further_arguments(nn.Linear(3, 2))
    FurtherArguments(names=(), least=0, takes_all=False)
    """
    called = part.forward if isinstance(part, nn.Module) else part
    try:
        parameters = [*inspect.signature(called).parameters.values()]
    except (TypeError, ValueError):
        # Its arguments cannot be seen from outside: it says itself what it refuses.
        return FurtherArguments((), 0, True)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return FurtherArguments(tuple(p.name for p in places), sum(p.default is p.empty for p in places), takes_all)


def taken_by(part: Callable[..., Any], further: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the further tensors of a datum that a part takes, the first ones.

    >>> taken_by(nn.Linear(3, 2), [torch.zeros(5)])
    ()
    """
    arguments = further_arguments(part)
    return tuple(further) if arguments.takes_all else tuple(further[: len(arguments.names)])


def observed_mask(x: Tensor, further: Sequence[Tensor]) -> Tensor | None:
    """Return the mask of the observed elements of x among the further tensors: boolean, of x's shape; None without one.

    >>> x = torch.zeros(5, 2)
    >>> observed_mask(x, [torch.zeros(5), x == 0]).shape, observed_mask(x, [torch.zeros(5)])
    (torch.Size([5, 2]), None)
    """
    return next((tensor for tensor in further if tensor.dtype == torch.bool and tensor.shape == x.shape), None)


def encoder_inputs(
    who: str, encoder: Callable[..., Any], x: Tensor, x_shape: Sequence[int], further: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return what an encoder is called with: x, flat and 0 where it was not observed, and further tensors it names.

    Args:
        who: the guide, for messages.
        encoder: whose ``forward`` names further arguments, or none.
        x: data ``(*batch, *x_shape)``.
        x_shape: shape of one datum.
        further: each ``(*batch, ...)``. Those of x's shape are passed on flat.

    Raises:
        ValueError: x does not have ``x_shape``.

    >>> x = torch.tensor([[1.0, torch.nan]])
    >>> encoder_inputs("here", nn.Linear(2, 3), x, (2,), [~x.isnan()])
    (tensor([[1., 0.]]), [])
    """
    flat, observed = flatten_event(x, x_shape, who), observed_mask(x, further)
    if observed is not None:
        flat = torch.where(observed.reshape(flat.shape), flat, torch.zeros_like(flat))
    taken = [tensor.reshape(flat.shape) if tensor.shape == x.shape else tensor for tensor in taken_by(encoder, further)]
    return flat, taken


def likelihood_given(
    who: str, likelihood: Callable[..., Distribution], z: Tensor, further: Sequence[Tensor]
) -> Distribution:
    """Return a likelihood at z and at the further tensors of each datum, all of which it must take.

    Args:
        who: the model, for messages.
        likelihood: called with z and the further tensors.
        z: ``(*batch, latent_dim)``.
        further: each ``(batch, ...)``.

    Raises:
        PairError: the likelihood takes fewer or more further tensors.
    """
    takes, name = further_arguments(likelihood), type(likelihood).__name__
    if len(further) < takes.least:
        raise PairError(
            f"{who}: {name} is called with z and {', '.join(takes.names[: takes.least])}, and a datum has "
            f"{len(further)} further tensors. Give these after x, as data=(x, {takes.names[0]})."
        )
    if len(further) > len(takes.names) and not takes.takes_all:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in further)
        raise PairError(
            f"{who}: a datum has further tensors, of shapes {shapes}, and {name} takes {takes.in_words}. Leave out "
            f"what it does not take, or choose a likelihood that does: its forward names them after z, as "
            f"forward(self, z, library)."
        )
    return likelihood(z, *further)
