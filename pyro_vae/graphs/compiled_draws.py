"""Run the draws of a captured graph in native code, where there are draws enough to repay the compiler."""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pyro_vae.graphs.capture import same_draws, two_draws
from pyro_vae.graphs.draws import Draws
from pyro_vae.graphs.inductor import NotCompilable, native
from pyro_vae.graphs.softplus import expand_softplus
from pyro_vae.runtime.wording import in_one_line

INDUCTOR = "torch._inductor.compile_fx"
"""The module whose import loads the compiler."""

FIRST_SECONDS = 10.0
"""Time to compile the first graph of a process; imports take half of it."""

NEXT_SECONDS = 5.0
"""Time to compile another graph."""

AGAIN_SECONDS = 0.3
"""Time to compile a graph that this process has compiled before."""

_known: set[int] = set()


def native_draws(draws: Draws, inputs: Sequence[Tensor], modules: Sequence[nn.Module] = ()) -> Draws:
    """Compile the part of a captured function that is run for each draw, and compare it with the graph.

    The same noise is drawn under a seed, and the numbers differ by rounding only. The part that all draws share is
    run once for many, and stays as it is.

    Args:
        draws: what :func:`pyro_vae.graphs.capture.capture` returns.
        inputs: tensors to compile for and to compare on; other ones must have their shapes, dtypes and devices.
        modules: whose buffers the function may change.

    Returns:
        The compiled draws, to be run without gradients.

    Raises:
        NotCompilable: there is no compiler, it fails, or the compiled graph rounds too differently.
    """
    with torch.no_grad():
        compiled = draws.remade(lambda graph, values: native(expand_softplus(graph), values), *inputs)
        expected = two_draws(partial(draws, *inputs), modules)
        try:
            results = two_draws(partial(compiled, *inputs), modules)
        except Exception as error:
            raise NotCompilable(f"the compiled graph fails: {in_one_line(error)}") from error
    if not same_draws(expected, results, draws.drawn_part, roundings=1000):
        raise NotCompilable("the compiled graph rounds too differently")
    _known.add(_key(draws))
    return compiled


def expected_seconds(draws: Draws) -> float:
    """Estimate the time of :func:`native_draws` from what this process has compiled so far."""
    if _key(draws) in _known:
        return AGAIN_SECONDS
    return NEXT_SECONDS if INDUCTOR in sys.modules else FIRST_SECONDS


def _key(draws: Draws) -> int:
    """Return a hash of the operations and shapes that are run for each draw."""
    nodes = draws.drawn_part.graph.nodes
    values = ((str(node.target), node.meta.get("val")) for node in nodes)
    return hash(tuple((name, tuple(value.shape) if isinstance(value, Tensor) else None) for name, value in values))
