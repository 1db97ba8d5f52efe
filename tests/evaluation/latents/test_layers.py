"""Statistics of each layer of a linear Gaussian chain, whose inner prior is conditional, against closed forms."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.evaluation import active_units, latent_statistics
from pyro_vae.models import LinearGaussianChain

ORDERS = ("bottom_up", "top_down")


@pytest.fixture
def chain():
    """x of 4 dims, z_1 of 3, z_2 of 2."""
    model = LinearGaussianChain(4, 2, (3,), scale=0.7).double().requires_grad_(False).eval()
    for bias in model.biases:
        bias.normal_()
    return model


class Products:
    """A guide of independent normals around the posterior's means, in an order; numbers of each unit are closed."""

    def __init__(self, model, order):
        self.model, self.order = model, order

    def laws(self, x):
        exact = self.model.posterior(x)
        scale = 1.2 * exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        loc = exact.mean + 0.2
        return {"z1": dist.Normal(loc[:, :3], scale[:, :3]), "z2": dist.Normal(loc[:, 3:], scale[:, 3:])}

    def __call__(self, x):
        laws = self.laws(x)
        with pyro.plate("data", len(x)):
            for name in ("z1", "z2") if self.order == "bottom_up" else ("z2", "z1"):
                pyro.sample(name, laws[name].to_event(1))

    def rates(self, x):
        """E_q[log q - log p] of each unit, by site ``(N, units)``: p(z_1 | z_2) has E_q[(z_1 - W z_2 - b)^2] closed."""
        laws, model = self.laws(x), self.model
        scale = model.log_scales[1].exp()
        weight = model.loadings[1]
        miss = laws["z1"].loc - laws["z2"].loc @ weight.T - model.biases[1]
        square = miss.square() + laws["z1"].variance + laws["z2"].variance @ weight.square().T
        log_p = -0.5 * (square / scale**2 + math.log(2 * math.pi)) - scale.log()
        top = torch.distributions.kl_divergence(laws["z2"], dist.Normal(torch.zeros(2).double(), 1.0))
        return {"z1": -laws["z1"].entropy() - log_p, "z2": top}


@pytest.mark.parametrize("order", ORDERS)
def test_rates_and_kl_of_units_by_layer(chain, order):
    """20 data, 2000 samples: each site's rate and each unit's part within 4 standard errors, in both orders."""
    guide, x = Products(chain, order), chain.evidence().sample((20,))
    found = latent_statistics(chain, guide, x, num_samples=2000, seed=0)
    exact = guide.rates(x)
    for name, rate in exact.items():
        estimate = found.rate_by_site[name]
        assert ((estimate.per_datum - rate.sum(-1)).abs() < 4 * estimate.standard_errors).all(), name
    by_unit = torch.cat([exact[name] for name in found.rate_by_site], -1).mean(0)
    assert ((found.kl_per_unit - by_unit).abs() < 4 * found.kl_per_unit_errors + 1e-9).all()
    assert found.no_kl == (("z1",) if order == "bottom_up" else ())
    units = {"z1": ["z1[0]", "z1[1]", "z1[2]"], "z2": ["z2[0]", "z2[1]"]}
    assert list(found.units) == [unit for name in found.rate_by_site for unit in units[name]]


@pytest.mark.parametrize("order", ORDERS)
def test_active_units_by_layer(chain, order):
    """Var_x of the posterior's mean, which is closed, for guides whose later layer has a mean by samples alone."""
    x = chain.evidence().sample((100,))
    found = active_units(getattr(chain, order), x, num_samples=400)
    exact = dict(zip(("z1", "z2"), chain.posterior(x).mean.var(0).split((3, 2)), strict=True))
    assert set(found.by_site) == {"z1", "z2"}
    for name, part in found.by_site.items():
        assert ((part.variance - exact[name]).abs() < 4 * part.standard_errors + 1e-9).all(), name
        assert part.count == (exact[name] > 0.01).sum()
    assert found.summary()["active_by_site"] == {name: part.count for name, part in found.by_site.items()}


def information_of_two(loc, scale):
    """I(x; z) of two data with N(loc_n, scale^2), one dim, by quadrature."""
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log_q = dist.Normal(loc.unsqueeze(1), scale).log_prob(grid)
    log_mean = log_q.logsumexp(0) - math.log(2)
    return torch.trapezoid((log_q.exp() * (log_q - log_mean)).mean(0), grid)


def test_information_by_layer_of_a_chain_upwards():
    """All of it is in the layer next to x; the one above says nothing more, exactly."""

    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            inner = pyro.sample("z1", dist.Normal(0.8 * top, 0.6).to_event(1))
            pyro.sample("x", dist.Normal(inner, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            inner = pyro.sample("z1", dist.Normal(0.5 * x, 0.7).to_event(1))
            pyro.sample("z2", dist.Normal(0.8 * inner, 0.6).to_event(1))

    x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    found = latent_statistics(model, guide, x, num_samples=4000, seed=0)
    inner, top = (found.mutual_information_by_site[name] for name in ("z1", "z2"))
    exact = information_of_two(0.5 * x[:, 0], 0.7).item()
    assert abs(inner.mean - exact) < 4 * inner.standard_error
    assert_close(top.per_datum, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.mutual_information.mean == pytest.approx(inner.mean + top.mean, abs=1e-12)
    summary = found.summary()
    assert summary["mutual_information[z1]"]["mean"] == inner.mean
    assert {"rate[z1]", "rate[z2]", "mutual_information[z2]"} <= set(summary)
    assert "in z1" in str(found).partition("mutual information")[2]


def test_information_by_layer_downwards():
    """z_2 from x; then z_1 = z_2 + x + noise: given z_2, x moves z_1 by its own value, whatever z_2 is."""

    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            inner = pyro.sample("z1", dist.Normal(top, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(inner, 1.0).to_event(1), obs=x)

    def guide(x, of_x=0.0):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(of_x * x, 0.5).to_event(1))
            pyro.sample("z1", dist.Normal(top + x, 0.8).to_event(1))

    x = torch.tensor([[-0.5], [1.0]], dtype=torch.float64)
    found = latent_statistics(model, guide, x, num_samples=4000, seed=0)
    top, inner = (found.mutual_information_by_site[name] for name in ("z2", "z1"))
    assert_close(top.per_datum, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert abs(inner.mean - information_of_two(x[:, 0], 0.8).item()) < 4 * inner.standard_error
    assert found.summary()["collapsed_by_site"] == {"z2": 0, "z1": 0}
