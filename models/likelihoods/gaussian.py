"""The Gaussian likelihood of real-valued data."""

from collections.abc import Sequence

from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.models.likelihoods.decoded import DecodedLikelihood, check_learned
from pyro_vae.nn import Network


class GaussianLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i N(x_i; \mu_i(z), \sigma_i^2)`, x real.

    Nats of a density: they depend on the units of x, and rise without bound where some pixels can be predicted
    exactly and the scale is free to shrink.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        scale: :math:`\sigma`: a number, which stays fixed; ``"shared"``, one learned number for all elements and
            data; ``"per_feature"``, one learned number for each element; or ``"predicted"`` by the decoder, for each
            element from z.
        decoder: as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``: the locations, then as
            many log scales where they are predicted.

    Raises:
        ValueError: ``scale`` is none of these, or not positive.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, appendix C.2, arXiv 1312.6114 (predicted);
        O. Rybkin, K. Daniilidis, S. Levine (2021), *Simple and effective VAE training with calibrated decoders*,
        arXiv 2006.13202 (shared).

    >>> import torch
    >>> p = GaussianLikelihood((1, 28, 20), latent_dim=2)(torch.zeros(5, 7, 2))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([1, 28, 20]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        scale: float | str = "shared",
        *,
        decoder: Network | None = None,
    ) -> None:
        check_learned("GaussianLikelihood", "scale", scale)
        blocks = {"location": 1, "log scale": 1} if scale == "predicted" else {"location": 1}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, blocks)
        self.scale = scale
        self.add_learned("scale", scale)

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the mean."""
        return mean

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        loc, *log_scale = self.features(z)
        if isinstance(self.scale, str):
            scale = self.log_learned("scale", self.scale, log_scale, loc).exp()
        else:
            scale = loc.new_tensor(self.scale)
        return dist.Normal(loc, scale).to_event(len(self.x_shape))
