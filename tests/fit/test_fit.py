"""The loop: what it computes, step by step and at its end, and what it leaves alone."""

import logging
import math
from functools import partial

import pyro
import pytest
import torch
from fit_programs import (
    LATENT_DIM,
    REPARAMETERIZED,
    X_DIM,
    Location,
    PriorGuide,
    bernoulli_latent,
    binary_rows,
    functions,
    mean_field,
    pyro_style,
    subsampled,
)
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import fit, log_weights
from pyro_vae.data import ImageData
from pyro_vae.errors import PairError
from pyro_vae.fit.batches import LoaderBatches, TensorBatches
from pyro_vae.fit.parameters import Parameters
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian
from pyro_vae.programs.modules import local_params, modules_of

CPU = torch.device("cpu")


def parameters_of(*programs) -> list[Tensor]:
    return [p for module in modules_of(*programs) for p in module.parameters()]


def values(*programs) -> list[Tensor]:
    return [p.detach().clone() for p in parameters_of(*programs)]


def assert_all_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


class Unshuffled(torch.utils.data.Dataset):
    """Rows in order through a DataLoader: the data of each step are known."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def in_order(x: Tensor, batch_size: int) -> DataLoader:
    return DataLoader(Unshuffled(x), batch_size=batch_size)


# What a step computes


@pytest.mark.parametrize("compile", ["off", "trace"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_svi_has_the_same_gradient(elbo, compile):
    """One step of SGD of rate 1 moves each parameter by its gradient, on one batch and under one seed."""
    model, guide, x = mean_field()
    before = values(model, guide)
    fit(model, guide, in_order(x, 40), objective=elbo(), optimizer=partial(SGD, lr=1.0), epochs=1, compile=compile)
    moved = [start - end for start, end in zip(before, values(model, guide), strict=True)]

    pyro.clear_param_store()
    model, guide, x = mean_field()
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 1.0}), loss=elbo())
    torch.manual_seed(0)  # fit's default
    rows = next(iter(in_order(x, 40)))  # the iterator draws a seed for its workers, as it does in the loop
    svi.step(rows)
    gradients = [start - end for start, end in zip(before, values(model, guide), strict=True)]
    for ours, theirs in zip(moved, gradients, strict=True):
        assert theirs.abs().max() > 0.1
        # start - (start - gradient) is rounded at the scale of the larger of both, about 10: 1e-6.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("compile", ["off", "trace"])
@pytest.mark.parametrize("program", ["mean_field", "several_sites", "batch_norm", "pyro_style"])
def test_a_few_steps_are_those_of_a_loop_by_hand(program, compile):
    build, optimizer = REPARAMETERIZED[program], partial(SGD, lr=0.003, momentum=0.9)
    model, guide, x = build()
    run = fit(model, guide, in_order(x, 15), optimizer=optimizer, epochs=2, seed=4, compile=compile)
    assert run.compiled == compile

    by_hand = build()
    trainable = parameters_of(by_hand.model, by_hand.guide)
    hand_optimizer = optimizer(trainable)
    torch.manual_seed(4)
    bounds = []
    for _ in range(2):
        total = 0.0
        for rows in in_order(x, 15):
            hand_optimizer.zero_grad()
            with local_params(by_hand.model, by_hand.guide):
                loss = Trace_ELBO().differentiable_loss(by_hand.model, by_hand.guide, rows)
            loss.backward()
            hand_optimizer.step()
            total -= loss.item()
        bounds.append(total / len(x))
    # Eager: the same operations. Traced: rounding of float32 sums, over six steps.
    tolerance = {"rtol": 0, "atol": 0} if compile == "off" else {"rtol": 1e-4, "atol": 1e-6}
    for ours, theirs in zip(values(model, guide), trainable, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), **tolerance)
    found = [row["train_bound_nats"] for row in run.history]
    assert found == pytest.approx(bounds, rel=1e-12 if compile == "off" else 1e-5)


@pytest.mark.parametrize("program", ["mean_field", "dropout", "functions", "subsampled"])
def test_traced_and_eager_runs_end_at_the_same_parameters(program):
    ends = {}
    for compile in ("off", "trace"):
        pyro.clear_param_store()
        model, guide, x = REPARAMETERIZED[program]()
        run = fit(model, guide, x, valid=x[:9], epochs=3, batch_size=13, kl_warmup=2, compile=compile)
        assert run.compiled == compile
        store = [pyro.get_param_store()[name].detach() for name in sorted(pyro.get_param_store().keys())]
        ends[compile] = values(model, guide) + store
        assert len(ends[compile]) > 0
    for eager, traced in zip(ends["off"], ends["trace"], strict=True):
        # Nine Adam steps of 1e-3; where a gradient is near 0 its sign is rounding, and Adam divides by its size.
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        (Trace_ELBO, "guide site 'z' is not reparameterized"),
        (TraceGraph_ELBO, "TraceGraph_ELBO has no tensor_loss method"),
    ],
)
def test_a_discrete_latent_trains_eagerly_and_says_so(objective, line, caplog):
    model, guide, x = bernoulli_latent()
    if objective is TraceGraph_ELBO:  # has only what SVI calls, which trains what `pyro.module` names
        owner = model.__self__
        model, guide = declared(owner, owner.model), declared(owner, owner.guide)
    adam = partial(Adam, lr=1e-3)
    first = fit(model, guide, x, objective=objective(), optimizer=adam, epochs=1, batch_size=20, compile="off")
    start = first.history[0]
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        run = fit(model, guide, x, objective=objective(), epochs=150, batch_size=20, optimizer=partial(Adam, lr=0.05))
    (record,) = caplog.records
    assert record.getMessage().startswith("fit: compile='trace' is not possible here, the step runs eagerly: ")
    assert line in record.getMessage()
    assert run.compiled == "off"
    # Six independent pixels at their marginal probabilities reach about -3.9 nats; untrained it is below -4.3.
    assert start["train_bound_nats"] < -4.3
    last = [row["train_bound_nats"] for row in run.history[-20:]]
    assert sum(last) / len(last) > -4.0


def declared(owner: nn.Module, method):
    def program(x: Tensor) -> None:
        pyro.module("owner", owner)
        method(x)

    return program


def test_renyi_is_trained_as_svi_trains_it():
    """Pyro's RenyiELBO has no differentiable loss; fit takes the gradients that SVI would."""
    objective = RenyiELBO(alpha=0, num_particles=2)
    model, guide, x = mean_field()
    fit(model, guide, in_order(x, 20), objective=objective, optimizer=partial(SGD, lr=0.01), epochs=1, compile="off")

    pyro.clear_param_store()
    by_hand = mean_field()
    svi = SVI(by_hand.model, by_hand.guide, pyro.optim.SGD({"lr": 0.01}), loss=objective)
    torch.manual_seed(0)
    for rows in in_order(x, 20):
        svi.step(rows)
    for ours, theirs in zip(values(model, guide), values(by_hand.model, by_hand.guide), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_objective_that_trains_nothing_is_an_error():
    model, guide, x = bernoulli_latent()
    with pytest.raises(ValueError, match="RenyiELBO gave no gradient"):
        fit(model, guide, x, objective=RenyiELBO(num_particles=2), epochs=1, batch_size=20)


def test_a_jit_objective_runs_as_the_plain_one(caplog):
    runs = []
    for objective in (JitTrace_ELBO(num_particles=2), Trace_ELBO(num_particles=2)):
        model, guide, x = mean_field()
        with caplog.at_level(logging.WARNING, logger="pyro_vae"):
            fit(model, guide, x, objective=objective, epochs=1, batch_size=20, compile="off")
        runs.append(values(model, guide))
    assert [r.getMessage() for r in caplog.records] == ["fit: JitTrace_ELBO runs as Trace_ELBO; compile=... compiles"]
    assert_all_equal(*runs)


# Where it ends


def test_it_reaches_the_maximum_likelihood_of_probabilistic_pca():
    """Tipping and Bishop (1999), equation 3.7: at the optimum log p = -N/2 (d log 2 pi + sum of logs + d)."""
    x_dim, latent_dim, n = 5, 2, 200
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, latent_dim, generator=generator) @ torch.randn(latent_dim, x_dim, generator=generator)
    x = x + 0.5 * torch.randn(n, x_dim, generator=generator) + torch.arange(x_dim)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    noise = eigenvalues[latent_dim:].mean()
    logs = eigenvalues[:latent_dim].log().sum() + (x_dim - latent_dim) * noise.log()
    optimum = -0.5 * (x_dim * math.log(2 * math.pi) + logs + x_dim).item()

    torch.manual_seed(0)
    # Loadings rotate freely; with orthogonal ones the posterior is diagonal, so that an affine guide holds it.
    model, guide = LinearGaussian(x_dim, latent_dim), MeanFieldGuide((x_dim,), latent_dim, hidden_dims=())
    run = fit(
        model,
        guide,
        x,
        optimizer=partial(Adam, lr=0.05),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=150),
        epochs=150,
        batch_size=20,
    )
    reached = model.evidence().log_prob(x).double().mean().item()
    # The evidence can only fall short of the optimum, by what 1500 noisy steps leave: 0.0014 after 3000, 0.0005
    # after 8000. Untrained it falls short by more than 10.
    assert reached <= optimum + 1e-5
    assert reached == pytest.approx(optimum, abs=0.01)
    # The guide holds the exact posterior there, so that the bound is the evidence.
    assert log_weights(model, guide, x, 100).mean().item() == pytest.approx(reached, abs=0.02)
    assert run.history[-1]["train_bound_nats"] == pytest.approx(reached, abs=0.1)  # two epochs, one sample a datum


