"""A step as one compiled graph, beside the traced gradient and torch's own optimizer: the same training."""

import functools
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from fit_programs import (
    HIDDEN,
    REPARAMETERIZED,
    PairAndData,
    bernoulli_latent,
    binary_rows,
    lines,
    mean_field,
    state,
    with_networks,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, NAdam
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import fit
from pyro_vae.data import ImageData
from pyro_vae.errors import NonFiniteError
from pyro_vae.fit.run import CHECKPOINT
from pyro_vae.fit.steps import whole_step
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.programs.modules import modules_of
from pyro_vae.runtime.checkpoint import read_checkpoint


def grey() -> ImageData:
    images = (255 * torch.rand(53, 1, 2, 3, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    held_out = (images > 127).float()
    return ImageData(
        name="grey", train=images, valid=held_out[:7], test=held_out[:7], binarization="stochastic", seed=0,
        content_hash="", source="",
    )  # fmt: skip


def vae() -> PairAndData:
    torch.manual_seed(0)
    shape = (1, 2, 3)
    return PairAndData(VAE(shape, 3, (8,)), MeanFieldGuide(shape, 3, (8,)), torch.empty(0))


def ends_of_both(build, data=None, **settings) -> dict[str, list]:
    """History and state after a run traced and one compiled."""
    ends = {}
    for level in ("trace", "inductor"):
        pyro.clear_param_store()
        pair = build()
        run = fit(pair.model, pair.guide, pair.x if data is None else data(), compile=level, **settings)
        assert run.compiled == level
        ends[level] = [row["train_bound_nats"] for row in run.history], state(pair)
    return ends


def assert_same_training(ends: dict[str, list]) -> None:
    (bounds, traced), (ours, compiled) = ends["trace"], ends["inductor"]
    assert ours == pytest.approx(bounds, rel=1e-5)
    for a, b in zip(compiled, traced, strict=True):
        # Some steps of 1e-2; where a gradient is near 0 its sign is rounding, and Adam divides by its size.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


ALL_IN_ONE = {
    "optimizer": partial(Adam, lr=1e-2, fused=True),
    "scheduler": partial(ExponentialLR, gamma=0.5),
    "clip_grad_norm": 5.0,
    "kl_warmup": 2,
    "batch_size": 13,
}
"""Settings that the graph of a step holds."""


def test_binarization_clipping_warmup_and_schedule_are_in_the_graph(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        ends = {}
        for level in ("trace", "inductor"):
            pair = vae()
            run = fit(pair.model, pair.guide, grey(), compile=level, epochs=3, out=tmp_path / level, **ALL_IN_ONE)
            assert run.compiled == level
            ends[level] = [row["train_bound_nats"] for row in run.history], state(pair)
    assert_same_training(ends)
    assert lines(caplog) == []
    (theirs, _), (ours, _) = (read_checkpoint(tmp_path / level / CHECKPOINT) for level in ("trace", "inductor"))
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["rng.cpu"], theirs["rng.cpu"]), "other noise was drawn"
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
    assert ours["optimizer.0.step"] == 12


def normalized_and_dropped() -> PairAndData:
    return with_networks(lambda: nn.Sequential(nn.BatchNorm1d(HIDDEN), nn.Dropout(0.3)))


@pytest.mark.parametrize("build", [normalized_and_dropped, REPARAMETERIZED["functions"]])
def test_buffers_masks_and_stored_parameters_are_written_where_they_live(build):
    settings = {"optimizer": partial(SGD, lr=1e-3, momentum=0.9), "epochs": 3, "batch_size": 10}
    ends = ends_of_both(build, **settings)
    assert_same_training(ends)
    assert len(ends["inductor"][1]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(REPARAMETERIZED.keys() - {"batch_norm", "dropout", "functions"}))
def test_every_kind_of_pair_trains_alike(program):
    ends = ends_of_both(REPARAMETERIZED[program], optimizer=partial(Adam, lr=1e-2), epochs=2, batch_size=10)
    assert_same_training(ends)


def test_a_last_batch_of_another_size_is_traced_between_compiled_steps():
    x = binary_rows(25)

    def loader() -> DataLoader:
        return DataLoader(TensorDataset(x), batch_size=10)

    assert_same_training(ends_of_both(mean_field, loader, optimizer=partial(Adam, lr=1e-2), epochs=3))


def test_a_resumed_run_ends_bit_identical(tmp_path):
    ends = []
    for epochs in ([4], [2, 4]):
        out = tmp_path / str(len(epochs))
        for last in epochs:
            pair = vae()
            where = {"out": out, "resume": True}
            run = fit(pair.model, pair.guide, grey(), compile="inductor", epochs=last, **where, **ALL_IN_ONE)
            assert run.compiled == "inductor"
        ends.append(state(pair))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.fixture
def low_recursion_limit() -> Iterator[int]:
    """Below what inductor asks for."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1900)
    yield 1900
    sys.setrecursionlimit(limit)


@pytest.mark.slow
def test_compiled_code_is_found_again_and_nothing_else_is_left(monkeypatch, tmp_path, low_recursion_limit):
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    filters = list(warnings.filters)
    hits = []
    for _ in range(2):
        counters.clear()
        pair = mean_field()
        noise = torch.get_rng_state()
        fit(pair.model, pair.guide, pair.x, epochs=1, batch_size=20, compile="inductor")
        assert torch.equal(torch.get_rng_state(), noise)
        hits.append(counters["inductor"]["fxgraph_cache_hit"])
    assert hits == [0, 1]
    assert sys.getrecursionlimit() == low_recursion_limit
    assert warnings.filters == filters


def fitted(caplog, pair: PairAndData, **settings) -> tuple[str, list[str]]:
    """How the steps ran, and the lines about it."""
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        run = fit(pair.model, pair.guide, pair.x, epochs=1, batch_size=20, compile="inductor", **settings)
    return run.compiled, lines(caplog)


INSTEAD = "fit: compile='inductor' is not possible here, the step is traced instead: "


def test_another_optimizer_steps_outside_a_traced_gradient(caplog):
    level, said = fitted(caplog, mean_field(), optimizer=NAdam)
    assert (level, said) == ("trace", [INSTEAD + "NAdam is none of Adam, AdamW, Adamax, SGD"])


def test_what_cannot_be_recorded_is_left_to_pyro_with_one_line(caplog):
    level, (line,) = fitted(caplog, bernoulli_latent())
    assert level == "off"
    assert "guide site 'z' is not reparameterized" in line


def forget_the_compiler() -> None:
    """Inductor asks for it once."""
    from torch._inductor import cpp_builder

    for function in vars(cpp_builder).values():
        if type(function) is type(functools.cache(forget_the_compiler)):
            function.cache_clear()


@contextmanager
def compiler(path: str | Path, cache: Path, monkeypatch) -> Iterator[None]:
    """Let inductor find another compiler, and nothing compiled before."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    forget_the_compiler()
    with config.patch({"cpp.cxx": (None, str(path))}):
        yield
    forget_the_compiler()


def test_without_a_compiler_the_step_is_traced(monkeypatch, caplog, tmp_path):
    with compiler("/no/such/compiler", tmp_path, monkeypatch):
        level, said = fitted(caplog, mean_field())
    assert (level, said) == ("trace", [INSTEAD + "no C++ compiler works here (looked for $CXX, g++, clang++)"])


def test_a_compiler_that_crashes_is_reported_and_done_without(monkeypatch, caplog, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *--version*) exec g++ --version;; esac\necho out of luck >&2; exit 139\n'
    )
    broken.chmod(0o755)
    pair = mean_field()
    with compiler(broken, tmp_path / "cache", monkeypatch):
        level, (line,) = fitted(caplog, pair, optimizer=partial(SGD, lr=1e-3, momentum=0.9, dampening=0.5))
    assert level == "trace"
    assert line.startswith(INSTEAD)
    assert "C++" in line
    # What was prepared for the compiled step is gone: the first step filled the momentum with the whole gradient.
    traced = mean_field()
    momentum = partial(SGD, lr=1e-3, momentum=0.9, dampening=0.5)
    fit(traced.model, traced.guide, traced.x, epochs=1, batch_size=20, optimizer=momentum)
    assert all(torch.equal(a, b) for a, b in zip(state(pair), state(traced), strict=True))


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc")
    level, (line,) = fitted(caplog, mean_field())
    assert level == "inductor"
    assert line.startswith("inductor: compiled code cannot be kept in /proc (")
    assert line.endswith("): each run compiles anew. Point $TORCHINDUCTOR_CACHE_DIR to a folder that can be written.")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/proc"


@torch.library.custom_op("pyro_vae_tests::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    return x.clone()


opaque.register_autograd(lambda _, gradient: gradient)


class Opaque(nn.Module):
    """Runs, and is recorded, but does not say what it returns for which shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return opaque(x)


def test_an_operation_that_only_runs_is_traced(caplog):
    level, (line,) = fitted(caplog, with_networks(Opaque))
    assert level == "trace"
    assert line.startswith(INSTEAD + "RuntimeError: ")
    assert "pyro_vae_tests::opaque" in line


def test_parameters_over_one_memory_are_left_to_torch(caplog):
    pair = mean_field()
    first, last = (layer for layer in pair.guide.modules() if isinstance(layer, nn.Linear))
    last.bias = nn.Parameter(first.bias.data[: len(last.bias)])
    level, said = fitted(caplog, pair)
    assert (level, said) == ("trace", [INSTEAD + "parameters share their memory with other tensors"])


def test_parameters_side_by_side_in_one_memory_are_compiled():
    def build() -> PairAndData:
        pair = mean_field()
        parameters = [*pair.model.parameters(), *pair.guide.parameters()]
        memory = torch.cat([p.data.flatten() for p in parameters])
        for p, part in zip(parameters, memory.split([p.numel() for p in parameters]), strict=True):
            p.data = part.view(p.shape)
        return pair

    assert_same_training(ends_of_both(build, optimizer=partial(Adam, lr=1e-2), epochs=1, batch_size=10))


def test_batches_may_lie_in_memory_as_they_like():
    rows = binary_rows(40)

    class Transposed(IterableDataset):
        def __iter__(self) -> Iterator[Tensor]:
            for number, batch in enumerate(rows.split(10)):
                yield batch if number % 2 == 0 else batch.t().contiguous().t()

    loader = partial(DataLoader, Transposed(), batch_size=None)
    assert_same_training(ends_of_both(mean_field, loader, optimizer=partial(Adam, lr=1e-2), epochs=1))


@pytest.mark.parametrize("level", ["trace", "inductor"])
def test_a_step_that_moved_nothing_is_not_counted(level):
    pair, rows = mean_field(), binary_rows(40)
    rows[20:30] = torch.finfo(torch.float32).max
    optimizer = Adam([*pair.model.parameters(), *pair.guide.parameters()])
    with pytest.raises(NonFiniteError, match="epoch 1, step 3"):
        fit(pair.model, pair.guide, DataLoader(TensorDataset(rows), batch_size=10), optimizer=optimizer, compile=level)
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_an_interrupted_compiler_leaves_the_optimizer_as_it_was(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_step, "native", interrupted)
    pair = mean_field()
    optimizer = SGD([*pair.model.parameters(), *pair.guide.parameters()], lr=1e-3, momentum=0.9, dampening=0.5)
    with pytest.raises(KeyboardInterrupt):
        fit(pair.model, pair.guide, pair.x, batch_size=20, optimizer=optimizer, compile="inductor")
    assert not any(optimizer.state.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: no CUDA device")
def test_on_cuda_the_levels_train_alike_and_a_resumed_run_is_bit_identical(tmp_path):
    settings = {"optimizer": partial(Adam, lr=1e-2, fused=True), "batch_size": 13, "clip_grad_norm": 5.0}
    settings["device"] = "cuda"
    ends = {}
    for level in ("off", "trace", "inductor"):
        pair = vae()
        run = fit(pair.model, pair.guide, grey(), compile=level, epochs=4, out=tmp_path / level, **settings)
        assert run.compiled == level
        ends[level] = [row["train_bound_nats"] for row in run.history], state(pair)
    assert_same_training({"trace": ends["off"], "inductor": ends["trace"]})
    assert_same_training(ends)
    for epochs in (2, 4):
        pair = vae()
        resumable = {"out": tmp_path / "resumed", "resume": True, **settings}
        fit(pair.model, pair.guide, grey(), compile="inductor", epochs=epochs, **resumable)
    assert all(torch.equal(a, b) for a, b in zip(state(pair), ends["inductor"][1], strict=True))


def test_an_optimizer_that_cannot_be_copied_steps_by_itself(caplog):
    pair = mean_field()
    optimizer = Adam([{"params": [*pair.model.parameters(), *pair.guide.parameters()], "own": threading.Lock()}])
    level, said = fitted(caplog, pair, optimizer=optimizer)
    assert (level, said) == ("trace", [INSTEAD + "TypeError: cannot pickle '_thread.lock' object"])


def test_a_move_by_the_sign_of_rounding_is_no_difference():
    before, up = torch.ones(3), torch.tensor([0.01, -0.01, 0.01])
    rounding, clear = torch.tensor([1e-7, -3e-8, 2e-7]), torch.tensor([1.0, -0.3, 2.0])
    alike = partial(whole_step._moved_alike, before, before + up, largest=2.0, furthest=0.01)
    assert alike(before - up, rounding)
    assert not alike(before - 2 * up, rounding)
    assert not alike(before - up, clear)
    assert alike(before + up, clear)
    assert not alike(before - up, torch.zeros(3)), "no gradient, no rounding"
    assert not alike(before + up, torch.tensor([1.0, math.nan, 2.0]))


@pytest.mark.slow
def test_adam_trains_in_front_of_batch_normalization():
    """The biases in front of it do nothing, and follow the sign of rounding; running means are in their units."""
    pair = REPARAMETERIZED["batch_norm"]
    ends = ends_of_both(pair, optimizer=partial(Adam, lr=1e-2), epochs=2, batch_size=10)
    (bounds, traced), (ours, compiled) = ends["trace"], ends["inductor"]
    assert ours == pytest.approx(bounds, rel=1e-5)
    built = pair()
    names = [name for m in modules_of(built.model, built.guide) for name in m.state_dict()]
    free = [n for n in names if n.endswith(("0.bias", "running_mean"))]
    assert len(free) == 4
    for name, a, b in zip(names, compiled, traced, strict=True):
        if name not in free:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_learning_rate_that_is_a_tensor_is_one_after_a_resumption(tmp_path):
    ends = []
    for epochs in ([4], [2, 4]):
        for last in epochs:
            pair = mean_field()
            run = fit(
                pair.model, pair.guide, pair.x, epochs=last, batch_size=20, out=tmp_path / str(len(epochs)),
                resume=True, compile="inductor", optimizer=lambda p: Adam(p, lr=torch.tensor(1e-2)),
                scheduler=partial(ExponentialLR, gamma=0.7),
            )  # fmt: skip
            assert run.compiled == "inductor"
        ends.append(state(pair))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
