r"""The importance-weighted bound with generalised doubly reparameterized gradients, of the guide and of the priors.

Let z_1, ..., z_L be the latent sites, q(z) the guide's joint density, and :math:`\bar w_k = w_k / \sum_j w_j`. The
gradient of the bound in the parameters of the model's law at a site s is

.. math:: E\Big[\sum_k \bar w_k \, c_s \nabla_\theta \log p_\theta(z_{ks} | z_{k,pa(s)})\Big]

with the z held fixed; c_s is the factor of the site's log-density in log w (a KL weight, a mask; else 1). Each term is
:math:`E_q[g(z) \nabla_\theta \log p_\theta(z_s | z_{pa(s)})]`, where :math:`g = c_s \bar w_k` depends on z_k and on
particles that are independent of it.

*With all other sites held fixed*, g q / p is a function h of z_s. Let :math:`T_p(\varepsilon; \theta)` draw from
:math:`p_\theta(\cdot | z_{pa(s)})`, and :math:`\partial_\theta T_p` be its derivative at
:math:`\tilde\varepsilon = T_p^{-1}(z_s; \theta)`. Since :math:`\int h \nabla_\theta p_\theta \, dz_s =
\nabla_\theta E_\varepsilon[h(T_p(\varepsilon; \theta))] = E_{p_\theta}[\partial_s h \, \partial_\theta T_p]`,

.. math:: E_q[g \nabla_\theta \log p_\theta(z_s | z_{pa(s)})]
    = E_q\big[\big(g \, \partial_s(\log q(z) - \log p_\theta(z_s | z_{pa(s)})) + \partial_s g\big) \,
    \partial_\theta T_p\big], \qquad
    \partial_s g = c_s \bar w_k (1 - \bar w_k) \, \partial_s \log w_k, \tag{1}

where :math:`\partial_s` is the partial derivative in z_s of functions of all sites, the laws at other sites that depend
on z_s among them, and q(z) is the joint density. This holds for any order in which the guide samples.

*With the noise of later sites held fixed.* Where the guide samples everything that the law at s may depend on (the
sites before s in the model) before s, one conditions on the sites before s alone; later ones are functions of z_s and
of their noise. The same steps give

.. math:: E_q[g \nabla_\theta \log p_\theta(z_s | z_{pa(s)})]
    = E_q\big[\big(g \, \partial_s(\log q(z_s | z_{<s}) - \log p_\theta(z_s | z_{pa(s)})) + D_s g\big) \,
    \partial_\theta T_p\big], \qquad
    D_s g = c_s \bar w_k (1 - \bar w_k) \, D_s \log w_k, \tag{2}

where :math:`D_s = \partial_s + \sum_{m > s} (d z_m / d z_s) \, \partial_m` is the total derivative along the guide's
later samples, of :math:`\log w` with the parameters of q fixed. (2) leaves out
:math:`g \, \partial_s \log q(z_m | z_s)` of later sites m, indirect score functions, which are noise: their mean is
zero where g does not depend on z_m. Top-down guides have (2) at each site, bottom-up guides have it at the top one,
and (1) below. Without an inner layer (1) and (2) are one, the gradient of Bauer and Mnih:

.. math:: \sum_k \big(\bar w_k \, \partial_z \log p(x | z_k) - \bar w_k^2 \, \partial_z \log w_k\big)
    \partial_\theta T_p.

Parameters that stand in several laws, of the model or of both programs, get the sum over these places: in each of them
the parameter is a variable of its own, and no step above uses that places share it.
"""

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.objectives.at_leaves import along_later_draws, element_scale, slopes_at, sum_per_datum, weighted
from pyro_vae.objectives.dreg import DReG
from pyro_vae.programs.own_noise import at_own_noise
from pyro_vae.programs.particles import LogTerms, Particles, Site, latent_sites, samples


