"""Guides whose faults are known, against exact draws and against chains with a known correlation."""

import math
from dataclasses import replace
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation import ReferencePosterior, guide_error
from pyro_vae.evaluation.reference.chain_diagnostics import ess, r_hat
from pyro_vae.evaluation.reference.nuts import log_joint_at
from pyro_vae.guides import AuxiliaryGuide
from pyro_vae.models import VAE
from pyro_vae.programs.joint import Joint

SHIFT, STRETCH = 0.4, 1.3


def chains(case, x, num_chains=4, num_samples=250, correlation=0.0):
    """What perfect chains would draw, or chains with a known autocorrelation, and how they would be judged."""
    exact = case.model.posterior(x)
    noise = torch.randn(num_chains, num_samples, len(x), case.latent_dim).double()
    steps = [noise[:, 0]]
    for step in range(1, num_samples):
        steps.append(correlation * steps[-1] + math.sqrt(1 - correlation**2) * noise[:, step])
    draws = exact.mean + (exact.scale_tril @ torch.stack(steps, 1).unsqueeze(-1)).squeeze(-1)
    joint = Joint("test", case.model, x)
    log_joint = log_joint_at(joint, (x,), draws.flatten(0, 1)).unflatten(0, (num_chains, num_samples))
    # The chains are right by construction; what R-hat makes of so many is tested with the reference.
    return ReferencePosterior(
        draws=draws, values={"z": draws}, log_joint=log_joint, r_hat=torch.ones(len(x), case.latent_dim),
        ess_bulk=ess(draws, "bulk"), ess_tail=ess(draws, "tail"), divergences=torch.zeros(len(x), dtype=torch.int64),
        warmup=0,
    )  # fmt: skip


def off(case, x, shift=SHIFT):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", case.diagonal(x, shift, STRETCH))


def divergences(case, x):
    """KL(q || p) and KL(p || q) of that guide, ``(len(x),)``."""
    q = case.diagonal(x, SHIFT, STRETCH)
    q, p = MultivariateNormal(q.mean, torch.diag_embed(q.variance)), case.model.posterior(x)
    return kl_divergence(q, p), kl_divergence(p, q)


def test_errors_of_a_guide_with_known_faults(linear_gaussian):
    """4 standard errors; the guide's moments are off by 0.4 and by 30 % of the posterior's standard deviation."""
    x = linear_gaussian.data(3)
    reference = chains(linear_gaussian, x)
    found = guide_error(
        reference,
        linear_gaussian.model,
        partial(off, linear_gaussian),
        x,
        num_samples=2000,
        num_permutations=199,
        seed=1,
    )
    kl, forward = divergences(linear_gaussian, x)
    for value, error, truth in (
        (found.mean_error, found.mean_standard_errors, SHIFT),
        (found.sd_error, found.sd_standard_errors, STRETCH - 1),
        (found.kl.per_datum, found.kl.standard_errors, kl),
        (found.forward_kl.per_datum, found.forward_kl.standard_errors, forward),
        (found.log_likelihood.per_datum, found.log_likelihood.standard_errors, linear_gaussian.evidence(x)),
    ):
        assert ((value - truth).abs() < 4 * error).all()
        assert (error < 0.12).all()
    assert (found.p_values == 1 / 200).all()
    assert found.compared.all()
    assert found.guide_draws.shape == (2000, 3, 3)
    assert found.kl.mean == pytest.approx(found.kl.per_datum.mean().item())
    assert found.kl.standard_error == pytest.approx(found.kl.standard_errors.square().sum().sqrt().item() / 3)
    text = str(found)
    assert text.startswith("guide against posterior of 3 data: mean off by 0.4")
    assert "KL(q || p) = " in text
    assert text.endswith("MMD test: p < 0.05 for 3 of 3")


def test_the_exact_guide_has_no_error(linear_gaussian):
    x = linear_gaussian.data(3)
    reference = chains(linear_gaussian, x)
    found = guide_error(reference, linear_gaussian.model, linear_gaussian.exact_guide, x, num_permutations=199, seed=1)
    assert (found.mean_error.abs() < 4 * found.mean_standard_errors).all()
    assert (found.sd_error.abs() < 4 * found.sd_standard_errors).all()
    for exactly in (found.kl.per_datum, found.forward_kl.per_datum, found.kl.standard_errors):
        assert exactly.abs().max() < 1e-9
    torch.testing.assert_close(found.log_likelihood.per_datum, linear_gaussian.evidence(x), rtol=1e-9, atol=0)
    assert (found.p_values > 1 / 200).all()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [SHIFT, 3.0])
