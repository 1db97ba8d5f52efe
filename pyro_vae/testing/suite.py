"""What the suites share: a seed for each test, and expectations in words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pyro
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pyro_vae.graphs.capture import capture
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.modules import modules_of
from pyro_vae.programs.pair import Pair

DTYPES = (torch.float32, torch.float64)


class Suite:
    """Tests of one part.

    Attributes:
        part: ``NAME``, ``NAME(option=value)``, or a class of your own as ``path/to/file.py:ClassName`` or
            ``package.module:ClassName``; a subclass whose method ``make`` needs none may leave it out.
    """

    part: ClassVar[str]

    def setup_method(self) -> None:
        """Start from a seed and an empty parameter store."""
        pyro.set_rng_seed(0)
        pyro.clear_param_store()


@contextmanager
def refuses(pattern: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Expect an error whose message has a pattern in it."""
    said = None
    try:
        yield
    except kind as error:
        said = str(error)
    assert said is not None, f"expected {kind.__name__} with {pattern!r}; nothing was raised"
    assert re.search(pattern, said), f"expected a message with {pattern!r}; got {said!r}"


def assert_every_gradient(module: nn.Module) -> None:
    """Expect a finite gradient other than 0 for every parameter."""
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches the parameter {name}"
        assert parameter.grad.isfinite().all(), f"the gradient of the parameter {name} is not finite"
        assert parameter.grad.abs().sum() > 0, f"the gradient of the parameter {name} is 0"


def assert_vectorized(pair: Pair) -> None:
    """Expect that many samples are drawn in one run, in a plate left of the data's."""
    assert isinstance(pair.layout, OuterPlate), f"samples do not vectorize: they are laid out as {pair.layout}"


def assert_captured(pair: Pair, parameters: list[nn.Parameter], x: Tensor, other: Tensor) -> None:
    """Expect the graph of log-weights and gradients, recorded with x, to give those of other data of that shape."""
    assert_vectorized(pair)

    def step(x: Tensor) -> list[Tensor]:
        weights = pair.terms(x, 3).log_weight
        gradients = torch.autograd.grad(weights.sum(), parameters) if parameters else ()
        return [weights.detach(), *gradients]

    graph = capture(step, [x], [other], [*modules_of(pair.model, pair.guide)])
    torch.manual_seed(2)
    expected = step(other)
    torch.manual_seed(2)
    assert_close(graph(other), expected)
