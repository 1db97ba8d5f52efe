"""What a pair is found to be, and what it is refused for."""

import logging

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.distributions.transforms import conditional_planar
from pyro.nn import PyroModule
from refusals import leave
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.errors import PairError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.programs.layouts import OneByOne, OuterPlate, RepeatedRows
from pyro_vae.programs.modules import in_mode, local_params, modules_of
from pyro_vae.programs.pair import Pair
from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise


def one(name="z", plate="data", dim=None):
    """A program that samples one standard normal for each datum."""

    def program(x):
        with pyro.plate(plate, len(x), dim=dim):
            pyro.sample(name, dist.Normal(0.0, 1.0))

    return program


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


guide = one()
X = torch.zeros(4)


# ---------------------------------------------------------------- structure


def test_a_pair_knows_its_plate_and_sites():
    pair = Pair(model, guide, X)
    assert (pair.plate.name, pair.plate.dim, pair.plate.size, pair.plate.full_size) == ("data", -1, 4, 4)
    assert (pair.caveat, pair.discrete_dims, pair.layout) == (None, None, OuterPlate(-2))


def test_the_terms_add_up_to_the_weight():
    terms = Pair(model, guide, X).terms(X, num_samples=3)
    assert terms.reconstruction.shape == terms.log_prior.shape == terms.log_guide.shape == (3, 4)
    assert_close(terms.log_prior, terms.log_guide)  # the guide is the prior
    assert_close(terms.log_weight, terms.reconstruction)


def test_a_pair_takes_batches_of_other_sizes():
    pair = Pair(model, guide, X)
    assert pair.terms(torch.zeros(9), 2).log_weight.shape == (2, 9)


def test_looking_at_a_pair_draws_nothing_from_the_generator():
    before = torch.get_rng_state()
    assert Pair(model, guide, X).vectorizes
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("plate", ["data", "rows"])
def test_the_plate_of_the_datas_length_is_found(plate):
    def model(x):
        with pyro.plate("groups", 2, dim=-2), pyro.plate(plate, len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.expand(2, -1))

    def guide(x):
        with pyro.plate("groups", 2, dim=-2), pyro.plate(plate, len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert Pair(model, guide, X).plate.name == plate


def two_plates(first, second, observed):
    def program(x):
        with pyro.plate(first, len(x), dim=-2), pyro.plate(second, len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if observed:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return program


def test_two_candidate_plates_need_a_name():
    pair = two_plates("rows", "columns", True), two_plates("rows", "columns", False)
    with pytest.raises(PairError, match="among columns of 4, rows of 4"):
        log_weights(*pair, torch.zeros(4, 4))
    assert Pair(*pair, torch.zeros(4, 4), plate="rows").plate.dim == -2
    with pytest.raises(PairError, match="no plate 'colums'"):
        Pair(*pair, torch.zeros(4, 4), plate="colums")


def test_of_two_candidates_our_own_name_wins():
    pair = two_plates("rows", "data", True), two_plates("rows", "data", False)
    assert Pair(*pair, torch.zeros(4, 4)).plate.name == "data"


# ---------------------------------------------------------------- refusals


def test_no_plate():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    with pytest.raises(PairError, match=r"no batch .*Guide: z in no plate"):
        log_weights(model, guide, X)


def test_a_latent_outside_the_plate():
    def outside(x):
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shared, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match="shared in no plate; z in data"):
        log_weights(outside, guide, X)


def test_sites_in_only_one_of_the_two_are_listed():
    with pytest.raises(PairError, match="model: z; only in the guide: w"):
        log_weights(model, one("w"), X)

    def two(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("extra", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match=r"guide: extra\. .*extra in data"):
        log_weights(model, two, X)
    with pytest.raises(PairError, match=r"model: z\. .*Guide: no sites"):
        log_weights(model, lambda *_: None, X)


def test_a_sequential_plate():
    def model(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match=r"no batch .* z_0 in no plate"):
        log_weights(model, guide, X)


def test_a_model_that_observes_nothing():
    with pytest.raises(PairError, match="the model observes nothing"):
        log_weights(one(), guide, X)


def test_a_plate_that_is_not_as_long_as_the_data():
    def short(observed):
        def program(x):
            with pyro.plate("data", 3):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:3])

        return program

    with pytest.raises(PairError, match="4 rows among data of 3"):
        log_weights(short(True), short(False), X)


