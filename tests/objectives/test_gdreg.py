"""GDReG, and DReG on hierarchies: the paper's formula by hand, and their means against IWAE's of the same draws."""

import pyro
import pytest
import torch
from layered_toy import Layers
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import fit
from pyro_vae.models import LinearGaussianChain
from pyro_vae.objectives import IWAE, DReG, GDReG
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.testing import ObjectiveSuite

ROWS = 20_000
"""Draws of a gradient in the tests of its mean."""

LIMIT = 4.0
"""Of the z-score of each coordinate's mean paired difference to IWAE's gradient. A layered pair has 36 to 70
coordinates: with a chance of 6e-5 each, noise alone breaks it once in 240 or more pairs. Seeds are fixed."""


def largest_z_score(draws, others):
    """Of the mean paired difference over rows, over all coordinates of all parameters."""
    scores = []
    for name, draw in draws.items():
        difference = draw - others[name]
        error = difference.std(0) / len(difference) ** 0.5
        # Where both compute one thing, rounding is all there is.
        same = error < 1e-12 * (1 + draw.abs().mean(0))
        scores.append(torch.where(same, 0.0, difference.mean(0).abs() / error).max())
    return torch.stack(scores).max().item()


def variance_ratio(draws, others, group):
    """Of all coordinates of the parameters of one law."""
    names = [name for name in draws if name.startswith(group)]
    return float(sum(draws[n].var(0).sum() for n in names) / sum(others[n].var(0).sum() for n in names))


HIERARCHIES = [
    pytest.param(layers, order, linear, marks=() if (layers, linear) == (2, False) else pytest.mark.slow)
    for layers, linear in ((2, False), (2, True), (3, True))
    for order in ("bottom_up", "top_down", "shared")
]


@pytest.mark.parametrize(("layers", "order", "linear"), HIERARCHIES)
def test_the_mean_gradient_is_iwaes_on_hierarchies(layers, order, linear):
    """Of each parameter of guide and model, also where both use it; and the guide's variance is smaller."""
    toy = Layers(ROWS, layers, order, linear)
    plain, double, generalized = (toy.gradients(objective) for objective in (IWAE(3), DReG(3), GDReG(3)))
    assert largest_z_score(double, plain) < LIMIT
    assert largest_z_score(generalized, plain) < LIMIT
    for layer in range(1, layers + 1):
        assert variance_ratio(generalized, plain, f"q{layer}") < 1
    # What all draws of x depend on is nearest to it; there the prior's gradient is less noisy for each guide here.
    assert variance_ratio(generalized, plain, "p1") < 1
    # The likelihood's gradient is IWAE's own.
    assert_close(generalized["p0.weight"], plain["p0.weight"], rtol=1e-8, atol=1e-8)


class Priors:
    """One datum of two dims, ``rows`` copies with a prior's parameters ``a`` and ``b`` of their own.

    Args:
        prior: makes p(z) from a and b, ``(rows, 2)``; the guide is of the same kind, from its own.
    """

    def __init__(self, rows, prior, guide=None):
        self.prior, self.law = prior, guide or prior
        self.parameters = {
            name: torch.full((rows, 2), value, dtype=torch.float64, requires_grad=True)
            for name, value in (("p.a", 0.2), ("p.b", 0.1), ("q.a", 0.5), ("q.b", -0.4))
        }
        self.x = torch.tensor([0.7, 1.4], dtype=torch.float64).expand(rows, 2)

    def model(self, x):
        n = len(x)
        with pyro.plate("data", n):
            z = pyro.sample("z", self.prior(self.parameters["p.a"][:n], self.parameters["p.b"][:n]))
            pyro.sample("x", dist.Normal(z + 0.3 * z.sin(), 0.8).to_event(1), obs=x)

    def guide(self, x):
        n = len(x)
        with pyro.plate("data", n):
            pyro.sample("z", self.law(self.parameters["q.a"][:n], self.parameters["q.b"][:n]))

    gradients = Layers.gradients


def normal(a, b):
    return dist.Normal(a, b.exp()).to_event(1)


