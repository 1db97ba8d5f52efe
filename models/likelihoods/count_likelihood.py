"""The base of likelihoods of counts: their mean, with a library size of each datum or without."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.errors import PairError
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood
from pyro_vae.nn import Network

LARGEST_LOG = 30.0
"""Bound on the logarithm of a mean, e^30 = 1e13, beyond which its square overflows in float32 before long."""

LEAST_MEAN = 1e-3
"""The smallest mean that an output bias starts at: a feature may be 0 in all training data."""


class CountLikelihood(DecodedLikelihood):
    r"""p(x | z), x a count, with mean :math:`\mu(z)` from the first features f of the decoder.

    .. math:: \mu_i = \exp f_i(z) \quad \text{or} \quad \mu_i = \ell \, \mathrm{softmax}(f(z))_i

    where :math:`\ell` is the library size of the datum, a further tensor beside x.

    Args:
        x_shape, latent_dim, hidden_dims, activation, decoder: as of :class:`DecodedLikelihood`.
        library: whether a datum has a library size, (x, library).
        blocks: as of :class:`DecodedLikelihood`; the first one is ``"log mean"``, of size 1.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        library: bool,
        decoder: Network | None,
        blocks: Mapping[str, int],
    ) -> None:
        if not isinstance(library, bool):
            raise ValueError(f"{type(self).__name__}: library must be True or False; got {library!r}.")
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, blocks)
        self.library = library

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the logarithm of the mean, which is at least 0.001; with a library size, the softmax of it counts."""
        return mean.clamp(min=LEAST_MEAN).log()

    def log_mean(self, feature: Tensor, library: Tensor | None) -> Tensor:
        r"""Return :math:`\log \mu`, at most 30, of the decoder's first features ``(*batch, *x_shape)``.

        Args:
            feature: f.
            library: :math:`\ell`, positive, one number for each datum: the last dims of ``batch``, or all of them.

        Raises:
            PairError: there is a library size where there should be none, or none where there should be one, or it has
                another shape or is not positive.
        """
        if self.library is not (library is not None):
            raise PairError(self._why_not(library))
        if library is None:
            return feature.clamp(max=LARGEST_LOG)
        event_dims = len(self.x_shape)
        batch = feature.shape[: feature.ndim - event_dims]
        if library.shape != batch[len(batch) - library.ndim :]:
            raise PairError(
                f"{type(self).__name__}: library must have shape (batch,), one size factor for each datum; got "
                f"{tuple(library.shape)} where z has batch shape {tuple(batch)}. Write library.flatten() for one of "
                f"shape (batch, 1)."
            )
        # A graph cannot raise, and in a training step, whose first run is validated, nothing is read from a device.
        if Distribution._validate_args and get_proxy_mode() is None and not (library > 0).all():
            bad = library[~(library > 0)]
            raise PairError(
                f"{type(self).__name__}: library must be positive; {bad.numel()} of {library.numel()} size factors are "
                f"not, as {bad[0].item():.4g}. Leave out data without any count, or give their size factor otherwise."
            )
        logits = feature.flatten(-event_dims) if event_dims else feature.unsqueeze(-1)
        log_share = logits.log_softmax(-1).reshape(feature.shape)
        log_library = library.to(feature.dtype).log().reshape(*library.shape, *(1,) * event_dims)
        return (log_library + log_share).clamp(max=LARGEST_LOG)

    def _why_not(self, library: Tensor | None) -> str:
        if library is None:
            return (
                f"{type(self).__name__}: library=True needs the library size of each datum, and none was given. Give "
                f"it behind x, as (x, library) with library of shape (batch,), and behind y where the model has one, "
                f"as (x, y, library); or make the likelihood with library=False."
            )
        return (
            f"{type(self).__name__}: a datum has a further tensor, of shape {tuple(library.shape)}, and library=False "
            f"uses none. Make the likelihood with library=True if this is its library size; else leave it out."
        )


def within_bounds(log_theta: Tensor) -> Tensor:
    r"""Return :math:`\log \theta` within bounds of :math:`\pm 30`, beyond which float32 has no gradient."""
    return torch.clamp(log_theta, -LARGEST_LOG, LARGEST_LOG)
