"""log_weights against closed forms and against log p - log q written out by hand."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.errors import NonFiniteError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

EXACT = {"rtol": 1e-8, "atol": 1e-8}


def normal(x, loc, scale):
    """log N(x; loc, scale^2), written out."""
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("x_dim", "latent_dim"), [(5, 3), (2, 4), (1, 1)])
@pytest.mark.parametrize("num_samples", [1, 4])
def test_every_weight_equals_the_evidence_when_the_guide_is_exact(make_linear_gaussian, x_dim, latent_dim, num_samples):
    case = make_linear_gaussian(x_dim, latent_dim)
    x = case.data(7)
    found = log_weights(case.model, case.exact_guide, x, num_samples)
    assert_close(found, case.evidence(x).expand(num_samples, 7), **EXACT)


def test_an_inexact_guide_gives_log_p_minus_log_q_of_its_own_samples(linear_gaussian, recorder):
    case, guide = linear_gaussian, recorder(linear_gaussian.inexact_guide)
    x = case.data(7)
    found = log_weights(case.model, guide, x, num_samples=4)
    z = guide.values["z"]
    assert z.shape == (4, 7, 3)
    q = case.diagonal(x).base_dist
    model = case.model
    log_p = normal(z, 0.0, 1.0).sum(-1)
    log_p = log_p + normal(x, z @ model.loadings.T + model.bias, model.log_scale.exp()).sum(-1)
    by_hand = log_p - normal(z, q.loc, q.scale).sum(-1)
    assert_close(found, by_hand, **EXACT)
    assert found.std(0).min() > 0.01  # the guide is inexact: the check is not of constants


def test_samples_differ_and_follow_the_seed(linear_gaussian):
    case = linear_gaussian
    x = case.data(3)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(log_weights(case.model, case.inexact_guide, x, num_samples=2))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.allclose(runs[0][0], runs[0][1])


def test_the_gradient_is_that_of_the_weights_by_hand(linear_gaussian, recorder):
    case = linear_gaussian
    x = case.data(4)
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", case.diagonal(x, shift))

    torch.manual_seed(5)
    (found,) = torch.autograd.grad(log_weights(case.model, guide, x, 3).sum(), shift)
    # z = mean + (shift + 1.2 eps) scale, so log q(z) does not depend on the shift and log p(x, z) does through z.
    torch.manual_seed(5)
    drawn = recorder(guide)
    log_weights(case.model, drawn, x, 3)
    z = drawn.values["z"].requires_grad_()
    model = case.model
    log_p = normal(z, 0.0, 1.0).sum() + normal(x, z @ model.loadings.T + model.bias, model.log_scale.exp()).sum()
    (by_hand,) = torch.autograd.grad(log_p, z)
    assert_close(found, (by_hand * case.diagonal(x).base_dist.scale / 1.2).sum(), **EXACT)


# ---------------------------------------------------------------- any batch size, any subsample


def test_a_datum_has_the_same_weight_in_any_batch(linear_gaussian):
    case = linear_gaussian
    x = case.data(6)
    together = log_weights(case.model, case.exact_guide, x)
    one_by_one = torch.cat([log_weights(case.model, case.exact_guide, row[None]) for row in x], dim=1)
    assert_close(together, one_by_one, **EXACT)


@pytest.mark.parametrize("subsample_size", [1, 3, 7, 10])
def test_any_subsample_size_gives_all_columns_in_order(linear_gaussian, subsample_size):
    """10 rows in blocks of 3 and 7 leave a ragged last block; the evidence tells the columns apart."""
    case, model = linear_gaussian, linear_gaussian.model

    def subsampled_model(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            mean = z @ model.loadings.T + model.bias
            pyro.sample("x", dist.Normal(mean, model.log_scale.exp()).to_event(1), obs=x[rows])

    def subsampled_guide(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            pyro.sample("z", model.posterior(x[rows]))

    x = case.data(10)
    found = log_weights(subsampled_model, subsampled_guide, x, num_samples=2)
    assert_close(found, case.evidence(x).expand(2, 10), **EXACT)


def test_a_minibatch_of_a_larger_data_set_is_not_scaled(linear_gaussian):
    """plate(size=N_total, subsample_size=len(x)) multiplies a loss by N_total / len(x), but no density."""
    case, model = linear_gaussian, linear_gaussian.model

    def minibatch_model(x):
        with pyro.plate("data", 60000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            mean = z @ model.loadings.T + model.bias
            pyro.sample("x", dist.Normal(mean, model.log_scale.exp()).to_event(1), obs=x)

    def minibatch_guide(x):
        with pyro.plate("data", 60000, subsample_size=len(x)):
            pyro.sample("z", model.posterior(x))

    x = case.data(5)
    found = log_weights(minibatch_model, minibatch_guide, x, 2)
    assert_close(found, case.evidence(x).expand(2, 5), **EXACT)


# ---------------------------------------------------------------- scale, mask, plates, names


@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_poutine_scale_does_not_enter(linear_gaussian, scale):
    case = linear_gaussian
    x = case.data(4)
    model, guide = poutine.scale(case.model, scale=scale), poutine.scale(case.exact_guide, scale=scale)
    assert_close(log_weights(model, guide, x, 2), case.evidence(x).expand(2, 4), **EXACT)


def test_a_mask_on_both_programs_removes_the_masked_data(linear_gaussian):
    case = linear_gaussian
    x = case.data(4)
    mask = torch.tensor([True, False, True, False])
    found = log_weights(poutine.mask(case.model, mask=mask), poutine.mask(case.exact_guide, mask=mask), x, 2)
    assert_close(found, (case.evidence(x) * mask).expand(2, 4), **EXACT)


def test_masked_features_are_marginalised_out(linear_gaussian):
    """Without features 3 and 4 the evidence is that of the smaller Gaussian; NaN stands where data are missing."""
    case, model = linear_gaussian, linear_gaussian.model
    seen = torch.tensor([True, True, True, False, False])
    loadings, bias, variance = model.loadings[seen], model.bias[seen], (2 * model.log_scale).exp()
    smaller = dist.MultivariateNormal(bias, loadings @ loadings.T + variance * torch.eye(3).double())
    precision = loadings.T @ loadings / variance + torch.eye(3).double()

    def masked_model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            mean = z @ model.loadings.T + model.bias
            noise = dist.Normal(mean, model.log_scale.exp(), validate_args=False)
            pyro.sample("x", noise.mask(seen).to_event(1), obs=x)

    def guide(x):
        mean = torch.linalg.solve(precision, ((x[:, seen] - bias) @ loadings / variance).T).T
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))

    x = case.data(4)
    expected = smaller.log_prob(x[:, seen]).expand(2, 4)
    x[:, ~seen] = math.nan
    assert_close(log_weights(masked_model, guide, x, 2), expected, **EXACT)


def test_several_latents_further_plates_inside_and_outside_and_other_names(recorder):
    """A plate of 2 views outside the batch, one of 3 parts inside it; every dim but the batch is summed."""
    x = torch.randn(2, 5, 3, dtype=torch.float64)  # views, data, parts

    def model(x):
        with pyro.plate("views", 2, dim=-3), pyro.plate("people", x.shape[1], dim=-2):
            a = pyro.sample("ability", dist.Normal(torch.zeros(1, 1, 1).double(), 2.0))
            with pyro.plate("parts", 3, dim=-1):
                b = pyro.sample("effort", dist.Normal(a, 0.7))
                pyro.sample("score", dist.Normal(a + b, 0.5), obs=x)

    def guide(x):
        with pyro.plate("views", 2, dim=-3), pyro.plate("people", x.shape[1], dim=-2):
            a = pyro.sample("ability", dist.Normal(x.mean(-1, keepdim=True), 0.9))
            with pyro.plate("parts", 3, dim=-1):
                pyro.sample("effort", dist.Normal(x - a, 1.1))

    drawn = recorder(guide)
    found = log_weights(model, drawn, x, num_samples=4, plate="people")
    a, b = drawn.values["ability"], drawn.values["effort"]
    assert a.shape == (4, 2, 5, 1)
    assert b.shape == (4, 2, 5, 3)
    by_hand = (
        normal(a, 0.0, 2.0).sum((1, 3))
        + normal(b, a, 0.7).sum((1, 3))
        + normal(x, a + b, 0.5).sum((1, 3))
        - normal(a, x.mean(-1, keepdim=True), 0.9).sum((1, 3))
        - normal(b, x - a, 1.1).sum((1, 3))
    )
    assert found.shape == (4, 5)
    assert_close(found, by_hand, **EXACT)


def test_a_plate_without_a_size_takes_the_length_of_the_data(linear_gaussian):
    case, model = linear_gaussian, linear_gaussian.model

    def unsized_model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1))
            mean = z @ model.loadings.T + model.bias
            pyro.sample("x", dist.Normal(mean, model.log_scale.exp()).to_event(1), obs=x)

    def unsized_guide(x):
        with pyro.plate("data"):
            pyro.sample("z", model.posterior(x))

    x = case.data(5)
    assert_close(log_weights(unsized_model, unsized_guide, x, 2), case.evidence(x).expand(2, 5), **EXACT)


def test_a_factor_of_the_model_counts_and_is_said_to_make_it_unnormalised(linear_gaussian, caplog):
    case = linear_gaussian
    x = case.data(3)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            mean = z @ case.model.loadings.T + case.model.bias
            pyro.sample("x", dist.Normal(mean, case.model.log_scale.exp()).to_event(1), obs=x)
            pyro.factor("cost", torch.full(z.shape[:-1], -0.25).double())

    with caplog.at_level("WARNING", logger="pyro_vae"):
        found = log_weights(model, case.exact_guide, x, 2)
    assert_close(found, (case.evidence(x) - 0.25).expand(2, 3), **EXACT)
    assert "no weights of log p(x): pyro.factor 'cost' makes p(x, z) unnormalised" in caplog.text


def test_a_discrete_latent_weighs_by_its_mass(recorder):
    probs = torch.tensor([0.2, 0.8], dtype=torch.float64)
    x = torch.tensor([0.1, 2.0, -1.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(probs))
            pyro.sample("x", dist.Normal(k.double(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5]).double()))

    drawn = recorder(guide)
    found = log_weights(model, drawn, x, 8)
    k = drawn.values["k"]
    assert_close(found, probs.log()[k] + normal(x, k.double(), 1.0) - math.log(0.5), **EXACT)
    assert k.unique().numel() == 2


# ---------------------------------------------------------------- every kind of program


class Paired(PyroModule):
    """A model and a guide as methods of one PyroModule, with parameters of both kinds."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(scale, dtype=torch.float64), dist.constraints.positive)
        self.loc = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, self.scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + self.loc, 0.8))