def test_standard_errors_cover_with_correlated_chains(make_linear_gaussian, shift):
    """2-s.e. intervals in 90 to 99 % of 200 repetitions: copies of a datum, each with chains of its own.

    With an autocorrelation of 0.7 a sixth of the draws is effective; errors that took all would cover 65 %. Three
    standard deviations off, most of the error of the mean comes of the standard deviation that it is divided by, and
    too few draws are common to both laws for a divergence.
    """
    case = make_linear_gaussian(x_dim=3, latent_dim=2)
    x = case.data(1).expand(200, 3).clone()
    reference = chains(case, x, num_samples=200, correlation=0.7)
    guide = partial(off, case, shift=shift)
    found = guide_error(reference, case.model, guide, x, num_samples=1500, num_permutations=1, seed=1)
    kl, forward = divergences(case, x)
    checked = [
        (found.mean_error, found.mean_standard_errors, shift),
        (found.sd_error, found.sd_standard_errors, STRETCH - 1),
    ]
    if shift == SHIFT:
        checked += [
            (found.kl.per_datum, found.kl.standard_errors, kl),
            (found.forward_kl.per_datum, found.forward_kl.standard_errors, forward),
            (found.log_likelihood.per_datum, found.log_likelihood.standard_errors, case.evidence(x)),
        ]
    for value, error, truth in checked:
        assert 0.90 < ((value - truth).abs() < 2 * error).double().mean() < 0.99


