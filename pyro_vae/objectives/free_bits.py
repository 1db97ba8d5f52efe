"""The ELBO with free bits."""

import torch
from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, Sampled
from pyro_vae.programs.laws import kl_at
from pyro_vae.programs.particles import Particles, Site
from pyro_vae.programs.unit_kl import DependentUnitsError, kl_of_units
from pyro_vae.runtime.checks import check_number

GROUPS = ("dim", "site")


class FreeBits(ParticleBound):
    r"""The ELBO in which each group of latents has some nats for nothing, so that none is switched off early.

    .. math:: E_q[\log p(x | z)] - \sum_j \max\Big(\lambda, \frac1B \sum_x
        \mathrm{KL}(q(z_j | x) \| p(z_j))\Big)

    The mean is over the batch, as in the paper: a group above :math:`\lambda` on average is charged as it is, one below
    it gets no gradient from its KL. Masked data are not counted. KLs are closed where both laws are registered with
    torch, else sampled. The batch's value is a bound on its log p(x) still, a looser one than the ELBO.

    Args:
        floor: :math:`\lambda`, in nats a group.
        per: a group is each latent ``"dim"`` (q and p must be independent over them) or each latent ``"site"``.
        num_particles: samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``floor`` is negative, ``per`` is neither, ``num_particles`` is below 1; (when called) the guide has
            auxiliary sites or one without reparameterized sampling, samples its sites in another order than the model,
            or has dims that are not independent under ``per="dim"``.

    References:
        D. Kingma et al. (2016), *Improved variational inference with inverse autoregressive flow*, appendix,
        arXiv 1606.04934.

    >>> FreeBits(floor=0.25).per
    'dim'
    """

    def __init__(
        self, floor: float = 0.1, per: str = "dim", num_particles: int = 1, *, plate: str | None = None
    ) -> None:
        check_number("FreeBits", "floor", floor)
        if not floor >= 0:
            raise ValueError(f"FreeBits: floor must not be negative; got {floor}.")
        if per not in GROUPS:
            raise ValueError(f"FreeBits: per must be 'dim' or 'site'; got {per!r}.")
        super().__init__(num_particles, plate=plate)
        self.floor, self.per = floor, per

    def value(self, sampled: Sampled) -> Tensor:
        """Return the bound of each datum ``(batch,)``; the batch shares its rates."""
        sampled.require_reparameterized("FreeBits")
        if not sampled.pair.same_order:
            raise ValueError(
                "FreeBits: model and guide sample their latent sites in different orders, so that a site has no KL of "
                "its own. Let both sample them in one order."
            )
        charged = torch.zeros_like(sampled.terms.reconstruction[0])
        for site in sampled.runs[0].latents:
            kls = [self._kl_of_each_datum(run, site["name"]) for run in sampled.runs]
            kl = torch.cat(kls).mean(0)
            there = _share_there(sampled.runs[0], site).to(kl)
            weight = (sampled.weight * there).unsqueeze(-1)
            rates = (weight * kl).sum(0) / weight.sum().clamp(min=torch.finfo(kl.dtype).tiny)
            charged = charged + there * rates.clamp(min=self.floor).sum() * sampled.runs[0].inner_scale(site)
        return sampled.terms.reconstruction.mean(0) - charged

    def _kl_of_each_datum(self, run: Particles, name: str) -> Tensor:
        """Return the KL of each group of a site, ``(num_samples, batch, groups)``; inner plates are summed over."""
        if name not in run.model_trace.nodes:
            raise ValueError(f"FreeBits: the guide's site {name!r} is auxiliary; its KL has no meaning of its own.")
        q, p = run.guide_trace.nodes[name], run.model_trace.nodes[name]
        kl = self._of_site(q, p) if self.per == "site" else self._of_dims(q, p)
        return torch.stack([run.per_datum(group).expand(run.shape) for group in kl.unbind(-1)], -1)

    @staticmethod
    def _of_site(q: Site, p: Site) -> Tensor:
        """Return the KL of a whole site, ``(*batch_dims, 1)``."""
        kl = kl_at(q["fn"], p["fn"], q["value"])
        if q["mask"] is not None:
            kl = torch.where(torch.as_tensor(q["mask"], device=kl.device), kl, torch.zeros_like(kl))
        return kl.unsqueeze(-1)

    @staticmethod
    def _of_dims(q: Site, p: Site) -> Tensor:
        """Return the KL of each dim of a site, ``(*batch_dims, dims)``."""
        try:
            kl = kl_of_units(q, p)
        except DependentUnitsError as error:
            raise ValueError(
                f"FreeBits: per='dim' needs independent dims at site {error.name!r}; {error.law} has none. Use "
                f"per='site', or a guide and a prior that are products (mean_field, standard_normal)."
            ) from None
        event_dim = q["fn"].event_dim
        return kl.flatten(-event_dim) if event_dim else kl.unsqueeze(-1)


def _share_there(run: Particles, site: Site) -> Tensor:
    """Return 1 for a datum with a latent here, 0 for one that is masked, ``(batch,)``."""
    if site["mask"] is None:
        return torch.ones(run.shape[1], device=site["value"].device)
    mask = torch.as_tensor(site["mask"], device=site["value"].device).expand(site["fn"].batch_shape)
    return (run.per_datum(mask.float())[0] > 0).float()
