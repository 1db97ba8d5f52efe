import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_vae.graphs.capture import NotTraceable
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.programs.modules import local_params

D = 3


class Programs(nn.Module):
    """Two latent sites, one of which has no closed KL (Student-t against Normal), and a scale and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4 * D), nn.Linear(2 * D, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=0.7):
            a = pyro.sample("a", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            with pyro.poutine.mask(mask=x[:, 0] > 0):
                b = pyro.sample("b", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            mean = self.decoder(torch.cat([a, b], -1))
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=0.7):
            loc_a, scale_a, loc_b, scale_b = self.encoder(x).chunk(4, -1)
            pyro.sample("a", dist.Normal(loc_a, scale_a.exp()).to_event(1))
            with pyro.poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("b", dist.StudentT(5.0, loc_b, scale_b.exp()).to_event(1))


@pytest.fixture
def programs() -> Programs:
    torch.manual_seed(0)
    return Programs().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def loss_and_gradients(loss_function, programs: Programs, x: Tensor) -> list[Tensor]:
    torch.manual_seed(7)
    loss = loss_function(programs.model, programs.guide, x)
    return [loss.detach(), *torch.autograd.grad(loss, list(programs.parameters()))]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_particles": 3},
        {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1},
    ],
    ids=["one", "three", "vectorized"],
)
def test_value_and_gradients_are_those_of_pyro(elbo, arguments, programs, x):
    objective = elbo(**arguments)
    ours = loss_and_gradients(tensor_loss(objective), programs, x)
    pyros = loss_and_gradients(objective.differentiable_loss, programs, x)
    for our, pyro_value in zip(ours, pyros, strict=True):
        # float64; the same terms summed in another order.
        torch.testing.assert_close(our, pyro_value, rtol=1e-12, atol=1e-12)


def test_the_closed_kl_is_used_where_there_is_one(x):
    """Against the formula of two Normals; the sampled loss under the same seed is another number."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :D], 0.3).to_event(1))

    torch.manual_seed(7)
    loss = tensor_loss(TraceMeanField_ELBO())(model, guide, x)
    torch.manual_seed(7)
    z = x[:, :D] + 0.3 * torch.randn(6, D, dtype=x.dtype)
    kl = 0.5 * (x[:, :D] ** 2 + 0.3**2 - 1).sum() - 6 * D * torch.tensor(0.3).double().log()
    reconstruction = dist.Normal(z[:, :1], 1.0).log_prob(x[:, :1]).sum()
    torch.testing.assert_close(loss, kl - reconstruction, rtol=1e-7, atol=0)  # 0.3 is a float32 in Pyro's Normal
    torch.manual_seed(7)
    sampled = tensor_loss(Trace_ELBO())(model, guide, x)
    assert abs(loss - sampled) > 0.01


@pytest.mark.parametrize("objective", [JitTrace_ELBO(), TraceGraph_ELBO(), type("Mine", (Trace_ELBO,), {})()])
def test_an_objective_of_unknown_arithmetic_is_refused_by_name(objective):
    with pytest.raises(NotTraceable, match=f"{type(objective).__name__} has no tensor_loss"):
        tensor_loss(objective)


def test_an_objective_may_bring_its_own(programs, x):
    class Doubled(Trace_ELBO):
        def tensor_loss(self, model, guide, *args):
            return 2 * tensor_loss(Trace_ELBO())(model, guide, *args)

    ours, plain = (loss_and_gradients(tensor_loss(objective), programs, x) for objective in (Doubled(), Trace_ELBO()))
    for doubled, once in zip(ours, plain, strict=True):
        torch.testing.assert_close(doubled, 2 * once)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_site_that_needs_the_score_function_is_refused_by_name(elbo, x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("switch", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("switch", dist.Bernoulli(logits=x[:, 1]))

    with pytest.raises(NotTraceable, match="'switch' is not reparam"):
        tensor_loss(elbo())(model, guide, x)


def test_parameters_of_modules_stay_with_them(x):
    """The loss runs the programs as they are: under local parameters nothing enters Pyro's store."""
    from pyro_vae.guides import MeanFieldGuide
    from pyro_vae.models import LinearGaussian

    model, guide = LinearGaussian(4, 2).double(), MeanFieldGuide((4,), 2, (5,)).double()
    before = set(pyro.get_param_store())
    with local_params(model, guide):
        tensor_loss(Trace_ELBO())(model, guide, x)
    assert set(pyro.get_param_store()) == before