# Settings


def test_kl_warmup_is_linear_ends_at_one_and_weighs_the_kl():
    model, guide, x = mean_field()
    weights = [row["kl_weight"] for row in fit(model, guide, x, epochs=6, batch_size=20, kl_warmup=4).history]
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    # In the first epoch the objective is reconstruction - KL / 4: by hand, at learning rate 0.
    model, guide, x = mean_field()
    still = partial(SGD, lr=0.0)
    one, quarter = (
        fit(model, guide, in_order(x, 40), epochs=1, optimizer=still, kl_warmup=k, objective=TraceMeanField_ELBO())
        for k in (0, 4)
    )
    kl = torch.distributions.kl_divergence(
        guide.posterior(x).base_dist, torch.distributions.Normal(torch.zeros(3), 1.0)
    ).sum()
    difference = quarter.history[0]["train_bound_nats"] - one.history[0]["train_bound_nats"]
    assert difference == pytest.approx(0.75 * kl.item() / 40, rel=1e-4)


@pytest.mark.parametrize("limit", [0.01, 5.0, 1e6])
def test_gradients_are_clipped_by_the_norm_of_all_together(limit):
    def step(clip):
        model, guide, x = mean_field()
        start = values(model, guide)
        fit(model, guide, in_order(x, 40), epochs=1, optimizer=partial(SGD, lr=1.0), clip_grad_norm=clip)
        return torch.cat([(a - b).flatten() for a, b in zip(start, values(model, guide), strict=True)])

    whole, clipped = step(None), step(limit)
    norm = whole.norm().item()
    assert norm > 10
    torch.testing.assert_close(clipped, whole * min(1.0, limit / norm), rtol=1e-3, atol=1e-6)
    assert clipped.norm().item() == pytest.approx(min(norm, limit), rel=1e-3)


