"""Chains of Pyro's no-U-turn sampler in the coordinates of the joint density, on a graph of it."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.mcmc import NUTS
from torch import Tensor

from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.graphs.capture import NotTraceable, capture
from pyro_vae.programs.joint import Joint
from pyro_vae.runtime.roundings import agree
from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

STARTS = 20
"""Draws from the prior for each chain, at most: it starts at the first with a finite density."""


def log_joint_at(joint: Joint, args: tuple[Any, ...], u: Tensor) -> Tensor:
    """Return log p(x, u) at u ``(num_draws, N, dim)``, some rows at a time, ``(num_draws, N)``."""
    step = max(1, current_sizes().rows // u.shape[1])
    with torch.no_grad():
        return torch.cat([joint.terms(args, part).log_joint for part in u.split(step)])


class DatumDensity:
    """Minus log p(x, u) of one datum at a time, with its gradient: by a graph, or by Pyro where capture fails.

    Args:
        who: the caller, for messages.
        joint: of the model, made with all data.
        rows: the data.
        starts: some u of all data, ``(2 or more, N, dim)``, to record the graph with; NaN counts as 0.

    Raises:
        ValueError: the model does not take one datum alone, or gives it another density then.
    """

    def __init__(self, who: str, joint: Joint, rows: Rows, starts: Tensor) -> None:
        self._who, self._joint, self._rows = who, joint, rows
        self.dtype = starts.dtype
        """Of the programs' u."""
        at = starts.nan_to_num(0.0)
        self._check_alone(at[:1])
        # Two data, where there are as many, show a number that recording would freeze.
        first, last = self._block(0), self._block(rows.size - 1)
        self._tensors = [k for k, arg in enumerate(first) if isinstance(arg, Tensor)]
        self._whole = list(first)
        inputs = [*(first[k] for k in self._tensors), at[0, 0]]
        others = [*(last[k] for k in self._tensors), at[1, -1]]
        self._compute: Callable[..., list[Tensor]] = self._terms
        try:
            self._compute = capture(self._terms, inputs, others, rows.modules)
        except NotTraceable as reason:
            logger.warning("%s: runs without a graph, which is slower: %s", self._who, reason)

    def of(self, i: int, counted: Tensor, start: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return the potential of the datum's u, a function as Pyro's kernels take it.

        Args:
            i: the datum.
            counted: which coordinates are not masked, ``(dim,)``; u has these alone.
            start: the values of the others, ``(dim,)``.
        """
        block = self._block(i)
        tensors = [block[k] for k in self._tensors]

        def compute(u: Tensor) -> list[Tensor]:
            # Chains are in float64 where log-densities are; the programs stay in their own dtype.
            potential, gradient = self._compute(*tensors, start.masked_scatter(counted, u.to(self.dtype)))
            return [potential.to(u.dtype), gradient[counted].to(u.dtype)]

        return lambda z: _Potential.apply(z["u"], compute)

    def _block(self, i: int) -> tuple[Any, ...]:
        return self._rows.take(slice(i, i + 1))

    def _terms(self, *inputs: Tensor) -> list[Tensor]:
        args = list(self._whole)
        for k, tensor in zip(self._tensors, inputs, strict=False):
            args[k] = tensor
        with torch.enable_grad():
            u = inputs[-1].detach().requires_grad_()
            potential = -self._joint.terms(tuple(args), u[None, None]).log_joint.sum()
            return [potential.detach(), torch.autograd.grad(potential, u)[0]]

    def _check_alone(self, u: Tensor) -> None:
        """Refuse a model that gives a datum another density when it is alone."""
        together, size = log_joint_at(self._joint, self._rows.take(slice(None)), u), self._rows.size
        try:
            densities = [log_joint_at(self._joint, self._block(i), u[:, i : i + 1]) for i in range(size)]
            wrong = "" if densities[0].shape == (1, 1) else f"gave {densities[0].shape[1]} densities"
        except (RuntimeError, ValueError, IndexError) as error:
            wrong = f"failed with {in_one_line(error)}"
        if wrong:
            raise ValueError(
                f"{self._who}: the model must take one datum as well as {size}, each of which has chains of "
                f"its own; given one, it {wrong}. Give its plate the length of x."
            )
        alone = torch.cat(densities, dim=1)
        if not agree(together, alone, roundings=1000, eps=torch.finfo(u.dtype).eps):
            raise ValueError(
                f"{self._who}: the density of a datum depends on the data beside it, so that it has no "
                "posterior of its own. Look for sums or means over the batch in the model."
            )


class _Potential(torch.autograd.Function):
    """A function that comes with its gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> Tensor:
        value, gradient = compute(u.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None


def starts_of(joint: Joint, args: tuple[Any, ...], num_chains: int) -> Tensor:
    """Return draws from the prior with a finite density, ``(num_chains, N, dim)``; NaN where none is found."""
    starts = joint.draw(args, num_chains)
    for _ in range(STARTS):
        bad = ~log_joint_at(joint, args, starts).isfinite()
        if not bad.any():
            return starts
        starts = torch.where(bad.unsqueeze(-1), joint.draw(args, num_chains), starts)
    bad = ~log_joint_at(joint, args, starts).isfinite()
    return torch.where(bad.unsqueeze(-1), math.nan, starts)


def run_chain(
    potential: Callable[[dict[str, Tensor]], Tensor],
    start: Tensor,
    num_samples: int,
    warmup: int,
    progress: Callable[[], Any],
) -> tuple[Tensor, int]:
    """Return the draws ``(num_samples, dim)`` of one chain, and how many transitions after warmup diverged."""
    kernel = NUTS(potential_fn=potential)
    kernel.initial_params = {"u": start.clone()}
    kernel.setup(warmup)
    z, draws = kernel.initial_params, []
    for step in range(warmup + num_samples):
        z = kernel.sample(z)
        if step >= warmup:
            draws.append(z["u"].detach().clone())
        progress()
    return torch.stack(draws), len(kernel.diagnostics()["divergences"])
