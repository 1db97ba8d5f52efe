"""The best member of a family for each datum: maps on top of the amortized q, fitted to each datum by itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.evaluation.gaps.local_maps import LocalMap
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.evaluation.over_data.rows import rows_a_call
from pyro_vae.graphs.capture import unlike
from pyro_vae.graphs.draws import Tensors
from pyro_vae.graphs.levels import TermDraws

ROWS = 2560
"""Rows a decoder call: data times samples. All that is kept grows with it, not with the number of data."""

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
    """Some data with the best maps that were found so far; every tensor has a row for each datum."""

    index: Tensor
    """Which data, ``(count,)``."""
    theta: Tensor
    """Parameters of their maps, ``(count, num_parameters)``."""
    center: Tensor
    """Mean of u_0, from draws, ``(count, dim)``."""
    scale: Tensor
    """Its standard deviations, ``(count, dim)``: maps work on (u_0 - center) / scale."""
    counted: Tensor
    """Which coordinates are mapped, and not masked, ``(count, dim)``."""
    converged: Tensor
    """Whether the rule stopped them, and not the limit on steps, ``(count,)``."""
    steps: Tensor
    """Steps that were taken, ``(count,)``."""

    @classmethod
    def together(cls, parts: "list[Fitted]") -> Self:
        """Put several below one another."""
        return cls(*(torch.cat([getattr(part, piece.name) for part in parts]) for piece in fields(cls)))

    def rows(self, which: Tensor) -> Self:
        """Return some of the data."""
        return type(self)(*(getattr(self, piece.name)[which] for piece in fields(self)))


@dataclass
class Slots(Fitted):
    """The data that are being fitted, one in each slot, and where their optimizations are."""

    busy: Tensor
    position: Tensor
    """Parameters that the next step starts from, ``(count, num_parameters)``."""
    first_moment: Tensor
    second_moment: Tensor
    rate: Tensor
    """Learning rate of each, ``(count,)``."""
    stale: Tensor
    """Checks without progress in a row, ``(count,)``."""
    noise: Tensor
    """Draws u_0 that checks are made on, ``(count, calls, samples, dim)``."""
    log_q: Tensor
    """Log q(u_0) of these, ``(count, calls, samples)``."""
    elbo: Tensor
    """Of the best maps, ``(count,)``."""
    reference: Tensor
    """Log-weights at the last progress, ``(count, calls * samples)``."""

    def put(self, where: Tensor, other: "Slots") -> None:
        """Take the rows of other."""
        for piece in fields(self):
            mine = getattr(self, piece.name)
            chosen = where.to(mine.device).reshape(-1, *[1] * (mine.ndim - 1))
            setattr(self, piece.name, torch.where(chosen, getattr(other, piece.name), mine))

    def leave(self, which: Tensor) -> Iterator[Fitted]:
        """Give the data that end here, if there are any, and free their slots."""
        if which.any():
            self.busy = self.busy & ~which
            rows = which.nonzero().flatten()
            yield Fitted(*(getattr(self, piece.name)[rows] for piece in fields(Fitted)))

    def leave_if_lost(self) -> Iterator[Fitted]:
        """Give the data that have no finite ELBO to start from."""
        return self.leave(self.busy & ~self.reference.isfinite().all(-1).cpu())


class LocalPosteriors:
    r"""Finds q*_n, the law of u = T_n(u_0) with u_0 ~ q(u | x_n), that has the highest ELBO, for each datum n.

    .. math::
        \log q^*_n(u) = \log q(u_0 | x_n) - \log |\det \partial T_n / \partial u_0|, \qquad
        \mathcal{L}_n = E[\log p(x_n, T_n(u_0)) + \log |\det \partial T_n / \partial u_0| - \log q(u_0 | x_n)]

    T_n starts at the identity: at q itself. It works on u_0 less its mean, in units of its standard deviations, so that
    one learning rate fits all. A masked latent element is not mapped, and counts in no determinant
    (:class:`pyro_vae.programs.joint.Joint`).

    *Gradient.* Only T_n has parameters that are fitted. Neither the law of u_0 nor log q(u_0 | x_n) depends on them, so
    that the gradient of the ELBO is the mean gradient of its first two terms along the path T_n(u_0), and there is no
    score term. q is never inverted or differentiated: any q will do.

    *Steps.* Adam on that gradient, with a learning rate and moments for each datum.

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
        rows: data times samples of a decoder call.
        parameters: of all data that are fitted at a time.
    """

    def __init__(
        self, pair: FrozenPair, local_map: LocalMap, *, num_samples: int, step_samples: int, learning_rate: float,
        check_every: int, patience: int, max_steps: int, rows: int = ROWS, parameters: int = PARAMETERS,
    ) -> None:  # fmt: skip
        self._pair, self._map = pair, local_map
        self._step_samples, self._learning_rate = step_samples, learning_rate
        self._check_every, self._patience, self._max_steps = check_every, patience, max_steps
        slots = min(rows_a_call(pair.joint.pair.outputs, rows) // step_samples, parameters // local_map.num_parameters)
        self.width = max(1, min(pair.size, slots))
        """Slots: the data that are fitted at a time."""
        times = math.ceil(pair.size / self.width) * (max_steps + num_samples // step_samples)
        self._calls = Calls(pair, local_map, step_samples, self.width, times)

    def weights(self, fitted: Fitted, num_samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw log-weights under q and q* of ``width`` data from the same noise, each ``(some samples, width)``.

        Without gradients and in evaluation mode, as the caller has arranged.
        """
        block = self._pair.take(fitted.index)
        draw = self._calls.draw.on(*block)
        identity = self._map.start(len(fitted.index), fitted.theta)
        for drawn in range(0, num_samples, self._step_samples):
            inputs = [*block, *draw(), fitted.center, fitted.scale, fitted.counted]
            at_q, at_best = (self._calls.weigh.on(*inputs, theta)()[0] for theta in (identity, fitted.theta))
            yield at_q[: num_samples - drawn], at_best[: num_samples - drawn]

    def blocks(self, bar: "tqdm[Any]") -> Iterator[tuple[Fitted, int]]:
        """Fit all data, and give them in blocks of ``width`` as they end, in any order.

        Args:
            bar: hears how many data have ended.

        Yields:
            A block, and how many of its first data count: the last block is filled up with data that it has.
        """
        waiting: list[Fitted] = []
        for fitted in self:
            waiting.append(fitted)
            bar.update(len(fitted.index))
            while sum(len(part.index) for part in waiting) >= self.width:
                together = Fitted.together(waiting)
                yield together.rows(torch.arange(self.width)), self.width
                waiting = [together.rows(torch.arange(self.width, len(together.index)))]
        together = Fitted.together(waiting)
        if count := len(together.index):
            yield together.rows(torch.arange(self.width) % count), count

    def __iter__(self) -> Iterator[Fitted]:
        """Fit all data; they come as they end, in any order."""
        calls, size = self._calls, self._pair.size
        next_datum = self.width
        slots = self._filled(calls, torch.arange(self.width))
        yield from slots.leave_if_lost()
        while slots.busy.any():
            self._judge(calls, slots, self._climb(calls, slots))
            yield from slots.leave(slots.busy & (slots.converged | (slots.steps >= self._max_steps)))
            free = int((~slots.busy).sum())
            if next_datum < size and 2 * free >= min(len(slots.busy), size - next_datum):
                # All slots are filled anew, as a graph is of one shape, and what is busy stays.
                coming = torch.arange(next_datum, min(next_datum + free, size))
                next_datum += len(coming)
                index = slots.index.clone()
                places = (~slots.busy).nonzero().flatten()[: len(coming)]
                index[places] = coming
                slots.put(torch.zeros_like(slots.busy).index_fill(0, places, True), self._filled(calls, index))
                yield from slots.leave_if_lost()
            elif next_datum >= size and 4 * (len(slots.busy) - free) <= len(slots.busy) and len(slots.busy) > 16:
                # At most a quarter of the slots is still in use: capturing a smaller graph costs less than it saves.
                slots = slots.rows(slots.busy.nonzero().flatten())
                if len(slots.busy):
                    calls = Calls(self._pair, self._map, self._step_samples, len(slots.busy), self._max_steps)

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
        counted = self._pair.joint.counted(block)
        if counted is None:
            counted = torch.ones_like(center, dtype=torch.bool)
        theta = self._map.start(width, flat)
        zeros, counts = torch.zeros_like(theta), torch.zeros(width, dtype=torch.long)
        slots = Slots(
            index=index, theta=theta, center=center, scale=scale, counted=counted, converged=counts > 0, steps=counts,
            busy=counts == 0, position=theta, first_moment=zeros, second_moment=zeros,
            rate=flat.new_full((width,), self._learning_rate), stale=counts, noise=noise, log_q=log_q,
            elbo=flat.new_zeros(()), reference=flat.new_zeros(()),
        )  # fmt: skip
        slots.reference = self._fixed_weights(calls, slots, theta)
        slots.elbo = slots.reference.mean(-1)
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

    def _climb(self, calls: "Calls", slots: Slots) -> Tensor:
        """Take ``check_every`` steps, and return the mean of the last half of the parameters."""
        block = self._pair.take(slots.index)
        draw = calls.draw.on(*block)
        total = torch.zeros_like(slots.position)
        theta, first, second = (t.clone() for t in (slots.position, slots.first_moment, slots.second_moment))
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
                total += theta
        slots.position, slots.first_moment, slots.second_moment = theta, first, second
        slots.steps = slots.steps + self._check_every
        return total / (self._check_every - self._check_every // 2)

    def _judge(self, calls: "Calls", slots: Slots, candidate: Tensor) -> None:
        """Compare parameters with the best so far, and write down what follows from that."""
        weights = self._fixed_weights(calls, slots, candidate)
        elbo, rise = weights.mean(-1), weights - slots.reference
        error = rise.std(-1) / math.sqrt(rise.shape[-1])
        progress = rise.mean(-1) > SIGNIFICANT * error
        better = elbo > slots.elbo
        slots.theta = candidate.where(better.unsqueeze(-1), slots.theta)
        slots.elbo = elbo.where(better, slots.elbo)
        slots.reference = weights.where(progress.unsqueeze(-1), slots.reference)
        slots.position = slots.position.where(progress.unsqueeze(-1), slots.theta)
        slots.rate = slots.rate.where(progress, FALL * slots.rate)
        slots.stale = torch.where(progress.cpu(), torch.zeros_like(slots.stale), slots.stale + 1)
        slots.converged = slots.stale >= self._patience


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

        def weigh(*inputs: Any) -> Tensors:
            *block, u0, log_q, center, scale, counted, theta = inputs
            u, log_det = moved(u0, center, scale, counted, theta)
            return [pair.log_joint(tuple(block), u) + log_det - log_q]

        def uphill(*inputs: Any) -> Tensors:
            *block, u0, center, scale, counted, theta = inputs
            with torch.enable_grad():
                theta = theta.detach().requires_grad_()
                u, log_det = moved(u0, center, scale, counted, theta)
                elbo = (pair.log_joint(tuple(block), u) + log_det).mean(0)
                return [*torch.autograd.grad(elbo.sum(), theta)]

        def captured(function: Any, *inputs: tuple[Any, ...]) -> TermDraws:
            return TermDraws(pair.who, function, inputs, pair.modules, "trace", times, pair.vectorizes)

        block, other = pair.take(torch.arange(width)), pair.take(unlike(torch.arange(pair.size))[-width:])
        u0, log_q = draw(*block)
        center, scale = torch.zeros_like(u0[0]), torch.ones_like(u0[0])
        theta = local_map.start(width, u0)
        maps = center, scale, torch.ones_like(center, dtype=torch.bool), theta
        # Other values of all inputs, which a graph is compared on.
        other_maps = u0[0], 2 * scale, u0[0] > u0[-1], theta + 0.1 * torch.rand_like(theta)
        self.draw = captured(draw, block, other)
        """From a block to u_0 and log q(u_0)."""
        self.weigh = captured(weigh, (*block, u0, log_q, *maps), (*other, u0.flip(0), log_q, *other_maps))
        """From a block, u_0, log q(u_0), center, scale, what counts, and the maps, to log-weights of T(u_0)."""
        self.uphill = captured(uphill, (*block, u0, *maps), (*other, u0.flip(0), *other_maps))
        """From a block, u_0, center, scale, what counts, and the maps to the gradients of ELBOs by maps."""
