"""Every evaluation of a small pair with two latent layers, bottom-up and top-down, by site where there are sites."""

from functools import partial

import pytest
import torch
from torch.optim import Adam
from torch.testing import assert_close

import pyro_vae
from pyro_vae import elbo_terms, fit, log_likelihood
from pyro_vae.evaluation import active_units, ais, inference_gaps, latent_statistics, sbc
from pyro_vae.parts import make_pair

SHAPE = (1, 3, 2)


def made(guide):
    torch.manual_seed(0)
    model = "hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(6,))"
    return make_pair(SHAPE, 2, (8,), model=model, guide=guide)


def images(n):
    generator = torch.Generator().manual_seed(1)
    cluster = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    return (torch.rand(n, *SHAPE, generator=generator) < torch.where(cluster, 0.85, 0.2)).float()


def train(model, guide, x, epochs=20, **settings):
    optimizer = partial(Adam, lr=0.02)
    return fit(model, guide, x, optimizer=optimizer, epochs=epochs, batch_size=20, compile="trace", seed=0, **settings)


@pytest.fixture(scope="module", params=["bottom_up", "top_down"])
def fitted(request):
    x = images(80)
    model, guide = made(request.param)
    run = train(model, guide, x)
    assert run.compiled == "trace"
    return model, guide, x


def test_evidence_and_its_bounds_agree(fitted):
    """AIS and importance sampling within 4 standard errors of their difference; the ELBO is below."""
    model, guide, x = fitted
    x = x[:10]
    evidence = log_likelihood(model, guide, x, 2000, seed=0)
    annealed = ais(model, x, num_chains=8, num_temperatures=60, seed=0)
    error = torch.hypot(evidence.standard_errors, annealed.standard_errors)
    assert ((evidence.per_datum - annealed.per_datum).abs() < 4 * error).all()
    terms = elbo_terms(model, guide, x, 200, seed=0)
    assert terms.elbo.mean < evidence.mean + 4 * terms.elbo.standard_error
    assert terms.elbo.mean == pytest.approx(terms.reconstruction.mean - terms.rate.mean, abs=1e-4)


def test_statistics_are_told_by_site(fitted):
    model, guide, x = fitted
    statistics = latent_statistics(model, guide, x, seed=0)
    assert set(statistics.rate_by_site) == {"z1", "z2"}
    assert set(statistics.units) == {"z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]"}
    units = active_units(guide, x, num_samples=50)
    assert set(units.units) == set(statistics.units)
    for site, dim in (("z1", 3), ("z2", 2)):
        assert len(active_units(guide, x, site=site, num_samples=50).units) == dim


def test_gaps_add_up(fitted):
    model, guide, x = fitted
    gaps = inference_gaps(
        model, guide, x[:4], num_samples=200, evidence_samples=500, max_steps=60, check_every=20, seed=0
    )
    assert gaps.family == "flow"
    assert_close(gaps.approximation_gap.per_datum + gaps.amortization_gap.per_datum, gaps.inference_gap.per_datum)
    assert (gaps.amortization_gap.per_datum > -4 * gaps.amortization_gap.standard_errors - 1e-5).all()


def test_calibration_ranks_every_unit(fitted):
    model, guide, x = fitted
    found = sbc(model, guide, x[:2], num_data=40, num_draws=7, seed=0)
    assert set(found.units) >= {"z1[0]", "z2[1]"}


@pytest.mark.parametrize("guide_name", ["bottom_up", "top_down"])
def test_a_run_resumes_bit_for_bit_and_is_loaded(guide_name, tmp_path):
    x, ends = images(60), []
    for folder, stops in (("whole", (4,)), ("resumed", (2, 4))):
        for epochs in stops:
            pair = made(guide_name)
            train(*pair, x, epochs=epochs, out=tmp_path / folder, resume=True)
        ends.append(pair)
    for whole, resumed in zip(*ends, strict=True):
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
    loaded = pyro_vae.load_run(tmp_path / "resumed")
    weights = []
    for model, guide in (ends[0], (loaded.model, loaded.guide)):
        torch.manual_seed(5)
        weights.append(pyro_vae.log_weights(model.eval(), guide.eval(), x, 3))
    assert torch.equal(*weights)


@pytest.mark.slow
@pytest.mark.parametrize("guide_name", ["bottom_up", "top_down"])
def test_compiled_evidence_and_steps_are_the_traced_ones(guide_name):
    x, bounds = images(40), []
    for level in ("trace", "inductor"):
        model, guide = made(guide_name)
        run = fit(model, guide, x, epochs=2, batch_size=20, compile=level, seed=0)
        assert run.compiled == level
        evidence = log_likelihood(model, guide, x[:5], 500, seed=0, compile=level)
        bounds.append([*(row["train_bound_nats"] for row in run.history), *evidence.per_datum.tolist()])
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-4)
