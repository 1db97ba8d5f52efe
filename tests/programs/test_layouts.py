"""Samples in repeated rows, where networks fix the batch dim: the numbers of a loop, and of networks that do not."""

from functools import partial
from operator import attrgetter

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import pyro_vae
from pyro_vae import evaluation, objectives
from pyro_vae.errors import PairError
from pyro_vae.programs.layouts import OneByOne, OuterPlate, RepeatedRows
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""Of float64 numbers that differ by the order of sums, and by what a few steps of a sampler make of it."""


class Decoder(nn.Module):
    """Convolutions, which take one batch dim: the shape is kept, or fixed as most programs have it."""

    def __init__(self, keeps_shape):
        super().__init__()
        self.keeps_shape = keeps_shape
        self.linear, self.convolution = nn.Linear(2, 12), nn.ConvTranspose2d(3, 1, 4, 2, 1)

    def forward(self, z):
        h = self.linear(z).relu()
        images = self.convolution(h.reshape(-1, 3, 2, 2))
        return images.reshape(*h.shape[:-1], 1, 4, 4) if self.keeps_shape else images


class Convolutional(nn.Module):
    """A VAE of images, with names and networks of its own."""

    def __init__(self, keeps_shape=False):
        super().__init__()
        self.decoder = Decoder(keeps_shape)
        self.convolution, self.linear = nn.Conv2d(1, 3, 3, 2, 1), nn.Linear(12, 4)

    def encode(self, x):
        loc, log_scale = self.linear(self.convolution(x).relu().reshape(-1, 12)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("code", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("pixels", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("convolution", self.convolution)
        pyro.module("linear", self.linear)
        with pyro.plate("images", len(x)):
            pyro.sample("code", self.encode(x))


def convolutional(keeps_shape):
    torch.manual_seed(3)
    return Convolutional(keeps_shape).double()


@pytest.fixture
def x():
    return torch.rand(5, 1, 4, 4).round().double()


def layout_of(model, guide, x):
    return type(Pair(model, guide, x).layout)


def drawn(guide, x, num_samples):
    """The values that the guide draws on repeated rows under seed 1, ``(num_samples, batch, ...)`` each."""
    torch.manual_seed(1)
    trace = poutine.trace(guide).get_trace(x.repeat(num_samples, *[1] * (x.ndim - 1)))
    return {name: trace.nodes[name]["value"].unflatten(0, (num_samples, -1)) for name in trace.stochastic_nodes}


def test_weights_are_those_of_a_loop(x, caplog):
    vae = convolutional(keeps_shape=False)
    assert layout_of(vae.model, vae.guide, x) is RepeatedRows
    z = drawn(vae.guide, x, 4)["code"]
    torch.manual_seed(1)
    found = log_weights(vae.model, vae.guide, x, 4)
    by_hand = torch.stack(
        [
            dist.Bernoulli(logits=vae.decoder(z_k)).log_prob(x).sum((1, 2, 3))
            + dist.Normal(z_k.new_zeros(2), 1.0).log_prob(z_k).sum(-1)
            - vae.encode(x).log_prob(z_k)
            for z_k in z
        ]
    )
    assert_close(found, by_hand, **EXACT)
    assert not caplog.records


def fields(result, *names):
    return [torch.as_tensor(attrgetter(name)(result)) for name in names]


def arviz(vae, x):
    made = evaluation.to_inference_data(vae.model, vae.guide, x, num_samples=3, num_chains=2, seed=0)
    groups = ("posterior", "posterior_predictive", "prior", "prior_predictive", "log_likelihood", "sample_stats")
    return [torch.as_tensor(made[group][name].values) for group in groups for name in sorted(made[group].data_vars)]


def gaps(vae, x):
    result = evaluation.inference_gaps(
        vae.model, vae.guide, x, family="diagonal", num_samples=20, evidence_samples=20, step_samples=4, max_steps=10,
        check_every=5, seed=0,
    )  # fmt: skip
    return fields(result, "elbo.per_datum", "best_elbo.per_datum", "log_likelihood.per_datum")


def statistics(vae, x):
    result = evaluation.latent_statistics(vae.model, vae.guide, x, num_samples=4, seed=0)
    return [*fields(result, "kl_per_unit"), result.mutual_information.per_datum, result.rate.per_datum]


def error_of_the_guide(vae, x):
    reference = evaluation.reference_posterior(vae.model, x[:1], num_chains=2, num_samples=10, warmup=10, seed=0)
    return fields(reference, "draws", "log_joint")


def annealed(vae, x):
    return fields(evaluation.ais(vae.model, x, guide=vae.guide, **ANNEALING), "per_datum")


def annealed_as_a_graph(vae, x):
    settings = {**ANNEALING, "num_temperatures": 60}
    return fields(evaluation.ais(vae.model, x, compile="trace", **settings), "per_datum")


def ranks(vae, x):
    return fields(evaluation.sbc(vae.model, vae.guide, x, num_data=6, num_draws=9, seed=0), "ranks")


ANNEALING = {"num_temperatures": 5, "num_chains": 3, "num_leapfrog": 2, "burn_in": 2, "seed": 0}

EVALUATIONS = {
    "log_likelihood": lambda vae, x: fields(
        evaluation.log_likelihood(vae.model, vae.guide, x, 200, seed=0), "per_datum"
    ),
    "log_likelihood as a graph": lambda vae, x: fields(
        evaluation.log_likelihood(vae.model, vae.guide, x, 20_000, seed=0, compile="trace"), "per_datum"
    ),
    "log_likelihood to a standard error": lambda vae, x: fields(
        evaluation.log_likelihood(vae.model, vae.guide, x, 500, target_se=0.1, seed=0), "per_datum"
    ),
    "elbo_terms": lambda vae, x: fields(evaluation.elbo_terms(vae.model, vae.guide, x, 20, seed=0), "elbo.per_datum"),
    "inference_gaps": gaps,
    "ais from the guide": annealed,
    "ais as a graph": annealed_as_a_graph,
    "bdmc": lambda vae, x: fields(evaluation.bdmc(vae.model, x, **ANNEALING), "lower.per_datum", "upper.per_datum"),
    "latent_statistics": statistics,
    "reference_posterior": error_of_the_guide,
    "sbc": ranks,
    "to_inference_data": arviz,
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_are_those_of_networks_that_keep_the_shape(name, x, caplog):
    """The noise is drawn in the same order: the same seed gives the same numbers, and no line says that it is slow."""
    kept, fixed = (EVALUATIONS[name](convolutional(keeps_shape), x) for keeps_shape in (True, False))
    assert not [record for record in caplog.records if "slower" in record.getMessage()]
    assert any(part.isfinite().all() for part in kept)
    for one, other in zip(kept, fixed, strict=True):
        assert_close(other, one, equal_nan=True, **EXACT)


OBJECTIVES = [
    objectives.IWAE(4),
    objectives.RenyiBound(0.5, 4),
    objectives.MIWAE(2, 3),
    objectives.CIWAE(0.3, 4),
    objectives.PIWAE(2, 3),
    objectives.StickingTheLanding(3),
    objectives.DReG(4),
    objectives.ReweightedWakeSleep(4, insomnia=0.5),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_objectives_are_those_of_networks_that_keep_the_shape(objective, x):
    found = []
    for keeps_shape in (True, False):
        vae = convolutional(keeps_shape)
        pyro.clear_param_store()
        torch.manual_seed(1)
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        found.append([loss, *torch.autograd.grad(loss, list(vae.parameters()))])
    for kept, fixed in zip(*found, strict=True):
        assert_close(fixed, kept, **EXACT)


@pytest.mark.parametrize("compile", ["off", "trace"])
def test_fit_with_particles_takes_the_steps_of_networks_that_keep_the_shape(compile, caplog):
    x, found = torch.rand(24, 1, 4, 4).round().double(), []
    for keeps_shape in (True, False):
        vae = convolutional(keeps_shape)
        run = pyro_vae.fit(
            vae.model, vae.guide, x, objective=objectives.DReG(3), epochs=2, batch_size=8, compile=compile
        )
        assert run.compiled == compile
        found.append([parameter.detach() for parameter in vae.parameters()])
    for kept, fixed in zip(*found, strict=True):
        assert_close(fixed, kept, rtol=1e-6, atol=1e-6)
    assert not caplog.records


def entangled(x, y):
    """Two latent sites, plates on either side of the data's, a mask, a scale, a factor; a dim more is refused."""
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", dist.Gamma(x.new_tensor(2.0), 1.0))
        if a.ndim > 2:
            raise AssertionError
        with pyro.plate("inner", 3, dim=-1), poutine.mask(mask=y > 0):
            b = pyro.sample("b", dist.Normal(a, 1.0))
        with pyro.plate("outer", 2, dim=-3), pyro.plate("pixels", 3, dim=-1), poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(b.where(y > 0, 0 * b) + a, 1.0), obs=x.expand(2, -1, -1))
        pyro.factor("penalty", -a.square())
        pyro.deterministic("twice", 2 * a)


