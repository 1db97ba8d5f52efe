"""Recorded graphs as native code."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from pyro_vae.graphs.inductor import NotCompilable, lift, native


@pytest.fixture(autouse=True)
def one_thread_and_a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_matrices_that_cannot_be_factored_are_nan_and_the_code_is_kept():
    def factors(matrices: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            matrices = matrices.detach().requires_grad_()
            lower = torch.linalg.cholesky(matrices)
            (gradient,) = torch.autograd.grad(lower.sum(), matrices)
        return [lower.detach(), torch.linalg.inv(matrices.detach()), gradient]

    good = torch.stack([torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.eye(2)])
    counters.clear()
    run = native(make_fx(factors)(good), [good])
    assert counters["inductor"]["fxgraph_cache_bypass"] == 0
    for found, expected in zip(run(good), factors(good), strict=True):
        assert_close(found, expected)
    for found, expected in zip(run(good * torch.tensor([1.0, 0.0]).reshape(2, 1, 1)), factors(good), strict=True):
        assert_close(found[0], expected[0])
        assert found[1].isnan().all()


def test_what_a_graph_holds_is_read_and_written_where_it_lives():
    weight, total = torch.tensor([2.0, 3.0]), torch.zeros(2)

    def accumulate(x: Tensor) -> list[Tensor]:
        total.add_(weight * x)
        return [x + total]

    x = torch.ones(2)
    recorded = make_fx(accumulate)(x)
    total.zero_()
    lifted, held = lift(recorded)
    assert {id(tensor) for tensor in held} == {id(weight), id(total)}
    assert all(node.op != "get_attr" for node in lifted.graph.nodes)
    run = native(recorded, [x])
    assert torch.equal(total, torch.zeros(2))
    assert_close(run(x), [torch.tensor([3.0, 4.0])])
    weight.mul_(10)
    assert_close(run(x), [torch.tensor([23.0, 34.0])])
    assert_close(total, torch.tensor([22.0, 33.0]))


def test_a_failure_of_inductor_is_a_finding(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    import torch._inductor

    monkeypatch.setattr(torch._inductor, "compile", broken)
    x = torch.ones(2)
    with pytest.raises(NotCompilable, match=r"DivisionError: first line$"):
        native(make_fx(lambda x: [x + 1])(x), [x])
