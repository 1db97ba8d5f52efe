"""Reweighted wake-sleep."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.objectives.at_leaves import LeafBound, scoring, weighted, with_guide_at_leaves
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.particle_bound import Sampled
from pyro_vae.programs.particles import LogTerms, Particles, samples
from pyro_vae.programs.redrawn import Redrawn, is_factor, refuse_factors
from pyro_vae.programs.values import observed_value
from pyro_vae.runtime.checks import check_number


class ReweightedWakeSleep(IWAE, LeafBound):
    r"""Reweighted wake-sleep: IWAE's gradient for the model, an inclusive KL for the guide.

    The model climbs :math:`\sum_k \bar w_k \nabla_\theta \log p(x, z_k)`, the gradient of IWAE's bound. The guide
    climbs

    .. math:: \lambda \sum_k \bar w_k \nabla_\phi \log q(z_k | x) + (1 - \lambda) \, \nabla_\phi \log q(z' | x'),
        \quad x', z' \sim p(x, z)

    with self-normalised weights of each datum: wake-phi, a descent on KL(p(z | x) || q(z | x)) whose bias falls with
    K, and sleep-phi, unbiased on data that the model makes, as many as the batch has. No sample is differentiated, so
    that any latent will do, discrete ones too; q must be able to score any z. A KL weight tempers the weights, and
    nothing else. The loss reported is minus IWAE's bound: what the guide descends has no value of its own to report.

    Args:
        num_particles: K, samples for each datum.
        insomnia: :math:`\lambda`, from 0 (sleep-phi alone) to 1 (wake-phi alone); Pyro's name.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``insomnia`` is outside [0, 1], ``num_particles`` is below 1; (when called) the guide has auxiliary
            sites, or a sleep phase is asked of a model that does not observe one of its arguments as it is.

    References:
        J. Bornschein, Y. Bengio (2015), *Reweighted wake-sleep*, arXiv 1406.2751.

    >>> ReweightedWakeSleep(num_particles=5, insomnia=0.5).insomnia
    0.5
    """

    def __init__(self, num_particles: int = 5, insomnia: float = 1.0, *, plate: str | None = None) -> None:
        check_number("ReweightedWakeSleep", "insomnia", insomnia)
        if not 0 <= insomnia <= 1:
            raise ValueError(f"ReweightedWakeSleep: insomnia must be from 0 to 1; got {insomnia}.")
        super().__init__(num_particles, plate=plate)
        self.insomnia = insomnia

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:  # noqa: ARG002 (the gradient is not the value's)
        """Return what is differentiated in place of the bound, ``(batch,)``."""
        auxiliary = [s["name"] for s in samples(sampled.runs[0].guide_trace) if s["infer"].get("is_auxiliary")]
        if auxiliary:
            raise ValueError(
                f"ReweightedWakeSleep: the guide's density must be closed; it has the auxiliary sites "
                f"{', '.join(auxiliary)}."
            )
        normalized = sampled.terms.log_weight.detach().softmax(0)
        total = weighted(normalized, sampled.terms.log_joint).sum(0)
        if self.insomnia > 0:
            with scoring("ReweightedWakeSleep"):
                reruns = [with_guide_at_leaves("ReweightedWakeSleep", sampled.pair, r) for r in sampled.runs]
                log_guide = LogTerms.together([run.terms() for run in reruns]).log_guide
            total = total + self.insomnia * (normalized * log_guide).sum(0)
        if self.insomnia < 1:
            total = total + (1 - self.insomnia) * self._dream(sampled)
        return total

    def _dream(self, sampled: Sampled) -> Tensor:
        """Return the log-density under q of latents that the model drew together with data, ``(batch,)``."""
        run = sampled.runs[0]
        observed = [site for site in samples(run.model_trace) if site["is_observed"] and not is_factor(site)]
        places = [i for i, argument in enumerate(run.args) if observed and argument is observed_value(observed[0])]
        if len(observed) != 1 or not places:
            raise ValueError(
                f"ReweightedWakeSleep: sleep-phi dreams data in the place of the model's argument; the model must "
                f"observe one site, and there an argument as it is: `pyro.sample('x', ..., obs=x)`. It observes "
                f"{', '.join(site['name'] for site in observed)}. With insomnia=1 there is no sleep phase."
            )
        with torch.no_grad(), Redrawn():
            dreamed = poutine.trace(sampled.pair.model).get_trace(*sampled.x)
        refuse_factors("ReweightedWakeSleep", dreamed)
        x: list[Any] = list(sampled.x)
        x[places[0]] = dreamed.nodes[observed[0]["name"]]["value"]
        guide_trace = sampled.pair.rerun_guide(tuple(x), dreamed)
        dream = Particles(dreamed, guide_trace, guide_trace, run.plate, run.particle_dim)
        sites = list(samples(guide_trace))
        with scoring("ReweightedWakeSleep"):
            return dream.log_prob(sites)[0]
