"""The best member of a family for each datum: maps on top of the amortized q, fitted to each datum by itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.gaps.local_maps import LocalMap
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.graphs.capture import unlike
from pyro_vae.graphs.draws import Tensors
from pyro_vae.graphs.levels import TermDraws

ROWS = 2560
"""Rows a decoder call: data times samples. All that is kept grows with it, not with the number of data."""

VALUES = 8_000_000
"""Decoder outputs a call (32 MB), where a datum has many: fewer rows then."""

PARAMETERS = 4_000_000
"""Parameters of all data that are fitted at a time; the optimizer and the best so far keep five times as many."""

CHECK_CALLS = 16
"""Calls' worth of fixed noise that progress is judged on: 32 samples a step make it 512 for each datum."""

SIGNIFICANT = 2.0
"""Standard errors of the paired difference by which the ELBO must rise to count as progress."""

FALL = 0.5
"""What a check without progress multiplies a datum's learning rate by."""

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's own defaults."""


@dataclass
class Fitted:
    """Some data whose q* is found."""

    index: Tensor
    """Which data, ``(count,)``."""
    theta: Tensor
    """Parameters of their maps, ``(count, num_parameters)``."""
    center: Tensor
    """Mean of u_0, from draws, ``(count, dim)``."""
    scale: Tensor
    """Its standard deviations, ``(count, dim)``: maps work on (u_0 - center) / scale."""
    converged: Tensor
    """Whether the rule stopped them, and not the limit on steps, ``(count,)``."""
    steps: Tensor
    """Steps that were taken, ``(count,)``."""
    counted: Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.bool))
    """Which coordinates are mapped, and not masked, ``(count, dim)``; all unless given."""

    def __post_init__(self) -> None:
        self.counted = self.counted.expand(self.center.shape)

    @staticmethod
    def together(parts: "list[Fitted]") -> "Fitted":
        """Put several below one another."""
        return Fitted(*(torch.cat([getattr(part, piece.name) for part in parts]) for piece in fields(Fitted)))

    def rows(self, which: Tensor) -> "Fitted":
        """Return some of them."""
        return Fitted(*(getattr(self, piece.name)[which] for piece in fields(Fitted)))


