"""Runs on a second device what must give there what it gives on the CPU; ``test_second_device.py`` runs this file."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import pytest
import second_device
import torch
from every_part import PLAIN, TOGETHER, Parts, made
from second_device import NAME, Conversions, MixedDevicesError, Reads
from torch import Tensor, nn
from torch.optim import Adam
from torch.testing import assert_close

import pyro_vae
from pyro_vae import evaluation, fit
from pyro_vae.parts import make_objective, make_pair, parse_part
from pyro_vae.programs.modules import as_args, as_input

second_device.register()


@pytest.fixture(autouse=True)
def conversions():
    with Conversions():
        yield


def test_devices_do_not_mix():
    ours, theirs = torch.ones(3), torch.ones(3, device=NAME)
    assert theirs.device.type == NAME
    assert (theirs + theirs).cpu().tolist() == [2, 2, 2]
    assert (2 * theirs + torch.tensor(1.0)).tolist() == [3, 3, 3], "a number may come from the CPU"
    assert theirs[torch.tensor([0, 2])].shape == (2,), "and so may an index"
    theirs[torch.tensor([0])] = torch.tensor([4.0], device=NAME)
    assert theirs.tolist() == [4, 1, 1]
    for mixed in (
        lambda: ours + theirs,
        lambda: theirs @ ours,
        lambda: ours[torch.tensor([1], device=NAME)],
        lambda: theirs.index_put_([torch.tensor([0, 2])], ours[:2]),
    ):
        with pytest.raises(MixedDevicesError):
            mixed()


def test_gradients_and_moves_are_the_cpus():
    layer, x = nn.Linear(3, 2), torch.randn(5, 3)
    layer(x).square().sum().backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    layer.to(NAME)
    layer(x.to(NAME)).square().sum().backward()
    assert layer.weight.grad.device.type == NAME
    assert torch.equal(layer.weight.grad.cpu(), expected)


def trained(parts: Parts, device: str) -> tuple[list[float], dict[str, Tensor]]:
    x, model, guide = made(parts)
    run = fit(
        model, guide, x, objective=make_objective(parts.objective), optimizer=partial(Adam, lr=1e-2), epochs=2,
        batch_size=10, compile="off", device=device, kl_warmup=2, clip_grad_norm=5.0,
    )  # fmt: skip
    assert {p.device.type for p in [*model.parameters(), *guide.parameters()]} == {device}
    ends = {
        f"{name}.{k}": v.cpu() for name, m in (("model", model), ("guide", guide)) for k, v in m.state_dict().items()
    }
    return [row["train_bound_nats"] for row in run.history], ends


@pytest.mark.parametrize("parts", TOGETHER, ids=lambda parts: parse_part("guide", parts.guide)[0])
def test_every_part_trains_as_on_the_cpu(parts):
    bounds, expected = trained(parts, "cpu")
    found, ends = trained(parts, NAME)
    assert found == bounds
    assert all(torch.equal(ends[name], value) for name, value in expected.items())


def test_a_resumed_run_is_bit_identical(tmp_path):
    ends = []
    for folder, stops in (("whole", (4,)), ("resumed", (2, 4))):
        for epochs in stops:
            x, *modules = made(TOGETHER[0])
            fit(*modules, x, optimizer=partial(Adam, lr=1e-2), batch_size=10, compile="off", device=NAME, epochs=epochs,
                out=tmp_path / folder, resume=epochs != stops[0], seed=3)  # fmt: skip
        ends.append([value.cpu() for module in modules for value in module.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("parts", TOGETHER, ids=lambda parts: parse_part("guide", parts.guide)[0])
def test_nothing_is_read_from_a_step(parts):
    """In an epoch of 24 steps as much as in one of 8: their losses are read at once, when it ends."""
    # A local guide asks of each batch whether it was made with these data; a conditional model and its guide ask
    # whether the labels are classes. A recorded step asks neither.
    questions = {"local": 1, "conditional": 2}.get(parse_part("guide", parts.guide)[0], 0)
    assert reads_of_an_epoch(parts, 3) - reads_of_an_epoch(parts, 1) == questions * (24 - 8)


def test_the_losses_of_fifty_steps_are_read_at_once():
    """In an epoch of 56 steps once more than in one of 8."""
    assert reads_of_an_epoch(PLAIN, 7) - reads_of_an_epoch(PLAIN, 1) == 1


def reads_of_an_epoch(parts: Parts, times: int) -> int:
    """How often something is read from the device in ``fit``, with an epoch of 8 steps so many times."""
    x, model, guide = made(parts)
    # Pyro's own objectives read the loss at each step.
    objective = make_objective("iwae(num_particles=2)")
    before = Reads.values + Reads.copies
    inputs = as_input([torch.cat([column] * times) for column in as_args(x)])
    fit(model, guide, inputs, objective=objective, epochs=1, batch_size=5, compile="off",
        device=NAME)  # fmt: skip
    return Reads.values + Reads.copies - before


def sharpness_of_reconstructions(device: torch.device) -> Tensor:
    """Of images of 4 x 4 pixels; those of the other calls are too small to have a sharpness."""
    torch.manual_seed(0)
    model, guide = make_pair((1, 4, 4), 2, (8,))
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    pair = model.double().to(device), guide.double().to(device)
    return evaluation.reconstruction_sharpness(*pair, x.round(), seed=0).images.cpu()


Call = Callable[[Any, Any, Tensor], Any]
QUIET = {"seed": 0, "progress": False}
SHORT = {"num_temperatures": 5, "num_chains": 3, "num_leapfrog": 2, "burn_in": 5, **QUIET}
NUTS = {"num_samples": 8, "warmup": 4, "num_chains": 2, **QUIET}

CALLS: dict[str, Call] = {
    "log_weights": lambda model, guide, x: pyro_vae.log_weights(model, guide, x.to(device_of(model)), 3).detach().cpu(),
    "log_likelihood": lambda model, guide, x: evaluation.log_likelihood(model, guide, x, 100, **QUIET).per_datum,
    "log_likelihood to a target": lambda model, guide, x: (
        evaluation.log_likelihood(model, guide, x, 600, target_se=0.1, **QUIET).per_datum
    ),
    "elbo_terms": lambda model, guide, x: torch.tensor(evaluation.elbo_terms(model, guide, x, **QUIET).elbo.mean),
    "active_units": lambda _, guide, x: evaluation.active_units(guide, x).variance,
    "latent_statistics": lambda model, guide, x: evaluation.latent_statistics(model, guide, x, **QUIET).kl_per_unit,
    "linear_probe": lambda _, guide, x: torch.tensor(
        evaluation.linear_probe(guide, x, torch.arange(6) % 2, x, torch.arange(6) % 2).accuracy.mean
    ),
    "reconstruction_sharpness": lambda model, *_: sharpness_of_reconstructions(device_of(model)),
    "sharpness": lambda model, *_: evaluation.sharpness(torch.rand(6, 1, 4, 4).to(device_of(model))).cpu(),
    "inference_gaps": lambda model, guide, x: (
        evaluation.inference_gaps(
            model, guide, x, num_samples=50, evidence_samples=100, max_steps=30, **QUIET
        ).best_elbo.per_datum
    ),
    "inference_gaps by a flow": lambda model, guide, x: (
        evaluation.inference_gaps(
            model, guide, x, family="flow", num_samples=50, evidence_samples=100, max_steps=30, **QUIET
        ).best_elbo.per_datum
    ),
    "ais": lambda model, _, x: evaluation.ais(model, x, **SHORT).per_datum,
    "ais from the guide": lambda model, guide, x: evaluation.ais(model, x, guide=guide, **SHORT).per_datum,
    "bdmc": lambda model, _, x: evaluation.bdmc(model, x[:4], **SHORT).width.per_datum,
    "reference_posterior": lambda model, _, x: evaluation.reference_posterior(model, x[:1], **NUTS).draws,
    "guide_error": lambda model, guide, x: (
        evaluation.guide_error(
            trusted(evaluation.reference_posterior(model, x[:1], **NUTS)), model, guide, x[:1], **QUIET
        ).mean_error
    ),
    "sbc": lambda model, guide, x: evaluation.sbc(model, guide, x, num_data=20, num_draws=7, **QUIET).ranks,
    "to_inference_data": lambda model, guide, x: torch.tensor(
        evaluation.to_inference_data(model, guide, x, num_samples=20, **QUIET)["posterior"]["z"].values
    ),
    "evidence_budget": lambda model, guide, x: (
        evaluation.evidence_budget(model, guide, x, ks=(1, 100), **QUIET).pareto_k
    ),
}


def trusted(reference: evaluation.ReferencePosterior) -> evaluation.ReferencePosterior:
    """A few draws are no reference, but do for a comparison of devices."""
    return replace(reference, r_hat=torch.ones_like(reference.r_hat), divergences=0 * reference.divergences)


def device_of(model: Any) -> torch.device:
    return next(model.parameters()).device


@pytest.mark.parametrize("name", [name for name in evaluation.__all__ if name.islower()])
def test_no_evaluation_is_left_out(name):
    # They take what others return, which is on the CPU.
    of_results = {"sharpness_ratio", "two_sample_test"}
    assert name in of_results | {call.split()[0] for call in CALLS}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["full_rank", "iaf"])
def test_every_evaluation_finds_what_it_finds_on_the_cpu(call, kind):
    found = []
    parts = next(parts for parts in TOGETHER if parts.guide.startswith(kind))
    for device in ("cpu", NAME):
        pyro.clear_param_store()
        x, model, guide = made(parts._replace(likelihood="bernoulli"))
        # In float64, so that chains whose steps are rounded otherwise stay together.
        model.double().to(device)
        guide.double().to(device)
        torch.manual_seed(4)
        found.append(CALLS[call](model, guide, x[:6].round().double()))
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
