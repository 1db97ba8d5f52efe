"""Every part trains compiled as it does traced. One that no pair below has fails; it is not skipped."""

import logging
from functools import partial
from typing import NamedTuple

import pytest
import torch
from fit_programs import lines
from torch import Tensor
from torch._dynamo.utils import counters
from torch.optim import Adam

from pyro_vae import fit
from pyro_vae.parts import make_objective, make_pair, parse_part, part_names

X_SHAPE, LATENT_DIM, HIDDEN = (1, 2, 3), 2, (8,)


class Parts(NamedTuple):
    guide: str
    prior: str
    likelihood: str
    objective: str


TOGETHER = [
    Parts("auxiliary(context_dim=4)", "student_t", "bernoulli", "renyi(num_particles=3)"),
    Parts("full_rank", "flow(num_flows=1, hidden_dims=(8,))", "gaussian", "dreg(num_particles=3)"),
    Parts(
        "householder(num_reflections=2)", "mixture(num_components=3)", "categorical(levels=4)",
        "piwae(num_groups=2, num_particles=3)",
    ),
    Parts(
        "iaf(num_flows=1, flow_hidden_dims=(8,), context_dim=4)", "vamp(num_components=3)",
        "discretized_logistic(levels=4)", "sticking_the_landing",
    ),
    Parts("local", "standard_normal", "continuous_bernoulli", "free_bits"),
    Parts("low_rank", "student_t", "bernoulli", "reweighted_wake_sleep(num_particles=3, insomnia=0.5)"),
    Parts("mean_field", "standard_normal", "gaussian(scale='predicted')", "analytic_kl"),
    Parts("mixture(num_components=3)", "vamp(num_components=3)", "categorical(levels=4)", "ciwae(num_particles=3)"),
    Parts("planar(num_flows=2)", "flow(num_flows=1, hidden_dims=(8,))", "continuous_bernoulli", "trace_elbo"),
    Parts("semi_amortized(num_steps=1)", "mixture(num_components=3)", "bernoulli", "beta_elbo(warmup=2)"),
    Parts(
        "spline(num_flows=1, flow_hidden_dims=(8,), context_dim=4, num_bins=3)", "student_t",
        "discretized_logistic(levels=4)", "iwae(num_particles=3)",
    ),
    Parts(
        "sylvester(num_flows=1, num_reflections=2)", "standard_normal", "gaussian",
        "miwae(num_groups=2, num_particles=3)",
    ),
]  # fmt: skip


def images(likelihood: str, n: int = 40) -> Tensor:
    """In two clusters, on four levels of grey; black and white where the likelihood wants that."""
    generator = torch.Generator().manual_seed(1)
    cluster = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    levels = 2 if likelihood == "bernoulli" else 4
    means = torch.where(cluster, torch.linspace(0.1, 0.9, 6).reshape(X_SHAPE), 0.3)
    return (means + 0.4 * torch.rand(n, *X_SHAPE, generator=generator) - 0.2).mul(levels).floor().clamp(
        0, levels - 1
    ) / (levels - 1)


def trained(parts: Parts, level: str) -> tuple[str, list[float], dict[str, Tensor]]:
    """How the steps ran, the bounds, and parameters and buffers at the end."""
    x = images(parse_part("likelihood", parts.likelihood)[0])
    torch.manual_seed(0)
    model, guide = make_pair(
        X_SHAPE, LATENT_DIM, HIDDEN, guide=parts.guide, prior=parts.prior, likelihood=parts.likelihood, data=lambda: x
    )
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
