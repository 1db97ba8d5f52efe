"""The table of all terms: closed forms within standard errors, bounds by hand, calibrated errors, refusals."""

from dataclasses import dataclass

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import kl_divergence
from torch.testing import assert_close

import pyro_vae
from pyro_vae.evaluation.evidence_budget import evidence_budget


@dataclass
class Given:
    """What ``ais`` or ``inference_gaps`` would hand over."""

    per_datum: Tensor
    standard_errors: Tensor

    @property
    def flagged(self) -> Tensor:
        return self.per_datum > 1000


def test_terms_are_the_closed_ones(make_linear_gaussian):
    case = make_linear_gaussian()
    x = case.data(40)
    found = evidence_budget(case.model, case.inexact_guide, x, ks=(1, 10, 2000), seed=1)
    q, posterior, prior = case.diagonal(x), case.model.posterior(x), dist.Normal(torch.zeros(3).double(), 1.0)
    rate = kl_divergence(q.base_dist, prior).sum(-1)
    full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    elbo = case.evidence(x) - kl_divergence(full, posterior)
    expected = {
        "rate": rate,
        "elbo": elbo,
        "reconstruction": elbo + rate,
        "iwae_1": elbo,
        "iwae_2000": case.evidence(x),
    }
    for name, truth in expected.items():
        z = (found[name].per_datum - truth) / found[name].standard_errors
        assert z.abs().max() < 4.5, name
    assert found["elbo"].mean < found["iwae_10"].mean < found["iwae_2000"].mean
    assert list(found.terms) == ["reconstruction", "rate", "elbo", "iwae_1", "iwae_10", "iwae_2000"]
    assert_close(found["iwae_1"].per_datum, found["elbo"].per_datum)


def test_all_samples_give_what_log_likelihood_gives(linear_gaussian):
    x = linear_gaussian.data(5)
    found = evidence_budget(linear_gaussian.model, linear_gaussian.inexact_guide, x, ks=(400,), seed=3)
    direct = pyro_vae.log_likelihood(linear_gaussian.model, linear_gaussian.inexact_guide, x, 400, seed=3)
    assert_close(found["iwae_400"].per_datum, direct.per_datum)
    assert_close(found["iwae_400"].standard_errors, direct.standard_errors)
    assert_close(found.pareto_k, direct.pareto_k)
    above = [result.summary()["khat_above"] for result in (found, direct)]
    assert above[0]["mean"] == above[1]["mean"]
    assert above[0]["unit"] == "share"


def test_bounds_of_groups_are_unbiased_and_their_errors_calibrated(make_linear_gaussian):
    """Each of 400 copies of a datum is a repetition; the bound of K = 5 by 4 million samples is the truth."""
    case = make_linear_gaussian()
    x = case.data(1).expand(400, 5)
    found = evidence_budget(case.model, case.inexact_guide, x, ks=(5, 500), seed=0)["iwae_5"]
    with torch.no_grad():
        weights = pyro_vae.log_weights(case.model, case.inexact_guide, x[:1].expand(2000, 5), 2000)
    groups = weights.reshape(-1, 5).logsumexp(1) - torch.tensor(5.0).log()
    truth, error = groups.mean(), groups.std() / len(groups) ** 0.5
    covered = ((found.per_datum - truth).abs() < 2 * found.standard_errors).double().mean()
    assert 0.90 < covered < 0.99
    assert (found.mean - truth).abs() < 4 * (found.standard_error**2 + error**2) ** 0.5


def test_one_sample_has_no_error_and_says_so(linear_gaussian):
    found = evidence_budget(linear_gaussian.model, linear_gaussian.inexact_guide, linear_gaussian.data(3), ks=(1,))
    assert found["elbo"].standard_errors.isnan().all()
    assert "unknown" in str(found)


def test_what_was_given_becomes_rows_of_the_table(linear_gaussian):
    x = linear_gaussian.data(4)
    ais = Given(linear_gaussian.evidence(x), torch.full((4,), 0.01).double())
    gaps = pyro_vae.inference_gaps(
        linear_gaussian.model, linear_gaussian.inexact_guide, x, num_samples=50, evidence_samples=50, max_steps=50
    )
    found = evidence_budget(linear_gaussian.model, linear_gaussian.inexact_guide, x, ks=(50,), ais=ais, gaps=gaps)
    assert found["ais"].mean == pytest.approx(linear_gaussian.evidence(x).mean().item())
    assert found["ais"].standard_error == pytest.approx(0.005)
    assert found["amortization_gap"].mean == pytest.approx(gaps.amortization_gap.mean)
    assert found["approximation_gap"].standard_error == pytest.approx(gaps.approximation_gap.standard_error)
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == [
        "nats/datum", "reconstruction", "rate", "ELBO", "IWAE-50", "AIS", "approximation", "amortization",
        "k-hat",
    ]  # fmt: skip
    assert found.summary()["ais"]["mean"] == found["ais"].mean


def test_what_makes_no_sense_is_refused(linear_gaussian):
    pair, x = (linear_gaussian.model, linear_gaussian.inexact_guide), linear_gaussian.data(4)
    for ks in ((), (0, 5)):
        with pytest.raises(ValueError, match="ks must hold numbers"):
            evidence_budget(*pair, x, ks=ks)
    with pytest.raises(ValueError, match=r"the AIS is of 3 data, .*has 4"):
        evidence_budget(*pair, x, ks=(5,), ais=Given(torch.zeros(3), torch.zeros(3)))


def test_flagged_data_are_left_out_and_counted(linear_gaussian):
    x = linear_gaussian.data(4)
    values = torch.tensor([-1.0, -2.0, -3.0, 1e6]).double()
    ais = Given(values, torch.full((4,), 0.3).double())
    found = evidence_budget(linear_gaussian.model, linear_gaussian.inexact_guide, x, ks=(50,), ais=ais)
    assert found["ais"].mean == -2.0
    assert found["ais"].standard_error == pytest.approx(0.1 * 3**0.5)
    assert found.summary()["ais"]["num_left_out"] == 1
    (line,) = (line for line in str(found).splitlines() if line.startswith("AIS"))
    assert line.endswith("(1 flagged and left out)")


def test_the_seed_decides_and_the_callers_generator_is_left_alone(linear_gaussian):
    x = linear_gaussian.data(3)
    before = torch.get_rng_state()
    one, other = (
        evidence_budget(linear_gaussian.model, linear_gaussian.inexact_guide, x, ks=(20,), seed=5) for _ in range(2)
    )
    assert torch.equal(one["iwae_20"].per_datum, other["iwae_20"].per_datum)
    assert torch.equal(torch.get_rng_state(), before)
    assert pyro.settings.get("module_local_params") is False
