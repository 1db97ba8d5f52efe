"""Which guides have a density of z: those whose weights have the mean p(x), held against the exact evidence."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions.transforms import AffineTransform
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from torch import nn
from torch.testing import assert_close

from pyro_vae import (
    ais,
    elbo_terms,
    evidence_budget,
    fit,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    log_weights,
    sbc,
    to_inference_data,
)
from pyro_vae.errors import PairError
from pyro_vae.guides import AuxiliaryGuide
from pyro_vae.models import VAE

ZERO = torch.zeros((), dtype=torch.float64)
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def model(x):
    """z ~ N(0, 1), x | z ~ N(z, 1): p(x) = N(0, 2)."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def positive_model(x):
    """Two sites, the second on the positive half line: log w ~ N(0, 1), so that log w has the posterior of z above."""
    with pyro.plate("data", len(x), dim=-1):
        w = pyro.sample("w", dist.LogNormal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(w.log(), 1.0), obs=x)


def evidence(x):
    return dist.Normal(ZERO, torch.tensor(2.0).double().sqrt()).log_prob(x)


def posterior(x):
    return dist.Normal(x / 2, torch.tensor(0.5).double().sqrt())


def data(n=7):
    return torch.linspace(-2, 2, n, dtype=torch.float64)


def exact_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        return pyro.sample("z", posterior(x))


# ---------------------------------------------------------------- factors


