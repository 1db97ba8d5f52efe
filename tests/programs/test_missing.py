"""Missing values: what a mask hides is looked at by no check, and enters no number and no gradient."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from pyro_vae import (
    ais,
    elbo_terms,
    evidence_budget,
    fit,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    log_weights,
    reference_posterior,
    sbc,
    to_inference_data,
)
from pyro_vae.objectives import IWAE, DReG, StickingTheLanding

DIM, SCALE = 4, 0.5
W = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)


class Masked(nn.Module):
    """x_d ~ N(w_d z, 0.5^2), z ~ N(0, 1), with missing x_d hidden in one of the ways Pyro knows."""

    def __init__(self, way):
        super().__init__()
        self.way, self.w = way, nn.Parameter(W.clone())

    def forward(self, x):
        seen = ~x.isnan() & (x.abs() < 900)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
            law = dist.Normal(z * self.w, SCALE)
            with pyro.plate("dims", DIM, dim=-1):
                if self.way == "dist.mask":
                    pyro.sample("x", law.mask(seen), obs=x)
                elif self.way == "poutine.mask":
                    with poutine.mask(mask=seen):
                        pyro.sample("x", law, obs=x)
                elif self.way == "obs_mask":
                    pyro.sample("x", law, obs=x, obs_mask=seen)
                else:
                    pyro.sample("x", law.mask(seen), obs=x.nan_to_num())


class MaskedEvent(nn.Module):
    """The same with the mask inside ``to_event``."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(W.clone())

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            law = dist.Normal(z.unsqueeze(-1) * self.w, SCALE)
            pyro.sample("x", law.mask(~x.isnan() & (x.abs() < 900)).to_event(1), obs=x)


class Guide(nn.Module):
    """The exact posterior; with ``obs_mask`` also the unobserved elements, from the model's own law."""

    def __init__(self, way, dim):
        super().__init__()
        self.way, self.dim, self.shift = way, dim, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        seen = ~x.isnan() & (x.abs() < 900)
        precision = 1 + (seen * W**2).sum(-1) / SCALE**2
        mean = (x.where(seen, 0.0) * W).sum(-1) / SCALE**2 / precision + self.shift
        if self.dim == -2:
            mean, precision = mean.unsqueeze(-1), precision.unsqueeze(-1)
        with pyro.plate("data", len(x), dim=self.dim):
            z = pyro.sample("z", dist.Normal(mean, precision.rsqrt()))
            if self.way == "obs_mask":
                with pyro.plate("dims", DIM, dim=-1), poutine.mask(mask=~seen):
                    pyro.sample("x_unobserved", dist.Normal(z * W, SCALE))


def pairs():
    found = {way: (Masked(way), Guide(way, -2)) for way in ("dist.mask", "poutine.mask", "obs_mask", "filled")}
    return found | {"event": (MaskedEvent(), Guide("event", -1))}


WAYS = ("dist.mask", "poutine.mask", "obs_mask", "filled", "event")


def data(n=9):
    """With NaN, infinity, and a number that stands for a missing one; never at the same place in all data."""
    x = torch.linspace(-2, 2, n * DIM, dtype=torch.float64).reshape(n, DIM).sin()
    x[1, 0] = x[3, 2] = x[3, 3] = x[7, 1] = math.nan
    x[5] = math.nan
    x[6, 1] = 999.0
    x[8, 2] = math.inf
    return x