def learning_rates(**settings) -> list[float]:
    model, guide, x = mean_field()
    run = fit(model, guide, x, batch_size=40, compile="off", **settings)
    return [row["learning_rate"] for row in run.history]


def test_the_iwae_schedule_by_name_has_the_papers_stages():
    """Stage i lasts 3^i of 3280 epochs at 10^(-i/7): of 40 epochs, stage 7 takes the last 26 or 27."""
    rates = learning_rates(optimizer=partial(Adam, lr=1e-3), scheduler="iwae", epochs=40)
    stage = [round(-7 * math.log10(rate / 1e-3), 6) for rate in rates]
    ends = [sum(3**i for i in range(k + 1)) * 40 / 3280 for k in range(8)]
    assert stage == [next(float(k) for k in range(8) if ends[k] > epoch) for epoch in range(40)]
    assert stage.count(7.0) == 26
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-4)


def test_a_scheduler_may_be_a_factory_or_an_object():
    settings = {"milestones": [1, 3], "gamma": 0.1}
    scheduler = torch.optim.lr_scheduler.MultiStepLR
    expected = [0.005, 0.0005, 0.0005, 0.00005]
    made = learning_rates(optimizer=partial(SGD, lr=0.005), scheduler=partial(scheduler, **settings), epochs=4)
    assert made == pytest.approx(expected)
    model, guide, x = mean_field()
    optimizer = SGD([*model.parameters(), *guide.parameters()], lr=0.005)
    run = fit(
        model,
        guide,
        x,
        batch_size=20,
        compile="off",
        epochs=4,
        optimizer=optimizer,
        scheduler=scheduler(optimizer, **settings),
    )
    assert [row["learning_rate"] for row in run.history] == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_reduce_on_plateau_watches_the_validation_bound(mode):
    """The bound is that of Location at rest: it never improves after the first epoch."""
    model = Location(0.5)
    run = fit(
        model,
        PriorGuide(),
        torch.zeros(10, 1),
        valid=torch.zeros(4, 1),
        batch_size=10,
        epochs=5,
        optimizer=partial(SGD, lr=1e-12),
        scheduler=partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode=mode, patience=1, factor=0.1, eps=0),
    )
    assert [row["learning_rate"] for row in run.history] == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13, 1e-13])


