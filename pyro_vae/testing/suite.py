"""What the suites share: a seed for each test, what every module owes, and expectations in words."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_vae.graphs.capture import capture
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.programs.modules import as_args, as_input, modules_of, take_rows
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.sites import PLATE

DTYPES = (torch.float32, torch.float64)

HIDDEN = (5,)
"""The hidden layers of whatever a suite makes."""


class Suite:
    """Tests of one part.

    Attributes:
        part: ``NAME``, ``NAME(option=value)``, or a class of your own as ``path/to/file.py:ClassName`` or
            ``package.module:ClassName``; a subclass whose method ``make`` needs none may leave it out.
    """

    part: ClassVar[str]

    def make(self) -> Any:
        """Return a new part."""
        raise NotImplementedError

    def setup_method(self) -> None:
        """Start from a seed and an empty parameter store."""
        pyro.set_rng_seed(0)
        pyro.clear_param_store()


class ModuleSuite(Suite):
    """Tests of one module in a pair, on binary images.

    Attributes:
        x_shape: of an image.
        latent_dim: dimension of z.
        starts_at_random: whether two new modules differ, and no parameter's gradient is 0.
    """

    x_shape: ClassVar[tuple[int, ...]] = (1, 3, 2)
    latent_dim: ClassVar[int] = 4
    starts_at_random: ClassVar[bool] = True

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a model and a guide, of which the part is one or a part of one."""
        raise NotImplementedError

    def data(self, part: Any, n: int, dtype: torch.dtype = torch.float32) -> Any:  # noqa: ARG002 (a subclass's)
        """Return data ``(n, *x_shape)`` that a pair with the part takes, or a tuple of them and further tensors."""
        return torch.rand(n, *self.x_shape, dtype=dtype).round()

    def test_state_dict_round_trip(self) -> None:
        """Give the same log-weights once another module's state is loaded."""
        first, second = self.make(), self.make()
        if self.starts_at_random:
            assert not torch.equal(self._weights(first), self._weights(second)), "two that were made are the same"
        second.load_state_dict(first.state_dict())
        assert torch.equal(self._weights(first), self._weights(second))

    def test_gradient_reaches_every_parameter(self) -> None:
        """Have a finite gradient in every parameter, other than 0 unless the start is not random."""
        part = self.make()
        self._weights(part).sum().backward()
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches the parameter {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of the parameter {name} is not finite"
            if self.starts_at_random:
                assert parameter.grad.abs().sum() > 0, f"the gradient of the parameter {name} is 0"

    def test_it_survives_being_captured_with_its_gradient(self) -> None:
        """Draw many samples in one run, recorded with x as a graph that gives the same of other data."""
        for dtype in DTYPES:
            part = self.make()
            pair = self.typed_pair(part, dtype)
            _assert_captured(pair, self.data(part, 4, dtype), self.data(part, 4, dtype))

    def test_the_parameter_store_stays_empty(self) -> None:
        """Keep parameters in the module, and none in Pyro's store."""
        self._weights(self.make())
        assert len(pyro.get_param_store()) == 0

    def typed_pair(self, part: Any, dtype: torch.dtype) -> tuple[Any, Any]:
        """Return :meth:`pair` with parameters of a dtype."""
        model, guide = self.pair(part)
        for module in modules_of(model, guide):
            module.to(dtype)
        return model, guide

    def _weights(self, part: Any) -> Tensor:
        """Return log-weights ``(2, 20)`` of a pair with the part, the same for the same parameters."""
        torch.manual_seed(0)
        return log_weights(*self.pair(part), self.data(part, 20), 2)


@contextmanager
def refuses(pattern: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Expect an error whose message has a pattern in it."""
    message = None
    try:
        yield
    except kind as error:
        message = str(error)
    assert message is not None, f"expected {kind.__name__} with {pattern!r}; nothing was raised"
    assert re.search(pattern, message), f"expected a message with {pattern!r}; got {message!r}"


def assert_tensor(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Expect a shape and a dtype."""
    got = (tuple(value.shape), value.dtype)
    assert got == (shape, dtype), f"expected shape {shape} and {dtype}; got {got[0]} and {got[1]}"


def latent_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Return the latent sites of a model's or guide's trace in their order, without the guide's own variables."""
    sites = {name: trace.nodes[name] for name in trace.stochastic_nodes if name not in _plates(trace)}
    return {name: site for name, site in sites.items() if not site["infer"].get("is_auxiliary")}


def _plates(trace: poutine.Trace) -> set[str]:
    return {frame.name for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())}


def assert_site(site: dict[str, Any], n: int, event: tuple[int, ...], dtype: torch.dtype) -> None:
    """Expect that a site is in the plate over ``n`` data alone, with values of a shape and a dtype."""
    frames = [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"]]
    assert frames == [(PLATE, -1, n)], f"{site['name']} must be in a plate {PLATE!r} over the {n} data; got {frames}"
    assert_tensor(site["value"], (n, *event), dtype)
    assert_tensor(site["log_prob"], (n,), dtype)


def rows_of(data: Any, rows: slice) -> Any:
    """Return some rows of data, of each tensor where a datum has several."""
    return as_input([take_rows(tensor, rows) for tensor in as_args(data)])


def assert_refuses_other_data(program: Any, x_shape: tuple[int, ...], data: Any) -> None:
    """Expect that a model or a guide says which shape and dtype x must have; ``data`` are four that it takes."""
    further = as_args(data)[1:]
    name = type(program).__name__
    pattern = re.escape(f"{name}: x must have shape (batch, {', '.join(map(str, x_shape))}); got")
    other_events = {(*x_shape, 1), (*x_shape[:-1], x_shape[-1] + 1), x_shape[::-1], (math.prod(x_shape),)} - {x_shape}
    for shape in (x_shape, *((4, *event) for event in other_events)):
        with refuses(pattern):
            program(torch.zeros(shape), *further)
    with refuses(f"{name}: x must be floating point; got torch.int64"):
        program(torch.zeros(4, *x_shape, dtype=torch.int64), *further)


def assert_vectorized(pair: Pair) -> None:
    """Expect that many samples are drawn in one run, in a plate left of the data's."""
    assert isinstance(pair.layout, OuterPlate), f"samples do not vectorize: they are laid out as {pair.layout}"


def _assert_captured(programs: tuple[Any, Any], x: Any, other: Any) -> None:
    """Expect the graph of log-weights and gradients, recorded with x, to give those of other data of that shape."""
    pair = Pair(*programs, x)
    assert_vectorized(pair)
    modules = [*modules_of(*programs)]
    parameters = [parameter for module in modules for parameter in module.parameters()]

    def step(*columns: Tensor) -> list[Tensor]:
        weights = pair.terms(as_input(columns), 3).log_weight
        gradients = torch.autograd.grad(weights.sum(), parameters) if parameters else ()
        return [weights.detach(), *gradients]

    graph = capture(step, [*as_args(x)], [*as_args(other)], modules)
    torch.manual_seed(2)
    expected = step(*as_args(other))
    torch.manual_seed(2)
    assert_close(graph(*as_args(other)), expected)
