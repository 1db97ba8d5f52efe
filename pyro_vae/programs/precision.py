"""What float32 loses of a log-weight, and log-probabilities in float64 for where that matters."""

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Transform, constraints
from torch.distributions.utils import _sum_rightmost

from pyro_vae.programs.values import support_of

TOLERATED = 1e-3
"""Nats that float32 may lose of a log-weight before log-probabilities are computed in float64."""

MOST_ROUNDING = 0.1
"""Nats of rounding above which weights are not used: such roundings bias log p(x) by half their square."""

UNRESOLVED = (
    "float32 cannot resolve these weights: use dtype=torch.float64 (model.double(), guide.double(), x.double()), and "
    "where that is in use, standardise x"
)
"""What results say of data whose weights are lost in rounding."""

_PLAIN = (int, float, bool, str, type(None), torch.Size, torch.dtype, torch.device, constraints.Constraint)


@dataclass(frozen=True)
class Rounding:
    """How large the roundings in the log-weights of N data are, as measured on some of them."""

    error: Tensor
    """Nats by which a log-weight moved at most where every latent value moved by one rounding, ``(N,)``, float64."""
    magnitude: Tensor
    """The largest of those log-weights, without its sign, ``(N,)``, float64."""

    def of(self, log_weight: Tensor, data: slice | Tensor) -> Tensor:
        """Return the nats that roundings may be off by in log-weights: more in larger ones, never less than measured.

        Args:
            log_weight: of each of the data.
            data: which those are.

        Returns:
            Tensor, float64, of the shape of ``log_weight``, on the CPU.
        """
        size = log_weight.double().cpu().abs().nan_to_num(0.0, 0.0, 0.0)
        return self.error[data] * (size / self.magnitude[data].clamp(min=torch.finfo().tiny)).clamp(min=1)

    def lost(self, log_weight: Tensor, data: slice | Tensor) -> Tensor:
        """Return which log-weights are known to no better than 0.1 nats; the arguments are those of :meth:`of`."""
        return self.of(log_weight, data) > MOST_ROUNDING


def log_prob_in_float64(fn: Any, value: Tensor) -> Tensor:
    """Return a distribution's log-probability, computed in float64 from its parameters as they are.

    A law that holds more than tensors, numbers and other laws (transforms that are networks) computes in its own
    dtype; around it, as where ``to_event`` sums over many elements, float64 is taken all the same.

    Args:
        fn: a distribution.
        value: of its batch and event shape.

    Returns:
        Tensor, float64, of the shape of ``fn.log_prob(value)``.

    >>> from pyro import distributions as dist
    >>> p, x = dist.Normal(torch.zeros(10**6), 1.0).to_event(1), torch.zeros(10**6)
    >>> round(log_prob_in_float64(p, x).item(), 6)
    -918938.533205
    """
    method = type(fn).log_prob
    if method is Independent.log_prob:
        return _sum_rightmost(log_prob_in_float64(fn.base_dist, value), fn.reinterpreted_batch_ndims)
    if method is MaskedDistribution.log_prob and isinstance(fn._mask, Tensor):
        return scale_and_mask(log_prob_in_float64(fn.base_dist, value), mask=fn._mask)
    if method is ExpandedDistribution.log_prob:
        log_prob = log_prob_in_float64(fn.base_dist, value)
        return log_prob.expand(torch.broadcast_shapes(fn.batch_shape, log_prob.shape))
    try:
        return _cast(fn).log_prob(value.double() if value.is_floating_point() else value)
    except (_NotPlain, RuntimeError, TypeError):
        return fn.log_prob(value).double()


def nudged(trace: Trace, names: set[str]) -> Trace:
    """Return a trace whose continuous values of the named sites are one rounding larger or smaller, by chance."""
    moved = trace.copy()
    for name in names & set(moved.nodes):
        site = moved.nodes[name]
        value = site["value"]
        support = support_of(site["fn"])
        discrete = support is not None and support.is_discrete
        if value.is_floating_point() and not isinstance(site["fn"], Delta) and not discrete:
            up = torch.rand_like(value) < 0.5
            toward = torch.where(up, torch.full_like(value, torch.inf), torch.full_like(value, -torch.inf))
            moved.nodes[name] = {**site, "value": torch.nextafter(value, toward)}
    return moved


def roughened(trace: Trace, other: Trace) -> Trace:
    """Return a trace whose laws have parameters that are rounded anew, by chance, where these depend on latent values.

    Args:
        trace: of a model.
        other: of the same model at other latent values, by which it is seen which parameters depend on them.
    """
    rough = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and name in other.nodes:
            with contextlib.suppress(_NotPlain):
                rough.nodes[name] = {**site, "fn": _cast(site["fn"], other.nodes[name]["fn"])}
    return rough


class _NotPlain(Exception):  # noqa: N818 (a finding about a law, not a fault)
    """A law holds something that cannot be copied into another dtype."""


def _cast(part: Any, other: Any = None, known: dict[int, Any] | None = None) -> Any:
    """Return a part of a law in float64: a tensor, a law, a transform without a memory, or several of these.

    Where an element differs from that of the other part, if there is one, a rounding is added to it.

    Args:
        part: of a law.
        other: the same part of another law.
        known: laws and transforms that are cast by now, by their ``id``: a transform and its inverse hold each other.
    """
    known = {} if known is None else known
    if id(part) in known:
        return known[id(part)]
    if isinstance(part, Tensor):
        if not part.is_floating_point():
            return part
        if not isinstance(other, Tensor) or other.shape != part.shape:
            return part.double()
        noise = (2 * torch.rand_like(part, dtype=torch.float64) - 1) * torch.finfo(part.dtype).eps
        return part.double() * torch.where(part == other, 1.0, 1 + noise)
    if isinstance(part, _PLAIN):
        return part
    if isinstance(part, list | tuple):
        return type(part)([_cast(element, known=known) for element in part])
    if isinstance(part, dict):
        return {name: _cast(element, known=known) for name, element in part.items()}
    if not isinstance(part, Distribution | Transform) or isinstance(part, nn.Module):
        raise _NotPlain
    # Of probabilities that are 0 or 1, the logits depend on the dtype in which they are clipped.
    if "probs" in vars(part):
        getattr(part, "logits", None), getattr(other, "logits", None)
    converted = known[id(part)] = copy.copy(part)
    others = vars(other) if type(other) is type(part) else {}
    for name, value in vars(part).items():
        # What a law checks, it has checked in its own dtype.
        vars(converted)[name] = False if name == "_validate_args" else _cast(value, others.get(name), known)
    return converted
