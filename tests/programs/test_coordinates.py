"""Maps onto supports: every continuous law of Pyro is normalized where its map leads, or refused by name."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform

from pyro_vae.errors import PairError
from pyro_vae.evaluation import ais, inference_gaps, log_likelihood
from pyro_vae.programs.coordinates import onto_support
from pyro_vae.programs.joint import Joint


def real(value):
    return torch.tensor(value, dtype=torch.float64)


ZERO, ONE, TWO, THREE = map(real, (0.0, 1.0, 2.0, 3.0))

LAWS = {
    "affine_beta": lambda: dist.AffineBeta(TWO, THREE, -ONE, TWO),
    "asymmetric_laplace": lambda: dist.AsymmetricLaplace(ZERO, ONE, TWO),
    "beta": lambda: dist.Beta(TWO, THREE),
    "chi2": lambda: dist.Chi2(THREE),
    "continuous_bernoulli": lambda: dist.ContinuousBernoulli(real(0.3)),
    "exponential": lambda: dist.Exponential(ONE),
    "folded": lambda: dist.FoldedDistribution(dist.Normal(ONE, ONE)),
    "gamma": lambda: dist.Gamma(TWO, ONE),
    "gumbel": lambda: dist.Gumbel(ZERO, ONE),
    "half_normal": lambda: dist.HalfNormal(ONE),
    "inverse_gamma": lambda: dist.InverseGamma(THREE, ONE),
    "kumaraswamy": lambda: dist.Kumaraswamy(TWO, TWO),
    "laplace": lambda: dist.Laplace(ZERO, ONE),
    "log_normal": lambda: dist.LogNormal(ZERO, ONE),
    "logistic": lambda: dist.Logistic(ZERO, ONE),
    "normal": lambda: dist.Normal(ONE, TWO),
    "pareto": lambda: dist.Pareto(ONE, THREE),
    "relaxed_bernoulli": lambda: dist.RelaxedBernoulli(real(0.7), probs=real(0.3)),
    "soft_laplace": lambda: dist.SoftLaplace(ZERO, ONE),
    "uniform": lambda: dist.Uniform(ONE, TWO),
    "weibull": lambda: dist.Weibull(ONE, TWO),
    # Declared on the reals, and not normalized there:
    "von_mises": lambda: dist.VonMises(ONE, TWO),
    "masked_von_mises": lambda: dist.VonMises(ONE, TWO).mask(True),
    "skewed": lambda: dist.SineSkewed(dist.VonMises(ONE.reshape(1), ONE).to_event(1), real([0.4])),
    "mixture_of_angles": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2).double()), dist.VonMises(real([0.0, 3.0]), TWO)
    ),
    "turned": lambda: dist.TransformedDistribution(dist.VonMises(ZERO, TWO), [AffineTransform(ONE, TWO)]),
    "shifted_exponential": lambda: dist.TransformedDistribution(dist.Exponential(ONE), [AffineTransform(-TWO, ONE)]),
    "mirrored_gamma": lambda: dist.TransformedDistribution(dist.Gamma(TWO, ONE), [AffineTransform(ZERO, -ONE)]),
    "shifted_twice": lambda: dist.TransformedDistribution(
        dist.TransformedDistribution(dist.Exponential(ONE), [AffineTransform(-TWO, ONE)]), [ExpTransform()]
    ),
    "logit": lambda: dist.TransformedDistribution(dist.Uniform(ZERO, ONE), [SigmoidTransform().inv]),
    "stretched_logit_normal": lambda: dist.TransformedDistribution(
        dist.Normal(ZERO, ONE), [SigmoidTransform(), AffineTransform(ONE, THREE)]
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_normalized_where_its_map_leads(name):
    """The trapezoidal rule over coordinates, which the density leaves at neither end."""
    law = LAWS[name]()
    law._validate_args = False
    onto = onto_support(law)
    u = torch.linspace(-45, 45, 90_001).double()
    points = u.reshape(-1, *law.event_shape)
    value = onto(points)
    density = (law.log_prob(value) + onto.log_abs_det_jacobian(points, value)).exp()
    assert torch.trapezoid(density, u).item() == pytest.approx(1, abs=1e-6)
    drawn = law.sample((50,))
    torch.testing.assert_close(onto(onto.inv(drawn)), drawn)


def test_two_angles_on_a_torus():
    law = dist.SineBivariateVonMises(ZERO, ONE, ONE, TWO, real(0.3), validate_args=False)
    onto = onto_support(law)
    grid = torch.linspace(-30, 30, 601).double()
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    value = onto(points)
    density = (law.log_prob(value) + onto.log_abs_det_jacobian(points, value)).exp()
    assert torch.trapezoid(torch.trapezoid(density, grid), grid).item() == pytest.approx(1, abs=1e-4)


# ---------------------------------------------------------------- pairs


def angle_model(x):
    with pyro.plate("data", len(x), dim=-1):
        angle = pyro.sample("angle", dist.VonMises(x.new_tensor(2.5), 1.0))
        mean = torch.stack([angle.cos(), angle.sin()], -1)
        pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)


def angle_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("angle", dist.VonMises(torch.atan2(x[:, 1], x[:, 0]), 1.5))


def angle_evidence(x):
    angle = torch.linspace(-math.pi, math.pi, 4001).double()[:-1]
    mean = torch.stack([angle.cos(), angle.sin()], -1)
    log_joint = dist.Normal(mean, 0.7).log_prob(x.unsqueeze(1)).sum(-1)
    log_joint = log_joint + dist.VonMises(real(2.5), ONE).log_prob(angle)
    return log_joint.logsumexp(-1) + math.log(2 * math.pi / 4000)


def test_the_evidence_of_angles_is_the_integral_over_the_circle():
    x = torch.tensor([[-0.9, 0.2], [0.5, 0.5], [-1.0, -0.3]]).double()
    truth = angle_evidence(x)
    gaps = inference_gaps(
        angle_model, angle_guide, x, num_samples=500, evidence_samples=2000, max_steps=300, learning_rate=0.05, seed=0
    )
    assert ((gaps.log_likelihood.per_datum - truth).abs() < 5 * gaps.log_likelihood.standard_errors + 0.01).all()
    assert (gaps.best_elbo.per_datum < truth + 4 * gaps.best_elbo.standard_errors).all()
    assert gaps.larger_family
    for guide in (None, angle_guide):
        found = ais(angle_model, x, guide=guide, num_temperatures=30, num_chains=50, burn_in=20, seed=0)
        assert ((found.per_datum - truth).abs() < 5 * found.standard_errors + 0.01).all()


def straight_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("angle", dist.Normal(torch.atan2(x[:, 1], x[:, 0]), 0.1))


def test_angles_drawn_from_the_line_are_refused():
    x = torch.randn(5, 2).double()
    for call in (
        lambda: log_likelihood(angle_model, straight_guide, x, num_samples=10),
        lambda: inference_gaps(angle_model, straight_guide, x, num_samples=10, evidence_samples=10),
        lambda: ais(angle_model, x, guide=straight_guide, num_temperatures=2, num_chains=2),
    ):
        with pytest.raises(PairError, match=r"'angle': .* density of angles"):
            call()


def test_a_density_of_angles_is_none_on_the_line():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            angle = pyro.sample("angle", dist.Normal(x.new_zeros(()), 3.0))
            pyro.sample("x", dist.Normal(angle.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"density of angles, .*the line"):
        ais(model, torch.randn(5, 2).double(), guide=angle_guide, num_temperatures=2, num_chains=2)


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (lambda x: dist.ProjectedNormal(x), "ProjectedNormal"),
        (lambda x: dist.RelaxedBernoulliStraightThrough(x.new_tensor(0.5), logits=x).to_event(1), "StraightThrough"),
    ],
)
def test_a_site_without_a_density_in_coordinates_is_refused_by_name(law, name):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("direction", law(torch.ones_like(x)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=rf"'direction'.*{name}"):
        Joint("test", model, torch.randn(5, 3).double())
