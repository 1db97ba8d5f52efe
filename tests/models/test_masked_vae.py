"""The model of data with missing values: the marginal of a Gaussian, and what a mask hides under every part.

A linear Gaussian model with missing coordinates has a Gaussian evidence of the observed ones: that of the rows of W and
b which they have.
"""

import math

import pyro
import pytest
import torch
from held_parts import model_for
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.testing import assert_close

import pyro_vae
from pyro_vae import log_weights
from pyro_vae.errors import PairError
from pyro_vae.evaluation import elbo_terms, log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE, MaskedVAE
from pyro_vae.models.likelihoods import GaussianLikelihood, PoissonLikelihood
from pyro_vae.nn import MaskedMLP
from pyro_vae.objectives import IWAE
from pyro_vae.parts import make_guide, make_part, part_names
from pyro_vae.testing import ModelSuite

NOISE = 0.6


class Case:
    """A linear Gaussian model of 5 coordinates, of which some are missing, with the exact posterior as guide."""

    def __init__(self) -> None:
        decoder = nn.Linear(2, 5)
        self.model = MaskedVAE((5,), 2, likelihood=GaussianLikelihood((5,), 2, scale=NOISE, decoder=decoder)).double()
        self.weight, self.bias = decoder.weight.detach(), decoder.bias.detach()
        complete = torch.randn(9, 5).double() @ torch.randn(5, 5).double()
        self.observed = torch.rand(9, 5) < 0.6
        self.observed[0], self.observed[1] = True, False
        self.x = torch.where(self.observed, complete, torch.nan)

    def evidence(self):
        """log p of the observed coordinates, one datum after the other; 0 where there are none."""
        values = []
        for x, observed in zip(self.x, self.observed, strict=True):
            w, b = self.weight[observed], self.bias[observed]
            covariance = w @ w.T + NOISE**2 * torch.eye(len(b), dtype=torch.float64)
            zero = torch.zeros((), dtype=torch.float64)
            values.append(dist.MultivariateNormal(b, covariance).log_prob(x[observed]) if len(b) else zero)
        return torch.stack(values)

    def posterior(self, x, observed):
        kept = torch.where(observed.unsqueeze(-1), self.weight, 0.0)
        precision = torch.eye(2, dtype=torch.float64) + kept.mT @ kept / NOISE**2
        residual = torch.where(observed, x - self.bias, 0.0)
        mean = torch.linalg.solve(precision, (residual.unsqueeze(-2) @ kept).squeeze(-2).unsqueeze(-1) / NOISE**2)
        return dist.MultivariateNormal(mean.squeeze(-1), precision_matrix=precision)

    def exact_guide(self, x, observed):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x, observed))

    def prior_guide(self, x, _observed):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))


@pytest.fixture
def case():
    return Case()


def test_every_weight_is_the_evidence_of_what_was_observed(case):
    weights = log_weights(case.model, case.exact_guide, (case.x, case.observed), 4)
    assert_close(weights.detach(), case.evidence().expand(4, 9), rtol=1e-11, atol=1e-11)


def test_a_model_without_a_mask_is_told_which_one_takes_it():
    model, guide = VAE((5,), 2), MeanFieldGuide((5,), 2)
    with pytest.raises(PairError, match="needs model='masked_vae'"):
        elbo_terms(model, guide, (torch.zeros(7, 5), torch.ones(7, 5, dtype=torch.bool)))


def test_evaluations_find_the_evidence_of_what_was_observed(case):
    data = (case.x, case.observed)
    for compile in ("off", "trace"):
        found = log_likelihood(case.model, case.exact_guide, data, 10, seed=0, compile=compile)
        assert_close(found.per_datum, case.evidence())
    assert found.bits_per_dim is None
    assert_close(elbo_terms(case.model, case.exact_guide, data, 5, seed=0).elbo.per_datum, case.evidence())


def test_the_prior_as_guide_finds_it_within_its_errors(case):
    """3000 weights of a datum: within 4 of their standard errors."""
    found = log_likelihood(case.model, case.prior_guide, (case.x, case.observed), 3000, seed=0)
    usual = case.evidence() > -12
    assert usual.sum() >= 4
    error = (found.per_datum - case.evidence()) / found.standard_errors.clamp(min=1e-9)
    assert error[usual].abs().max() < 4


def test_the_elbo_of_a_wrong_guide_is_lower_by_its_kl(case):
    """2000 draws: within 4 standard errors of evidence - KL(q || posterior)."""

    def shifted(x, observed):
        exact = case.posterior(x, observed)
        return dist.MultivariateNormal(exact.mean + 0.3, covariance_matrix=exact.covariance_matrix)

    def guide(x, observed):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", shifted(x, observed))

    data = (case.x, case.observed)
    gap = torch.distributions.kl_divergence(shifted(*data), case.posterior(*data))
    found = elbo_terms(case.model, guide, data, 2000, seed=0).elbo
    assert ((found.per_datum - (case.evidence() - gap)).abs() < 4 * found.standard_errors).all()