def evidence(x):
    """log N of the elements that are seen, written out for each datum."""
    found = []
    for row in x:
        seen = row.isfinite() & (row.abs() < 900)
        w = W[seen]
        covariance = w.outer(w) + SCALE**2 * torch.eye(len(w), dtype=torch.float64)
        zero = torch.zeros((), dtype=torch.float64)
        found.append(dist.MultivariateNormal(torch.zeros_like(w), covariance).log_prob(row[seen]) if len(w) else zero)
    return torch.stack(found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("validate", [True, False])
def test_weights_are_the_evidence_of_what_is_seen(way, validate):
    x, (model, guide) = data(), pairs()[way]
    with pyro.validation_enabled(validate):
        found = log_weights(model, guide, x, 3)
        assert_close(found, evidence(x).expand(3, -1), rtol=1e-8, atol=1e-8)
        assert_close(log_likelihood(model, guide, x, 30).per_datum, evidence(x), rtol=1e-8, atol=1e-8)
        assert_close(elbo_terms(model, guide, x, 3).elbo.per_datum, evidence(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("way", "objective", "compile"),
    [(way, Trace_ELBO, "trace") for way in WAYS]
    + [("event", objective, "off") for objective in (Trace_ELBO, IWAE, StickingTheLanding, DReG, TraceMeanField_ELBO)]
    + [("poutine.mask", IWAE, "trace"), ("obs_mask", StickingTheLanding, "off")],
)
def test_training_is_that_of_data_without_the_hidden_elements(way, objective, compile):
    """Bit for bit the parameters of the same run with any numbers in their place."""
    fitted = []
    for filled in (False, True):
        model, guide = pairs()[way]
        x = data()
        if filled:
            x = torch.where(x.isnan() | x.isinf(), 950.0, x)
        fit(
            model, guide, x, objective=objective(), epochs=3, batch_size=3, seed=1, progress=False, compile=compile,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
        )  # fmt: skip
        fitted.append(torch.cat([p.detach().flatten() for p in [*model.parameters(), *guide.parameters()]]))
    assert fitted[0].isfinite().all()
    assert not torch.equal(fitted[0], torch.cat([W, torch.zeros(1, dtype=torch.float64)]))
    assert torch.equal(*fitted)


@pytest.mark.parametrize("way", ["poutine.mask", "event"])
def test_gradients_through_the_latent_space_are_those_of_what_is_seen(way):
    x, (model, guide) = data(), pairs()[way]
    settings = {"num_temperatures": 6, "num_chains": 8, "burn_in": 3, "num_leapfrog": 3, "seed": 0, "compile": "off"}
    for start in (None, guide):
        found = ais(model, x, guide=start, **settings)
        assert not found.flagged.any()
        assert ((found.per_datum - evidence(x)).abs() < 5 * found.standard_errors + 1e-6).all()
    gaps = inference_gaps(model, guide, x[:4], num_samples=20, evidence_samples=30, max_steps=5, check_every=5, seed=0)
    assert_close(gaps.elbo.per_datum, evidence(x[:4]), rtol=1e-8, atol=1e-8)
    assert gaps.log_likelihood.per_datum.isfinite().all()


def test_chains_of_the_reference_posterior_move():
    x, (model, _) = data(), pairs()["event"]
    drawn = reference_posterior(model, x[:2], num_chains=2, num_samples=10, warmup=10, seed=0)
    assert drawn.draws.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_every_other_evaluation_takes_them(way):
    x, (model, guide) = data(), pairs()[way]
    assert evidence_budget(model, guide, x).terms["elbo"].per_datum.isfinite().all()
    assert math.isfinite(latent_statistics(model, guide, x, num_samples=20).rate.mean)
    if way != "obs_mask":
        assert sbc(model, guide, torch.where(x.isfinite(), x, math.nan), num_data=50, num_draws=9).left_out == 0
    found = to_inference_data(model, guide, x, num_samples=3, num_chains=1)
    assert torch.tensor(found["sample_stats"]["log_weight"].values).isfinite().all()
    observed = torch.tensor(next(iter(found["observed_data"].data_vars.values())).values)
    assert torch.equal(observed.isnan(), ~(x.abs() < 900))


def test_a_loader_of_such_data():
    model, guide = pairs()["event"]
    loader = DataLoader(data(), batch_size=3)
    fit(model, guide, loader, valid=data(), epochs=2, progress=False)
    assert all(p.isfinite().all() for p in [*model.parameters(), *guide.parameters()])


def test_a_missing_value_that_no_mask_hides_is_bad():
    x = data()

    def unmasked(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * W, SCALE).mask(~(x.abs() > 900)).to_event(1), obs=x)

    guide = Guide("event", -1)
    x[6, 1] = x[8, 2] = 0.0
    with pytest.raises(ValueError, match=r"8 values .*\(1, 0\).* site 'x'"):
        log_likelihood(unmasked, guide, x, 5)
    with pytest.raises(ValueError, match=r"training .*reach site 'z' of"):
        fit(MaskedEvent(), Careless(), x, epochs=1, batch_size=3, progress=False)
    with pytest.raises(ValueError, match="validation data: 8 values"):
        fit(MaskedEvent(), Careless(), x.nan_to_num(), valid=x, epochs=1, batch_size=3, progress=False)


class Careless(nn.Module):
    """Lets NaN into its law."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1).double()

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x).squeeze(-1), 1.0))


@pytest.mark.parametrize("law", ["bernoulli", "poisson", "beta", "gamma", "categorical", "dirichlet", "onehot"])
def test_a_number_outside_the_support_that_stands_for_a_missing_one(law):
    """-1 as a label or a count, under a mask: weights and gradients are those of an allowed number in its place."""
    double = {"dtype": torch.float64}
    allowed = {"beta": 0.3, "gamma": 0.3, "dirichlet": torch.tensor([0.2, 0.3, 0.5], **double)}.get(law, 1.0)
    if law == "onehot":
        allowed = torch.tensor([0.0, 1.0, 0.0], **double)
    hidden = torch.tensor([[False, True], [False, False], [True, True]])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.2, **double))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros((), **double), 1.0))
                h = (self.a + z).unsqueeze(-1).expand(*z.shape, 2)
                logits = torch.stack([h, -h, 0 * h], -1)
                p = {
                    "bernoulli": lambda: dist.Bernoulli(logits=h),
                    "poisson": lambda: dist.Poisson(h.exp()),
                    "beta": lambda: dist.Beta(h.exp(), 2.0),
                    "gamma": lambda: dist.Gamma(h.exp(), 2.0),
                    "categorical": lambda: dist.Categorical(logits=logits),
                    "dirichlet": lambda: dist.Dirichlet(logits.exp()),
                    "onehot": lambda: dist.OneHotCategorical(logits=logits),
                }[law]()
                seen = x >= 0 if x.ndim == 2 else (x >= 0).all(-1)
                pyro.sample("x", p.mask(seen).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), **double), 0.7))

    shape = (3, 2, 3) if law in ("dirichlet", "onehot") else (3, 2)
    fine = torch.zeros(shape, **double) + allowed
    hidden = hidden if len(shape) == 2 else hidden.unsqueeze(-1)
    found = []
    for bad in (-1.0, math.nan, -1e200):
        x = fine.masked_fill(hidden, bad)
        model = Model()
        with pyro.validation_enabled(True):
            torch.manual_seed(0)
            weights = log_weights(model, guide, x, 4)
            gradient = torch.autograd.grad(weights.sum(), model.a)[0]
            estimate = log_likelihood(model, guide, x, 20, seed=0).per_datum
            fit(model, guide, x, epochs=1, batch_size=3, progress=False, seed=0)
        found.append(torch.cat([weights.detach().flatten(), gradient[None], estimate, model.a.detach()[None]]))
    assert found[0].isfinite().all()
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])
    # Against the masked log-probability of an allowed number, written out.
    model, z = Model(), torch.full((3,), 0.4, **double)
    with torch.no_grad(), poutine.trace() as traced, poutine.condition(data={"z": z}):
        model(fine)
    by_hand = traced.trace.nodes["x"]["fn"].base_dist.base_dist.log_prob(fine)
    seen = ~hidden if len(shape) == 2 else ~hidden.squeeze(-1)

    def point(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(z, 1e-12))

    recon = elbo_terms(model, point, fine.masked_fill(hidden, -1.0), 1, compile="off").reconstruction.per_datum
    assert_close(recon, (by_hand * seen).sum(-1), rtol=1e-6, atol=1e-6)