def guide_of_entangled(x, y):
    with pyro.plate("data", len(x), dim=-2):
        with pyro.plate("inner", 3, dim=-1), poutine.mask(mask=y > 0):
            pyro.sample("b", dist.Normal(0.3 * x, 0.7))
        pyro.sample("a", dist.LogNormal(0.1 * y.sum(-1, keepdim=True), 0.5))


def test_weights_of_a_pair_with_plates_masks_and_scales():
    x, y = torch.randn(2, 5, 3).double()
    pair = Pair(entangled, guide_of_entangled, (x, y), plate="data")
    assert type(pair.layout) is RepeatedRows
    (run,) = pair.run((x, y), 4)
    a, b = (pair.layout.apart(run, run.guide_trace.nodes[name]) for name in ("a", "b"))
    assert (a.shape, b.shape, run.shape) == ((4, 5, 1), (4, 5, 3), (4, 5))
    seen = y > 0
    loc = b.where(seen, 0 * b) + a
    exact = 2 * dist.Normal(loc, 1.0).log_prob(x).sum(-1) + dist.Gamma(x.new_tensor(2.0), 1.0).log_prob(a)[..., 0]
    exact = exact - a.square()[..., 0] - dist.LogNormal(0.1 * y.sum(-1, keepdim=True), 0.5).log_prob(a)[..., 0]
    exact = exact + ((dist.Normal(a, 1.0).log_prob(b) - dist.Normal(0.3 * x, 0.7).log_prob(b)) * seen).sum(-1)
    assert_close(run.terms().log_weight, exact, **EXACT)