def test_reduce_on_plateau_is_not_stepped_while_the_bound_improves():
    run = fit(
        Location(0.0),
        PriorGuide(),
        torch.full((10, 1), 3.0),
        valid=torch.full((4, 1), 3.0),
        batch_size=10,
        epochs=5,
        optimizer=partial(SGD, lr=0.01),
        scheduler=partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max", patience=0),
    )
    assert [row["learning_rate"] for row in run.history] == [0.01] * 5


# Early stopping. `shift` goes from 0 towards 4 by d <- (1 - 10 lr) d; validation data lie at 2.


def stopped_early(**settings):
    model = Location(0.0)
    run = fit(
        model,
        PriorGuide(),
        torch.full((10, 1), 4.0),
        valid=torch.full((5, 1), 2.0),
        batch_size=10,
        optimizer=partial(SGD, lr=0.02),
        **settings,
    )
    return model, run


def shift_after(epochs: int) -> float:
    return 4 - 4 * 0.8**epochs


def test_early_stopping_keeps_the_best_epochs_parameters():
    """4 - 4 0.8^t is nearest to 2 at t = 3 (1.952); two epochs later it is far enough to stop."""
    model, run = stopped_early(epochs=50, patience=2)
    assert run.best_epoch == 3
    assert len(run.history) == 5
    assert model.shift.item() == pytest.approx(shift_after(3), rel=1e-6)
    exact = [-0.5 * math.log(2 * math.pi) - 0.5 * (shift_after(t) - 2) ** 2 for t in range(1, 6)]
    # The latent terms cancel: guide and prior are one.
    assert [row["valid_bound_nats"] for row in run.history] == pytest.approx(exact, rel=1e-5)
    assert max(exact) == exact[2]
    assert str(run).endswith("best epoch 3")


def test_without_patience_the_last_parameters_are_kept():
    model, run = stopped_early(epochs=8)
    assert run.best_epoch is None
    assert len(run.history) == 8
    assert model.shift.item() == pytest.approx(shift_after(8), rel=1e-6)