def with_loss(x, weight=10.0):
    """An exact guide with a classification loss, as scANVI has it."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", posterior(x))
        pyro.factor(
            "classification_loss", weight * dist.Bernoulli(logits=z).log_prob(torch.ones_like(z)), has_rsample=False
        )


def with_label(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", posterior(x))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=torch.ones_like(x), infer={"is_auxiliary": True})


def with_constant(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", posterior(x))
        pyro.factor("constant", torch.full_like(x, 3.0), has_rsample=True)


EVALUATIONS = {
    "log_weights": lambda guide, x: log_weights(model, guide, x, 5),
    "log_likelihood": lambda guide, x: log_likelihood(model, guide, x, 50),
    "elbo_terms": lambda guide, x: elbo_terms(model, guide, x, 5),
    "evidence_budget": lambda guide, x: evidence_budget(model, guide, x),
    "latent_statistics": lambda guide, x: latent_statistics(model, guide, x),
    "inference_gaps": lambda guide, x: inference_gaps(model, guide, x, num_samples=10),
    "to_inference_data": lambda guide, x: to_inference_data(model, guide, x, num_samples=5),
}


@pytest.mark.parametrize("evaluate", EVALUATIONS)
@pytest.mark.parametrize(
    ("guide", "name"),
    [(with_loss, "classification_loss"), (with_label, "y"), (with_constant, "constant")],
    ids=["loss", "label", "constant"],
)
def test_what_is_no_density_is_refused_by_name_in_every_evaluation(evaluate, guide, name):
    with pytest.raises(PairError, match=rf"{evaluate}: .*hide=\['{name}'\]"):
        EVALUATIONS[evaluate](guide, data())


def test_without_its_factor_the_guide_is_as_good_as_it_is():
    x = data()
    for guide, name in ((with_loss, "classification_loss"), (with_label, "y"), (with_constant, "constant")):
        found = log_weights(model, poutine.block(guide, hide=[name]), x, 5)
        assert_close(found, evidence(x).expand(5, -1), **EXACT)


def test_chains_that_start_from_such_a_guide_are_refused_and_ranks_of_its_draws_are_not():
    with pytest.raises(ValueError, match=r"sites of its own .*the prior"):
        ais(model, data(), guide=with_loss)
    assert sbc(model, with_loss, data(), num_data=60, num_draws=9, seed=0).calibrated


def test_training_goes_on_as_in_pyro_and_says_that_its_bound_is_none(caplog):
    weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", posterior(x))
                pyro.factor("loss", (self.weight - 2).square().expand(len(x)), has_rsample=True)

    x = data(20)
    with caplog.at_level("WARNING", logger="pyro_vae"):
        fit(
            model,
            Guide(),
            x,
            epochs=5,
            batch_size=20,
            optimizer=lambda p: torch.optim.SGD(p, lr=1 / 40),
            progress=False,
        )
    assert "trains as Pyro does, and its bounds are none on log p(x): the guide has no density: what it" in caplog.text
    assert_close(weight.item(), 2.0)


# ---------------------------------------------------------------- auxiliary variables


def auxiliary_guide(x, factors=("reverse",), back=1.0):
    """q(v | x) q(z | v) with the exact reverse density: each weight is that of q(z | x)."""
    s, t = 0.5, 0.8
    with pyro.plate("data", len(x), dim=-1):
        v = pyro.sample("v", dist.Normal(x / 2, s), infer={"is_auxiliary": True})
        z = pyro.sample("z", dist.Normal(v, t))
        precision = s**-2 + t**-2
        r = dist.Normal((x / 2 / s**2 + back * z / t**2) / precision, precision**-0.5)
        if "reverse" in factors:
            pyro.factor("reverse", -r.log_prob(v), has_rsample=True)
        if "loss" in factors:
            pyro.factor("loss", z.square(), has_rsample=True)
    return z


def test_a_reverse_density_enters():
    x = data()
    found = log_likelihood(model, auxiliary_guide, x, 20_000, seed=0)
    assert found.bound
    assert ((found.per_datum - evidence(x)).abs() < 5 * found.standard_errors).all()


def test_a_loss_beside_a_reverse_density_or_without_one_is_refused():
    for factors, name in ((("reverse", "loss"), "loss"), (("loss",), "loss")):
        with pytest.raises(PairError, match=rf"'{name}' is no part of a density"):
            log_weights(model, lambda x, factors=factors: auxiliary_guide(x, factors), data())
    found = log_weights(model, poutine.block(lambda x: auxiliary_guide(x, ("reverse", "loss")), hide=["loss"]), data())
    assert found.isfinite().all()


def test_an_auxiliary_variable_without_a_reverse_density_is_refused():
    """Its weight has no mean: the integral of 1 over all v."""
    with pytest.raises(PairError, match="draws 'v' beside"):
        log_weights(model, lambda x: auxiliary_guide(x, ()), data())


def test_the_packages_own_auxiliary_guide_has_one():
    x = torch.rand(5, 4).round()
    assert log_weights(VAE((4,), 2, (3,)), AuxiliaryGuide((4,), 2, (3,)), x, 3).isfinite().all()


# ---------------------------------------------------------------- point masses


class Wrapped:
    """Guides whose site is a point mass, under each law that can hide one."""

    @staticmethod
    def plain(x):
        return dist.Delta(x / 2)

    @staticmethod
    def with_log_density(x):
        return dist.Delta(x / 2, log_density=torch.full_like(x, 0.3))

    @staticmethod
    def masked(x):
        return dist.Delta(x / 2).mask(torch.ones_like(x, dtype=torch.bool))

    @staticmethod
    def masked_away(x):
        return dist.Delta(x / 2).mask(False)

    @staticmethod
    def transformed(x):
        return dist.TransformedDistribution(dist.Delta(x / 2), [AffineTransform(0.5, 2.0)])

    @staticmethod
    def expanded(x):
        return dist.Delta(x[:1]).expand(x.shape)

    @staticmethod
    def masked_mixture(x):
        return dist.MaskedMixture(x > 0, dist.Delta(x / 2), posterior(x))

    @staticmethod
    def mixture(x):
        both = dist.Delta(torch.stack([x / 2, -x / 2], -1))
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2).double()), both)

    @staticmethod
    def spike_and_slab(x):
        return dist.ZeroInflatedDistribution(posterior(x), gate=torch.full_like(x, 0.5))

    @staticmethod
    def empirical(x):
        return dist.Empirical(torch.stack([x, x / 2], -1), torch.zeros(len(x), 2).double())


@pytest.mark.parametrize("name", [name for name in vars(Wrapped) if not name.startswith("_")])
def test_a_point_mass_is_refused_whatever_it_is_wrapped_in(name):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", getattr(Wrapped, name)(x))

    for evaluate in (log_weights, log_likelihood):
        with pytest.raises(PairError, match=r"'z'.*(point mass|single points)"):
            evaluate(model, guide, data(), 5)


def amortized_map(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", Wrapped.plain(x))


@pytest.mark.parametrize("evaluate", EVALUATIONS)
def test_map_estimates_are_refused_in_every_evaluation_and_told_what_works(evaluate):
    # Gaps refuse what takes all data at once, for another reason.
    guide = amortized_map if evaluate == "inference_gaps" else AutoDelta(model)
    with pytest.raises(PairError, match=f"{evaluate}: .*'z' is a point mass"):
        EVALUATIONS[evaluate](guide, data())


def test_map_is_trained_with_a_line_and_its_draws_can_be_exported(caplog):
    net = nn.Linear(1, 1).double()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(net(x.unsqueeze(-1)).squeeze(-1)))

    x = data(40)
    with caplog.at_level("WARNING", logger="pyro_vae"):
        fit(model, guide, x, epochs=60, batch_size=40, optimizer=lambda p: torch.optim.SGD(p, lr=0.01), progress=False)
    assert caplog.text.count("its bounds are none on log p(x)") == 1
    # The mode of p(z | x) is x / 2.
    assert_close(net(x.unsqueeze(-1)).squeeze(-1).detach(), x / 2, rtol=0, atol=1e-3)
    groups = ("posterior", "posterior_predictive", "observed_data")
    found = to_inference_data(model, guide, x, num_samples=3, num_chains=1, groups=groups)
    assert_close(torch.tensor(found["posterior"]["z"].values[0, 0]), net(x.unsqueeze(-1)).squeeze(-1).detach())


def two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        w = pyro.sample("w", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z + 0 * w, 1.0), obs=x)


def test_one_point_mass_among_several_sites_is_refused_by_its_name():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))
            pyro.sample("w", dist.Delta(torch.zeros_like(x)))

    with pytest.raises(PairError, match="site 'w' is a point mass"):
        log_weights(two_sites, guide, data())
    parts = AutoGuideList(two_sites)
    parts.append(AutoNormal(poutine.block(two_sites, expose=["z"])))
    parts.append(AutoDelta(poutine.block(two_sites, expose=["w"])))
    with pytest.raises(PairError, match="site 'w' is a point mass"):
        log_weights(two_sites, parts, data())


def test_a_deterministic_relation_of_the_models_own_is_right():
    """w = 2 z in model and guide is no variable: the weights are those of z."""

    def related(x, factor):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            w = pyro.sample("w", dist.Delta(2 * z))
            pyro.sample("x", dist.Normal(w / 2, 1.0), obs=x)

    def guide(x, factor):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", posterior(x))
            pyro.sample("w", dist.Delta(factor * z))

    x = data()
    assert_close(log_weights(related, guide, (x, 2), 4), evidence(x).expand(4, -1), **EXACT)
    with pytest.raises(PairError, match=r"'w' is .* but not the same one"):
        log_weights(related, guide, (x, 3), 4)

    def free(x, factor):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))
            pyro.sample("w", posterior(x))

    with pytest.raises(PairError, match=r"'w' .*no draw of the guide hits"):
        log_weights(related, free, (x, 2), 4)


# ---------------------------------------------------------------- changes of variables


@pytest.mark.parametrize(("density", "right"), [("jacobian", True), ("none", False), ("wrong", False)])
def test_a_delta_that_carries_its_jacobian_is_the_density_of_its_variable(density, right):
    """u ~ q, w = exp(u), log q(w) = log q(u) - u: the exact posterior, so that each weight is the evidence."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", posterior(x), infer={"is_auxiliary": True})
            log_density = {"jacobian": -u, "none": torch.zeros_like(u), "wrong": -u + 0.1}[density]
            pyro.sample("w", dist.Delta(u.exp(), log_density=log_density))

    x = data()
    if right:
        assert_close(log_weights(positive_model, guide, x, 4), evidence(x).expand(4, -1), **EXACT)
    else:
        with pytest.raises(PairError, match="'w' is a function of 'u'"):
            log_weights(positive_model, guide, x, 4)