def test_the_weight_of_a_datum_is_that_of_its_copies():
    """A scale for each datum multiplies its bound, once."""

    def model(x, weight):
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            assert z.ndim == 2
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)

    def guide(x, weight):
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            pyro.sample("z", dist.Normal(x.unsqueeze(-1) / 2, 0.5**0.5).to_event(1))

    x, weight = torch.randn(5).double(), torch.rand(5).double()
    assert layout_of(model, guide, (x, weight)) is RepeatedRows
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert_close(objectives.IWAE(3).loss(model, guide, x, weight), -(weight * evidence).sum().item(), rtol=1e-6, atol=0)


def packed_pair():
    network = nn.GRU(1, 2, batch_first=True).double()

    def last(sequences):
        return network(sequences)[1][0]

    def model(x, sequences):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(last(sequences)[:, 0], 1.0))
            assert z.ndim == 1
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, sequences):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(last(sequences)[:, 1] + x, 1.0))

    return model, guide, last


def test_packed_sequences_are_repeated_too():
    model, guide, last = packed_pair()
    x = torch.randn(3).double()
    sequences = pack_sequence([torch.randn(length, 1).double() for length in (2, 4, 3)], enforce_sorted=False)
    pair = Pair(model, guide, (x, sequences))
    assert type(pair.layout) is RepeatedRows
    (run,) = pair.run((x, sequences), 4)
    z = run.guide_trace.nodes["z"]["value"].unflatten(0, (4, 3))
    p, q = dist.Normal(last(sequences)[:, 0], 1.0), dist.Normal(last(sequences)[:, 1] + x, 1.0)
    exact = p.log_prob(z) + dist.Normal(z, 1.0).log_prob(x) - q.log_prob(z)
    assert_close(run.terms().log_weight, exact, **EXACT)


def refusing(error):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            if z.ndim != 2:
                raise error
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)

    return model