def test_the_best_epoch_is_kept_also_where_training_was_not_stopped():
    model, run = stopped_early(epochs=6, patience=40)
    assert (run.best_epoch, len(run.history)) == (3, 6)
    assert model.shift.item() == pytest.approx(shift_after(3), rel=1e-6)


def test_patience_counts_from_the_end_of_the_warmup():
    """The weight is 1 from the fifth epoch on: the third, which is better, was trained for another objective."""
    model, run = stopped_early(epochs=50, patience=2, kl_warmup=5)
    assert (run.best_epoch, len(run.history)) == (5, 7)
    assert model.shift.item() == pytest.approx(shift_after(5), rel=1e-6)


# Optimizers


def test_an_optimizer_may_be_an_object_over_a_part():
    """The guide alone is trained; the model stays."""
    model, guide, x = mean_field()
    before, guide_before = values(model), values(guide)
    fit(model, guide, x, optimizer=SGD(guide.parameters(), lr=0.1), epochs=1, batch_size=20)
    assert_all_equal(values(model), before)
    assert all(not torch.equal(a, b) for a, b in zip(values(guide), guide_before, strict=True))


# Data


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    x = torch.arange(23.0).unsqueeze(1)

    def epoch(seed, index):
        batches = TensorBatches(x, 5, seed, CPU, torch.float32)
        return [tuple(rows.flatten().int().tolist()) for rows in batches.epoch(index)]

    assert [len(rows) for rows in epoch(0, 0)] == [5] * 4
    assert len({row for rows in epoch(0, 0) for row in rows}) == 20
    assert epoch(0, 3) == epoch(0, 3)
    assert len({str(epoch(seed, index)) for seed in (0, 1, 2) for index in (0, 1, 2)}) == 9
    left_out = [set(range(23)) - {row for rows in epoch(0, index) for row in rows} for index in range(4)]
    assert len({frozenset(rows) for rows in left_out}) > 1


class Stream(IterableDataset):
    """Rows from a place with no length."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self):
        return iter(self.x)


def image_data(train: Tensor, valid: Tensor) -> ImageData:
    return ImageData(
        name="rows", train=train, valid=valid, test=valid, binarization="none", seed=0, content_hash="", source=""
    )


CONTAINERS = {
    "tensor": lambda x: x,
    "image data": lambda x: image_data(x, x[:0]),
    "sequences": lambda x: DataLoader(TensorDataset(x), batch_size=20),
    "stream": lambda x: DataLoader(Stream(x), batch_size=20),
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("compile", ["off", "trace"])
def test_the_bound_is_that_of_the_rows_in_any_container(kind, compile):
    """At a learning rate of 0. A ragged last batch of 15 counts by its rows: else the bound is off by percents."""
    x = torch.linspace(-1, 2, 35).square().unsqueeze(1)
    still = partial(SGD, lr=0.0)
    run = fit(
        Location(0.3), PriorGuide(), CONTAINERS[kind](x), batch_size=35, epochs=2, optimizer=still, compile=compile
    )
    assert [row["train_bound_nats"] for row in run.history] == pytest.approx([location_bound(x)] * 2, rel=1e-5)
    assert math.isnan(run.history[0]["valid_bound_nats"])
    assert run.compiled == compile


def location_bound(x: Tensor) -> float:
    return -0.5 * math.log(2 * math.pi) - 0.5 * (x - 0.3).square().mean().item()


def test_the_validation_split_of_image_data_is_used_unless_another_is_given():
    x, still = torch.linspace(-1, 2, 12).unsqueeze(1), partial(SGD, lr=0.0)
    for valid, expected in ((None, x[3:7]), (x[:3], x[:3])):
        data = image_data(x, x[3:7])
        run = fit(Location(0.3), PriorGuide(), data, valid=valid, batch_size=12, epochs=1, optimizer=still)
        assert run.history[0]["valid_bound_nats"] == pytest.approx(location_bound(expected), rel=1e-5)


def test_validation_data_may_be_a_loader():
    model, x = Location(0.3), torch.linspace(-1, 2, 13).unsqueeze(1)
    still = partial(SGD, lr=0.0)
    runs = [
        fit(model, PriorGuide(), x, valid=valid, batch_size=13, epochs=1, optimizer=still)
        for valid in (x, in_order(x, 5))
    ]
    for run in runs:
        assert run.history[0]["valid_bound_nats"] == pytest.approx(location_bound(x), rel=1e-5)


def test_the_bounds_of_a_subsampled_plate_are_per_datum():
    """Batches of 20 and validation data of 40, of which the plate takes 7 each: sums over 20 and over 40."""
    model, guide, x = subsampled()
    settings = {"optimizer": partial(SGD, lr=0.0), "batch_size": 20, "compile": "off"}
    row = fit(model, guide, x, valid=x, objective=Trace_ELBO(num_particles=40), epochs=1, **settings).history[0]
    whole = fit(*subsampled(20)[:2], x, objective=Trace_ELBO(num_particles=40), epochs=1, **settings)
    exact = whole.history[0]["train_bound_nats"]
    # Over seeds the two vary by 0.15 around it; a sum over the wrong number of rows is off by half of it, 2 or more.
    assert exact < -4
    assert row["train_bound_nats"] == pytest.approx(exact, abs=0.75)
    assert row["valid_bound_nats"] == pytest.approx(exact, abs=0.75)


def test_bounds_whose_support_depends_on_parameters_are_accepted():
    """The support of a Binomial has the batch's shape, which is not that of all the data."""

    class Counts(LinearGaussian):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
                logits = z @ self.loadings.mT + self.bias
                pyro.sample("x", pyro.distributions.Binomial(4, logits=logits).to_event(1), obs=x)

    x = 4 * binary_rows()
    run = fit(Counts(6, 3), MeanFieldGuide((6,), 3, (8,)), x, epochs=1, batch_size=8)
    assert len(run.history) == 1
    with pytest.raises(ValueError, match=r"'x':.*within the support"):
        fit(Counts(6, 3), MeanFieldGuide((6,), 3, (8,)), x + 1, epochs=1, batch_size=8)


