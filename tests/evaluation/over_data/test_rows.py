"""Cutting arguments by data: which are per datum, and programs that take all data at once."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.testing import assert_close

import pyro_vae
from pyro_vae import evaluation
from pyro_vae.errors import PairError
from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.fit.describe import describe_pair


def test_tensors_of_the_datas_length_are_cut_and_others_are_not():
    x, labels, whole, number = torch.arange(6.0).reshape(6, 1), torch.arange(6), torch.ones(2), 7
    rows = Rows("test", (x, labels, whole, number))
    some = rows.take(torch.tensor([5, 0, 0]))
    assert some[0].flatten().tolist() == [5, 0, 0]
    assert some[1].tolist() == [5, 0, 0]
    assert some[2] is whole
    assert some[3] == 7
    assert (rows.size, rows.unit) == (6, "datum")
    assert Rows("test", torch.zeros(2, 1, 4, 4)).unit == "image"


def test_packed_sequences_are_cut():
    sequences = [torch.randn(length, 2) for length in (2, 4, 1, 3)]
    rows = Rows("test", (torch.zeros(4), pack_sequence(sequences, enforce_sorted=False)))
    for chosen in (slice(1, 3), torch.tensor([3, 0, 0])):
        expected = [sequences[i] for i in torch.arange(4)[chosen]]
        values, lengths = pad_packed_sequence(rows.take(chosen)[1], batch_first=True)
        assert lengths.tolist() == [len(sequence) for sequence in expected]
        for value, sequence in zip(values, expected, strict=True):
            assert torch.equal(value[: len(sequence)], sequence)


def test_bad_data_are_refused():
    for x in (3.0, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="sbc: x must be a tensor"):
            Rows("sbc", x)
    with pytest.raises(ValueError, match=r"sbc: x: there are none"):
        Rows("sbc", torch.zeros(0, 3))
    with pytest.raises(ValueError, match="sbc: x: 1 value is NaN"):
        Rows("sbc", torch.tensor([[0.0], [torch.nan]]))


# ---------------------------------------------------------------- arguments as long as the data


def curves(x, times):
    """A line at times; its slope has a prior that all times set."""
    with pyro.plate("curves", len(x)):
        z = pyro.sample("slope", dist.Normal(x.new_zeros(1), times.sum()).to_event(1))
        pyro.sample("y", dist.Normal(z * times, 1.0).to_event(1), obs=x)


def guide_of_curves(x, times):
    with pyro.plate("curves", len(x)):
        pyro.sample("slope", posterior_of_curves(x, times))


def posterior_of_curves(x, times):
    precision = times.square().sum() + times.sum() ** -2
    return dist.Normal((x * times).sum(-1, keepdim=True) / precision, precision**-0.5).to_event(1)


def levels(x, times):
    """The sum over times alone enters: cut or not, it runs."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * times.sum(), 1.0).to_event(1), obs=x)


def guide_of_levels(x, times):
    with pyro.plate("data", len(x)):
        total = times.sum()
        precision = 1 + total.square()
        pyro.sample("z", dist.Normal(x * total / precision, precision**-0.5).to_event(1))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 20, 200])
def test_a_grid_of_as_many_times_as_there_are_data_is_not_cut(n):
    """Under the exact posterior every weight is the evidence, whatever block a datum is in."""
    times = torch.linspace(0.1, 0.2, n).double()
    x = torch.randn(n, n).double()
    assert Rows("test", (x, times), curves, guide_of_curves).per_datum == (True, False)
    covariance = torch.eye(n).double() + times.sum() ** 2 * torch.outer(times, times)
    exact = dist.MultivariateNormal(torch.zeros(n).double(), covariance).log_prob(x)
    found = pyro_vae.log_likelihood(curves, guide_of_curves, (x, times), 20, seed=0)
    assert_close(found.per_datum, exact, rtol=1e-7, atol=1e-7)
    x = torch.randn(n, 1).double()
    assert Rows("test", (x, times), levels, guide_of_levels).per_datum == (True, False)
    found = pyro_vae.log_likelihood(levels, guide_of_levels, (x, times), 20, seed=0)
    exact = dist.Normal(x.new_tensor(0.0), (1 + times.sum() ** 2).sqrt()).log_prob(x)[:, 0]
    assert_close(found.per_datum, exact, rtol=1e-7, atol=1e-7)


