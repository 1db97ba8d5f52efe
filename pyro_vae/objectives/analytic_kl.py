"""The ELBO with KL terms in closed form."""

import logging
from collections.abc import Iterator
from typing import Any

from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.objectives.tensor_loss import analytic_loss, mean_over_particles
from pyro_vae.programs.laws import unwrapped
from pyro_vae.programs.particles import same_order, samples
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count

logger = logging.getLogger("pyro_vae")


class AnalyticKL(TraceMeanField_ELBO):
    """Pyro's ``TraceMeanField_ELBO``, which logs once, or refuses, each KL term that has no closed form.

    Pyro itself samples such a term without a word.

    Args:
        num_particles: samples for each datum.
        sample_rest: whether a KL without a closed form may be sampled.

    Raises:
        ValueError: (when called) the guide has a site without reparameterized sampling, model and guide sample their
            latent sites in different orders, or one has no closed KL and ``sample_rest`` is False.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, appendix B, arXiv 1312.6114.

    >>> AnalyticKL().num_particles
    1
    """

    def __init__(self, num_particles: int = 1, *, sample_rest: bool = True) -> None:
        check_count("AnalyticKL", "num_particles", num_particles)
        super().__init__(num_particles=num_particles)
        self.sample_rest = sample_rest
        self._said: set[str] = set()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)
        for site in samples(traces[1]):
            if not site["is_observed"] and not site["fn"].has_rsample:
                raise ValueError(
                    f"AnalyticKL: needs reparameterized samples, and the guide's site {site['name']!r} has none. "
                    f"Use Trace_ELBO."
                )
        if not same_order(*traces):
            raise ValueError(
                "AnalyticKL: model and guide sample their latent sites in different orders, so that a site has no KL "
                "of its own. Use Trace_ELBO."
            )
        for name, q, p in _without_closed_kl(*traces):
            text = f"site {name!r} has no closed KL of {q} to {p}"
            if not self.sample_rest:
                raise ValueError(f"AnalyticKL: {text}. Use Trace_ELBO, or sample_rest=True to have it sampled.")
            if text not in self._said:
                logger.warning("%s: it is sampled", text)
                self._said.add(text)
        return traces

    def tensor_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss as a tensor."""
        return mean_over_particles(self, analytic_loss)(model, guide, *args)


def _without_closed_kl(model_trace: Trace, guide_trace: Trace) -> Iterator[tuple[str, str, str]]:
    """Yield the latent sites whose KL torch has no formula for: name, class of q and class of p."""
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and not site["is_observed"] and name in guide_trace.nodes:
            q, p = guide_trace.nodes[name]["fn"], site["fn"]
            try:
                kl_divergence(q, p)
            except NotImplementedError:
                yield name, *(type(unwrapped(law, Independent)).__name__ for law in (q, p))
