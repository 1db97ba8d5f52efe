"""The Student-t likelihood of real-valued data with outliers."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.heavy_tails import StudentT
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood, check_learned
from pyro_vae.nn import Network

MOST_LOG_DF = math.log(1e8)
"""Of the degrees of freedom, above which the law is the normal one to rounding of a float32 where data lie."""

START_DF = 5.0
"""Degrees of freedom that are learned, before training: tails much heavier than a normal law's, a finite variance."""


class StudentTLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i t_{\nu_i}(x_i; \mu_i(z), \sigma_i)`, x real.

    .. math:: \log t_\nu(x; \mu, \sigma) = \log \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\nu \pi}\, \sigma}
        - \frac{\nu + 1}{2} \log\left(1 + \frac{(x - \mu)^2}{\nu \sigma^2}\right)

    An outlier moves the location less than under :class:`GaussianLikelihood`, which it becomes for large
    :math:`\nu`. Nats of a density: they depend on the units of x.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        scale: :math:`\sigma`, which is not the standard deviation: a number, which stays fixed; ``"shared"``, one
            learned number for all elements and data; ``"per_feature"``, one learned number for each element; or
            ``"predicted"`` by the decoder, for each element from z.
        df: :math:`\nu`, likewise. Where it is learned, it starts at 5; its features are logarithms.
        decoder: as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``: the locations, then as
            many log scales and :math:`\log \nu` where they are predicted.

    Raises:
        ValueError: ``scale`` or ``df`` is none of these, or not positive.

    References:
        H. Takahashi, T. Iwata, Y. Yamanaka, M. Yamada, S. Yagi (2018), *Student-t variational autoencoder for robust
        density estimation*, IJCAI, equation 5 (predicted).

    >>> import torch
    >>> p = StudentTLikelihood((30,), latent_dim=2, df=3.0)(torch.zeros(5, 7, 2))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([30]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        scale: float | str = "shared",
        df: float | str = "shared",
        *,
        decoder: Network | None = None,
    ) -> None:
        check_learned("StudentTLikelihood", "scale", scale)
        check_learned("StudentTLikelihood", "df", df)
        blocks = {"location": 1}
        blocks |= {f"log {name}": 1 for name, kind in (("scale", scale), ("df", df)) if kind == "predicted"}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, blocks)
        self.scale = scale
        self.df = df
        self.add_learned("scale", scale)
        self.add_learned("df", df, START_DF)

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the mean, which is the location."""
        return mean

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        loc, *predicted = self.features(z)
        log_scale = self.log_learned("scale", self.scale, predicted[:1], loc)
        log_df = self.log_learned("df", self.df, predicted[-1:], loc)
        if self.df == "predicted":
            log_df = log_df + math.log(START_DF)
        return StudentT(log_df.clamp(max=MOST_LOG_DF).exp(), loc, log_scale.exp()).to_event(len(self.x_shape))
