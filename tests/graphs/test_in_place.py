"""Memory is reused only where nothing else will read it, and no number changes."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from pyro_vae.graphs.in_place import IN_PLACE, reuse_memory

aten = torch.ops.aten
X, Y = torch.linspace(-2, 2, 12).reshape(3, 4), torch.arange(12.0).reshape(3, 4) + 1


def overwriting(graph):
    """Names of the operations that write over their first argument."""
    return [n.target._schema.name.removeprefix("aten::") for n in graph.graph.nodes if n.target in IN_PLACE.values()]


def checked(function, *inputs):
    """The rewritten graph, after two runs that gave what the function gives and left the inputs alone."""
    graph = reuse_memory(make_fx(function)(*inputs))
    kept = [x.clone() for x in inputs]
    for _ in range(2):
        torch.manual_seed(0)
        expected = function(*inputs)
        torch.manual_seed(0)
        assert_close(graph(*inputs), expected, rtol=0, atol=0)
    assert_close(list(inputs), kept, rtol=0, atol=0)
    return graph


@pytest.mark.parametrize(
    "function",
    [
        torch.tanh,
        torch.sigmoid,
        torch.relu,
        torch.exp,
        torch.neg,
        lambda x: x**2,
        lambda x: x + Y,
        lambda x: x - Y,
        lambda x: x * Y,
        lambda x: x / Y,
        lambda x: x.addcmul(Y, Y, value=-1),
    ],
)
def test_a_result_takes_the_place_of_what_only_it_reads(function):
    graph = checked(lambda x: [function(x.sin())], X)
    assert len(overwriting(graph)) == 1


def test_every_operation_is_tried():
    assert len(IN_PLACE) == 11


def test_through_views_and_noise():
    def function(x):
        noise = torch.empty(3, 4).normal_()
        return [torch.tanh((x @ Y.t()).view(9)), x + noise * 2]

    assert overwriting(checked(function, X)) == ["tanh_", "mul_", "add_"]


def test_inputs_parameters_and_constants_are_never_written():
    weight = torch.nn.Parameter(X.clone())
    graph = checked(lambda x: [x.exp(), weight.detach().tanh(), -Y], X)
    assert overwriting(graph) == []
    assert_close(weight.detach(), X, rtol=0, atol=0)


def test_a_value_that_is_read_again_stays():
    def function(x):
        once = x.sin()
        return [once.exp(), once.neg()]

    assert overwriting(checked(function, X)) == []


def test_a_value_that_is_returned_stays():
    def function(x):
        once = x.sin()
        return [once, once.exp()]

    assert overwriting(checked(function, X)) == []


def test_a_value_that_is_read_through_a_view_stays():
    def function(x):
        once = x.sin()
        return [once.view(12).exp(), once.t().sum()]

    assert overwriting(checked(function, X)) == []


def test_a_smaller_or_other_type_of_value_stays():
    def function(x):
        return [x.sum(0).sin() + Y, (x > 0).to(torch.int64) * 0.5]

    assert overwriting(checked(function, X)) == []


def test_a_value_that_enters_twice():
    def function(x):
        once = x.sin()
        return [once * once]

    assert overwriting(checked(function, X)) == ["mul_"]


def test_operands_keep_their_order_where_nothing_can_be_overwritten():
    """The result's strides follow the first operand's."""
    graph = checked(lambda x, y: [(x + y.t()).view(16), (y.t() * x).sum(0)], torch.randn(4, 4), torch.randn(4, 4))
    assert overwriting(graph) == []