@dataclass
class Slots:
    """The data that are being fitted, one in each slot; every tensor has a row a slot."""

    index: Tensor
    busy: Tensor
    theta: Tensor
    first_moment: Tensor
    second_moment: Tensor
    window_sum: Tensor
    best: Tensor
    best_elbo: Tensor
    reference: Tensor
    center: Tensor
    scale: Tensor
    counted: Tensor
    noise: Tensor
    log_q: Tensor
    rate: Tensor
    steps: Tensor
    stale: Tensor

    def put(self, where: Tensor, other: "Slots") -> None:
        """Take the rows of other."""
        for piece in fields(self):
            mine = getattr(self, piece.name)
            chosen = where.to(mine.device).reshape(-1, *[1] * (mine.ndim - 1))
            setattr(self, piece.name, torch.where(chosen, getattr(other, piece.name), mine))

    def lost(self) -> Tensor:
        """Return which are busy with a datum that has no finite ELBO to start from."""
        return self.busy & ~self.reference.isfinite().all(-1).cpu()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but some."""
        for piece in fields(self):
            setattr(self, piece.name, getattr(self, piece.name)[rows])


class LocalPosteriors:
    r"""Finds q*_n, the law of u = T_n(u_0) with u_0 ~ q(u | x_n), that has the highest ELBO, for each datum n.

    .. math::
        \log q^*_n(u) = \log q(u_0 | x_n) - \log |\det \partial T_n / \partial u_0|, \qquad
        \mathcal{L}_n = E[\log p(x_n, T_n(u_0)) + \log |\det \partial T_n / \partial u_0| - \log q(u_0 | x_n)]

    A masked latent element is not mapped, and counts in no determinant (:class:`pyro_vae.programs.joint.Joint`).
    Neither an inverse nor a gradient of q is needed, so that any q will do, and T_n starts at the identity: at q
    itself. Maps work on u_0 less its mean, in units of its standard deviations, so that one learning rate fits all.

    *Steps.* Adam on the ELBO's gradient, which goes through u, with a learning rate and moments for each datum.

    *Stopping.* Every ``check_every`` steps the mean of the last half of the parameters is judged by its ELBO on noise
    that was drawn for the datum once. It is progress where the ELBO has risen, since the last progress, by more than
    two standard errors of the paired difference (the noise is the same). A check without progress halves the datum's
    learning rate and goes on from the best parameters so far; ``patience`` such checks in a row end it as converged,
    ``max_steps`` as not converged. What is handed on is the best of all checks, the start included.

    *Batches.* Data are fitted in slots, as many as a row budget allows; a datum that has ended makes room for the
    next. A datum whose ELBO is not finite at the start ends there; a step whose gradient is not finite is left out.

    Args:
        pair: whose q it starts from.
        local_map: the family.
        num_samples: how many samples of a datum will be asked of :meth:`weights`; by that and by the limit on steps it
            is decided whether capturing graphs pays.
        step_samples: samples of a datum in a step.
        learning_rate: Adam's, in standard deviations of q.
        check_every, patience, max_steps: as above.
    """

    def __init__(
        self, pair: FrozenPair, local_map: LocalMap, *, num_samples: int, step_samples: int, learning_rate: float,
        check_every: int, patience: int, max_steps: int,
    ) -> None:  # fmt: skip
        self._pair, self._map = pair, local_map
        self.step_samples, self._learning_rate = step_samples, learning_rate
        self._check_every, self._patience, self._max_steps = check_every, patience, max_steps
        rows = min(ROWS, VALUES // max(1, pair.joint.outputs))
        self.width = max(1, min(pair.size, rows // step_samples, PARAMETERS // local_map.num_parameters))
        """Slots: the data that are fitted at a time."""
        times = math.ceil(pair.size / self.width) * (max_steps + num_samples // step_samples)
        self._calls = Calls(pair, local_map, step_samples, self.width, times)

    def weights(self, fitted: Fitted, num_calls: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw log-weights under q and q* of ``width`` data from the same noise, ``(step_samples, width)`` each.

        Without gradients and in evaluation mode, as the caller has arranged.
        """
        block = self._pair.take(fitted.index)
        draw = self._calls.draw.on(*block)
        identity = self._map.start(len(fitted.index), fitted.theta)
        for _ in range(num_calls):
            given = [*draw(), fitted.center, fitted.scale, fitted.counted]
            at_q, at_best = (self._calls.weigh.on(*block, *given, theta)()[0] for theta in (identity, fitted.theta))
            yield at_q, at_best

    def __iter__(self) -> Iterator[Fitted]:
        """Fit all data; they come as they end, in any order."""
        calls, size = self._calls, self._pair.size
        next_datum = self.width
        slots = self._filled(calls, torch.arange(self.width))
        yield from self._leave(slots, slots.lost())
        while slots.busy.any():
            self._climb(calls, slots)
            yield from self._leave(slots, self._judge(calls, slots))
            free = int((~slots.busy).sum())
            if next_datum < size and 2 * free >= min(len(slots.busy), size - next_datum):
                # All slots are filled anew, as a graph is of one shape, and what is busy stays.
                coming = torch.arange(next_datum, min(next_datum + free, size))
                next_datum += len(coming)
                index = slots.index.clone()
                places = (~slots.busy).nonzero().flatten()[: len(coming)]
                index[places] = coming
                where = torch.zeros_like(slots.busy)
                where[places] = True
                slots.put(where, self._filled(calls, index))
                yield from self._leave(slots, slots.lost())
            elif next_datum >= size and 4 * (len(slots.busy) - free) <= len(slots.busy) and len(slots.busy) > 16:
                # At most a quarter of the slots is still in use: capturing a smaller graph costs less than it saves.
                slots.keep(slots.busy.nonzero().flatten())
                if len(slots.busy):
                    calls = Calls(self._pair, self._map, self.step_samples, len(slots.busy), self._max_steps)

    def _filled(self, calls: "Calls", index: Tensor) -> Slots:
        """Return slots for these data, each at the start of its optimization."""
        block, width = self._pair.take(index), len(index)
        draw = calls.draw.on(*block)
        draws = [draw() for _ in range(CHECK_CALLS)]
        noise = torch.stack([u for u, _ in draws], 1)
        log_q = torch.stack([log_density for _, log_density in draws], 1)
        # (samples, calls, batch, ...) to (batch, calls, samples, ...)
        noise, log_q = noise.movedim(2, 0).transpose(1, 2), log_q.movedim(2, 0).transpose(1, 2)
        flat = noise.flatten(1, 2)
        center, scale = flat.mean(1), flat.std(1)
        usable = center.isfinite() & scale.isfinite() & (scale > 0)
        center = center.where(usable, torch.zeros_like(center))
        scale = scale.where(usable, torch.ones_like(scale))
        counted = self._pair.counted(block)
        if counted is None:
            counted = torch.ones_like(center, dtype=torch.bool)
        theta = self._map.start(width, flat)
        zeros = torch.zeros_like(theta)
        counts = torch.zeros(width, dtype=torch.long)
        slots = Slots(
            index, torch.ones(width, dtype=torch.bool), theta, zeros, zeros, zeros, theta, flat.new_zeros(width),
            flat.new_zeros(()), center, scale, counted, noise, log_q,
            flat.new_full((width,), self._learning_rate), counts, counts,
        )  # fmt: skip
        slots.reference = self._fixed_weights(calls, slots, theta)
        slots.best_elbo = slots.reference.mean(-1)
        return slots

    def _fixed_weights(self, calls: "Calls", slots: Slots, theta: Tensor) -> Tensor:
        """Return the log-weights on the fixed noise, ``(slots, samples)``, float64."""
        block = self._pair.take(slots.index)
        weights: list[Tensor] = []
        for call in range(CHECK_CALLS):
            noise = slots.noise[:, call].transpose(0, 1).contiguous()
            log_q = slots.log_q[:, call].mT.contiguous()
            weights += calls.weigh.on(*block, noise, log_q, slots.center, slots.scale, slots.counted, theta)()
        return torch.cat(weights).mT.double()

    def _climb(self, calls: "Calls", slots: Slots) -> None:
        """Take ``check_every`` steps."""
        block = self._pair.take(slots.index)
        draw = calls.draw.on(*block)
        slots.window_sum = torch.zeros_like(slots.theta)
        theta, first, second = (t.clone() for t in (slots.theta, slots.first_moment, slots.second_moment))
        taken = slots.steps.to(theta.device)
        for step in range(1, self._check_every + 1):
            u, _ = draw()
            (gradient,) = calls.uphill.on(*block, u, slots.center, slots.scale, slots.counted, theta)()
            finite = gradient.isfinite().all(-1, keepdim=True)
            gradient = gradient.where(finite, torch.zeros_like(gradient))
            first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            count = (taken + step).to(theta.dtype)
            size = slots.rate * (1 - BETAS[1] ** count).sqrt() / (1 - BETAS[0] ** count)
            theta.addcdiv_(first * (size.unsqueeze(-1) * finite), second.sqrt().add_(EPSILON))
            if step > self._check_every // 2:
                slots.window_sum += theta
        slots.theta, slots.first_moment, slots.second_moment = theta, first, second
        slots.steps = slots.steps + self._check_every

    def _judge(self, calls: "Calls", slots: Slots) -> Tensor:
        """Compare the last steps with the best so far, and return which slots have ended."""
        candidate = slots.window_sum / (self._check_every - self._check_every // 2)
        weights = self._fixed_weights(calls, slots, candidate)
        elbo, rise = weights.mean(-1), weights - slots.reference
        error = rise.std(-1) / math.sqrt(rise.shape[-1])
        progress = rise.mean(-1) > SIGNIFICANT * error
        better = elbo > slots.best_elbo
        slots.best = candidate.where(better.unsqueeze(-1), slots.best)
        slots.best_elbo = elbo.where(better, slots.best_elbo)
        slots.reference = weights.where(progress.unsqueeze(-1), slots.reference)
        slots.theta = slots.theta.where(progress.unsqueeze(-1), slots.best)
        slots.rate = slots.rate.where(progress, FALL * slots.rate)
        slots.stale = torch.where(progress.cpu(), torch.zeros_like(slots.stale), slots.stale + 1)
        return slots.busy & ((slots.stale >= self._patience) | (slots.steps >= self._max_steps))

    def _leave(self, slots: Slots, which: Tensor) -> Iterator[Fitted]:
        if which.any():
            slots.busy = slots.busy & ~which
            rows = which.nonzero().flatten()
            yield Fitted(
                slots.index[rows], slots.best[rows], slots.center[rows], slots.scale[rows],
                (slots.stale >= self._patience)[rows], slots.steps[rows], slots.counted[rows],
            )  # fmt: skip


class Calls:
    """The three functions that the work is made of, each captured as a graph where it can be, for one width."""

    def __init__(self, pair: FrozenPair, local_map: LocalMap, num_samples: int, width: int, times: int) -> None:
        def draw(*block: Any) -> Tensors:
            return pair.draw(block, num_samples)

        def moved(u0: Tensor, center: Tensor, scale: Tensor, counted: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
            if not pair.joint.masked:
                e, log_det = local_map(theta, (u0 - center) / scale)
                return center + scale * e, log_det
            e, log_det = local_map(theta, (u0 - center) / scale, counted)
            return torch.where(counted, center + scale * e, u0), log_det

        def weigh(*given: Any) -> Tensors:
            *block, u0, log_q, center, scale, counted, theta = given
            u, log_det = moved(u0, center, scale, counted, theta)
            return [pair.log_joint(tuple(block), u) + log_det - log_q]

        def uphill(*given: Any) -> Tensors:
            *block, u0, center, scale, counted, theta = given
            with torch.enable_grad():
                theta = theta.detach().requires_grad_()
                u, log_det = moved(u0, center, scale, counted, theta)
                # log q(u_0) does not depend on theta.
                elbo = (pair.log_joint(tuple(block), u) + log_det).mean(0)
                return [*torch.autograd.grad(elbo.sum(), theta)]

        def captured(function: Any, *inputs: tuple[Any, ...]) -> TermDraws:
            return TermDraws(pair.who, function, inputs, pair.modules, "trace", times, pair.vectorizes)

        block, other = pair.take(torch.arange(width)), pair.take(unlike(torch.arange(pair.size))[-width:])
        u0, log_q = draw(*block)
        center, scale = torch.zeros_like(u0[0]), torch.ones_like(u0[0])
        counted = torch.ones_like(center, dtype=torch.bool)
        theta = local_map.start(width, u0)
        elsewhere = theta + 0.1 * torch.rand_like(theta)
        self.draw = captured(draw, block, other)
        """From a block to u_0 and log q(u_0)."""
        self.weigh = captured(
            weigh,
            (*block, u0, log_q, center, scale, counted, theta),
            (*other, u0.flip(0), log_q, u0[0], 2 * scale, u0[0] > u0[-1], elsewhere),
        )
        """From a block, u_0, log q(u_0), center, scale, what counts, and the maps, to log-weights of T(u_0)."""
        self.uphill = captured(
            uphill,
            (*block, u0, center, scale, counted, theta),
            (*other, u0.flip(0), u0[0], 2 * scale, u0[0] > u0[-1], elsewhere),
        )
        """From a block, u_0, center, scale, what counts, and the maps to the gradients of ELBOs by maps."""
