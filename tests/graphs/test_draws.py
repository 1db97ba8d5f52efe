"""What no noise enters is computed once for many draws; what noise enters is drawn each time."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from pyro_vae.graphs.draws import Draws

aten = torch.ops.aten
X, Y = torch.linspace(-2, 2, 12).reshape(3, 4), torch.arange(12.0).reshape(3, 4)


def split(function, *inputs):
    """The split function, and how many operations its two parts have: the shared and the drawn."""
    draws = Draws(make_fx(function)(*inputs))
    return draws, num_operations(draws.shared_part), num_operations(draws.drawn_part)


def num_operations(part):
    return sum(node.op == "call_function" for node in part.graph.nodes)


def assert_same_draws(draws, function, *inputs):
    torch.manual_seed(0)
    expected = [function(*inputs), function(*inputs)]
    torch.manual_seed(0)
    draw = draws.on(*inputs)
    assert_close([draw(), draw()], expected, rtol=0, atol=0)
    torch.manual_seed(0)
    assert_close([draws(*inputs), draws(*inputs)], expected, rtol=0, atol=0)


def test_an_encoder_is_run_once():
    weight = torch.randn(4, 5)

    def function(x):
        location = (x @ weight).tanh()
        return [location + torch.randn_like(location).exp(), location.sum()]

    draws, shared, drawn = split(function, X)
    assert (shared, drawn) == (3, 3)
    assert_same_draws(draws, function, X)
    assert_same_draws(draws, function, Y)


def test_noise_written_into_memory_is_drawn_anew():
    def function(x):
        return [x.exp() * torch.empty(3, 4).normal_() + torch.empty(3, 4).uniform_()]

    draws, shared, drawn = split(function, X)
    assert (shared, drawn) == (1, 6)
    assert_same_draws(draws, function, X)


def test_results_that_need_no_noise_or_are_inputs():
    def function(x, y):
        return [x, x.exp(), y + torch.rand(4)]

    draws, shared, drawn = split(function, X, Y)
    assert (shared, drawn) == (1, 2)
    assert_same_draws(draws, function, X, Y)


def test_a_program_that_writes_to_a_buffer_is_not_split():
    buffer = torch.zeros(3, 4)

    def function(x):
        before = buffer.exp()
        buffer.add_(x)
        return [before + buffer + torch.rand(4)]

    draws, shared, _ = split(function, X)
    assert shared == 0
    buffer.zero_()
    torch.manual_seed(0)
    draw = draws.on(X)
    found = [draw()[0], draw()[0]]
    buffer.zero_()
    torch.manual_seed(0)
    assert_close(found, [function(X)[0], function(X)[0]], rtol=0, atol=0)


def test_parameters_are_read_where_they_live():
    weight = torch.nn.Parameter(torch.ones(4))

    def function(x):
        return [(x * weight.detach()).exp() + torch.rand(4) * weight.detach()]

    draws, *_ = split(function, X)
    with torch.no_grad():
        weight.fill_(3.0)
    assert_same_draws(draws, function, X)


def test_an_accumulator_of_the_users_own_is_not_split():
    def function(x):
        y = torch.zeros(4)
        torch.add(torch.ones(4), y, out=y)
        return [y + torch.rand(4) * x.sum()]

    draws, shared, _ = split(function, X)
    assert shared == 0
    assert_same_draws(draws, function, X)


def test_running_statistics_are_not_split():
    mean, variance = torch.zeros(4), torch.ones(4)

    def function(x):
        before = torch.rand(4) * mean
        return [torch.nn.functional.batch_norm(x, mean, variance, training=True), before, torch.rand(4) * mean]

    _, shared, _ = split(function, X)
    assert shared == 0


def test_an_operation_from_elsewhere_is_not_split():
    """Nothing says whether it draws noise."""

    @torch.library.custom_op("pyro_vae_tests::noise", mutates_args=())
    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x)

    _, shared, _ = split(lambda x: [noise(x.exp())], X)
    assert shared == 0


def test_the_drawn_part_can_be_run_by_something_else():
    """What remakes it gets the drawn operations alone, and their inputs."""
    weight = torch.randn(4, 5)

    def function(x):
        return [(x @ weight).tanh() + torch.rand(3, 5)]

    draws, _, drawn = split(function, X)
    given = []

    def remake(graph, inputs):
        given.append((num_operations(graph), [tuple(v.shape) for v in inputs]))
        return lambda *values: [2 * value for value in graph(*values)]

    remade = draws.remade(remake, X)
    assert given == [(drawn, [(3, 5)])]
    torch.manual_seed(0)
    expected = function(Y)[0]
    torch.manual_seed(0)
    assert_close(remade.on(Y)()[0], 2 * expected, rtol=0, atol=0)
    assert_same_draws(draws, function, Y)


def test_inputs_that_vary_are_given_to_each_draw_and_the_rest_is_shared():
    weight = torch.randn(4, 5)

    def function(x, y):
        return [(x @ weight).tanh() * y.exp(), y, x.exp() + torch.rand(4)]

    inputs = X, torch.randn(3, 5)
    draws = Draws(make_fx(function)(*inputs), varying=1)
    assert [num_operations(part) for part in (draws.shared_part, draws.drawn_part)] == [3, 4]
    remade = draws.remade(lambda graph, values: graph.forward if len(values) == 3 else None, *inputs)
    for found in (draws, remade):
        draw = found.on(Y)
        for y in (torch.randn(3, 5), torch.randn(3, 5)):
            torch.manual_seed(0)
            expected = function(Y, y)
            torch.manual_seed(0)
            assert_close(draw(y), expected, rtol=0, atol=0)
            torch.manual_seed(0)
            assert_close(found(Y, y), expected, rtol=0, atol=0)
