"""What a model, guide, prior, likelihood and objective owe, in Pyro's terms.

Nothing here is a base class: anything of the right shape will do. The suites of :mod:`pyro_vae.testing` hold every part
the package ships to it, and your own.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

Program = Callable[..., Any]
"""A Pyro model or guide: called with the data, it makes sample statements inside one vectorized batch plate."""


@runtime_checkable
class Prior(Protocol):
    """p(z): called with nothing, returns a distribution of batch ``()`` and event ``(latent_dim,)``."""

    def __call__(self) -> Distribution:
        """Return p(z)."""


@runtime_checkable
class Likelihood(Protocol):
    """p(x | z): called with z ``(*batch, latent_dim)``, returns batch ``batch`` and event ``x_shape``.

    The event is the whole datum, so that no normalising constant can be lost. A likelihood that names further
    arguments is called with the further tensors of a datum (x, y, ...), in their order.
    """

    def __call__(self, z: Tensor, *further: Tensor) -> Distribution:
        """Return p(x | z), or p(x | z, y, ...)."""


@runtime_checkable
class PosteriorGuide(Protocol):
    """A guide whose density is closed: ``posterior(x)`` is q(z | x), batch ``(batch,)``, event ``(latent_dim,)``.

    A guide of several latent sites has it only if it samples first the one on which the prior stands: that site's law.

    Any guide, or a distribution that it samples from, may have an attribute ``family``, "diagonal", "full_rank" or
    "flow": the maps that lead from any member of its family to any other. ``fills_family = False`` beside it says that
    they also lead out of it.
    """

    def __call__(self, x: Tensor, *further: Tensor) -> Any:
        """Sample the latent sites."""

    def posterior(self, x: Tensor, *further: Tensor) -> Distribution:
        """Return q(z | x), or q(z | x, y, ...)."""


@runtime_checkable
class Objective(Protocol):
    """A loss that ``pyro.infer.SVI`` takes: negative bound, summed over the batch, differentiable."""

    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss with the gradient estimator attached."""

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the loss alone."""


@runtime_checkable
class TensorObjective(Objective, Protocol):
    """An objective that can be traced into a graph: its loss never leaves torch (no ``.item()``)."""

    def tensor_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the same loss, with the same gradient, as one tensor."""


@runtime_checkable
class ScheduledObjective(Objective, Protocol):
    """An objective whose KL weight changes from epoch to epoch."""

    def set_epoch(self, epoch: int) -> float:
        """Set the weight to that of an epoch, counted from 0, and return it."""

    def final(self) -> Objective:
        """Return the objective that the schedule ends at, with which validation data are judged."""

    def final_kl_weight(self) -> float:
        """Return the weight that the schedule ends at."""
