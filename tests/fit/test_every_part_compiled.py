"""Every part trains compiled as it does traced. One that no pair has fails; it is not skipped."""

import logging
from functools import partial

import pytest
import torch
from every_part import TOGETHER, Parts, made
from fit_programs import lines
from torch import Tensor
from torch._dynamo.utils import counters
from torch.optim import Adam

from pyro_vae import fit
from pyro_vae.parts import make_objective, parse_part, part_names


def trained(parts: Parts, level: str) -> tuple[str, list[float], dict[str, Tensor]]:
    """How the steps ran, the bounds, and parameters and buffers at the end."""
    x, model, guide = made(parts)
    run = fit(
        model, guide, x, objective=make_objective(parts.objective), optimizer=partial(Adam, lr=1e-2), epochs=2,
        batch_size=10, compile=level,
    )  # fmt: skip
    ends = {f"model.{k}": v for k, v in model.state_dict().items()} | {
        f"guide.{k}": v for k, v in guide.state_dict().items()
    }
    return run.compiled, [row["train_bound_nats"] for row in run.history], ends


@pytest.mark.parametrize("kind", Parts._fields)
def test_every_part_is_in_some_pair(kind):
    assert {parse_part(kind, getattr(parts, kind))[0] for parts in TOGETHER} == set(part_names(kind))


@pytest.mark.slow
@pytest.mark.parametrize("parts", TOGETHER, ids=lambda parts: parse_part("guide", parts.guide)[0])
def test_compiled_steps_train_as_traced_ones(parts, caplog):
    with caplog.at_level(logging.DEBUG, logger="pyro_vae"):
        traced, bounds, expected = trained(parts, "trace")
        counters.clear()
        compiled, ours, found = trained(parts, "inductor")
    assert (traced, compiled) == ("trace", "inductor")
    assert lines(caplog) == []
    assert counters["inductor"]["fxgraph_cache_bypass"] == 0, "compiled anew in each run"
    assert ours == pytest.approx(bounds, rel=1e-5)
    for name, value in expected.items():
        # Eight steps of 1e-2; where a gradient is near 0 its sign is rounding, and Adam divides by its size.
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