def test_looking_at_a_loader_first_does_not_advance_its_generator():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Unshuffled(binary_rows()), batch_size=8, shuffle=True, generator=generator)
    state = generator.get_state()
    LoaderBatches(loader, CPU, torch.float32).first()
    assert torch.equal(generator.get_state(), state)


# What it leaves alone


def caller_state(*programs) -> list:
    modes = [part.training for module in modules_of(*programs) for part in module.modules()]
    settings = [
        pyro.settings.get(name)
        for name in ("validate_distributions_pyro", "validate_poutine", "validate_infer", "module_local_params")
    ]
    default = torch.distributions.Distribution._validate_args
    return [torch.get_rng_state().tolist(), modes, settings, default, torch.is_grad_enabled()]


@pytest.mark.parametrize("validation", [True, False])
def test_the_callers_state_is_left_as_it_was(validation):
    model, guide, x = REPARAMETERIZED["dropout"]()
    model.eval()
    guide.encoder[1].eval()
    torch.manual_seed(99)
    with pyro.validation_enabled(validation):
        before = caller_state(model, guide)
        fit(model, guide, x, valid=x, epochs=2, batch_size=20)
        assert caller_state(model, guide) == before


def test_the_callers_state_is_left_as_it_was_also_by_an_error():
    class Fails(Location):
        def forward(self, x):
            if not pyro.settings.get("validate_infer"):  # in the loop, after the checks
                raise RuntimeError("in the middle of it")
            super().forward(x)

    model, guide = Fails(), PriorGuide()
    model.eval()
    before = caller_state(model, guide)
    with pytest.raises(PairError, match="in the middle of it"):
        fit(model, guide, torch.ones(8, 1), epochs=2, batch_size=4, compile="off")
    assert caller_state(model, guide) == before


