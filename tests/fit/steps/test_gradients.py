"""The step as a graph, beside the same step as Pyro runs it: noise, loss, gradients, buffers."""

import logging

import pyro
import pytest
import torch
from fit_programs import (
    REPARAMETERIZED,
    PairAndData,
    bernoulli_latent,
    binary_rows,
    functions,
    mean_field,
    with_networks,
)
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_vae.data.binarization import BINARIZATIONS
from pyro_vae.fit.parameters import Parameters
from pyro_vae.fit.steps.gradients import MAX_GRAPHS, BatchLoss, TracedGradients
from pyro_vae.models import VAE
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.programs.modules import modules_of
from pyro_vae.programs.undo import no_side_effects

ONE = torch.ones(())


def as_it_is(rows: Tensor) -> Tensor:
    return rows


def trained(pair: PairAndData, x: Tensor | None = None) -> list[Tensor]:
    """The pair's parameters, found as `fit` finds them: by a run that leaves no trace."""
    model, guide, own = pair
    with no_side_effects(modules_of(model, guide)):
        return Parameters.of(model, guide, own if x is None else x).trainable


def traced(pair: PairAndData, objective=None, observe=as_it_is, warmup: bool = False) -> TracedGradients:
    model, guide, x = pair
    objective = Trace_ELBO() if objective is None else objective
    parameters = trained(pair, observe(x))
    return TracedGradients(BatchLoss(model, guide, objective, observe, parameters, modules_of(model, guide), warmup))


def by_pyro(pair: PairAndData, objective, x: Tensor) -> list[Tensor]:
    """Loss and gradients as a user of Pyro takes them, in the order of the step's."""
    model, guide, _ = pair
    parameters = trained(pair, x)
    pyro.clear_param_store() if modules_of(model, guide) else None
    for parameter in parameters:
        parameter.grad = None
    if hasattr(objective, "differentiable_loss"):
        loss = objective.differentiable_loss(model, guide, x)
        loss.backward()
    else:
        loss = torch.tensor(objective.loss_and_grads(model, guide, x))
    return [loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)]


def buffers(pair: PairAndData) -> list[Tensor]:
    return [buffer.clone() for module in modules_of(pair.model, pair.guide) for buffer in module.buffers()]


def assert_equal_up_to_rounding(found: list[Tensor], expected: list[Tensor]) -> None:
    """Same kernels on the same noise: what differs is the order in which a sum is taken, a few float32 roundings."""
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max().item() if theirs.is_floating_point() else 0.0
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * max(scale, 1e-3))


OBJECTIVES = {
    "elbo": Trace_ELBO,
    "analytic": TraceMeanField_ELBO,
    "particles": lambda: Trace_ELBO(num_particles=3),
    "vectorized": lambda: TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
}
CASES = [(name, "elbo") for name in REPARAMETERIZED] + [
    ("mean_field", "analytic"),
    ("several_sites", "analytic"),
    ("student_t", "analytic"),  # no closed KL: both fall back to the sampled term
    ("mean_field", "particles"),
    ("mean_field", "vectorized"),
]


@pytest.mark.parametrize(("program", "objective"), CASES)
@pytest.mark.filterwarnings("ignore:.*has no.*kl:UserWarning")
def test_a_traced_step_is_pyros_under_the_same_seed(program, objective, caplog):
    build, objective = REPARAMETERIZED[program], OBJECTIVES[objective]()
    pair, x = build(), build().x
    step = traced(pair, objective)
    first = x[:20].flip(0)
    step(first, ONE)  # captures
    assert step.level == "trace"
    assert caplog.text == ""
    found = []
    for seed, rows in ((3, x[:20]), (4, x[20:])):
        torch.manual_seed(seed)
        found.append((step(rows, ONE), torch.get_rng_state(), buffers(pair)))

    pyro.clear_param_store()
    reference = build()
    by_pyro(reference, objective, first)
    for (ours, ours_rng, ours_buffers), (seed, rows) in zip(found, ((3, x[:20]), (4, x[20:])), strict=True):
        torch.manual_seed(seed)
        assert_equal_up_to_rounding(ours, by_pyro(reference, objective, rows))
        assert torch.equal(ours_rng, torch.get_rng_state()), "the graph drew other noise"
        assert_equal_up_to_rounding(ours_buffers, buffers(reference))
    if program != "functions":
        assert all(gradient.abs().max() > 0 for gradient in found[0][0][1:])


