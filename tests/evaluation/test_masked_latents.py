"""Evaluations of pairs with masked latent sites, against the evidence of the model without what is masked."""

import math

import pyro
import pytest
import torch
from masked_pairs import PAIRS, ByDatum, Missing
from pyro import distributions as dist
from pyro import poutine

from pyro_vae import log_weights
from pyro_vae.errors import PairError
from pyro_vae.evaluation import ais, bdmc, elbo_terms, inference_gaps, latent_statistics, log_likelihood
from pyro_vae.programs.joint import Joint


@pytest.fixture(params=PAIRS)
def case(request):
    return PAIRS[request.param]()


def close(estimate, errors, truth, k=5.0):
    """Whether each datum is within k Monte Carlo standard errors, and a rounding, of the truth."""
    return bool(((estimate - truth).abs() < k * errors + 1e-6).all())


def test_log_likelihood(case):
    args = case.args()
    found = log_likelihood(case.model, case.guide, args, num_samples=4000, seed=0)
    assert close(found.per_datum, found.standard_errors, case.evidence(*args))


def test_the_map_moves_and_counts_only_what_is_there(case):
    """The posteriors are Gaussian, so that a full-rank map leaves no gap."""
    args = case.args()
    gaps = inference_gaps(
        case.model, case.guide, args, family="full_rank", num_samples=400, evidence_samples=400, max_steps=300,
        learning_rate=0.05, patience=2, step_samples=16, seed=0,
    )  # fmt: skip
    truth = case.evidence(*args)
    assert close(gaps.log_likelihood.per_datum, gaps.log_likelihood.standard_errors, truth)
    assert (gaps.best_elbo.per_datum < truth + 1e-6 + 4 * gaps.best_elbo.standard_errors).all()
    assert (truth - gaps.best_elbo.per_datum < 0.03 + 4 * gaps.best_elbo.standard_errors).all()


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_ais(case, start):
    args = case.args()
    guide = case.guide if start == "guide" else None
    found = ais(case.model, args, guide=guide, num_temperatures=40, num_chains=40, burn_in=20, seed=0)
    assert not found.flagged.any()
    assert close(found.per_datum, found.standard_errors, case.evidence(*args))


def test_bdmc_on_data_of_its_own(case):
    if isinstance(case, Missing):
        with pytest.raises(ValueError, match="must observe one site"):
            bdmc(case.model, case.args(), num_temperatures=2, num_chains=2)
        return
    found = bdmc(case.model, case.args(), num_temperatures=40, num_chains=20, burn_in=20, seed=0)
    truth = case.evidence(found.data, *case.args()[1:])
    assert close(found.lower.per_datum, found.lower.standard_errors, truth)
    # The reverse chains of a datum share their start, which the errors do not know of.
    assert ((found.upper.per_datum - truth).abs() < 0.7).all()


# ---------------------------------------------------------------- refusals


def other_mask(x, counts):
    return ByDatum().guide(x, torch.ones_like(counts))


def late_mask(x, counts):
    """Masks what the model does but for data that no head shows."""
    return ByDatum().guide(x, counts | (x[:, 0] > 50))


def everything(model, guide, args):
    yield lambda: log_likelihood(model, guide, args, num_samples=10)
    yield lambda: inference_gaps(model, guide, args, num_samples=10, evidence_samples=10, max_steps=50)
    yield lambda: ais(model, args, guide=guide, num_temperatures=2, num_chains=2, num_leapfrog=1)


@pytest.mark.parametrize("guide", [other_mask, late_mask])
def test_masks_that_differ_between_model_and_guide_are_refused(guide):
    case = ByDatum((True, False) * 200)
    x, counts = case.args()
    x[-1, 0] = 100.0
    for call in everything(case.model, guide, (x, counts)):
        with pytest.raises(PairError, match=r"'w': .* mask the same elements"):
            call()


@pytest.mark.parametrize("call", [log_likelihood, elbo_terms])
def test_so_are_those_of_data_that_a_subsampling_plate_takes(call):
    """Of six data two at a time; the guide masks one of the last otherwise."""
    x, counts = torch.randn(6, 2).double(), torch.tensor([True, False] * 3)

    def program(scale, observes, mask):
        def run(x, counts):
            with pyro.plate("data", len(x), subsample_size=2, dim=-1) as rows:
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), scale).expand([2]))
                with poutine.mask(mask=mask(counts)[rows]):
                    w = pyro.sample("w", dist.Normal(x.new_zeros(()), scale).expand([2]))
                if observes:
                    mean = torch.stack([z, torch.where(counts[rows], w, 0.0)], -1)
                    pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[rows])

        return run

    def but_one(counts):
        return counts & (torch.arange(6) != 4)

    model = program(1.0, True, lambda counts: counts)
    found = call(model, program(0.9, False, lambda counts: counts), (x, counts), num_samples=2000, seed=0)
    if call is log_likelihood:
        scale = torch.stack([torch.full((6,), 2.0), 1.0 + counts.double()], -1).sqrt()
        exact = dist.Normal(torch.zeros(6, 2).double(), scale).log_prob(x).sum(-1)
        assert close(found.per_datum, found.standard_errors, exact)
    with pytest.raises(PairError, match="the same elements; 1 of 2"):
        call(model, program(0.9, False, but_one), (x, counts), num_samples=10)


def follows_the_masked(x, counts):
    with pyro.plate("data", len(x), dim=-1):
        with poutine.mask(mask=counts):
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(w.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)


def mask_that_is_drawn(x, counts):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with poutine.mask(mask=z > 0):
            pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "message"),
    [(follows_the_masked, "depends on masked elements"), (mask_that_is_drawn, "changes with what is drawn")],
)
def test_an_evidence_that_the_model_does_not_define_is_refused(model, message):
    x, counts = ByDatum((True, False) * 20).args()
    with pytest.raises(ValueError, match=message):
        ais(model, (x, counts), num_temperatures=2, num_chains=2, num_leapfrog=1)


def flat(x):
    """x follows z, whose density a mask takes out: a prior that is flat in place of one."""
    with pyro.plate("data", len(x), dim=-1):
        with poutine.mask(mask=False):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("masked", "message"), [(False, "must mask the same elements"), (True, "depends on masked elements")]
)
def test_a_prior_that_is_masked_away_is_no_evidence(masked, message):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=not masked):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.randn(5, 2).double()
    for call in (
        lambda: log_likelihood(flat, guide, x, num_samples=10),
        lambda: elbo_terms(flat, guide, x, num_samples=10),
        lambda: latent_statistics(flat, guide, x, num_samples=10),
    ):
        with pytest.raises(PairError, match=message):
            call()
    # What each draw is worth stays to be seen.
    assert log_weights(flat, guide, x, num_samples=3).shape == (3, 5)


def test_what_is_missing_stays_missing_in_simulated_data():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape), 1.0).mask(~x.isnan()).to_event(1))
            law = dist.Normal(z, 1.0, validate_args=False).mask(~x.isnan())
            pyro.sample("x", law.to_event(1), obs=x)

    x = torch.randn(4, 3).double()
    x[1, 2] = x[3, 0] = math.nan
    joint = Joint("test", model, x)
    data, _ = joint.simulate(x)
    assert torch.equal(data.isnan(), x.isnan())
    assert torch.equal(joint.counted(data), ~x.isnan())