def simplex_model(x):
    """A Dirichlet latent under no observation of it: p(x) is N(0, 1)'s."""
    with pyro.plate("data", len(x), dim=-1):
        w = pyro.sample("w", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).double()))
        r = pyro.sample("r", dist.Gamma(torch.tensor(2.0).double(), 1.0))
        pyro.sample("x", dist.Normal(0 * (w[..., 0] + r), 1.0), obs=x)


class Easy(EasyGuide):
    def guide(self, x):
        group = self.group(match=".*")
        with self.plate("data", len(x), dim=-1):
            group.sample("u", dist.Normal(torch.zeros(len(x), *group.event_shape).double(), 0.9).to_event(1))


@pytest.mark.parametrize("kind", ["AutoNormal", "EasyGuide"])
def test_pyros_guides_by_change_of_variables_are_right(kind):
    """The mean weight is p(x), whatever the guide, within 5 standard errors: on a simplex, on half lines."""
    x = torch.linspace(-1, 1, 5).double()
    program, exact = (simplex_model, dist.Normal(ZERO, 1.0)) if kind == "AutoNormal" else (positive_model, None)
    torch.set_default_dtype(torch.float64)
    guide = AutoNormal(program, init_scale=0.9) if kind == "AutoNormal" else Easy(program)
    guide(x)
    torch.set_default_dtype(torch.float32)
    weights = torch.cat([log_weights(program, guide, x, 500).detach() for _ in range(20)]).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    log_p = evidence(x) if exact is None else exact.log_prob(x)
    assert ((weights.mean(0) - log_p.exp()).abs() < 5 * error).all()


def test_fewer_variables_than_point_masses_are_no_density():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))
            pyro.sample("w", dist.Delta(u))

    with pytest.raises(PairError, match="site 'z', 'w' is a point mass"):
        log_weights(two_sites, guide, data())


def test_a_loss_beside_a_change_of_variables_is_refused():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", posterior(x), infer={"is_auxiliary": True})
            z = pyro.sample("z", dist.Delta(u))
            pyro.factor("loss", z.square(), has_rsample=True)

    with pytest.raises(PairError, match="'loss' is no part of a density"):
        log_weights(model, guide, data())


@pytest.mark.parametrize("where", ["guide", "model"])
def test_a_discrete_law_of_a_continuous_variable_is_no_density(where):
    def discrete(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5).double()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def continuous(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))

    pair = (model, poutine.block(discrete, hide=["x"])) if where == "guide" else (discrete, continuous)
    with pytest.raises(PairError, match=r"'z' is .* in the model and"):
        log_weights(*pair, data())
