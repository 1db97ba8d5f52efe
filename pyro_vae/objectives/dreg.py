"""The importance-weighted bound with the doubly reparameterized gradient."""

import torch
from torch import Tensor

from pyro_vae.objectives.at_leaves import (
    LeafBound,
    along_later_draws,
    element_scale,
    slopes_at,
    sum_per_datum,
    weighted,
)
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.kl_weight import BY_SITE
from pyro_vae.objectives.particle_bound import Sampled
from pyro_vae.programs.own_noise import at_own_noise
from pyro_vae.programs.particles import LogTerms, Particles


class DReG(IWAE, LeafBound):
    r"""The bound of :class:`IWAE` with the doubly reparameterized gradient for q, whose signal grows with K.

    .. math:: \nabla_\phi L_K = E\Big[\sum_k \bar w_k^2
        \frac{\partial}{\partial z_k} \log \frac{p(x, z_k)}{q(z_k | x)} \nabla_\phi z_k\Big],
        \quad \bar w_k = \frac{w_k}{\sum_j w_j}

    Unbiased for IWAE's own; the model's gradient is IWAE's. With several latent sites z_k are all of them, the partial
    derivatives in them are joined by the total derivative :math:`\nabla_\phi z_k` along the guide's draws: so it is
    unbiased for guides in any order, top-down or bottom-up, and for parameters that guide and model share. For these
    its variance may be several times that of IWAE's; :class:`GDReG` mends that.

    Where log q has a factor :math:`\beta` in the weights (a KL weight, a mask),
    :math:`\bar w_k - \beta \bar w_k (1 - \bar w_k)` takes the square's place. Where sites s have factors of their own,

    .. math:: \nabla_\phi L_K = E\Big[\sum_k \bar w_k \, \frac{\partial \log w_k}{\partial z_k} \nabla_\phi z_k
        - \sum_s \beta_s \bar w_k (1 - \bar w_k) \, D_s \log w_k \, \partial_\phi T_s\Big],

    with D_s the total derivative along the draws after z_s, and :math:`\partial_\phi T_s` that of z_s by the
    parameters of its own law; where this law's T is not known (see :func:`pyro_vae.programs.own_noise.at_own_noise`),
    the term is :math:`\beta_s \bar w_k \nabla_\phi \log q(z_{ks} | z_{k,<s})`, the score function's.

    The guide must be able to score any z: planar and Sylvester flows cannot.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is below 1; (when called) the guide has a site without reparameterized sampling,
            or sites with different masks.

    References:
        G. Tucker, D. Lawson, S. Gu, C. Maddison (2019), *Doubly reparameterized gradient estimators for Monte Carlo
        objectives*, arXiv 1810.04152.

    >>> DReG(num_particles=5).num_particles
    5
    """

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:  # noqa: ARG002 (the gradient is not the value's)
        """Return what is differentiated in place of the bound, ``(batch,)``."""
        if not sampled.pair.latent_masks_agree:
            raise ValueError(
                f"{type(self).__name__}: the guide's sites carry different masks, for which it has no unbiased "
                f"gradient. Use IWAE, or give all latent sites the same."
            )
        normalized = sampled.terms.log_weight.detach().softmax(0)
        if _have_scales_of_their_own(sampled):
            return self.put_together(sampled, normalized, lambda _weights, _scale: 1, scores=_scores_by_site)
        # Of w_k's share in the sum, log q's factor times w_k (1 - w_k) is what the score turns into.
        return self.put_together(sampled, normalized, path_weight=lambda w, scale: 1 - scale * (1 - w))


def _have_scales_of_their_own(sampled: Sampled) -> bool:
    """Whether the guide's sites have different scales, or may have them in another step."""
    latents = sampled.runs[0].latents
    by_site = any(BY_SITE in site["infer"] for site in latents)
    return len(latents) > 1 and (by_site or not sampled.pair.latent_scales_agree)


def _scores_by_site(run: Particles, at_leaves: Particles, terms: LogTerms, weights: Tensor) -> Tensor:
    """Return what has the gradient of the scores in the weights, ``(num_samples, batch)``, each with its site's scale.

    Args: as for :meth:`pyro_vae.objectives.at_leaves.LeafBound.of_model`.
    """
    total = torch.zeros_like(weights)
    slopes = along_later_draws(run, slopes_at(run, weighted(weights * (1 - weights), terms.log_weight)))
    for site, slope in zip(at_leaves.latents, slopes, strict=True):
        moved = at_own_noise(site["fn"], site["value"])
        if moved is None:
            total = total + weighted(weights, at_leaves.log_prob([site], at_leaves.inner_scale))
        elif slope is not None:
            total = total + sum_per_datum(at_leaves, site, element_scale(at_leaves, site) * slope * moved)
    return total