def test_divergences_do_not_depend_on_coordinates():
    """Gammas, in rates where the chain moves in their logarithm; 4 standard errors."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(3.0), 2.0))
            pyro.sample("x", dist.Poisson(rate.unsqueeze(-1) * torch.ones_like(x)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", wrong(x))

    def wrong(x):
        return dist.Gamma(2 + x.sum(-1), 5.0)

    x = torch.tensor([[1.0, 0, 2, 1], [5, 7, 6, 4]]).double()
    exact = dist.Gamma(3 + x.sum(-1), 6.0)
    rates = exact.sample((4, 500))
    draws = rates.log().unsqueeze(-1)
    joint = Joint("test", model, x)
    log_joint = log_joint_at(joint, (x,), draws.flatten(0, 1)).unflatten(0, (4, 500))
    judged, none = torch.ones(2, 1), torch.zeros(2, dtype=torch.int64)
    reference = ReferencePosterior(
        draws=draws, values={"rate": rates}, log_joint=log_joint, r_hat=judged, ess_bulk=2000 * judged,
        ess_tail=2000 * judged, divergences=none, warmup=0,
    )  # fmt: skip
    found = guide_error(reference, model, guide, x, num_samples=2000, num_permutations=9, seed=1)
    for value, error, truth in (
        (found.kl.per_datum, found.kl.standard_errors, kl_divergence(wrong(x), exact)),
        (found.forward_kl.per_datum, found.forward_kl.standard_errors, kl_divergence(exact, wrong(x))),
    ):
        assert ((value - truth).abs() < 4 * error).all()
        assert (error < 0.05).all()
    # Of log Gamma(a, b) the mean is digamma(a) - log b, and the variance the trigamma function of a.
    apart = torch.digamma(2 + x.sum(-1)) - math.log(5) - torch.digamma(3 + x.sum(-1)) + math.log(6)
    apart = apart / torch.polygamma(1, 3 + x.sum(-1)).sqrt()
    assert ((found.mean_error[:, 0] - apart).abs() < 4 * found.mean_standard_errors[:, 0]).all()


@pytest.mark.slow
def test_p_values_do_not_reject_the_exact_guide_for_correlated_chains(make_linear_gaussian):
    """Of 200 copies 5 % are expected below 0.05, 4 standard errors are 6.2 %; unthinned draws give many more."""
    case = make_linear_gaussian(x_dim=3, latent_dim=2)
    x = case.data(1).expand(200, 3).clone()
    reference = chains(case, x, num_samples=100, correlation=0.8)
    found = guide_error(reference, case.model, case.exact_guide, x, num_samples=100, num_permutations=99, seed=1)
    assert (found.p_values <= 0.05).double().mean() < 0.112


def test_data_without_a_trusted_reference_are_left_out(linear_gaussian):
    x = linear_gaussian.data(4)
    reference = chains(linear_gaussian, x)
    doubted = reference.r_hat.clone()
    doubted[1, 2] = 1.02
    draws = reference.draws.clone()
    draws[:, :, 3] = math.nan
    reference = replace(reference, r_hat=torch.where(draws[0, 0].isnan(), draws[0, 0], doubted), draws=draws)
    found = guide_error(reference, linear_gaussian.model, linear_gaussian.exact_guide, x, num_permutations=199, seed=1)
    assert found.compared.tolist() == [True, False, True, False]
    for value in (
        found.mean_error[:, 0],
        found.sd_standard_errors[:, 1],
        found.kl.per_datum,
        found.log_likelihood.per_datum,
        found.p_values,
    ):
        assert value.isfinite().tolist() == [True, False, True, False]
    assert math.isfinite(found.kl.mean)
    assert found.summary()["num_compared"] == 2
    assert "posterior of 2 data" in str(found)
    assert "2 left out without a trusted reference or finite draws" in str(found)
    with pytest.raises(ValueError, match="none of the 4 data has"):
        guide_error(
            replace(reference, r_hat=doubted + 1),
            linear_gaussian.model,
            linear_gaussian.exact_guide,
            x,
            num_permutations=199,
            seed=1,
        )


def test_a_guide_that_is_not_finite_now_and_then_spoils_its_own_datum(linear_gaussian):
    def guide(x):
        exact = linear_gaussian.model.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            noise = pyro.sample("e", dist.Normal(0.0, 1.0).expand([3]).to_event(1), infer={"is_auxiliary": True})
            bad = (noise > 2.5) & (x[:, :1] == x[1, 0])
            pyro.sample("z", dist.Delta(exact.mean + torch.where(bad, torch.inf, noise), event_dim=1))

    x = linear_gaussian.data(3)
    found = guide_error(chains(linear_gaussian, x), linear_gaussian.model, guide, x, num_permutations=199, seed=1)
    assert found.compared.tolist() == [True, False, True]
    assert found.p_values.isfinite().tolist() == [True, False, True]


def test_a_guide_that_is_never_finite_is_refused_by_its_site(linear_gaussian):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_full((3,), math.nan), 1.0).to_event(1))

    x = linear_gaussian.data(3)
    with pytest.raises(NonFiniteError, match="site 'z' of the guide"):
        guide_error(chains(linear_gaussian, x), linear_gaussian.model, guide, x)


def test_a_guide_without_a_density_is_compared_by_its_draws(linear_gaussian):
    model = VAE((4,), latent_dim=2, hidden_dims=(4,)).double()
    x = torch.rand(2, 4).bernoulli().double()
    joint = Joint("test", model, x)
    draws = joint.draw(x, 400).unflatten(0, (4, 100))
    judged = torch.ones(2, 2)
    log_joint = log_joint_at(joint, (x,), draws.flatten(0, 1)).unflatten(0, (4, 100)).detach()
    reference = ReferencePosterior(
        draws=draws, values={"z": draws}, log_joint=log_joint, r_hat=judged, ess_bulk=400 * judged,
        ess_tail=400 * judged, divergences=torch.zeros(2, dtype=torch.int64), warmup=0,
    )  # fmt: skip
    guide = AuxiliaryGuide((4,), latent_dim=2, hidden_dims=(4,)).double()
    found = guide_error(reference, model, guide, x, num_samples=100, num_permutations=199, seed=1)
    assert found.kl.per_datum.isnan().all()
    assert found.no_kl.startswith("the guide has sites of its own (v, log_reverse)")
    assert "KL not estimable: the guide has sites of its own" in str(found)
    assert math.isnan(found.kl.mean)
    assert found.p_values.isfinite().all()
    assert found.mean_error.isfinite().all()


def test_a_guide_that_is_far_off_has_no_kl_but_errors(linear_gaussian):
    def far(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_full((3,), 50.0), 0.1).to_event(1))

    x = linear_gaussian.data(2)
    found = guide_error(chains(linear_gaussian, x), linear_gaussian.model, far, x, num_permutations=199, seed=1)
    assert found.kl.per_datum.isnan().all()
    assert found.no_kl is None
    assert "KL not estimable: guide and posterior overlap too little" in str(found)
    assert (found.mean_error > 10).all()


def test_the_same_seed_gives_the_same_numbers(linear_gaussian):
    x = linear_gaussian.data(2)
    reference = chains(linear_gaussian, x)
    state = torch.get_rng_state()
    one, other = (
        guide_error(reference, linear_gaussian.model, partial(off, linear_gaussian), x, num_permutations=199, seed=3)
        for _ in "12"
    )
    assert torch.equal(one.kl.per_datum, other.kl.per_datum)
    assert torch.equal(one.p_values, other.p_values)
    assert torch.equal(state, torch.get_rng_state())


def test_another_model_or_other_data_are_noticed(make_linear_gaussian):
    case, other = make_linear_gaussian(), make_linear_gaussian()
    x = case.data(3)
    reference = chains(case, x)
    assert (r_hat(reference.draws) < 1.1).all()
    for model, data in ((other.model, x), (case.model, x.flip(0))):
        with pytest.raises(ValueError, match="another model or of other data"):
            guide_error(reference, model, case.exact_guide, data)
    with pytest.raises(ValueError, match="of 3 data; got 2"):
        guide_error(reference, case.model, case.exact_guide, x[:2])
    wide = make_linear_gaussian(latent_dim=4)
    with pytest.raises(ValueError, match=r"3 dims, .*latent sites 4"):
        guide_error(reference, wide.model, wide.exact_guide, x)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        guide_error(reference, case.model, case.exact_guide, x, num_samples=1)
    with pytest.raises(ValueError, match="num_permutations must be at"):
        guide_error(reference, case.model, case.exact_guide, x, num_permutations=0)