def test_capturing_leaves_no_trace_of_itself():
    pair = REPARAMETERIZED["batch_norm"]()
    step, before = traced(pair), buffers(pair)
    parameters = [p.detach().clone() for m in modules_of(pair.model, pair.guide) for p in m.parameters()]
    torch.manual_seed(3)
    step(pair.x, ONE)
    state = torch.get_rng_state()
    counted = [b for b in buffers(pair) if not b.is_floating_point()]
    assert [int(b) for b in counted] == [1, 1], "one step was taken, whatever the capture ran"
    torch.manual_seed(3)
    for buffer, value in zip((b for m in step._modules for b in m.buffers()), before, strict=True):
        buffer.copy_(value)
    step(pair.x, ONE)
    assert torch.equal(torch.get_rng_state(), state), "a capturing call draws what any other call draws"
    after = [p.detach() for m in modules_of(pair.model, pair.guide) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(parameters, after, strict=True))


def test_noise_is_fresh_at_each_step():
    pair = mean_field()
    step = traced(pair)
    torch.manual_seed(3)
    losses = [step(pair.x, ONE)[0].item() for _ in range(20)]
    assert len(set(losses)) == 20


def test_binarization_is_drawn_in_the_step():
    """On grey pixels of 0.5 the draws differ from call to call, and are those of an eager run under the seed."""
    observe = BINARIZATIONS["stochastic"].observe
    pair = mean_field()._replace(x=torch.full((30, 6), 128, dtype=torch.uint8))
    step = traced(pair, observe=observe)
    step(pair.x, ONE)
    torch.manual_seed(3)
    ours = step(pair.x, ONE)
    again = step(pair.x, ONE)
    assert step.level == "trace"
    torch.manual_seed(3)
    expected = by_pyro(pair, Trace_ELBO(), observe(pair.x))
    assert_equal_up_to_rounding(ours, expected)
    assert not torch.allclose(ours[1], again[1], rtol=1e-3)


def test_the_kl_weight_is_an_input_of_the_graph():
    """It was captured at one value; at another, loss and gradients are those of Pyro at that value."""
    pair = mean_field()
    step = traced(pair, warmup=True)
    step(pair.x, torch.tensor(0.125))
    losses = []
    for beta in (torch.tensor(0.125), torch.tensor(0.75)):
        torch.manual_seed(3)
        ours = step(pair.x, beta)
        weight = KLWeight(beta)
        torch.manual_seed(3)
        weighted = PairAndData(weight(pair.model), weight(pair.guide), pair.x)
        loss = Trace_ELBO().differentiable_loss(*weighted)
        assert_equal_up_to_rounding(ours, [loss.detach(), *torch.autograd.grad(loss, trained(pair))])
        losses.append(ours[0].item())
    assert len(step._graphs) == 1
    assert losses[1] - losses[0] > 1.0, "five eighths of the KL of 40 data"


def test_an_update_of_the_parameters_is_seen_by_the_next_call():
    pair = mean_field()
    step = traced(pair)
    step(pair.x, ONE)
    with torch.no_grad():
        for parameter in trained(pair):
            parameter.mul_(1.5)
    torch.manual_seed(3)
    ours = step(pair.x, ONE)
    torch.manual_seed(3)
    assert_equal_up_to_rounding(ours, by_pyro(pair, Trace_ELBO(), pair.x))


def branching() -> PairAndData:
    vae, guide, x = mean_field()

    def model(x: Tensor) -> Tensor:
        with pyro.poutine.scale(scale=2.0 if x.sum() > 100 else 1.0):
            return vae(x)

    return PairAndData(model, guide, x)