def one_dim(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.unsqueeze(-1), 1.0).to_event(1))


@pytest.mark.parametrize(
    "error", [AssertionError, KeyError, RuntimeError, NotImplementedError, ZeroDivisionError, StopIteration]
)
def test_whatever_a_network_raises_in_an_outer_plate(error, caplog):
    assert layout_of(refusing(error()), one_dim, torch.randn(4)) is RepeatedRows
    assert not caplog.records


# ---------------------------------------------------------------- where rows cannot be repeated


def test_batch_norm_couples_the_rows_in_training_only(x):
    vae = convolutional(keeps_shape=False)
    vae.decoder.linear = nn.Sequential(vae.decoder.linear, nn.BatchNorm1d(12).double())
    for training, layout in ((True, OneByOne), (False, RepeatedRows)):
        with in_mode([vae], training):
            assert layout_of(vae.model, vae.guide, x) is layout


def fixed(size):
    def program(x):
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            assert z.ndim == 2
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)

    return program


@pytest.mark.parametrize("size", [1, 4])
def test_plates_and_parameters_of_a_fixed_size_are_looped(size, caplog):
    """A guide with parameters for one datum would give all of its copies one draw."""
    x = torch.randn(size).double()
    assert layout_of(fixed(size), poutine.block(fixed(size), hide=["x"]), x) is OneByOne
    model = refusing(AssertionError())
    guide = AutoNormal(poutine.block(model, hide=["x"]))
    weights = log_weights(model, guide, x, 6)
    assert weights.std(0).min() > 1e-3
    assert all("run one by one" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2


def test_a_plate_that_takes_its_data_out_of_all_is_looped(caplog):
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            assert z.ndim == 2
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows].unsqueeze(-1), 1.0).to_event(1))

    assert layout_of(model, guide, torch.randn(9)) is OneByOne
    said = caplog.records[0].getMessage()
    assert "On repeated rows: plate 'data' takes 3 of 9 data out of all of them; pass a batch of the data" in said


def test_a_tensor_that_a_partial_holds_is_not_repeated(caplog):
    def model(x, y):
        refusing(AssertionError())(x + y)

    def guide(x, y):
        one_dim(x + y)

    x, y = torch.randn(2, 4)
    assert layout_of(partial(model, y=y), partial(guide, y=y), x) is OneByOne
    assert "a tensor of the data in functools.partial is not repeated: pass it as" in caplog.records[0].getMessage()
    assert layout_of(model, guide, (x, y)) is RepeatedRows


# ---------------------------------------------------------------- plates that stand for a number of data of their own