LAWS = {
    "normal": normal,
    "laplace": lambda a, b: dist.Laplace(a, b.exp()).to_event(1),
    "log-normal": lambda a, b: dist.LogNormal(a, b.exp()).to_event(1),
    "multivariate": lambda a, b: dist.MultivariateNormal(
        a, scale_tril=b.exp().diag_embed() + torch.tensor([[0.0, 0.0], [0.6, 0.0]], dtype=torch.float64)
    ),
    "half-normal": lambda a, b: dist.HalfNormal((a + b).exp()).to_event(1),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_the_mean_gradient_is_iwaes_for_laws_whose_draws_are_known(law):
    toy = Priors(ROWS, law)
    plain, generalized = toy.gradients(IWAE(3)), toy.gradients(GDReG(3))
    assert largest_z_score(generalized, plain) < LIMIT
    assert (generalized["p.a"] - plain["p.a"]).abs().max() > 0.01, "the prior's gradient is IWAE's own"


@pytest.mark.parametrize("beta", [0.3, 4.0])
def test_the_mean_gradient_is_iwaes_under_a_kl_weight(beta):
    for toy in (Priors(ROWS, normal), Layers(ROWS, 2, "bottom_up")):
        with KLWeight(torch.tensor(beta).double()):
            plain, generalized = toy.gradients(IWAE(3)), toy.gradients(GDReG(3))
        assert largest_z_score(generalized, plain) < LIMIT


MASKS = {
    "of the law": lambda law: law.mask(torch.tensor(False)),
    "of one element": lambda law: law.base_dist.mask(torch.tensor([True, False])).to_event(1),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_the_mean_gradient_is_iwaes_where_a_law_masks_what_the_decoder_reads(mask):
    """What a mask hides is drawn, and not in the weights; DReG's gradient of the guide is held to it as well."""

    def masked(a, b):
        return mask(normal(a, b))

    toy = Priors(ROWS, masked)
    plain = toy.gradients(IWAE(3))
    for objective in (DReG(3), GDReG(3)):
        draws = toy.gradients(objective)
        assert largest_z_score(draws, plain) < LIMIT
        assert draws["p.a"][:, 1].abs().max() == 0


def test_the_priors_gradient_is_the_papers_formula():
    """With derivatives in z by hand: z + 0.3 sin z is a decoder of slope 1 + 0.3 cos z."""
    toy = Priors(6, normal)
    values = {name: value.detach() for name, value in toy.parameters.items()}
    torch.manual_seed(0)
    noise = torch.randn(5, 6, 2, dtype=torch.float64)
    z = values["q.a"] + values["q.b"].exp() * noise
    decoder = dist.Normal(z + 0.3 * z.sin(), 0.8)
    p, q = dist.Normal(values["p.a"], values["p.b"].exp()), dist.Normal(values["q.a"], values["q.b"].exp())
    log_weight = (decoder.log_prob(toy.x) + p.log_prob(z) - q.log_prob(z)).sum(-1)
    w = log_weight.softmax(0).unsqueeze(-1)
    of_x = (toy.x - decoder.mean) / 0.8**2 * (1 + 0.3 * z.cos())
    of_weight = of_x - (z - p.mean) / p.variance + (z - q.mean) / q.variance
    slope = w * of_x - w.square() * of_weight
    found = toy.gradients(GDReG(5))
    assert_close(found["p.a"], slope.sum(0), rtol=1e-9, atol=1e-9)
    assert_close(found["p.b"], (slope * (z - values["p.a"])).sum(0), rtol=1e-9, atol=1e-9)


def test_the_score_is_kept_for_laws_whose_draws_are_not_known():
    """A mixture, and a site whose support differs in guide and model: the model's gradient is IWAE's to rounding."""

    def mixture(a, b):
        components = dist.Normal(torch.stack([a, a + 1], -1), b.exp().unsqueeze(-1))
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), components).to_event(1)

    for toy in (Priors(6, mixture, normal), Priors(6, LAWS["half-normal"], normal)):
        plain, generalized = toy.gradients(IWAE(4)), toy.gradients(GDReG(4))
        for name in ("p.a", "p.b"):
            assert_close(generalized[name], plain[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [0.8, 2.0])
def test_at_the_posterior_the_variance_is_told_by_how_much_x_says(noise):
    """Of the loc of N(a, s_p^2): (s_p^2 / noise^2)^2 times IWAE's, within 6 % (4 standard errors of 20 000 draws)."""
    scale, rows = 1.1, ROWS
    loc = torch.zeros(rows, dtype=torch.float64, requires_grad=True)
    x = torch.full((rows,), 0.7, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc[: len(x)], scale))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    def posterior(x):
        precision = scale**-2 + noise**-2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / noise**2 / precision, precision**-0.5))

    variances = []
    for objective in (IWAE(5), GDReG(5)):
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(objective.differentiable_loss(model, posterior, x), loc)
        variances.append(gradient.var().item())
    assert variances[1] / variances[0] == pytest.approx((scale / noise) ** 4, rel=0.06)


def refusing(program, most_dims):
    """The program, which fails where a layer has more dims."""

    def run(x):
        with pyro.poutine.trace() as recorded:
            program(x)
        for name in recorded.trace.stochastic_nodes:
            if recorded.trace.nodes[name]["value"].ndim > most_dims:
                raise ValueError("one batch dim only")

    return run


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_repeated_rows_have_the_gradient_of_an_outer_plate(order):
    """Of the same noise: a pair that refuses a second batch dim has its samples in the batch."""
    torch.manual_seed(0)
    model, guide = LinearGaussianChain(4, 2, (3,)).double(), LinearGaussianChain(4, 2, (3,)).double()
    x, parameters = torch.randn(5, 4).double(), [*model.parameters(), *guide.parameters()]
    found = []
    for program in (model, refusing(model, 2)):
        objective = GDReG(3)
        # The first call learns how the pair's samples lie, which draws.
        objective.loss(program, getattr(guide, order), x)
        torch.manual_seed(1)
        loss = objective.differentiable_loss(program, getattr(guide, order), x)
        found.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_the_mean_gradient_is_iwaes_where_samples_are_run_one_by_one(order, caplog):
    """The parameters have a row for each datum, so that data cannot be repeated."""
    toy = Layers(ROWS, 2, order, linear=False)
    toy.model = refusing(toy.model, 2)
    plain, generalized = toy.gradients(IWAE(2)), toy.gradients(GDReG(2))
    assert any("one by one" in message for message in caplog.messages)
    assert largest_z_score(generalized, plain) < LIMIT
    assert variance_ratio(generalized, plain, "p1") < 1


