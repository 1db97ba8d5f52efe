import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_vae.objectives.kl_weight import KLWeight


class Programs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.3, -0.8], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x[rows])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.Normal(x[rows] * self.loc, 0.75).to_event(1))


X = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
BETA = 0.25


def weighted(programs: Programs, beta: Tensor, objective) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    weight = KLWeight(beta)
    loss = objective.differentiable_loss(weight(programs.model), weight(programs.guide), X)
    return loss.detach(), torch.autograd.grad(loss, programs.loc)[0]


def by_hand(programs: Programs, analytic: bool) -> tuple[Tensor, Tensor]:
    """3/2 (beta KL - log p(x|z)): the plate shows two of three rows."""
    torch.manual_seed(5)
    rows = torch.randperm(3)[:2]
    noise = torch.randn(2, 2, dtype=torch.float64)
    loc = X[rows] * programs.loc
    z = loc + 0.75 * noise
    q, p = dist.Normal(loc, 0.75), dist.Normal(torch.zeros(2, dtype=X.dtype), 1.0)
    kl = torch.distributions.kl_divergence(q, p).sum() if analytic else (q.log_prob(z) - p.log_prob(z)).sum()
    loss = 1.5 * (BETA * kl - dist.Normal(z, 0.5).log_prob(X[rows]).sum())
    return loss.detach(), torch.autograd.grad(loss, programs.loc)[0]


@pytest.mark.parametrize(("objective", "analytic"), [(Trace_ELBO(), False), (TraceMeanField_ELBO(), True)])
def test_the_loss_is_that_of_the_weighted_bound(objective, analytic):
    programs = Programs()
    found = weighted(programs, torch.tensor(BETA, dtype=torch.float64), objective)
    for ours, exact in zip(found, by_hand(programs, analytic), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_observed_sites_and_subsamples_are_not_scaled():
    beta = torch.tensor(BETA)
    trace = poutine.trace(KLWeight(beta)(Programs().model)).get_trace(X)
    scales = {name: float(site["scale"]) for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert scales == {"data": 1.0, "z": 1.5 * BETA, "x": 1.5}


def test_it_multiplies_the_scale_that_is_there():
    def program():
        with poutine.scale(scale=3.0):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    trace = poutine.trace(KLWeight(torch.tensor(BETA))(program)).get_trace()
    assert trace.nodes["z"]["scale"] == 3 * BETA


def test_weight_one_changes_nothing():
    programs = Programs()
    torch.manual_seed(5)
    loss = Trace_ELBO().differentiable_loss(programs.model, programs.guide, X)
    one = weighted(programs, torch.ones((), dtype=torch.float64), Trace_ELBO())
    assert torch.equal(one[0], loss.detach())
    assert torch.equal(one[1], torch.autograd.grad(loss, programs.loc)[0])


def test_a_factor_of_the_model_is_observed_and_one_of_the_guide_is_not():
    """With a factor as likelihood, the weight would scale the whole loss."""
    weight = KLWeight(torch.tensor(BETA))
    model = weight(lambda: pyro.factor("likelihood", torch.zeros(())))
    assert poutine.trace(model).get_trace().nodes["likelihood"]["scale"] == 1
    guide = weight(lambda: pyro.factor("reverse", torch.zeros(()), has_rsample=True))
    assert poutine.trace(guide).get_trace().nodes["reverse"]["scale"] == BETA