def test_shapes_of_a_site_that_differ_between_the_two():
    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def narrow(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    with pytest.raises(PairError, match=r"differ in shape: .*'z'"):
        log_weights(narrow, wide, X)


def test_data_that_do_not_fit_our_own_parts():
    vae, mean_field = VAE((1, 4, 4), 2, ()), MeanFieldGuide((1, 4, 4), 2, ())
    wanted = r"x must have .*; got \(5, 16\)"
    with pytest.raises(ValueError, match=f"MeanFieldGuide: {wanted}"):
        log_weights(vae, mean_field, torch.zeros(5, 16))
    with pytest.raises(ValueError, match=f"VAE: {wanted}"):
        vae(torch.zeros(5, 16))
    with pytest.raises(ValueError, match=r"x must be float.*uint8"):
        log_weights(vae, mean_field, torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    mean_field.encoder = nn.Linear(16, 2)
    with pytest.raises(ValueError, match=r"= 4 features; got shape \(5, 2\)"):
        log_weights(vae, mean_field, torch.zeros(5, 1, 4, 4))


# ---------------------------------------------------------------- samples one by one


def test_samples_that_do_not_vectorize_are_run_one_by_one(caplog):
    """A model that averages over samples or rows runs with more of them, but gives each sample another's weight."""

    def mixing(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            z = z - (z.mean(0) if z.shape != X.shape else 0)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        found = log_weights(mixing, guide, X, 5)
    assert found.shape == (5, 4)
    (record,) = caplog.records
    assert record.getMessage().count("a sample's weight depends on the samples beside it") == 2
    assert "h.reshape(*h.shape[:-1], 32, 7, 7)" in record.getMessage()
    torch.manual_seed(0)
    assert found.std(0).min() > 0


# ---------------------------------------------------------------- modules behind programs


class Both(PyroModule):
    def __init__(self):
        super().__init__()
        self.layer = PyroModule[nn.Linear](1, 1)
        self.dropout = nn.Dropout()

    def forward(self, x):
        return self.layer(x)

    def model(self, x):
        return self(x)


def test_modules_behind_and_within_programs():
    import functools

    both, other = Both(), Both()
    assert modules_of(both, both.model, other) == [both, other]

    class Plain:
        def __init__(self):
            self.part = both

        def run(self, x):
            return self.part(x)

        def __call__(self, x):
            return self.part(x)

    def inner(x):
        return both(x)

    ways = [
        both,
        both.model,
        lambda x: both(x),
        lambda x: inner(x),
        functools.partial(inner),
        pyro.poutine.scale(both, scale=0.5),
        pyro.poutine.scale(both.model, scale=0.5),
        Plain(),
        Plain().run,
    ]
    for program in ways:
        assert both in modules_of(program)
    assert modules_of(one()) == []


def test_local_params_reaches_modules_inside_functions():
    both = Both()
    with local_params(lambda x: both(x)):
        both(torch.zeros(1, 1))
    assert len(pyro.get_param_store()) == 0


def test_modes_come_back_part_by_part():
    both = Both()
    both.dropout.eval()

    def interrupted():
        with in_mode([both], training=False):
            assert not both.training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert (both.training, both.layer.training, both.dropout.training) == (True, True, False)


def planar_pair():
    """A flow of Pyro's that has no inverse: it scores no z but what it has just drawn."""
    decoder = nn.Linear(3, 4)
    flow = conditional_planar(2, context_dim=4, hidden_dims=[5])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(torch.cat([z, z[..., :1]], -1)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, [flow]).condition(x))

    return model, guide


def test_a_flow_without_inverse_vectorizes():
    model, guide = planar_pair()
    x = torch.randn(6, 4)
    pair = Pair(model, guide, x)
    assert isinstance(pair.layout, OuterPlate)
    torch.manual_seed(1)
    together = pair.terms(x, 4).log_weight
    assert together.shape == (4, 6)
    with RecordedNoise() as noise:
        torch.manual_seed(1)
        pair.terms(x, 4)
    for k in range(4):
        with ReplayedNoise(noise.draws, k):
            torch.testing.assert_close(pair.terms(x, 1).log_weight[0], together[k], rtol=1e-4, atol=1e-4)


def test_auxiliary_variables_of_the_guide_enter_its_density():
    """q(v) q(z | v) / r(v | z) with the exact r: the weights are those of q(z), datum by datum."""
    zero, s, t = torch.zeros(()).double(), 0.5, 0.8

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x, s), infer={"is_auxiliary": True})
            z = pyro.sample("z", dist.Normal(v, t))
            precision = s**-2 + t**-2
            r = dist.Normal((x / s**2 + z / t**2) / precision, precision**-0.5)
            pyro.factor("reverse", -r.log_prob(v), has_rsample=True)

    x = torch.randn(5).double()
    pair = Pair(model, guide, x)
    assert isinstance(pair.layout, OuterPlate)
    (particles,) = pair.run(x, 3)
    assert [site["name"] for site in particles.latents] == ["v", "z"]
    z = particles.model_trace.nodes["z"]["value"]
    exact = dist.Normal(zero, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    exact = exact - dist.Normal(x, (s**2 + t**2) ** 0.5).log_prob(z)
    torch.testing.assert_close(particles.terms().log_weight, exact, rtol=1e-12, atol=1e-12)


def test_a_rejection_sampler_vectorizes_by_its_values():
    """Alone it asks for other noise than beside another sample."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(x, 2.0))

    assert isinstance(Pair(model, guide, torch.randn(50)).layout, OuterPlate)


def test_a_subsampled_pair_vectorizes():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    assert isinstance(Pair(model, guide, torch.randn(50)).layout, OuterPlate)


def test_samples_that_are_run_one_by_one_are_of_the_same_rows():
    """A subsampled plate draws its rows once: under an exact guide every weight of a column is one datum's evidence."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            if z.ndim > 1:
                raise ValueError("one batch dim only")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, torch.tensor(0.5).double().sqrt()))

    x = torch.linspace(-3, 3, 50).double()
    pair = Pair(model, guide, x)
    assert not pair.vectorizes
    weights = pair.terms(x, 6).log_weight
    assert_close(weights, weights[:1].expand(6, 3), rtol=1e-6, atol=1e-6)
    assert weights[0].std() > 0.01