def test_with_all_observed_it_is_the_vae_bit_by_bit():
    masked, plain = (cls((2, 3), 2, (4,)).double() for cls in (MaskedVAE, VAE))
    plain.load_state_dict(masked.state_dict())
    guide, x = MeanFieldGuide((2, 3), 2, (4,)).double(), torch.rand(7, 2, 3).round().double()
    found = []
    for model, data in ((masked, (x, torch.ones_like(x, dtype=torch.bool))), (plain, x)):
        torch.manual_seed(0)
        found.append(log_weights(model, guide, data, 5))
    assert torch.equal(*found)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, 1e30, -3.5])
@pytest.mark.parametrize("likelihood", part_names("likelihood"))
def test_what_is_not_observed_enters_no_number_and_no_gradient(likelihood, hidden):
    """Under Pyro's own ELBO, which knows of no missing values, with validation on."""
    options = "(levels=4)" if likelihood.startswith(("categorical", "discretized_logistic")) else ""
    made = make_part("likelihood", likelihood + options, x_shape=(1, 2, 3), latent_dim=2, hidden_dims=(4,))
    model, guide = MaskedVAE((1, 2, 3), 2, likelihood=made), MeanFieldGuide((1, 2, 3), 2, (4,), encoder=MaskedMLP)
    x, observed = torch.rand(6, 1, 2, 3).round(), torch.rand(6, 1, 2, 3) < 0.5
    parameters = [*model.parameters(), *guide.parameters()]
    found = []
    for value in (hidden, 0.0):
        torch.manual_seed(0)
        loss = Trace_ELBO().differentiable_loss(model, guide, torch.where(observed, x, value), observed)
        found.append([loss.detach(), *torch.autograd.grad(loss, parameters)])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("guide", [name for name in part_names("guide") if model_for(name) == "vae"])
def test_every_guide_sees_nothing_of_what_is_missing(guide):
    x, observed = torch.rand(6, 4).round(), torch.rand(6, 4) < 0.6
    model = MaskedVAE((4,), 2, (5,))
    weights = []
    for value in (math.nan, 0.7):
        torch.manual_seed(0)
        hidden = torch.where(observed, x, value)
        made = make_guide((4,), 2, (5,), guide=guide, model=model, data=lambda hidden=hidden: hidden)
        weights.append(log_weights(model, made.eval(), (hidden, observed), 3))
    assert all(weight.isfinite().all() for weight in weights)
    # A local guide has parameters for each content of x, in the order of their hashes.
    if guide != "local":
        assert torch.equal(*weights)


def test_svi_fit_and_a_run_folder(tmp_path, case):
    """Pyro's SVI and fit take NaN; the folder gives the same weights back; the bound of IWAE is one of x observed."""
    data = (case.x.float(), case.observed)
    model = MaskedVAE((5,), 2, likelihood=GaussianLikelihood((5,), 2, (4,)))
    guide = MeanFieldGuide((5,), 2, (4,), encoder=MaskedMLP)
    run = pyro_vae.fit(model, guide, data, objective=IWAE(5), epochs=3, batch_size=4, out=tmp_path, seed=0)
    assert run.compiled == "trace"
    loaded = pyro_vae.load_run(tmp_path)
    values = []
    for pair in ((model, guide), (loaded.model, loaded.guide)):
        torch.manual_seed(0)
        values.append(log_weights(*pair, data, 3))
    assert torch.equal(*values)
    svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
    assert math.isfinite(svi.step(*data))


def test_a_library_size_follows_the_mask():
    likelihood = PoissonLikelihood((3,), 2, (4,), library=True)
    model, guide = MaskedVAE((3,), 2, likelihood=likelihood), MeanFieldGuide((3,), 2, (4,))
    x, observed = torch.tensor([[1.0, 2, 3], [0, 1, 0]]), torch.tensor([[True, True, False], [True, False, True]])
    data = (x, observed, torch.tensor([6.0, 1.0]))
    trace = poutine.trace(model).get_trace(*data)
    trace.compute_log_prob()
    p = likelihood(trace.nodes["z"]["value"], data[2]).base_dist
    assert_close(trace.nodes["x"]["log_prob"], (p.log_prob(x) * observed).sum(-1))
    assert log_weights(model, guide, data, 2).isfinite().all()


class Coupled(nn.Module):
    def forward(self, z):
        return dist.MultivariateNormal(z.new_zeros(3), torch.eye(3)).expand(z.shape[:-1])


MASK = torch.ones(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("likelihood", "mask", "message"),
    [
        (None, MASK.float(), r"must be boolean of shape"),
        (None, MASK[:, :2], r"got torch.bool of shape \(4, 2\)"),
        (None, MASK[0], r"got torch.bool of shape \(3,\)"),
        (Coupled(), MASK, r"Coupled gives MultivariateNormal"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(likelihood, mask, message):
    model = MaskedVAE((3,), 2, likelihood=likelihood)
    with pytest.raises(PairError, match=message):
        model(torch.zeros(4, 3), mask)


def test_a_mask_is_asked_for():
    with pytest.raises(PairError, match="'observed'"):
        log_weights(MaskedVAE((3,), 2, (4,)), MeanFieldGuide((3,), 2, (4,)), torch.zeros(4, 3), 2)


class TestContract(ModelSuite):
    part = "masked_vae"

    def further(self, x):
        return (torch.rand(x.shape) < 0.8,)