def test_a_run_depends_on_its_seed_alone():
    ends = []
    for caller_seed, seed in ((1, 5), (2, 5), (2, 6)):
        model, guide, x = mean_field()
        torch.manual_seed(caller_seed)
        fit(model, guide, x, epochs=1, batch_size=20, seed=seed, compile="off")
        ends.append(values(model, guide))
    assert_all_equal(ends[0], ends[1])
    assert not torch.equal(ends[0][0], ends[2][0])


@pytest.mark.parametrize("build", [mean_field, pyro_style])
def test_models_of_the_same_names_do_not_disturb_each_other(build):
    model, guide, x = build(seed=0)
    fit(model, guide, x, epochs=2, batch_size=20, compile="off")
    alone = values(model, guide)
    other, other_guide, _ = build(seed=1)
    other_start = values(other, other_guide)
    fit(other, other_guide, x, epochs=2, batch_size=20, compile="off")
    assert_all_equal(values(model, guide), alone)
    assert not torch.equal(values(other, other_guide)[0], other_start[0])
    pyro.clear_param_store()
    again, again_guide, _ = build(seed=1)
    fit(again, again_guide, x, epochs=2, batch_size=20, compile="off")
    assert_all_equal(values(other, other_guide), values(again, again_guide))


def test_plain_functions_train_the_parameters_of_pyros_store():
    model, guide, x = functions()
    run = fit(model, guide, x, epochs=40, batch_size=20, optimizer=partial(Adam, lr=0.03))
    store = pyro.get_param_store()
    assert set(store.keys()) == {"weight", "loc", "scale"}
    assert (store["scale"] > 0).all()
    assert not torch.allclose(store["scale"], torch.tensor(0.5))
    assert run.history[-1]["train_bound_nats"] > run.history[0]["train_bound_nats"] + 0.5


def test_modules_hidden_in_functions_are_trained_under_names_of_their_own():
    """Both hidden modules call their layer `net`: as statements in one store they would be one parameter."""

    class Part(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.net = nn.Linear(n_in, n_out)

    decoder, encoder, x = Part(3, 6), Part(6, 3), binary_rows()

    def model(x):
        pyro.module("part", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", pyro.distributions.Bernoulli(logits=decoder.net(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("part2", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(encoder.net(x), 1.0).to_event(1))

    assert set(Parameters.of(model, guide, x).state()) == {
        f"{owner}.net.{name}" for owner in ("model", "guide") for name in ("weight", "bias")
    }
    before = values(decoder, encoder)
    fit(model, guide, x, epochs=1, batch_size=20)
    assert all(not torch.equal(a, b) for a, b in zip(values(decoder, encoder), before, strict=True))


# The progress bar


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_shown_where_there_is_no_terminal(progress, capfd):
    model, guide, x = mean_field()
    fit(model, guide, x, epochs=2, batch_size=20, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_both_bounds_in_nats(capfd):
    model, guide, x = mean_field()
    run = fit(model, guide, x, valid=x[:5], epochs=2, batch_size=20, progress=True)
    shown = capfd.readouterr().err
    row = run.history[-1]
    assert "epoch 2/2: 100%|" in shown
    assert "4/4" in shown
    expected = f"Trace_ELBO train {row['train_bound_nats']:.2f}, valid {row['valid_bound_nats']:.2f} nats/datum"
    assert expected in shown


@pytest.mark.parametrize("compile", ["off", "trace"])
def test_a_function_with_stored_parameters_may_guide_a_module(compile):
    guide, (model, _, x) = functions().guide, mean_field()
    before = [p.detach().clone() for p in model.parameters()]
    run = fit(model, guide, x, epochs=3, batch_size=10, compile=compile)
    assert run.compiled == compile
    store = pyro.get_param_store()
    start = torch.linspace(-1, 1, X_DIM * LATENT_DIM).reshape(X_DIM, LATENT_DIM)
    assert (store["loc"] - start).abs().max() > 5e-3
    assert (store["scale"] - 0.5).abs().max() > 1e-3
    assert all((p - q).abs().max() > 5e-3 for p, q in zip(model.parameters(), before, strict=True))