def shifted(x, y, times):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(y, 1.0))
        pyro.sample("x", dist.Normal(z + times.sum(), 1.0), obs=x)


def guide_of_shifted(x, y, times):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x - times.sum() + y) / 2, 0.5**0.5))


def test_labels_are_cut_where_a_grid_of_their_length_is_not():
    x, y, times = torch.randn(3, 30).double()
    assert Rows("test", (x, y, times), shifted, guide_of_shifted).per_datum == (True, True, False)
    found = pyro_vae.log_likelihood(shifted, guide_of_shifted, (x, y, times), 20, seed=0)
    assert_close(found.per_datum, dist.Normal(y + times.sum(), 2**0.5).log_prob(x), rtol=1e-6, atol=1e-6)


def test_packed_sequences_in_evaluations():
    network = nn.GRU(1, 2, batch_first=True).double()

    def law(x, sequences):
        return (x + network(sequences)[1][0].sum(-1)) / 2

    def model(x, sequences):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(network(sequences)[1][0].sum(-1), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, sequences):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(law(x, sequences), 0.5**0.5))

    x = torch.randn(150).double()
    lengths = torch.randint(1, 5, (150,)).tolist()
    sequences = pack_sequence([torch.randn(length, 1).double() for length in lengths], enforce_sorted=False)
    exact = dist.Normal(network(sequences)[1][0].sum(-1), 2**0.5).log_prob(x).detach()
    found = pyro_vae.log_likelihood(model, guide, (x, sequences), 100, seed=0)
    assert_close(found.per_datum, exact, rtol=1e-6, atol=1e-6)
    rate = evaluation.latent_statistics(model, guide, (x, sequences), num_samples=20, seed=0)
    assert not rate.flagged.any()


def test_data_along_another_dim_are_refused_in_words():
    def model(x):
        with pyro.plate("columns", x.shape[1]):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, len(x)]).to_event(1), obs=x.T)

    def guide(x):
        with pyro.plate("columns", x.shape[1]):
            pyro.sample("z", dist.Normal(x.mean(0), 1.0))

    x = torch.randn(3, 20)
    assert pyro_vae.log_weights(model, guide, x, 2, plate="columns").shape == (2, 20)
    for name, evaluate in EVALUATIONS.items():
        with pytest.raises(PairError, match=rf"{name}: .*20 rows .*\(3, 20\)"):
            evaluate(model, guide, x, plate="columns")
    # In a square nobody knows which: all are handed on at once.
    x = torch.randn(20, 20)
    exact = dist.MultivariateNormal(torch.zeros(20), torch.eye(20) + torch.ones(20, 20)).log_prob(x.T)
    found = pyro_vae.log_likelihood(model, guide, x, 500, seed=0)
    assert ((found.per_datum - exact).abs() < 4 * found.standard_errors).all()


# ---------------------------------------------------------------- programs that take all data at once


DECODER = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -0.4]]).double()


def linear(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ DECODER, 1.0).to_event(1), obs=x)


def linear_posterior(x):
    precision = torch.eye(2).double() + DECODER @ DECODER.T
    return dist.MultivariateNormal(x @ DECODER.T @ precision.inverse(), precision_matrix=precision)


def linear_evidence(x):
    return dist.MultivariateNormal(x.new_zeros(3), torch.eye(3).double() + DECODER.T @ DECODER).log_prob(x)


class PerDatum(EasyGuide):
    """The exact posterior of each datum, kept as parameters that are made on the first run."""

    def guide(self, x):
        q = linear_posterior(x)
        loc = pyro.param("loc", q.loc.clone(), event_dim=1)
        with self.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=q.precision_matrix))


def static_function(x):
    q = linear_posterior(x)
    loc = pyro.param("locations", q.loc.clone(), event_dim=1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=q.precision_matrix))


