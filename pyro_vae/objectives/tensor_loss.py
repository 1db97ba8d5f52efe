"""The loss of an objective as one tensor, so that it can be captured in a graph."""

from collections.abc import Callable
from typing import Any

from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.graphs.capture import NotTraceable
from pyro_vae.protocols import Program, TensorObjective

LossFunction = Callable[..., Tensor]


def tensor_loss(objective: Any) -> LossFunction:
    """Return ``loss(model, guide, *args)``, with the value and gradient of the objective's own.

    Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO`` turn their loss into a Python float on the way, which no
    graph can hold; the same terms are summed here from the same traces. Other objectives offer ``tensor_loss``.

    Raises:
        NotTraceable: the objective is neither, or (when the loss is called) a guide site is not reparameterized.
    """
    # Exact types: a subclass may compute anything.
    for pyro_class, particle_loss in ((Trace_ELBO, sampled_loss), (TraceMeanField_ELBO, analytic_loss)):
        if type(objective) is pyro_class:
            return mean_over_particles(objective, particle_loss)
    if isinstance(objective, TensorObjective):
        return objective.tensor_loss
    raise NotTraceable(f"{type(objective).__name__} has no tensor_loss method")


def mean_over_particles(objective: ELBO, particle_loss: Callable[[Trace, Trace], Tensor]) -> LossFunction:
    """Return the loss whose value for one particle, a trace of the model and one of the guide, is given."""

    def loss(model: Program, guide: Program, *args: Any) -> Tensor:
        traces = objective._get_traces(model, guide, args, {})
        return sum(particle_loss(*pair) for pair in traces) / objective.num_particles

    return loss


def sampled_loss(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Return the loss of ``Trace_ELBO`` for one particle."""
    _require_reparameterized(guide_trace)
    return guide_trace.log_prob_sum() - model_trace.log_prob_sum()


def analytic_loss(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Return the loss of ``TraceMeanField_ELBO`` for one particle."""
    _require_reparameterized(guide_trace)
    loss: Any = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            loss = loss - site["log_prob_sum"]
            continue
        other = guide_trace.nodes[name]
        try:
            kl = kl_divergence(other["fn"], site["fn"])
        except NotImplementedError:
            loss = loss + other["log_prob_sum"] - site["log_prob_sum"]
        else:
            loss = loss + scale_and_mask(kl, scale=other["scale"], mask=other["mask"]).sum()
    auxiliary = (s for n, s in guide_trace.nodes.items() if s["type"] == "sample" and n not in model_trace.nodes)
    return sum((site["log_prob_sum"] for site in auxiliary), loss)


def _require_reparameterized(guide_trace: Trace) -> None:
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and not is_identically_zero(site["score_parts"].score_function):
            raise NotTraceable(f"guide site {name!r} is not reparameterized")
