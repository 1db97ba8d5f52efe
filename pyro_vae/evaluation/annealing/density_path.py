"""The path of densities from the prior, or from a guide, to the posterior, in unconstrained coordinates."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.guide_draws import GuideDraws
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Program


class Path:
    r"""Log-densities from q_0(u) to p(x, u), where q_0 is the prior p(u) or a guide q(u | x).

    .. math:: \log f_b(u) = \log q_0(u) + b (\log p(x, u) - \log q_0(u)), \qquad 0 \le b \le 1

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x) to start from; None for the prior.
        x: some data, or a tuple of all arguments.
        plate: the batch plate's name, needed only where several would do.

    Raises:
        PairError: no batch plate, or model and guide do not fit each other.
        ValueError: a latent site is discrete; the batch plate subsamples; or the guide has no density for a z that it
            did not draw.
    """

    def __init__(self, who: str, model: Program, guide: Program | None, x: Any, plate: str | None = None) -> None:
        self.joint = Joint(who, model, x, plate)
        self.start = "prior" if guide is None else "guide"
        """What q_0 is: "prior" or "guide"."""
        self.parts: list[Joint | Pair] = [self.joint]
        """The joint density, and the pair where there is a guide: each may have masks."""
        self.pairs = [self.joint.pair]
        """The pairs that are run: each vectorizes or not, and has roundings of its own."""
        self._guide = None if guide is None else GuideDraws(self.joint, model, guide, x, plate)
        if self._guide is not None:
            self.parts.append(self._guide.pair)
            self.pairs.append(self._guide.pair)
            reason = self._guide.why_no_density(x)
            if reason:
                raise ValueError(f"{who}: {reason}. Start from the prior: guide=None.")

    @property
    def vectorizes(self) -> bool:
        """Whether many chains are run at once, and not one by one."""
        return all(pair.vectorizes for pair in self.pairs)

    def draw(self, x: Any, num_chains: int) -> Tensor:
        """Draw u from q_0, ``(num_chains, batch, dim)``."""
        with torch.no_grad():
            return self.joint.draw(x, num_chains) if self._guide is None else self._guide.draw(x, num_chains)[0]

    def at(self, x: Any, u: Tensor) -> list[Tensor]:
        """Return log q_0(u) and log p(x, u) - log q_0(u) ``(num_chains, batch)``, and their slopes, of u's shape."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            terms = self.joint.terms(x, u)
            if self._guide is None:
                base, ratio = terms.log_prior, terms.log_likelihood
                slopes = [_slope(base, u), _slope(ratio, u)]
            else:
                base = self._guide.log_density(x, u) + terms.log_volume
                ratio = terms.log_joint - base
                slope = _slope(base, u)
                slopes = [slope, _slope(terms.log_joint, u) - slope]
        return [base.detach(), ratio.detach(), *slopes]


def _slope(value: Tensor, u: Tensor) -> Tensor:
    """Return the gradient of each chain's and datum's value by its own u; the graph is kept."""
    if not value.requires_grad:
        return torch.zeros_like(u)
    (slope,) = torch.autograd.grad(value.sum(), u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(u) if slope is None else slope
