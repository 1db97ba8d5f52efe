"""The guide of a conditional variational autoencoder: a guide of one layer, given y as well."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.nn import Network, flatten_event, make_network
from pyro_vae.nn.condition import Condition, joined
from pyro_vae.parts import find_part, make_part, parse_part
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.checks import check_count, in_short


class ConditionalGuide(PyroModule):
    r"""q(z | x, y): any guide of one datum, whose datum is x, flat, with the features of y behind it.

    The features c(y) are the one-hot code of a label, or the numbers themselves, flat. If the guide that is built on
    has a closed density, ``posterior(x, y)`` returns it.

    Sites: those of the guide that is built on; for most plate ``"data"`` (dim -1) with ``"z"``, event
    ``(latent_dim,)``.

    Args:
        x_shape: shape of one x.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default encoder, nearest to x first.
        activation: of the default encoder.
        base: the guide that is built on, as ``"iaf(num_flows=2)"`` or an object whose ``x_shape`` is
            ``(prod(x_shape) + dim of c(y),)``.
        num_classes: number of classes, where y are labels, integers from 0 on.
        y_shape: shape of one y; ``()`` for one label. It is needed where y are numbers.
        encoder: the base's network, from x and c(y) behind it, flat, to the features that the base names: a module, or
            a class of modules, which is made with this ``x_shape`` and with ``in_features`` of both.

    Attributes:
        guide: the guide that is built on.

    Raises:
        ValueError: neither ``num_classes`` nor ``y_shape`` is given, there is no guide of that name, or it needs the
            model or the data; an encoder is given for a base that is made already or takes none. When called, x or y
            does not fit, or y is missing.

    References:
        K. Sohn, H. Lee, X. Yan (2015), *Learning structured output representation using deep conditional generative
        models*, NeurIPS, equation 4 (the recognition network).

    >>> import torch
    >>> guide = ConditionalGuide((1, 28, 28), latent_dim=50, base="low_rank(rank=2)", num_classes=10)
    >>> q = guide.posterior(torch.zeros(7, 1, 28, 28), torch.arange(7))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    guide: Any
    posterior: Callable[..., Distribution]
    """From x ``(batch, *x_shape)`` and y ``(batch, *y_shape)`` to q(z | x, y), if the base has a closed density."""
    names_parts: ClassVar[Mapping[str, str]] = MappingProxyType({"base": "guide"})

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        base: Any = "mean_field",
        *,
        num_classes: int | None = None,
        y_shape: Sequence[int] | None = None,
        encoder: Network | None = None,
    ) -> None:
        super().__init__()
        check_count("ConditionalGuide", "latent_dim", latent_dim)
        self.condition = Condition("ConditionalGuide", num_classes, y_shape)
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.num_classes = num_classes
        self.y_shape = None if y_shape is None else tuple(y_shape)
        self._base = base if isinstance(base, str) else None
        self.guide = self._made(base, encoder)
        if isinstance(self.guide, PosteriorGuide):
            self.posterior = self._posterior

    @property
    def base(self) -> Any:
        """The guide that is built on, as it was given."""
        return self.guide if self._base is None else self._base

    @property
    def encoder(self) -> Any:
        """The network of a base that was made here, if it has one."""
        return None if self._base is None else getattr(self.guide, "encoder", None)

    @property
    def family(self) -> str:
        """What the base says of its family, if it does."""
        family: str = self.guide.family
        return family

    @property
    def fills_family(self) -> bool:
        """What the base says of its family, if it does."""
        fills_family: bool = self.guide.fills_family
        return fills_family

    def forward(self, x: Tensor, y: Tensor | None = None, *_: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)`` and y ``(batch, *y_shape)``.

        Further tensors of each datum are the likelihood's, and not used here.
        """
        z: Tensor = self.guide(self._rows(x, y))
        return z

    def _posterior(self, x: Tensor, y: Tensor | None = None, *_: Tensor) -> Distribution:
        """Return q(z | x, y): batch ``(batch,)``, event ``(latent_dim,)``."""
        if y is None:
            raise ValueError(
                "ConditionalGuide: posterior(x, y) needs y. A prior that asks the guide for it, as vamp, has none: "
                "choose another one."
            )
        q: Distribution = self.guide.posterior(self._rows(x, y))
        return q

    def _rows(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return x, flat, with the features of y behind it."""
        flat = flatten_event(x, self.x_shape, "ConditionalGuide")
        return joined(flat, self.condition.encode(y, flat))

    def _made(self, base: Any, encoder: Network | None) -> Any:
        """Return the guide that is built on, made if it is a text."""
        if not isinstance(base, str):
            if not isinstance(base, nn.Module):
                raise ValueError(
                    f"ConditionalGuide: base must be the name of a guide, as 'iaf(num_flows=2)', or a guide; got "
                    f"{in_short(base)}."
                )
            if encoder is not None:
                raise ValueError(
                    f"ConditionalGuide: a base that is made has its encoder: write "
                    f"base={type(base).__name__}(..., encoder=...)."
                )
            return base
        name = parse_part("guide", base)[0]
        if encoder is not None and "encoder" not in inspect.signature(find_part("guide", name)).parameters:
            raise ValueError(f"ConditionalGuide: the guide {name} takes no encoder: leave it out.")
        size = math.prod(self.x_shape) + self.condition.dim
        return make_part(
            "guide", base, x_shape=(size,), x_dim=size, latent_dim=self.latent_dim, hidden_dims=self.hidden_dims,
            activation=self.activation, encoder=_of_x(encoder, self.x_shape),
        )  # fmt: skip


def _of_x(encoder: Network | None, x_shape: tuple[int, ...]) -> Network | None:
    """Return the encoder; a class of encoders is made with the shape of x, and not with that of the base's datum."""
    if inspect.isclass(encoder) or isinstance(encoder, partial):
        return partial(_make_of_x, encoder, x_shape)
    return encoder


def _make_of_x(encoder: Network, image_shape: tuple[int, ...], **sizes: Any) -> Callable[[Tensor], Tensor]:
    return make_network(encoder, "ConditionalGuide", "encoder", **(sizes | {"x_shape": image_shape}))
