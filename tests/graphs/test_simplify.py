"""Each rewrite on a graph of its own: what it drops, and that the numbers stay."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.graphs.simplify import tidy

aten = torch.ops.aten


def calls(graph, target):
    return [node for node in graph.graph.nodes if node.target is target]


def before_and_after(function, *inputs):
    plain, tidied = make_fx(function)(*inputs), tidy(make_fx(function)(*inputs))
    torch.manual_seed(0)
    expected = plain(*inputs)
    torch.manual_seed(0)
    return plain, tidied, expected, tidied(*inputs)


def test_identities_go():
    x = torch.randn(3, 4)
    plain, tidied, expected, found = before_and_after(lambda x: x.t().t().view(3, 4).expand(3, 4).exp(), x)
    assert torch.equal(found, expected)
    assert len(plain.graph.nodes) == 7
    assert len(tidied.graph.nodes) == 3  # input, exp, output


@pytest.mark.parametrize("dims", [[-1], [0], None])
def test_a_negation_moves_behind_the_sum(dims):
    x = torch.randn(50, 784)

    def function(x):
        return (-x).view(50, 784).sum(dims) if dims else (-x).sum()

    _, tidied, expected, found = before_and_after(function, x)
    assert torch.equal(found, expected)
    (negation,) = calls(tidied, aten.neg.default)
    assert negation.args[0].target in (aten.sum.dim_IntList, aten.sum.default)


def test_a_negation_that_something_else_needs_stays():
    def function(x):
        negative = -x
        return negative.sum(), negative.exp()

    _, tidied, expected, found = before_and_after(function, torch.randn(5))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert calls(tidied, aten.neg.default)[0].args[0].op == "placeholder"


def test_a_negation_moves_behind_the_sum_of_a_quotient():
    _, tidied, expected, found = before_and_after(lambda x: (-x / 3).sum(-1), torch.randn(50, 784))
    assert torch.equal(found, expected)
    (negation,) = calls(tidied, aten.neg.default)
    assert negation.args[0].target is aten.sum.dim_IntList


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_takes_two_passes_and_rounds_no_worse_than_its_logits(target):
    logits = torch.linspace(-100, 100, 2001)
    targets = torch.full_like(logits, target)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    _, tidied, _, found = before_and_after(lambda x, t: entropy(x, t, reduction="none"), logits, targets)
    assert len(tidied.graph.nodes) == 5  # two inputs, softplus, addcmul, output
    exact = entropy(logits.double(), targets.double(), reduction="none")
    # A few roundings of the largest term.
    assert ((found - exact).abs() <= 4 * torch.finfo(torch.float32).eps * logits.double().abs().clamp(min=1)).all()


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"weight": torch.ones(5)}, {"pos_weight": torch.ones(5)}])
def test_another_cross_entropy_stays(options):
    def function(x, t):
        return torch.nn.functional.binary_cross_entropy_with_logits(x, t, **({"reduction": "none"} | options))

    _, tidied, expected, found = before_and_after(function, torch.randn(5), torch.rand(5))
    assert torch.equal(found, expected)
    assert calls(tidied, aten.binary_cross_entropy_with_logits.default)


def test_cross_entropy_in_double_stays_exact():
    x, t = torch.randn(5).double(), torch.rand(5).double()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    _, _, expected, found = before_and_after(lambda x, t: entropy(x, t, reduction="none"), x, t)
    assert torch.equal(found, expected)


def test_noise_that_nobody_uses_is_still_drawn():
    def function(x):
        torch.randn(3)
        torch.zeros(3)
        return x + torch.randn(3)

    _, tidied, expected, found = before_and_after(function, torch.zeros(3))
    assert torch.equal(found, expected)
    assert len(calls(tidied, aten.randn.default)) == 2
    assert not calls(tidied, aten.zeros.default)


def test_a_buffer_that_is_written_stays_written():
    buffer = torch.zeros(3)

    def function(x):
        buffer.add_(x)
        return x * 2

    graph = make_fx(function)(torch.ones(3))
    buffer.zero_()
    tidy(graph)(torch.ones(3))
    assert torch.equal(buffer, torch.ones(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (-x / -x).sum(-1),
        lambda x: (lambda n: (n / n).sum(-1))(-x),
        lambda x: (-(x * 50).to(torch.uint8)).sum(-1),
        lambda x: (lambda q: (q - 0.5).sum(-1) + q.zero_().sum())(x / 3),
        lambda x: (lambda y: (lambda n: y.zero_().sum() + n.sum())(-y))(x.exp()),
        lambda x: (-(x**2) / 2 - 0.5).sum((0, 1)),
        lambda x: (-(x[:0] ** 2) / 2 - 0.5).sum(-1),
        lambda x: (-(x.sum() ** 2) / 2 - 0.5).sum(-1),
        lambda x: (-(x**2) / 2 - 0.5).sum(-1, keepdim=True),
        lambda x: (-(x**2) / 2 - 0.5).sum(-1, dtype=torch.float64),
    ],
)
def test_look_alikes_keep_their_value(function):
    _, _, expected, found = before_and_after(function, torch.rand(4, 5) + 0.5)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_running_statistic_that_nobody_reads_is_still_updated():
    mean, variance = torch.zeros(5), torch.ones(5)

    def function(x):
        torch.nn.functional.batch_norm(x, mean, variance, training=True)
        return x * 2

    graph = tidy(make_fx(function)(torch.randn(4, 5)))
    mean.zero_()
    graph(torch.ones(4, 5))
    assert mean.abs().sum() > 0


def test_cross_entropy_of_targets_of_another_type_stays():
    """The targets' type has a say in the result's."""
    entropy = aten.binary_cross_entropy_with_logits.default
    x, t = torch.randn(5), torch.rand(5, dtype=torch.float64)
    _, tidied, expected, found = before_and_after(lambda x, t: entropy(x, t, None, None, 0), x, t)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert calls(tidied, entropy)
