"""Capture what a Pyro program computes as one graph of tensor operations, without the messengers.

A Pyro trace costs Python time at every site; its arithmetic does not change from call to call. So it is recorded
once, and the recorded graph is run. The training step and the importance weights both stand on this.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.hoist import Draws, Tensors
from pyro_vae.reuse import reuse_memory
from pyro_vae.tidy import tidy


class NotTraceable(Exception):  # noqa: N818 (a finding about a function, not a fault)
    """The function cannot be captured as a graph; the message is the reason, in one line."""


@contextlib.contextmanager
def no_side_effects(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Put buffers (running means) and random number generators back as they were."""
    saved = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                # Writing to one that autograd holds on to would spoil a backward pass to come.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def capture(
    function: Callable[..., Tensors], inputs: Tensors, other_inputs: Tensors, modules: Sequence[nn.Module] = ()
) -> Draws:
    """Record ``function`` on ``inputs`` and return the graph, which draws fresh noise at each call.

    Parameters that the function closes over are read where they live: an in-place update is seen by the next
    call. The graph is then run on ``other_inputs`` beside the function itself, under the same seed, and refused
    unless results and buffers agree: a Python number or branch that depends on the data, which recording
    would freeze, is found there.

    Args:
        function: from tensors to a list of tensors; may call ``torch.autograd.grad``.
        inputs: tensors to record with; the graph takes the same shapes, dtypes and devices.
        other_inputs: different values of the same shapes.
        modules: whose buffers the function may change.

    Raises:
        NotTraceable: the function cannot be recorded, or the graph does not agree with it.
    """
    device = inputs[0].device
    with pyro.validation_enabled(False):
        try:
            with no_side_effects(modules, device):
                graph = Draws(tidy(make_fx(function)(*inputs)), reuse_memory)
        except Exception as error:
            # Any failure of a user's program under the tracer means the same: run it as it is.
            lines = str(error).strip().splitlines()
            raise NotTraceable(f"{type(error).__name__}: {lines[0] if lines else 'no message'}") from error
        runs = []
        for run in (function, graph):
            with no_side_effects(modules, device):
                results = [result.detach().clone() for result in run(*other_inputs)]
                runs.append([*results, *(buffer.clone() for m in modules for buffer in m.buffers())])
    for expected, found in zip(*runs, strict=True):
        if not _agree(expected, found):
            raise NotTraceable("its arithmetic depends on Python values that change from call to call")
    return graph


def _agree(expected: Tensor, found: Tensor) -> bool:
    """Whether two results are equal up to rounding, on the scale of the largest element."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not expected.is_floating_point():
        return bool((expected == found).all())
    # The kernels are the same; 1e3 roundings leave room for other summation orders of a threaded reduction.
    tolerance = 1e3 * torch.finfo(expected.dtype).eps
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
