"""The generative model of data with missing values."""

from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_vae.errors import PairError
from pyro_vae.models.vae import VAE
from pyro_vae.nn import flatten_event
from pyro_vae.nn.further_tensors import FurtherArguments, further_arguments, likelihood_given
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.programs.values import harmless, support_of


class ObservedElements(MaskedDistribution):
    """A law of independent elements of which only those under a mask have a density; what the others hold is not read.

    Args:
        base_dist: of events ``()``.
        mask: True where an element is observed, of a shape that broadcasts with the law's batch.

    >>> from pyro import distributions as dist
    >>> p = ObservedElements(dist.Normal(torch.zeros(2), 1.0), torch.tensor([True, False]))
    >>> p.log_prob(torch.tensor([0.0, torch.nan]))
    tensor([-0.9189,  0.0000])
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ObservedElements":
        """Return a view with another batch shape."""
        return super().expand(batch_shape, self._get_checked_instance(ObservedElements, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each observed element, and 0 of the others."""
        support = support_of(self.base_dist)
        filler = None if support is None else harmless(support, value)
        return super().log_prob(torch.where(self._mask, value, torch.zeros_like(value) if filler is None else filler))


class MaskedVAE(VAE):
    r"""p(z) p(x_observed | z), for data with missing values: MIWAE's model.

    .. math:: p(x^o, z) = p(z) \prod_{i \text{ observed}} p(x_i | z)

    which is the :class:`VAE` with the missing elements integrated out, where they are missing at random: bounds and
    evidence are those of :math:`\log p(x^o)`. With ``objective=IWAE(...)`` the bound is that of the paper.

    A datum is (x, observed), where ``observed`` is boolean, of x's shape, and True where x was observed; further
    tensors may follow and are given to the likelihood. What x holds where it was not observed, NaN or a number, enters
    no density and no gradient. The package's guides are given the mask, too: their encoder sees 0 in the place of what
    is missing, and the mask itself where it is a :class:`pyro_vae.nn.MaskedMLP`, for one.

    The elements of x must be independent given z. A likelihood that couples them is refused.

    Sites: plate ``"data"`` (dim -1) with latent ``"z"``, event ``(latent_dim,)``, and observed ``"x"``, event
    ``x_shape``, with a mask.

    Args:
        x_shape, latent_dim, hidden_dims, activation, prior, likelihood, decoder: as of :class:`VAE`.

    Raises:
        ValueError: as :class:`VAE`.
        PairError: when called, the mask is not boolean or not of x's shape, or the likelihood's elements are not
            independent given z.

    References:
        P.-A. Mattei, J. Frellsen (2019), *MIWAE: Deep generative modelling and imputation of incomplete data sets*,
        arXiv 1812.02633, equation 4; A. Nazabal, P. Olmos, Z. Ghahramani, I. Valera (2020), *Handling incomplete
        heterogeneous data using VAEs*, arXiv 1807.03653 (missing elements are 0 for the encoder).

    >>> from pyro_vae.models.likelihoods import GaussianLikelihood
    >>> model = MaskedVAE((4,), latent_dim=2, likelihood=GaussianLikelihood((4,), latent_dim=2))
    >>> x = torch.tensor([[1.0, torch.nan, 0.3, torch.nan]])
    >>> model(x, ~x.isnan()).shape
    torch.Size([1, 2])
    """

    @property
    def further_arguments(self) -> FurtherArguments:
        """Which further tensors of a datum the model takes after x: the mask, and those of its likelihood."""
        names, least, takes_all = further_arguments(self.likelihood)
        return FurtherArguments(("observed", *names), 1 + least, takes_all)

    # The mask is one of the further tensors, and this model cannot do without.
    def forward(self, x: Tensor, observed: Tensor, *rest: Tensor) -> Tensor:  # type: ignore[override]
        """Run the model on x and its mask; returns z ``(batch, latent_dim)``.

        Args:
            x: ``(batch, *x_shape)``.
            observed: True where x was observed, ``(batch, *x_shape)``.
            rest: further tensors of each datum, ``(batch, ...)``, which the likelihood is called with after z.
        """
        flatten_event(x, self.x_shape, type(self).__name__)
        if observed.dtype != torch.bool or observed.shape != x.shape:
            raise PairError(
                f"{type(self).__name__}: the mask of what was observed, second tensor of a datum, must be boolean of "
                f"shape {tuple(x.shape)}, that of x; got {observed.dtype} of shape {tuple(observed.shape)}. Write "
                f"data=(x, ~x.isnan()), or observed.bool() for a mask of ones and zeros."
            )
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(LATENT, self.prior())
            p = likelihood_given(type(self).__name__, self.likelihood, z, rest)
            pyro.sample(OBSERVED, self._observed_part(p, observed), obs=x)
        return z

    def _observed_part(self, p: Distribution, observed: Tensor) -> Distribution:
        """Return the law of the observed elements, of p's batch and event."""
        elements = p
        while isinstance(elements, Independent):
            elements = elements.base_dist
        if elements.event_shape or p.event_shape != self.x_shape:
            raise PairError(
                f"{type(self).__name__}: a mask needs a likelihood whose elements are independent given z, as gaussian "
                f"or bernoulli; {type(self.likelihood).__name__} gives {type(elements).__name__} with events of shape "
                f"{tuple(elements.event_shape or p.event_shape)}, whose elements have no densities of their own."
            )
        return ObservedElements(elements, observed).to_event(len(self.x_shape))