@pytest.mark.slow
@pytest.mark.parametrize(("level", "order"), [("trace", "bottom_up"), ("trace", "top_down"), ("inductor", "top_down")])
def test_recorded_steps_train_a_hierarchy_as_eager_ones(level, order):
    ends = []
    for compile in (level, "off"):
        torch.manual_seed(0)
        model, other = LinearGaussianChain(4, 2, (3,)).double(), LinearGaussianChain(4, 2, (3,)).double()

        class Guide(torch.nn.Module):
            def __init__(self, other=other):
                super().__init__()
                self.other = other

            def forward(self, x):
                return getattr(self.other, order)(x)

        x = torch.randn(40, 4).double()
        run = fit(model, Guide(), x, objective=GDReG(3), epochs=2, batch_size=10, compile=compile, seed=0)
        assert run.compiled == compile
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["bottom_up", "top_down", "shared"])
@pytest.mark.parametrize("by_kl_weight", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_mean_gradient_is_iwaes_where_layers_have_weights_of_their_own(order, by_kl_weight):
    """By a KL weight for each layer, or by a scale around one site, in guide and model."""
    weights = {"z1": torch.tensor(0.4).double(), "z2": torch.tensor(2.5).double()}
    toy = Layers(ROWS, 2, order, linear=False)
    with KLWeight(torch.ones(()).double(), weights) if by_kl_weight else Scaled("z2", 2.5):
        plain, double, generalized = (toy.gradients(objective) for objective in (IWAE(3), DReG(3), GDReG(3)))
    assert largest_z_score(double, plain) < LIMIT
    assert largest_z_score(generalized, plain) < LIMIT


@pytest.mark.parametrize("objective", [DReG(3), GDReG(3)])
def test_equal_weights_by_layer_have_the_gradient_of_one_weight(objective):
    """Draw by draw, where one weight takes another way; and weights that were equal in a first step may then differ."""
    toy = Layers(6, 2, "bottom_up")
    half = torch.tensor(0.5).double()
    with KLWeight(half):
        exact = toy.gradients(objective)
    fresh = type(objective)(3)
    weights = {"z1": half.clone(), "z2": half.clone()}
    with KLWeight(torch.ones(()).double(), weights):
        found = toy.gradients(fresh)
        for name, gradient in exact.items():
            assert_close(found[name], gradient, rtol=1e-8, atol=1e-8, msg=name)
        weights["z2"].fill_(2.0)
        later, anew = toy.gradients(fresh), toy.gradients(type(objective)(3))
    for name, gradient in anew.items():
        assert_close(later[name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def test_a_guide_whose_draws_are_not_known_has_its_score_under_weights_by_layer():
    """A Gamma law's draws are differentiated, but no T of it is known."""

    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.Gamma(parameters["p.a"][: len(x)].exp(), 1.0))
            z = pyro.sample("z", dist.Normal(parameters["p.b"][: len(x)], scale.sqrt()))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.Gamma(parameters["q.a"][: len(x)].exp(), 1.5))
            pyro.sample("z", dist.Normal(parameters["q.b"][: len(x)] + 0.3 * scale, 0.7))

    parameters = {
        name: torch.full((ROWS,), value, dtype=torch.float64, requires_grad=True)
        for name, value in (("p.a", 0.9), ("p.b", 0.1), ("q.a", 1.1), ("q.b", 0.3))
    }
    x = torch.full((ROWS,), 0.8, dtype=torch.float64)
    gradients = {}
    for objective in (IWAE(3), DReG(3), GDReG(3)):
        torch.manual_seed(0)
        with Scaled("scale", 0.5):
            loss = objective.differentiable_loss(model, guide, x)
        values = torch.autograd.grad(loss, list(parameters.values()))
        gradients[type(objective)] = {
            name: value.unsqueeze(1) for name, value in zip(parameters, values, strict=True)
        }  # fmt: skip
    assert largest_z_score(gradients[DReG], gradients[IWAE]) < LIMIT
    assert largest_z_score(gradients[GDReG], gradients[IWAE]) < LIMIT


class Scaled(pyro.poutine.messenger.Messenger):
    """Scales the log-probability of one site."""

    def __init__(self, name, scale):
        super().__init__()
        self.name, self.scale = name, scale

    def _pyro_sample(self, msg):
        if msg["name"] == self.name:
            msg["scale"] = msg["scale"] * self.scale


class TestContract(ObjectiveSuite):
    part = "gdreg(num_particles=3)"
    needs_reparameterized_samples = True
