"""A Gaussian pushed through invertible steps: the law of every normalizing flow, of guides and of priors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, constraints

from pyro_vae.distributions.drawn import Drawn

Move = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From z ``(*batch, d)`` to another z of that shape, and a log-determinant that broadcasts to ``(*batch,)``."""


@dataclass(frozen=True)
class FlowStep:
    """One step of a flow; its parameters broadcast with z from the right."""

    forward: Move
    """From z to (z', log|det dz'/dz|)."""
    inverse: Move | None = None
    """From z' to (z, log|det dz'/dz|), the same log-determinant as forward; None if the step has no inverse."""


class FlowDistribution(TorchDistribution):
    r"""The law of :math:`z_T = f_T \circ \cdots \circ f_1 (z_0)`, :math:`z_0 \sim N(loc, diag(scale^2))`.

    .. math:: \log q(z_T) = \log q_0(z_0) - \sum_t \log |\det \partial f_t / \partial z_{t-1}|.

    A draw is one pass through the steps, which also gives its log-density; the last draw is remembered, so that
    scoring that very tensor costs nothing and needs no inverse. Any other z is scored through the inverses. The
    remembered log-density is a function of the noise: its gradient is the total gradient of log q(z), by parameters
    and through z.

    Args:
        loc: ``(*batch, d)``.
        scale: ``(*batch, d)``.
        steps: first step first.
        owner: name of the part, for errors.
        remembers: whether the last draw's log-density is remembered. If not, a draw is scored through the inverses as
            any other z is, also after the steps' parameters have changed.
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        steps: Sequence[FlowStep],
        owner: str = "FlowDistribution",
        remembers: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = loc, scale
        self.steps = tuple(steps)
        self.owner = owner
        self.remembers = remembers
        self._drawn: Drawn | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def invertible(self) -> bool:
        """Whether any z can be scored, not only the last draw."""
        return all(step.inverse is not None for step in self.steps)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """Return a view with another batch shape, which has drawn nothing yet."""
        shape = torch.Size(batch_shape) + self.event_shape
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        return FlowDistribution(
            loc, scale, self.steps, self.owner, self.remembers, validate_args=self._validate_args
        )  # fmt: skip

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise ``(*sample, *batch, d)`` to z and log q(z) ``(*sample, *batch)``."""
        log_prob = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) - self.scale.log().sum(-1)
        z = self.loc + self.scale * noise
        for step in self.steps:
            z, log_det = step.forward(z)
            log_prob = log_prob - log_det
        return z, log_prob

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample, with the gradient of all arguments and of the steps' parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        value, log_prob = self.push(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))
        self._drawn = Drawn.of(value, log_prob) if self.remembers else None
        return value

    def at_own_noise(self, value: Tensor) -> Tensor | None:
        """Return the value as this distribution makes it from the noise that gives it, with the parameters' gradient.

        None where a step has no inverse; the value's own gradient is not followed.
        """
        with torch.no_grad():
            start = value.expand(torch.broadcast_shapes(value.shape, self.loc.shape))
            for step in reversed(self.steps):
                if step.inverse is None:
                    return None
                start, _ = step.inverse(start)
            noise = (start - self.loc) / self.scale
        return self.push(noise)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``(*batch,)``: the remembered one for the last draw, else by the inverses.

        Raises:
            ValueError: a step has no inverse, and the value is not the unchanged last draw of this object; or that
                draw was made without gradients, and they are enabled now.
        """
        if self._validate_args:
            self._validate_sample(value)
        drawn = self._drawn
        if drawn is not None and drawn.is_same(value):
            if drawn.scores(value):
                return drawn.log_prob
            if not self.invertible:
                raise ValueError(
                    f"{self.owner}: this z was drawn without gradients (by sample(), or under torch.no_grad()), and "
                    f"its log-density has none. Draw it with rsample(), or score it under torch.no_grad()."
                )
        value = value.expand(torch.broadcast_shapes(value.shape, self.loc.shape))
        total = torch.zeros((), dtype=self.loc.dtype, device=self.loc.device)
        for step in reversed(self.steps):
            if step.inverse is None:
                raise ValueError(
                    f"{self.owner}: this flow has no inverse, so only the z that this distribution object drew last "
                    f"can be scored, as the very tensor it returned. To score any other z, use a guide whose flow "
                    f"has an inverse (InverseAutoregressiveGuide, SplineGuide) or a Gaussian one."
                )
            value, log_det = step.inverse(value)
            total = total - log_det
        return total + Normal(self.loc, self.scale, validate_args=False).log_prob(value).sum(-1)
