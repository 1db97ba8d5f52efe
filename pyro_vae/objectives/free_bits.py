"""The ELBO with free bits."""

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.objectives.particle_bound import ParticleBound, Sampled
from pyro_vae.particles import Particles, Site

GROUPS = ("dim", "site")


class FreeBits(ParticleBound):
    r"""The ELBO in which each group of latents has some nats for nothing, so that none is switched off early.

    .. math:: E_q[\log p(x | z)] - \sum_j \max\Big(\lambda, \frac1B \sum_x
        \mathrm{KL}(q(z_j | x) \| p(z_j))\Big)

    The mean is over the batch, as in the paper: a group above :math:`\lambda` on average is charged as it is, one below
    it gets no gradient from its KL. KLs are closed where both laws are registered with torch, else sampled. The value
    is a bound on log p(x) still, a looser one than the ELBO.

    Args:
        floor: :math:`\lambda`, in nats a group.
        per: a group is each latent ``"dim"`` (q and p must be independent over them) or each latent ``"site"``.
        num_particles: samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``floor`` is negative, ``per`` is neither, ``num_particles`` is below 1; (when called) the guide has
            auxiliary sites or one without reparameterized sampling, or one whose dims are not independent under
            ``per="dim"``.

    References:
        D. Kingma et al. (2016), *Improved variational inference with inverse autoregressive flow*, appendix,
        arXiv 1606.04934.

    >>> FreeBits(floor=0.25).per
    'dim'
    """

    def __init__(
        self, floor: float = 0.1, per: str = "dim", num_particles: int = 1, *, plate: str | None = None
    ) -> None:
        if not floor >= 0:
            raise ValueError(f"FreeBits: floor must not be negative; got {floor}.")
        if per not in GROUPS:
            raise ValueError(f"FreeBits: per must be 'dim' or 'site'; got {per!r}.")
        super().__init__(num_particles, plate=plate)
        self.floor, self.per = floor, per

    def value(self, sampled: Sampled) -> Tensor:
        """Return the bound of each datum ``(batch,)``; the batch shares its rate."""
        sampled.require_reparameterized("FreeBits")
        charged = torch.zeros_like(sampled.terms.reconstruction[0])
        for site in sampled.runs[0].latents:
            rates = torch.stack([self._rate(run, site["name"]) for run in sampled.runs]).mean(0)
            scale = sampled.runs[0].inner_scale(site)
            charged = charged + scale * rates.clamp(min=self.floor).sum()
        return sampled.terms.reconstruction.mean(0) - charged

    def _rate(self, run: Particles, name: str) -> Tensor:
        """Return the mean KL of each group of a site, ``(groups,)``."""
        if name not in run.model_trace.nodes:
            raise ValueError(f"FreeBits: the guide's site {name!r} is auxiliary; its KL has no meaning of its own.")
        q, p = run.guide_trace.nodes[name], run.model_trace.nodes[name]
        if self.per == "dim":
            kl = _kl(_independent(q), _independent(p), q["value"])
            dims = q["fn"].event_dim
        else:
            kl, dims = _kl(q["fn"], p["fn"], q["value"]), 0
        if q["mask"] is not None:
            mask = torch.as_tensor(q["mask"], device=kl.device)
            kl = torch.where(mask.reshape(mask.shape + (1,) * dims), kl, torch.zeros_like(kl))
        return kl.reshape(-1, *kl.shape[kl.ndim - dims :]).mean(0).flatten()


def _kl(q: torch.distributions.Distribution, p: torch.distributions.Distribution, z: Tensor) -> Tensor:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)


def _independent(site: Site) -> torch.distributions.Distribution:
    """Return the site's law of one element, where elements are independent."""
    fn = site["fn"]
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if fn.event_dim:
        raise ValueError(
            f"FreeBits: per='dim' needs independent dims at site {site['name']!r}; {type(fn).__name__} has none. "
            f"Use per='site', or a guide and a prior that are products (mean_field, standard_normal)."
        )
    return fn