def auto_list(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    return guide


STATIC = {
    "EasyGuide": lambda: PerDatum(linear),
    "a function": lambda: static_function,
    "AutoNormal": lambda: AutoNormal(linear),
    "AutoGuideList": lambda: auto_list(linear),
}

EXACT = ("EasyGuide", "a function")

ANNEALING = {"num_temperatures": 3, "num_chains": 2, "num_leapfrog": 1, "burn_in": 1, "seed": 0}

EVALUATIONS = {
    "log_likelihood": lambda *pair, **options: evaluation.log_likelihood(*pair, 20, seed=0, **options),
    "elbo_terms": lambda *pair, **options: evaluation.elbo_terms(*pair, 20, seed=0, **options),
    "ais": lambda model, guide, x, **options: evaluation.ais(model, x, guide=guide, **ANNEALING, **options),
    "bdmc": lambda model, guide, x, **options: evaluation.bdmc(model, x, guide=guide, **ANNEALING, **options),
    "latent_statistics": lambda *pair, **options: evaluation.latent_statistics(*pair, num_samples=3, seed=0, **options),
    "to_inference_data": lambda *pair, **options: evaluation.to_inference_data(*pair, num_samples=3, seed=0, **options),
    "active_units": lambda model, guide, x, **options: evaluation.active_units(guide, x, **options),  # noqa: ARG005
    "evidence_budget": lambda *pair, **options: evaluation.evidence_budget(*pair, ks=(1, 20), seed=0, **options),
}

SMALL_GAPS = {"num_samples": 10, "evidence_samples": 10, "max_steps": 2, "check_every": 2, "seed": 0}


@pytest.mark.parametrize("n", [2, 60, 300])
@pytest.mark.parametrize("name", STATIC)
def test_guides_with_parameters_of_each_datum(name, n):
    """All evaluations hand them all data at once; those that cannot say so. What is made first is made of all data."""
    x, guide = torch.randn(n, 3).double(), STATIC[name]()
    for evaluate in EVALUATIONS.values():
        if not (name not in EXACT and evaluate in (EVALUATIONS["ais"], EVALUATIONS["bdmc"])):
            evaluate(linear, guide, x)
    found = pyro_vae.log_likelihood(linear, guide, x, 200, seed=0)
    assert found.per_datum.shape == (n,)
    if name in EXACT:
        assert_close(found.per_datum, linear_evidence(x), rtol=1e-7, atol=1e-7)
    message = f"model and guide take all {n} data"
    refused = {
        "inference_gaps": lambda: evaluation.inference_gaps(linear, guide, x, family="diagonal", **SMALL_GAPS),
        "sbc": lambda: evaluation.sbc(linear, guide, x, num_data=7, num_draws=3, seed=0),
        "log_likelihood": lambda: evaluation.log_likelihood(linear, guide, x, 200, target_se=0.1, seed=0),
    }
    for who, evaluate in refused.items():
        with pytest.raises(PairError, match=f"{who}: {message}"):
            evaluate()
    assert len(pyro_vae.log_weights(linear, guide, x, 2)[0]) == n


@pytest.mark.parametrize(("held", "given"), [(5, 2), (3, 200)])
@pytest.mark.parametrize("name", STATIC)
def test_guides_with_parameters_of_other_data_say_how_many(name, held, given):
    """Also one for 3, which is a number of data that programs are tried on."""
    guide = STATIC[name]()
    guide(torch.randn(held, 3).double())
    x = torch.randn(given, 3).double()
    message = f"for {held} data, .* and {given} were"
    others = {
        "log_weights": lambda *pair: pyro_vae.log_weights(*pair, 2),
        "inference_gaps": lambda *pair: evaluation.inference_gaps(*pair, family="diagonal", **SMALL_GAPS),
        "sbc": lambda *pair: evaluation.sbc(*pair, num_data=6, num_draws=3, seed=0),
    }
    for evaluate in (EVALUATIONS | others).values():
        with pytest.raises(PairError, match=message):
            evaluate(linear, guide, x)


def test_data_of_another_shape_are_said_in_their_own_numbers():
    """Whatever number of data the programs are tried on."""
    network = nn.Linear(3, 2).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    x = torch.randn(9, 5).double()
    gaps = {"inference_gaps": lambda *pair: evaluation.inference_gaps(*pair, family="diagonal", **SMALL_GAPS)}
    for evaluate in (EVALUATIONS | gaps).values():
        with pytest.raises(PairError, match=r"guide cannot be run on.*9x5"):
            evaluate(linear, guide, x)
    refuses = r"site 'x': .*\[9, 5\].*\[9, 3\]"
    with pytest.raises(ValueError, match=refuses):
        evaluation.ais(linear, x, **ANNEALING)
    with pytest.raises(ValueError, match=refuses):
        evaluation.reference_posterior(linear, x, num_chains=2, num_samples=4, warmup=2)
    with pytest.raises(PairError, match=r"\(9, 2, 3\): .* 9 vs 2"):
        pyro_vae.log_likelihood(linear, guide, torch.randn(9, 2, 3).double(), 20)


@pytest.mark.parametrize("n", [5, 300])
def test_plates_of_a_fixed_size(n):
    def model(x):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ DECODER, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", n):
            pyro.sample("z", linear_posterior(x))

    x = torch.randn(n, 3).double()
    for evaluate in EVALUATIONS.values():
        evaluate(model, guide, x)
    found = pyro_vae.log_likelihood(model, guide, x, 50, seed=0)
    assert_close(found.per_datum, linear_evidence(x), rtol=1e-7, atol=1e-7)
    annealed = evaluation.ais(model, x, guide=guide, **ANNEALING)
    assert_close(annealed.per_datum, linear_evidence(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(PairError, match=f"_posterior: .* all {n} data at"):
        evaluation.reference_posterior(model, x, num_chains=2, num_samples=4, warmup=2)


def test_a_parameter_that_is_made_on_the_first_run_may_have_any_size():
    """One of as many numbers as the rows that are tried is no parameter of each datum."""

    def guide(x):
        q = linear_posterior(x)
        shift = pyro.param("shift", x.new_zeros(3, 4))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(q.loc + shift.sum(), precision_matrix=q.precision_matrix))

    x = torch.randn(50, 3).double()
    assert Rows("test", x, linear, guide).why_whole is None
    assert pyro.param("shift").shape == (3, 4)


def test_an_automatic_point_guide_is_described_by_its_name():
    assert describe_pair(linear, AutoDelta(linear))["guide"] == {"class": "pyro.infer.autoguide.guides:AutoDelta"}


# ---------------------------------------------------------------- laws that do not say their support


class Silent(dist.TorchDistribution):
    """A law without a support, as flows of other libraries are."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, law):
        self.law = law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Silent(self.law.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return self.law.rsample(torch.Size(sample_shape))

    def log_prob(self, value):
        return self.law.log_prob(value)


def silent(prior, likelihood):
    def model(x):
        with pyro.plate("data", len(x)):
            p = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", Silent(p) if prior else p)
            seen = dist.Normal(z @ DECODER, 1.0).to_event(1)
            pyro.sample("x", Silent(seen) if likelihood else seen, obs=x)

    return model


def exact_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Silent(linear_posterior(x)))


@pytest.mark.parametrize(("prior", "likelihood"), [(True, False), (False, True), (False, False)])
def test_laws_without_a_support(prior, likelihood):
    x, model = torch.randn(20, 3).double(), silent(prior, likelihood)
    found = pyro_vae.log_likelihood(model, exact_guide, x, 50, seed=0)
    assert_close(found.per_datum, linear_evidence(x), rtol=1e-7, atol=1e-7)
    needs_coordinates = {
        "inference_gaps": lambda: evaluation.inference_gaps(model, exact_guide, x, family="diagonal", **SMALL_GAPS),
        "ais": lambda: evaluation.ais(model, x, guide=exact_guide, **ANNEALING),
        "sbc": lambda: evaluation.sbc(model, exact_guide, x, num_data=7, num_draws=3, seed=0),
    }
    for who, evaluate in needs_coordinates.items():
        if prior:
            with pytest.raises(ValueError, match=rf"{who}: .*\(Silent\) does not say"):
                evaluate()
        else:
            evaluate()


def test_a_likelihood_without_a_support_is_fitted():
    decoder = nn.Linear(2, 3).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", Silent(dist.Normal(decoder(z), 1.0).to_event(1)), obs=x)

    assert len(pyro_vae.fit(model, exact_guide, torch.randn(20, 3).double(), epochs=1, batch_size=10).history) == 1