def test_a_plate_without_a_size_and_a_deterministic_value():
    def model(x):
        pyro.deterministic("half", torch.tensor(0.5))
        with pyro.plate("data", dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(4)
    (particles,) = Pair(model, guide, x).run(x, 3)
    assert particles.shape == (3, 4)
    assert particles.terms().log_weight.shape == (3, 4)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("layout", "num_runs"), [(OuterPlate, 3), (RepeatedRows, 3), (OneByOne, 18)])
def test_noise_of_the_models_own_is_no_rounding(noise, layout, num_runs):
    """It is no site: the model is run again with the same noise. Six samples of each of five data take one run."""
    runs = []

    def model(x):
        runs.append(x)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            leave(layout, z, ndim=1, rows=5)
            jitter = noise * torch.rand(len(x)) if noise else 0.0
            pyro.sample("x", dist.Normal(z + jitter, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(5)
    pair = Pair(model, guide, x)
    assert isinstance(pair.layout, layout)
    runs.clear()
    errors, magnitudes = pair.roundings(x)
    assert (errors.shape, magnitudes.shape) == ((5,), (5,))
    assert 1e-9 < errors.max() < 1e-4
    assert len(runs) == num_runs


def test_noise_of_the_models_own_is_not_taken_for_masked_elements():
    """The same noise is drawn beside other values of the masked elements."""

    def program(observes):
        def run(x):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.poutine.mask(mask=x > 0):
                    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                if observes:
                    loc = torch.rand(len(x)) + (z if observes == "masked elements" else 0)
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        return run

    x = torch.linspace(-1, 1, 6)
    Pair(program("noise"), program(None), x).check_masks(x)
    with pytest.raises(PairError, match="depends on masked elements"):
        Pair(program("masked elements"), program(None), x).check_masks(x)