def counting() -> PairAndData:
    """A model that keeps its own schedule in Python, which a graph would freeze."""
    (vae, guide, x), calls = mean_field(), []

    def model(x: Tensor) -> Tensor:
        calls.append(1)
        with pyro.poutine.scale(scale=1.0 + 0.1 * len(calls)):
            return vae(x)

    return PairAndData(model, guide, x)


class Custom(Trace_ELBO):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("build", "objective", "reason"),
    [
        (bernoulli_latent, Trace_ELBO, "guide site 'z' is not reparameterized"),
        (branching, Trace_ELBO, "data-dependent"),
        (counting, Trace_ELBO, "Python values that change from call to call"),
        (lambda: with_networks(lambda: nn.BatchNorm1d(8, momentum=None)), Trace_ELBO, "data-dependent"),
        (mean_field, TraceGraph_ELBO, "TraceGraph_ELBO has no tensor_loss method"),
        (mean_field, Custom, "Custom has no tensor_loss method"),
    ],
    ids=["score-function", "branch", "counter", "cumulative-mean", "graph-elbo", "custom"],
)
def test_what_cannot_be_captured_runs_eagerly_and_says_so_once(build, objective, reason, caplog):
    pair = build()
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        step = traced(pair, objective())
        step(pair.x, ONE)
        torch.manual_seed(3)
        ours = step(pair.x, ONE)
    assert step.level == "off"
    (record,) = [r for r in caplog.records if r.name == "pyro_vae"]
    assert record.getMessage().startswith("fit: compile='trace' is not possible here, the step runs eagerly: ")
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()
    if build is counting:
        return  # each run of it has another loss
    torch.manual_seed(3)
    assert_equal_up_to_rounding(ours, by_pyro(pair, objective(), pair.x))


def test_batch_shapes_beyond_the_limit_run_without_a_graph_which_is_said_once(caplog):
    pair = mean_field()
    step = traced(pair)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        for size in range(10, 10 + MAX_GRAPHS):
            step(pair.x[:size], ONE)
        assert caplog.records == []
        for size in (30, 31, 31, 32):
            torch.manual_seed(3)
            ours = step(pair.x[:size], ONE)
            torch.manual_seed(3)
            assert_equal_up_to_rounding(ours, by_pyro(pair, Trace_ELBO(), pair.x[:size]))
    (record,) = caplog.records
    assert record.getMessage() == "fit: more than 4 batch shapes; the others run without a graph"
    assert step.level == "trace"


def test_store_parameters_of_functions_get_their_gradient():
    """The one with a constraint is trained in its unconstrained form."""
    pair = functions()
    step = traced(pair)
    _, *gradients = step(pair.x, ONE)
    names = Parameters.of(*pair).store
    assert list(names) == ["loc", "scale", "weight"]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.equal(names["scale"], torch.full((3,), 0.5).log())


def test_frozen_parameters_get_none():
    pair = mean_field()
    for parameter in pair.guide.parameters():
        parameter.requires_grad_(False)
    _, *gradients = traced(pair)(pair.x, ONE)
    assert len(gradients) == len(list(pair.model.parameters()))


def test_rows_of_each_dtype_have_their_own_graph():
    class Counts(VAE):
        def forward(self, x):
            return super().forward(x.float())

    torch.manual_seed(0)
    model, (_, guide, x) = Counts((6,), 3, (8,)), mean_field()
    pair = PairAndData(model, lambda rows: guide(rows.float()), binary_rows())
    step = TracedGradients(BatchLoss(*pair[:2], Trace_ELBO(), as_it_is, list(model.parameters()), [model]))
    losses = []
    for rows in (x, x.to(torch.int64)):
        torch.manual_seed(3)
        losses.append(step(rows, ONE)[0])
    assert torch.equal(*losses)
    assert len(step._graphs) == 2
