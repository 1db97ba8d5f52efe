"""The partially importance-weighted bound."""

import torch
from torch import Tensor

from pyro_vae.objectives.at_leaves import LeafBound, through_samples, weighted
from pyro_vae.objectives.miwae import MIWAE
from pyro_vae.objectives.particle_bound import Sampled, log_mean_exp
from pyro_vae.programs.particles import LogTerms


class PIWAE(MIWAE, LeafBound):
    r"""IWAE(M K) for the model, MIWAE(M, K) for the guide, of the same samples.

    The model gets the gradient of the tightest bound, the guide that of one which keeps its signal. The loss reported
    is that of IWAE(M K). Parameters that the model shares with the guide (a VampPrior's posterior) get, where the model
    uses them, the model's gradient.

    Args:
        num_groups: M.
        num_particles: K, samples in each group.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_groups`` or ``num_particles`` is below 1; (when called) the guide has a site without
            reparameterized sampling.

    References:
        T. Rainforth et al. (2018), *Tighter variational bounds are not necessarily better*, arXiv 1802.04537.

    >>> PIWAE(num_groups=8, num_particles=8).total_particles
    64
    """

    def bound(self, terms: LogTerms) -> Tensor:
        """Return IWAE's bound of each datum ``(batch,)`` from terms ``(M K, batch)``."""
        return log_mean_exp(terms.log_weight)

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:  # noqa: ARG002 (the gradient is not the value's)
        """Return what is differentiated in place of the bound, ``(batch,)``."""
        sampled.require_reparameterized(type(self).__name__)
        terms, log_weight = sampled.terms, sampled.terms.log_weight.detach()
        for_model = log_weight.softmax(0)
        for_guide = self.in_groups(log_weight).softmax(1).flatten(0, 1) / self.num_groups
        # The model was run at leaves, so that its log-joint reaches the guide through the samples only.
        sizes = [run.shape[0] for run in sampled.runs]
        parts = zip(sampled.runs, weighted(for_guide, terms.log_joint).split(sizes), strict=True)
        path = torch.cat([through_samples(run, values) for run, values in parts])
        return (weighted(for_model, terms.log_joint) + path - for_guide * terms.log_guide).sum(0)
