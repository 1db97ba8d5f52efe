"""Parameters of programs: who keeps them, and what a failed run leaves behind."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.testing import assert_close

import pyro_vae
from pyro_vae.programs.modules import local_params
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.undo import Undo, undone_on_failure


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Explicit(PyroModule):
    """A guide that makes its parameter by name in ``forward``, beside one that it owns."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.5).double() ** 0.5, constraint=dist.constraints.positive)

    def forward(self, x):
        slope = pyro.param("slope", x.new_tensor(0.25))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, self.scale))


class Easy(EasyGuide):
    def guide(self, x):
        slope = pyro.param("slope", x.new_tensor(0.25))
        scale = pyro.param("scale", x.new_tensor(0.5**0.5), constraint=dist.constraints.positive)
        with self.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale))


GUIDES = {"PyroModule": Explicit, "EasyGuide": lambda: Easy(model)}


@pytest.fixture(params=GUIDES)
def guide(request):
    return GUIDES[request.param]()


X = torch.linspace(-2, 2, 40).double()


EVIDENCE = dist.Normal(X.new_tensor(0.0), 2**0.5).log_prob(X)
"""Of X, which each weight is at slope 1/2 and variance 1/2."""


def test_a_parameter_named_in_forward_is_the_stores(guide):
    """What the user's own runs set is what evaluations see."""
    pyro_vae.log_weights(model, guide, X, 2)
    assert pyro.param("slope").item() == 0.25
    with torch.no_grad():
        pyro.param("slope").fill_(0.5)
    weights = pyro_vae.log_weights(model, guide, X, 5)
    assert_close(weights, EVIDENCE.expand(5, -1), rtol=1e-7, atol=1e-7)
    found = pyro_vae.log_likelihood(model, guide, X, 20, seed=0)
    assert_close(found.per_datum, EVIDENCE, rtol=1e-7, atol=1e-7)


def test_what_svi_has_fitted_is_what_is_evaluated(guide):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(300):
        svi.step(X)
    slope = pyro.param("slope").item()
    assert slope == pytest.approx(0.5, abs=0.1)
    elbo = pyro_vae.evaluation.elbo_terms(model, guide, X, 200, seed=0).elbo
    assert elbo.mean > EVIDENCE.mean() - 0.05


@pytest.mark.parametrize("compile", ["off", "trace"])
def test_fit_trains_it_and_the_users_runs_see_it(guide, compile):
    optimizer = torch.optim.Adam
    run = pyro_vae.fit(
        model, guide, X, epochs=200, batch_size=40, compile=compile, optimizer=lambda ps: optimizer(ps, lr=0.02)
    )
    assert run.compiled == compile
    assert pyro.param("slope").item() == pytest.approx(0.5, abs=0.1)
    torch.manual_seed(0)
    with pyro.poutine.trace() as recorded:
        guide(X)
    assert recorded.trace.nodes["slope"]["value"].item() == pytest.approx(0.5, abs=0.1)


def test_two_modules_keep_what_they_own():
    """The parameter that a module owns stays its own, whatever another one of its class is called."""
    first, second = Explicit(), Explicit()
    with torch.no_grad():
        second.scale = torch.tensor(2.0).double()
    scales = []
    for module in (first, second):
        with local_params(module), pyro.poutine.trace() as recorded:
            module(X)
        scales.append(recorded.trace.nodes["z"]["fn"].scale[0].item())
    assert scales == pytest.approx([0.5**0.5, 2.0])


def test_the_users_local_setting_keeps_its_rules():
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(True):
        module = Explicit()
        with local_params(module), pytest.raises(NotImplementedError, match=r"global pyro\.param"):
            module(X)


# ---------------------------------------------------------------- what a failed run leaves behind


class PerDatum(EasyGuide):
    def guide(self, x):
        loc = pyro.param("loc", x.clone())
        with self.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))


def broken(x):
    model(x)
    raise RuntimeError("no luck")


@pytest.mark.parametrize("make", [lambda: PerDatum(model), lambda: AutoNormal(model)])
def test_a_failed_probe_leaves_a_guide_that_has_not_run(make):
    guide = make()
    with pytest.raises(ValueError, match="no luck"):
        Pair(broken, guide, X[:7])
    assert list(pyro.get_param_store()) == []
    assert list(guide.parameters()) == []
    # It makes its parameters now, for the data that it is run on.
    assert pyro_vae.log_weights(model, guide, X, 2).shape == (2, 40)


@pytest.mark.parametrize("make", [lambda: PerDatum(model), lambda: AutoNormal(model)])
def test_a_failed_probe_leaves_a_guide_that_has_run(make):
    guide = make()
    guide(X)
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    before |= {name: value.clone() for name, value in guide.named_parameters()}
    with pytest.raises(ValueError, match=r"for 40 data, .*7 were given"):
        Pair(model, guide, X[:7])
    after = dict(pyro.get_param_store().items()) | dict(guide.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    guide(X)


def test_undo_lists_what_was_made_and_takes_it_back():
    module = PyroModule("m")
    module.kept, module.grows = [1], {"a": 1}
    undo = Undo(module)
    with local_params(module):
        module.new = PyroParam(torch.ones(3))
        module.kept.append(2)
        module.grows["b"] = 2
        pyro.param("loose", torch.zeros(2))
    assert sorted(tuple(made.shape) for made in undo.made) == [(2,), (3,)]
    kept = module.kept
    undo()
    assert undo.made == []
    assert (module.kept, module.grows, list(module.parameters())) == ([1], {"a": 1}, [])
    assert module.kept is kept
    assert list(pyro.get_param_store()) == []


def test_what_does_not_fail_stays():
    module = PyroModule("m")
    with undone_on_failure(module):
        module.new = PyroParam(torch.ones(3))
    assert len(list(module.parameters())) == 1
