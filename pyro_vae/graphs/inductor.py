"""Compile a recorded graph to native code by inductor, which fuses loops, plans memory and updates state in place."""

import logging
import math
import operator
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that tells inductor where to keep compiled code."""

aten = torch.ops.aten

CHECKED = (aten.linalg_cholesky_ex.default, aten.linalg_inv_ex.default)
"""Operations that return matrices, and for each matrix a number that is 0 if the operation succeeded."""

OPTIONS = {"fallback_random": True, "reorder_for_peak_memory": False}
"""Use torch's random numbers, in their order, instead of inductor's: a seed draws the same noise at every level."""


class NotCompilable(Exception):  # noqa: N818 (a finding about a graph or a machine, not a fault)
    """The graph cannot be compiled here; the message is the reason, in one line."""


def native(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """Compile a recorded graph for inputs of these shapes, dtypes and devices.

    Tensors that the graph holds, and inputs that it writes into, are read and written where they live. A matrix that
    cannot be factored or inverted makes NaN: code that raises could not be kept, nor launched at once. Inductor keeps
    compiled code in ``$TORCHINDUCTOR_CACHE_DIR``, else in the folder for temporary files, where later runs find it.

    Args:
        module: a graph that returns a list of tensors, and needs no gradient.
        inputs: tensors to compile for; nothing is written into them.

    Returns:
        A function of the inputs, to be called without gradients.

    Raises:
        NotCompilable: there is no compiler, or it fails.
    """
    lifted, held = lift(module)
    # From here on plain memory to read and write: a leaf that requires a gradient could not be written into.
    held = [tensor.detach() for tensor in held]
    with as_not_compilable(), torch.no_grad(), _global_settings_kept(), _writable_cache():
        _mark_failures(lifted)
        compiled = _compile(lifted, [*held, *inputs])
    return lambda *values: compiled(*held, *values)


def launched_once(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """Record the CUDA kernels that a function launches, and launch all of them at once at each call.

    Args:
        function: reads and writes memory that stays where it is, and has run on this device before.
        inputs: tensors of the shapes of later calls, whose values are copied over these.
    """
    places = [tensor.clone() for tensor in inputs]
    launches = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(launches):
        results = function(*places)

    def call(*values: Tensor) -> list[Tensor]:
        for tensor, value in zip(places, values, strict=True):
            tensor.copy_(value, non_blocking=True)
        launches.replay()
        # The next call writes over them.
        return [result.clone() for result in results]

    return call


def _compile(module: GraphModule, inputs: list[Tensor]) -> Callable[..., list[Tensor]]:
    # Seconds of imports, which only those who compile should wait for.
    import torch._inductor
    from torch._dynamo.utils import get_metrics_context
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Inductor finds again what it compiled before only where it is told how shapes are named.
    shapes = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    with tracing(TracingContext(shapes)), get_metrics_context():
        return torch._inductor.compile(module, list(inputs), options=OPTIONS)


def lift(module: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """Return the graph with the tensors that it holds as its first inputs, and these tensors."""
    graph = torch.fx.Graph()
    tensors: list[Tensor] = []
    inputs: dict[int, Node] = {}
    copies: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            tensor = operator.attrgetter(node.target)(module)
            if id(tensor) not in inputs:
                inputs[id(tensor)] = graph.placeholder(f"held_{len(tensors)}")
                tensors.append(tensor)
            copies[node] = inputs[id(tensor)]
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(torch.fx.map_arg(node.args[0], copies.__getitem__))
        elif node.op != "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            # The tracer's metadata would conflict with the metadata that inductor adds.
            copies[node].meta = {}
    return GraphModule(torch.nn.Module(), graph), tensors


def _mark_failures(module: GraphModule) -> None:
    """Replace each check of a factorization in the graph: fill the results that failed with NaN, and do not raise."""
    graph = module.graph
    for check in graph.find_nodes(op="call_function", target=aten._linalg_check_errors.default):
        info = check.args[0]
        source = info.args[0]
        if source.target not in CHECKED:
            continue
        (result,) = (user for user in source.users if user.args == (source, 0))
        # The result is filled before any other node reads it.
        with graph.inserting_before(max(result, info).next):
            failed = graph.call_function(aten.ne.Scalar, (info, 0))
            for _ in range(2):
                failed = graph.call_function(aten.unsqueeze.default, (failed, -1))
            marked = graph.call_function(aten.masked_fill.Scalar, (result, failed, math.nan))
        result.replace_all_uses_with(marked, delete_user_cb=lambda user, marked=marked: user is not marked)
        graph.erase_node(check)
    module.recompile()


@contextmanager
def as_not_compilable() -> Iterator[None]:
    """Turn any error of inductor or of the compiler behind it into NotCompilable: the graph runs without them."""
    try:
        yield
    except NotCompilable:
        raise
    except Exception as error:
        raise NotCompilable(_reason(error)) from error


def _reason(error: Exception) -> str:
    if "Compiler" in type(error).__name__ or "InvalidCxxCompiler" in str(error):
        return "no C++ compiler works here (looked for $CXX, g++, clang++)"
    return in_one_line(error)


@contextmanager
def _writable_cache() -> Iterator[None]:
    """Keep compiled code in a temporary folder, with a warning, if inductor's own folder cannot be written."""
    from torch._inductor.codecache import cache_dir

    with tempfile.TemporaryDirectory() as temporary:
        before = os.environ.get(CACHE)
        try:
            with tempfile.TemporaryFile(dir=cache_dir()):
                pass
        except OSError as error:
            logger.warning(
                "inductor: compiled code cannot be kept in %s (%s): each run compiles anew. Point $%s to a folder that "
                "can be written.", os.environ.get(CACHE), error.strerror, CACHE,
            )  # fmt: skip
            os.environ[CACHE] = temporary
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(CACHE, None)
            else:
                os.environ[CACHE] = before


@contextmanager
def _global_settings_kept() -> Iterator[None]:
    """Hide inductor's warnings of torch's own deprecations, and put back the recursion limit that it raises."""
    limit = sys.getrecursionlimit()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.setrecursionlimit(limit)
