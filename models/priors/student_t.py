"""A learned product of Student-t distributions as prior."""

import math

import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import Distribution

from pyro_vae.runtime.checks import check_count, check_number


class StudentTPrior(nn.Module):
    r"""p(z) = :math:`\prod_i t_{\nu_i}(z_i; \mu_i, \sigma_i)`; degrees of freedom, locations and scales learned.

    The degrees of freedom stay above 2, so that the variance is finite. Starts at location 0 and scale 1.

    Args:
        latent_dim: dimension of z.
        df: degrees of freedom at the start.

    Raises:
        ValueError: ``df`` is not above 2.

    References:
        H. Takahashi, T. Iwata, Y. Yamanaka, M. Yamada, S. Yagi (2018), *Student-t variational autoencoder for
        robust density estimation*, IJCAI (there as likelihood).

    >>> prior = StudentTPrior(50)
    >>> prior().batch_shape, prior().event_shape
    (torch.Size([]), torch.Size([50]))
    """

    def __init__(self, latent_dim: int, df: float = 5.0) -> None:
        super().__init__()
        check_count("StudentTPrior", "latent_dim", latent_dim)
        check_number("StudentTPrior", "df", df)
        if not df > 2:
            raise ValueError(f"StudentTPrior: df must be above 2, for a finite variance; got {df}.")
        self.latent_dim = latent_dim
        self.df = df
        self.log_df_minus_2 = nn.Parameter(torch.full((latent_dim,), math.log(df - 2)))
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        return dist.StudentT(2 + self.log_df_minus_2.exp(), self.loc, self.log_scale.exp()).to_event(1)
