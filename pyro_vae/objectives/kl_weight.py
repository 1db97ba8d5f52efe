"""A weight on the KL term of any objective, for warm-up."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

BY_SITE = "pyro_vae_kl_weight_by_site"
"""Set, in a site's ``infer``, where sites have weights of their own: they may differ in one step and not in another."""


class KLWeight(Messenger):
    r"""Scales the log-probabilities of latent sites by beta, on model and guide alike.

    Under ``Trace_ELBO`` the bound becomes E_q[log p(x|z)] - beta KL(q(z|x) || p(z)); with weights by site,
    E_q[log p(x|z)] - sum_s beta_s E_q[log q(z_s | z_{<s}, x) - log p(z_s | z_{pa(s)})].

    Args:
        beta: a positive 0-dimensional tensor. A Python number would be frozen into a captured graph, and at 0
            Pyro refuses a scale.
        by_site: such tensors for latent sites that have a weight of their own in the place of ``beta``.

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

    def __init__(self, beta: Tensor, by_site: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.beta, self.by_site = beta, dict(by_site or {})

    def _pyro_sample(self, msg: Any) -> None:
        # A factor is observed; one in a guide's density says, as Pyro asks, whether it is reparameterized.
        is_latent = not msg["is_observed"] or "has_rsample" in vars(msg["fn"])
        if is_latent and not isinstance(msg["fn"], _Subsample):
            msg["scale"] = msg["scale"] * self.by_site.get(msg["name"], self.beta)
            if self.by_site:
                msg["infer"] = {**msg["infer"], BY_SITE: True}