class Subsampled(Convolutional):
    """A batch is given, and the plate says of how many data (scVI does so); rows it draws are the model's to use."""

    def __init__(self, keeps_shape, size):
        super().__init__(keeps_shape)
        self.size, self.shift = size, torch.randn(size, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", self.size, subsample_size=len(x)) as rows:
            z = pyro.sample("code", dist.Normal(self.shift[rows].to(x), 1.0).to_event(1))
            pyro.sample("pixels", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("convolution", self.convolution)
        pyro.module("linear", self.linear)
        with pyro.plate("images", self.size, subsample_size=len(x)):
            pyro.sample("code", self.encode(x))


SIZES = [5, 6, 20, 1000]
"""Data that five stand for: none but themselves, fewer than four times and as many, and more."""


def subsampled(keeps_shape, size):
    torch.manual_seed(3)
    return Subsampled(keeps_shape, size).double()


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_a_larger_plate_is_repeated(size, x, caplog):
    """All samples of a datum have its one row, and the weight that the loop gives them."""
    vae = subsampled(False, size)
    pair = Pair(vae.model, vae.guide, x)
    assert type(pair.layout) is RepeatedRows
    (run,) = pair.run(x, 4)
    rows = run.model_trace.nodes["images"]["value"].unflatten(0, (4, 5))
    assert (rows == rows[0]).all()
    z = pair.layout.apart(run, run.guide_trace.nodes["code"])
    by_hand = torch.stack(
        [
            dist.Bernoulli(logits=vae.decoder(z_k)).log_prob(x).sum((1, 2, 3))
            + dist.Normal(vae.shift[rows[0]], 1.0).log_prob(z_k).sum(-1)
            - vae.encode(x).log_prob(z_k)
            for z_k in z
        ]
    )
    assert_close(run.terms().log_weight, by_hand, **EXACT)
    assert not caplog.records


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("objective", [objectives.IWAE(4), objectives.ReweightedWakeSleep(4, insomnia=0.5)])
def test_objectives_of_a_larger_plate_are_those_of_networks_that_keep_the_shape(objective, size, x):
    """Each datum stands for as many as before, however often it is repeated."""
    found = []
    for keeps_shape in (True, False):
        vae = subsampled(keeps_shape, size)
        vae.shift.zero_()
        pyro.clear_param_store()
        torch.manual_seed(1)
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        found.append([loss, *torch.autograd.grad(loss, list(vae.parameters()))])
    for kept, fixed in zip(*found, strict=True):
        assert_close(fixed, kept, **EXACT)


@pytest.mark.parametrize("name", ["log_likelihood", "inference_gaps", "ais from the guide", "to_inference_data", "sbc"])
def test_evaluations_of_a_larger_plate(name, x, caplog):
    found = []
    for keeps_shape in (True, False):
        vae = subsampled(keeps_shape, 1000)
        vae.shift.zero_()
        found.append(EVALUATIONS[name](vae, x))
    assert not [record for record in caplog.records if "slower" in record.getMessage()]
    for one, other in zip(*found, strict=True):
        assert_close(other, one, equal_nan=True, **EXACT)


def test_rows_by_their_numbers():
    """The plate takes those that are handed on, which are repeated, and all data are not."""

    def model(x, rows):
        with pyro.plate("data", len(x), subsample=rows):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            assert z.ndim == 2
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x[rows])

    def guide(x, rows):
        with pyro.plate("data", len(x), subsample=rows):
            pyro.sample("z", dist.Normal(x[rows].unsqueeze(-1) / 2, 0.5**0.5).to_event(1))

    x, rows = torch.randn(9).double(), torch.tensor([7, 0, 3])
    pair = Pair(model, guide, (x, rows), plate="data")
    assert pair.layout == RepeatedRows(pair.plate, (False, True), subsampled=True)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x[rows])
    assert_close(pair.terms((x, rows), 4).log_weight, evidence.expand(4, 3), rtol=1e-6, atol=1e-6)
    loss = objectives.IWAE(4, plate="data").loss(model, guide, x, rows)
    assert_close(loss, -(3 * evidence).sum().item(), rtol=1e-6, atol=0)
    # Columns of all data would be those of the rows that are handed on, again and again.
    for evaluate in (log_weights, evaluation.log_likelihood):
        with pytest.raises(PairError, match=r"the 3 rows .* of 9 data"):
            evaluate(model, guide, (x, rows), 4, plate="data")
    everything = x, torch.arange(9)
    found = log_weights(model, guide, everything, 4)
    assert_close(found, dist.Normal(0.0, 2**0.5).log_prob(x).expand(4, 9), rtol=1e-6, atol=1e-6)


def test_tensors_by_keyword_are_repeated_too(caplog):
    """And the pair's structure is found once."""
    runs = []

    def model(x, *, seen, scale):
        runs.append(len(x))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), scale).to_event(1))
            assert z.ndim == 2
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)

    def guide(x, *, seen, scale):
        precision = scale**-2 + seen
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x * seen / precision)[:, None], precision[:, None] ** -0.5).to_event(1))

    x, seen = torch.randn(5).double(), torch.tensor([True, False, True, True, False])
    evidence = dist.Normal(0.0, 5**0.5).log_prob(x) * seen
    objective = objectives.IWAE(3)
    for _ in range(2):
        loss = objective.loss(model, guide, x, seen=seen, scale=2.0)
        assert_close(loss, -evidence.sum().item(), rtol=1e-6, atol=0)
    assert not caplog.records
    assert runs[-2:] == [15, 15]


def test_an_outer_plate_comes_first(x):
    vae = convolutional(keeps_shape=True)
    assert layout_of(vae.model, vae.guide, x) is OuterPlate
    assert isinstance(Trace_ELBO().loss(vae.model, vae.guide, x), float)
