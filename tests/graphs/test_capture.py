"""A captured graph does what the function does, or is refused."""

import logging
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.graphs.capture import NotTraceable, capture, unlike
from pyro_vae.programs.undo import no_side_effects

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


def test_a_graph_equals_its_function_under_the_same_seed():
    def noisy(x):
        return [x * torch.randn_like(x), torch.rand(3).sum()]

    graph = capture(noisy, [A], [B])
    torch.manual_seed(1)
    expected = noisy(A)
    torch.manual_seed(1)
    assert_close(graph(A), expected)


def test_each_call_draws_fresh_noise():
    graph = capture(lambda x: [torch.randn_like(x)], [A], [B])
    draws = [graph(A)[0] for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_parameters_are_read_where_they_live():
    layer = nn.Linear(3, 1)
    graph = capture(lambda x: [layer(x)], [A], [B], [layer])
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(-1.0)
    assert_close(graph(A)[0], 2 * A.sum(1, keepdim=True) - 1)


def test_gradients_are_part_of_the_graph():
    layer = nn.Linear(3, 1)

    def gradient(x):
        return list(torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())))

    graph = capture(gradient, [A], [B], [layer])
    with torch.no_grad():
        layer.weight.mul_(3)
    assert_close(graph(A), gradient(A))


def test_a_branch_on_the_data_is_refused():
    def branching(x):
        return [x if x.sum() > 10 else -x]

    with pytest.raises(NotTraceable) as refusal:
        capture(branching, [A], [B])
    assert "\n" not in str(refusal.value)
    assert re.search("data-dependent|data dependent", str(refusal.value))


def test_a_number_taken_from_the_data_is_refused():
    """``.tolist()`` may be recorded as the number it was; the run on other inputs finds that."""
    with pytest.raises(NotTraceable):
        capture(lambda x: [x * max(x.detach().numpy().flatten().tolist())], [A], [B])
    with pytest.raises(NotTraceable):
        capture(lambda x: [x * x.max().item()], [A], [B])


def test_a_python_counter_is_refused():
    calls = []

    def counting(x):
        calls.append(None)
        return [x * len(calls)]

    with pytest.raises(NotTraceable, match="depends on Python values"):
        capture(counting, [A], [B])


def test_any_error_of_the_function_is_one_line():
    def failing(*_):
        raise RuntimeError("first line\nsecond line")

    with pytest.raises(NotTraceable, match=r"^RuntimeError: first line$"):
        capture(failing, [A], [B])


def test_capture_leaves_random_numbers_and_buffers_alone():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    state = torch.get_rng_state()
    capture(lambda x: [net(x)], [A], [B], [net])
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(dict(net.named_buffers()), before)


def test_batch_norm_and_dropout_in_training_mode():
    """Running mean and variance, the number of batches and the dropped units: three calls, as eager."""
    nets = [nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)) for _ in range(2)]
    graph = capture(lambda x: [nets[0](x)], [A], [B], [nets[0]])
    for run, seed in ((graph, 0), (lambda x: [nets[1](x)], 0)):
        torch.manual_seed(seed)
        results = [run(x)[0] for x in (A, B + A.square(), A)]
        if run is graph:
            expected = results
    assert_close(results, expected)
    assert_close(dict(nets[0].named_buffers()), dict(nets[1].named_buffers()))
    assert nets[0][0].num_batches_tracked == 3
    assert not torch.equal(results[0], results[2])  # other units are dropped


def test_batch_norm_in_evaluation_mode_reads_live_buffers():
    norm = nn.BatchNorm1d(3).eval()
    graph = capture(lambda x: [norm(x)], [A], [B], [norm])
    norm.running_mean.fill_(5.0)
    assert_close(graph(A)[0], norm(A))
    assert norm.num_batches_tracked == 0


def test_buffers_come_back_also_after_an_error():
    norm = nn.BatchNorm1d(3)

    def interrupted():
        with no_side_effects([norm]):
            norm(A)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert norm.num_batches_tracked == 0
    assert_close(norm.running_mean, torch.zeros(3))


def test_capture_says_nothing(caplog):
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        capture(lambda x: [x + 1], [A], [B])
    assert not caplog.records


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x[:1].expand(2, 3).exp().view(6)],
        lambda x: [x[:1].expand(2, 3).exp().add_(1.0)],
        lambda x: [(-x[:, :2]).view(4).sum()],
        lambda x: [(x @ x.t() + (x @ x.t()).t()).view(4)],
        lambda x: [(x + x.view(3, 2).t()).view(6), (x * x.view(3, 2).t()).view(6)],
        lambda x: [torch.nn.functional.binary_cross_entropy_with_logits(x, (x > 1).float())],
        lambda x: [(x.sum() / 3 - 0.5).sum(-1)],
        lambda x: [torch.nn.functional.dropout(x, 0.5).sum(1)],
    ],
)
def test_programs_with_views_writes_and_other_strides(function):
    graph = capture(function, [A], [B])
    torch.manual_seed(4)
    expected = function(A)
    torch.manual_seed(4)
    assert_close(graph(A), expected)


COUNTER = {"calls": 0}


def counted(slope):
    def function(x):
        COUNTER["calls"] += 1
        return [x * (1 + slope * COUNTER["calls"])]

    return function


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x: [x * torch.randn(1).numpy()[0]], (A, B)),
        (lambda x: [x * torch.rand(1).tolist()[0]], (A, B)),
        (lambda x: [x - float(x.numpy().mean())], (A, unlike(A))),
        (counted(1 / 30_000), (A, B)),
        (counted(1.0), (A.bfloat16(), B.bfloat16())),
        (counted(1.0), (A.half(), B.half())),
    ],
)
def test_numbers_that_recording_would_freeze_are_refused(function, inputs):
    """From noise, from the data's mean, from a slow counter, and where a rounding is large."""
    with pytest.raises(NotTraceable):
        capture(function, [inputs[0]], [inputs[1]])


def test_a_buffer_that_is_assigned_anew_is_refused_and_put_back():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return x - self.mean

    module = Running()
    buffer = module.mean
    with pytest.raises(NotTraceable):
        capture(lambda x: [module(x)], [A], [B], [module])
    assert module.mean is buffer
    assert torch.equal(buffer, torch.zeros(3))


def test_a_spectrally_normed_layer():
    """Its power iteration writes into buffers, by operations that refuse to be recorded by autograd."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))

    def gradient(x):
        return list(torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())))

    graph = capture(gradient, [A], [B], [layer])
    with no_side_effects([layer]):
        expected = [part.clone() for part in gradient(A)]
    with torch.no_grad():
        assert_close(graph(A), expected)


def test_unlike_rows_have_another_mean():
    for n in (2, 3, 8):
        rows = torch.arange(float(n))
        assert set(unlike(rows).tolist()) < set(rows.tolist())
        assert unlike(rows).mean() != rows.mean()
    assert unlike(torch.ones(1, 2)).shape == (1, 2)
