"""Capture what a Pyro program computes as one graph of tensor operations, without the messengers.

A Pyro trace costs Python time at every site; its arithmetic does not change from call to call. So it is recorded
once, and the recorded graph is run. The training step and the importance weights both stand on this.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.graphs.draws import Draws, Tensors
from pyro_vae.graphs.simplify import tidy
from pyro_vae.programs.undo import VERIFICATION_SEED, no_side_effects
from pyro_vae.runtime.roundings import agree
from pyro_vae.runtime.wording import in_one_line


class NotTraceable(Exception):  # noqa: N818 (a finding about a function, not a fault)
    """The function cannot be captured as a graph; the message is the reason, in one line."""


def record(
    function: Callable[..., Tensors], inputs: Tensors, other_inputs: Tensors, modules: Sequence[nn.Module] = ()
) -> tuple[GraphModule, list[Tensor]]:
    """Record ``function`` on ``inputs`` and return the graph as it is, which draws fresh noise at each call.

    Parameters that the function closes over are read where they live: an in-place update is seen by the next
    call. The graph is then run twice on ``other_inputs`` beside the function itself, under another seed than it was
    recorded with, and refused unless results and buffers agree: a Python number or branch that depends on the data,
    on noise or on earlier calls, which recording would freeze, is found there.

    Args:
        function: from tensors to a list of tensors; may call ``torch.autograd.grad``.
        inputs: tensors to record with; the graph takes the same shapes, dtypes and devices.
        other_inputs: different values of the same shapes.
        modules: whose buffers the function may change.

    Returns:
        The graph, and the results and buffers of its two draws on ``other_inputs``.

    Raises:
        NotTraceable: the function cannot be recorded, or the graph does not agree with it.
    """
    with pyro.validation_enabled(False), _as_a_finding():
        with no_side_effects(modules):
            recorded = make_fx(function)(*inputs)
        expected = two_draws(partial(function, *other_inputs), modules)
        with torch.no_grad():
            results = two_draws(partial(recorded, *other_inputs), modules)
    # The same kernels: some roundings, where a threaded reduction takes another order.
    if not same_draws(expected, results, recorded, roundings=30):
        raise NotTraceable("its arithmetic depends on Python values that change from call to call")
    return recorded, results


def capture(
    function: Callable[..., Tensors],
    inputs: Tensors,
    other_inputs: Tensors,
    modules: Sequence[nn.Module] = (),
    varying: int = 0,
) -> Draws:
    """Record as :func:`record` does, and return a simpler graph for Python to run, with the same draws.

    Args: as for :func:`record`; ``varying`` as for :class:`pyro_vae.graphs.draws.Draws`.

    Raises:
        NotTraceable: as there, or the simpler graph rounds differently.
    """
    recorded, expected = record(function, inputs, other_inputs, modules)
    with _as_a_finding(), torch.no_grad():
        draws = Draws(tidy(recorded), varying)
        results = two_draws(partial(draws, *other_inputs), modules)
    if not same_draws(expected, results, recorded, roundings=1000):
        raise NotTraceable("the simplified graph rounds too differently")
    return draws


@contextlib.contextmanager
def _as_a_finding() -> Iterator[None]:
    """Any failure of a user's program under the tracer means the same: run it as it is."""
    try:
        yield
    except Exception as error:
        raise NotTraceable(in_one_line(error)) from error


def unlike(rows: Tensor) -> Tensor:
    """Return other data of the same kind: in reverse order, half of them twice, so that no mean stays the same."""
    return rows.flip(0)[torch.arange(len(rows), device=rows.device) // 2]


def two_draws(draw: Callable[[], Tensors], modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return the results of two draws, under a seed of their own, and the buffers after them."""
    with no_side_effects(modules):
        torch.manual_seed(VERIFICATION_SEED)
        results = [result.detach().clone() for _ in range(2) for result in draw()]
        return results + [buffer.clone() for module in modules for buffer in module.buffers()]


def same_draws(expected: list[Tensor], results: list[Tensor], graph: GraphModule, roundings: int) -> bool:
    """Whether two lists of results agree, to roundings of the coarsest dtype in which the graph computes."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    dtypes = {value.dtype for value in values if isinstance(value, Tensor)}
    eps = max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)
    return all(agree(a, b, roundings=roundings, eps=eps) for a, b in zip(expected, results, strict=True))