class Model(Paired):
    def forward(self, x):
        return self.model(x)


class Guide(Paired):
    def forward(self, x):
        return self.guide(x)


def of_kind(kind, model, guide):
    """The programs of a model and a guide module, given in one of several ways."""
    if kind == "modules":
        return model, guide
    if kind == "bound methods":
        return model.model, guide.guide
    if kind == "functions that call modules":
        return (lambda x: model(x)), (lambda x: guide(x))
    if kind == "wrapped modules":
        return poutine.scale(model, scale=2.0), poutine.scale(guide, scale=2.0)
    raise AssertionError(kind)


KINDS = ["modules", "bound methods", "functions that call modules", "wrapped modules"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_program(kind, recorder):
    model, guide = of_kind(kind, Model(1.5), Guide(0.5))
    guide = recorder(guide)
    x = torch.randn(4, dtype=torch.float64)
    with torch.no_grad():
        found = log_weights(model, guide, x, 3)
    z = guide.values["z"]
    assert_close(found, normal(z, 0.0, 1.5) + normal(x, z, 1.0) - normal(z, x / 2 + 0.5, 0.8), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_two_pairs_that_share_names_do_not_share_parameters(kind):
    """Pyro's store would give the second module the first one's scale (1.5) under the same name."""
    x = torch.zeros(2000, dtype=torch.float64)
    for scale in (1.5, 30.0):
        model, guide = Model(scale), Guide(0.0)
        with torch.no_grad():
            weights = log_weights(*of_kind(kind, model, guide), x, 1)
            z2 = 0.8**2  # E[z^2] under q
            expected = -math.log(scale) - 0.5 * z2 / scale**2 - 0.5 * z2 - 0.5 * math.log(2 * math.pi)
            expected += math.log(0.8) + 0.5
        # 2000 draws of -(1/(2 scale^2) + 1/2 - 1/(2 0.8^2)) z^2: sd of the mean below 0.02; five of them.
        assert weights.mean().item() == pytest.approx(expected, abs=0.1)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("setting", [True, False])
def test_the_users_setting_of_local_params_is_restored(linear_gaussian, setting):
    x = linear_gaussian.data(2)
    with pyro.settings.context(module_local_params=setting):
        log_weights(linear_gaussian.model, linear_gaussian.exact_guide, x)
        assert pyro.settings.get("module_local_params") is setting
        with pytest.raises(ValueError, match="shape"):
            log_weights(linear_gaussian.model, linear_gaussian.exact_guide, x[:, :2])
        assert pyro.settings.get("module_local_params") is setting


def test_params_of_plain_functions_live_in_the_store():
    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale").detach() if "scale" in pyro.get_param_store() else torch.tensor(2.0).double()
        with pyro.plate("data", len(x)):
            gain = scale**2 / (scale**2 + 1)
            pyro.sample("z", dist.Normal(gain * x, gain.sqrt()))

    x = torch.randn(3, dtype=torch.float64)
    for scale in (2.0, 5.0):
        with torch.no_grad():
            found = log_weights(model, guide, x)
        assert_close(found, normal(x, 0.0, math.sqrt(scale**2 + 1))[None], **EXACT)
        pyro.get_param_store()["scale"] = torch.tensor(5.0).double()


# ---------------------------------------------------------------- what it leaves behind


@pytest.mark.parametrize("num_samples", [1, 3])
def test_buffers_stay_where_they_are_in_train_mode(num_samples):
    """Weights are no training step."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            h = self.norm(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(h[:, :2], 1.0).to_event(1))

    guide = Normed()
    model = VAE((4,), latent_dim=2, hidden_dims=())
    before = {name: buffer.clone() for name, buffer in guide.named_buffers()}
    log_weights(model, guide, torch.rand(6, 4).round(), num_samples).sum().backward()
    assert guide.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in guide.named_buffers())


def test_two_calls_before_one_backward_pass():
    """Putting buffers back must not touch those that autograd holds on to."""

    class Normed(MeanFieldGuide):
        def __init__(self):
            super().__init__((4,), 2, encoder=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))

    guide, model, x = Normed().eval(), VAE((4,), 2, ()), torch.rand(6, 4).round()
    loss = log_weights(model, guide, x, 2).sum() + log_weights(model, guide, x, 2).sum()
    loss.backward()
    assert all(p.grad is not None for p in guide.parameters())


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("num_samples", [0, -3])
def test_fewer_than_one_sample_is_refused(linear_gaussian, num_samples):
    with pytest.raises(ValueError, match="num_samples must be at least"):
        log_weights(linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(2), num_samples)


def test_a_nan_parameter_is_laid_at_its_site():
    model, guide, x = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), torch.zeros(5, 4)
    broken = MeanFieldGuide((4,), 2, (3,))
    nn.init.constant_(broken.encoder.output.bias, math.nan)
    with pytest.raises(NonFiniteError, match="site 'z' of the guide"):
        log_weights(model, broken, x)
    nn.init.constant_(model.likelihood.decoder.output.bias, math.nan)
    with pytest.raises(NonFiniteError, match="site 'x' of the model"):
        log_weights(model, guide, x)


def test_a_nan_weight_names_the_site_and_the_datum():
    """Without validation nothing stops a NaN on its way to the weight."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            bad = torch.where(torch.arange(len(x)) == 2, math.nan, 0.0)
            pyro.sample("extra", dist.Normal(bad, 1.0, validate_args=False), obs=torch.zeros(len(x)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(NonFiniteError, match=r"first: 2\)\. .* site 'extra'"):
        log_weights(model, guide, torch.randn(4), 2)


def test_a_fair_minus_infinity_is_kept_and_takes_no_blame():
    """x = 3 is outside the model's reach, a weight of 0; the NaN of site "extra" is what is named."""

    def model(x, extra):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - z, 2.0 + z - z, validate_args=False), obs=x)
            pyro.sample("extra", dist.Normal(z * 0 + extra, 1.0, validate_args=False), obs=torch.zeros(()))

    def guide(x, extra):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.tensor([1.0, 3.0])
    found = log_weights(model, guide, (x, torch.zeros(2)), 2)
    assert torch.equal(found[:, 1], torch.full((2,), -math.inf))
    assert found[:, 0].isfinite().all()
    with pytest.raises(NonFiniteError, match=r"first: 0\).*site 'extra'"):
        log_weights(model, guide, (x, torch.tensor([math.nan, 0.0])), 2)


def test_one_datum_without_a_batch_dim_is_refused():
    """(2, 3) would pass for two data of shape (3,), each compared with the whole image."""
    model, guide = VAE((2, 3), 2, ()), MeanFieldGuide((2, 3), 2, ())
    with pytest.raises(ValueError, match=r"got \(2, 3\)"):
        log_weights(model, guide, torch.zeros(2, 3))
