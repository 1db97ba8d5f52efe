"""A weight on the KL term of any objective, for warm-up."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor


class KLWeight(Messenger):
    r"""Scales the log-probabilities of latent sites by beta, on model and guide alike.

    Under ``Trace_ELBO`` the bound becomes E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Args:
        beta: a positive 0-dimensional tensor. A Python number would be frozen into a captured graph, and at 0
            Pyro refuses a scale.

    References:
        S. Bowman et al. (2016), *Generating sentences from a continuous space*, arXiv 1511.06349.
        C. Sonderby et al. (2016), *Ladder variational autoencoders*, arXiv 1602.02282.

    >>> import torch, pyro
    >>> from pyro import poutine, distributions as dist
    >>> half = KLWeight(torch.tensor(0.5))
    >>> with half:
    ...     trace = poutine.trace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).get_trace()
    >>> trace.nodes["z"]["scale"]
    tensor(0.5000)
    """

    def __init__(self, beta: Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        # A factor is observed; one in a guide's density says, as Pyro asks, whether it is reparameterized.
        is_latent = not msg["is_observed"] or "has_rsample" in vars(msg["fn"])
        if is_latent and not isinstance(msg["fn"], _Subsample):
            msg["scale"] = msg["scale"] * self.beta