class GDReG(DReG):
    r"""The bound of :class:`IWAE` with doubly reparameterized gradients of the guide and of the priors.

    The guide's gradient is that of :class:`DReG`. The gradient of the parameters of the model's laws at latent sites,
    of p(z) and of each p(z_l | z_{l+1}), is reparameterized as well; that of p(x | z) is IWAE's. With one layer

    .. math:: \nabla_\theta = \sum_k \Big(\bar w_k \frac{\partial}{\partial z_k} \log p(x | z_k)
        - \bar w_k^2 \frac{\partial}{\partial z_k} \log w_k\Big) \,
        \partial_\theta T_p(\varepsilon; \theta) \Big|_{\varepsilon = T_p^{-1}(z_k; \theta)}

    and with several the same at each site, with the derivatives that the module's docstring derives. It is unbiased for
    IWAE's gradient, whatever the order in which the guide samples and whatever parameters model and guide share; only a
    guide that detaches a draw before it samples later ones from it must not be used.

    Its variance is the smaller, the less x and the layers below say about a latent. Of the loc of a normal prior it is
    :math:`(s_p^2 \lambda)^2` times IWAE's where the guide is the posterior and the likelihood has the precision
    :math:`\lambda` in z: 0 for a unit that has collapsed, and larger than IWAE's where the likelihood says more than
    the prior. Where a top-down guide shares the model's p(z_l | z_{l+1}), DReG's gradient of its parameters has several
    times the variance of IWAE's, and this one a smaller or similar one.

    T is known for loc-scale laws and for what :func:`pyro_vae.programs.own_noise.at_own_noise` lists, flows with an
    inverse among them. The gradient of other laws (mixtures and the VampPrior, a Gamma, learned degrees of freedom of a
    Student-t), and of sites whose support differs between guide and model, is IWAE's.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: as for :class:`DReG`.

    References:
        M. Bauer, A. Mnih (2021), *Generalized doubly reparameterized gradient estimators*, arXiv 2101.11046,
        sections 4 and 5.

    >>> GDReG(num_particles=5).num_particles
    5
    """

    def of_model(self, run: Particles, at_leaves: Particles, terms: LogTerms, weights: Tensor) -> Tensor:
        """Return what has the model's gradient, ``(num_samples, batch)``."""
        moved = self._moved(at_leaves)
        kept = [site for site in samples(at_leaves.model_trace) if site["name"] not in moved]
        direct = at_leaves.log_prob(kept, at_leaves.inner_scale)
        factors = at_leaves.guide_factors()
        total = weighted(weights, direct if factors is None else direct - factors)
        if not moved:
            return total
        slopes = _slopes(run, at_leaves, terms, weights, list(moved))
        for name, value in moved.items():
            site = at_leaves.model_trace.nodes[name]
            scale = element_scale(at_leaves, site)
            total = total + sum_per_datum(at_leaves, site, scale * slopes[name] * value)
        return total

    @staticmethod
    def _moved(at_leaves: Particles) -> dict[str, Tensor]:
        """Return the values that follow the parameters of the model's laws, by site."""
        moved = {}
        for site in latent_sites(at_leaves.model_trace):
            if site["name"] not in at_leaves.bounded:
                value = at_own_noise(site["fn"], site["value"])
                if value is not None and value.requires_grad:
                    moved[site["name"]] = value
        return moved


def _slopes(
    run: Particles, at_leaves: Particles, terms: LogTerms, weights: Tensor, names: list[str]
) -> dict[str, Tensor]:
    """Return, by site, what multiplies the derivative of T_p in the module's equations 1 and 2, without c."""
    order = [site["name"] for site in run.latents]
    of_model = [site["name"] for site in latent_sites(at_leaves.model_trace)]
    drawn = {site["name"]: _log_prob_of_draw(at_leaves, site) for site in at_leaves.latents}
    of_weight = weighted(weights * (1 - weights), terms.log_weight)
    partial = slopes_at(run, of_weight)
    total = along_later_draws(run, partial)
    slopes: dict[str, Tensor] = {}
    for name in names:
        place = order.index(name)
        before_in_model = of_model[: of_model.index(name)]
        # Draws that carry no gradient cannot say how they move with z_s.
        later_move = total[place] is not None and all(order.index(other) < place for other in before_in_model)
        log_q = drawn[name] if later_move else sum(drawn.values())
        log_p = _log_prob_of_draw(at_leaves, at_leaves.model_trace.nodes[name])
        (slope,) = torch.autograd.grad(
            weighted(weights, log_q - log_p).sum(), run.replayed.nodes[name]["value"], retain_graph=True
        )  # fmt: skip
        slopes[name] = slope + (total[place] if later_move else partial[place])
    return slopes


def _log_prob_of_draw(run: Particles, site: Site) -> Tensor:
    """Return the log-density that a site's value is drawn with, ``(num_samples, batch)``: neither scaled nor masked."""
    return run.log_prob([{**site, "fn": _without_masks(site["fn"]), "mask": None}])


def _without_masks(law: Any) -> Any:
    """Return the law of the same draws whose density masks nothing."""
    if isinstance(law, dist.MaskedDistribution):
        return _without_masks(law.base_dist)
    if isinstance(law, Independent):
        return dist.Independent(_without_masks(law.base_dist), law.reinterpreted_batch_ndims)
    return law
