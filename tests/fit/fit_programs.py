"""Pairs of every kind that a training step has to cope with, small enough to run in milliseconds."""

from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.fit.parameters import Parameters
from pyro_vae.fit.steps.gradients import BatchLoss
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.programs.modules import modules_of

X_DIM, LATENT_DIM, HIDDEN = 6, 3, 8


class PairAndData(NamedTuple):
    model: Callable
    guide: Callable
    x: Tensor


def binary_rows(n: int = 40, seed: int = 1) -> Tensor:
    """Binary data with structure: two clusters, so that training has something to find."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.rand(n, 1, generator=generator) < 0.5
    probs = torch.where(cluster, torch.linspace(0.1, 0.9, X_DIM), torch.linspace(0.8, 0.3, X_DIM))
    return torch.bernoulli(probs, generator=generator)


def mean_field(seed: int = 0, latent_dim: int = LATENT_DIM) -> PairAndData:
    torch.manual_seed(seed)
    model = VAE((X_DIM,), latent_dim, (HIDDEN,))
    return PairAndData(model, MeanFieldGuide((X_DIM,), latent_dim, (HIDDEN,)), binary_rows())


def with_networks(make_hidden: Callable[[], nn.Module]) -> PairAndData:
    """The mean-field pair with a part of the caller's choice inside the encoder and the decoder."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(X_DIM, HIDDEN), make_hidden(), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT_DIM))
    likelihood = BernoulliLikelihood((X_DIM,), LATENT_DIM, (HIDDEN,))
    likelihood.decoder = nn.Sequential(nn.Linear(LATENT_DIM, HIDDEN), make_hidden(), nn.Linear(HIDDEN, X_DIM))
    model = VAE((X_DIM,), LATENT_DIM, likelihood=likelihood)
    return PairAndData(model, MeanFieldGuide((X_DIM,), LATENT_DIM, encoder=encoder), binary_rows())


def dropout() -> PairAndData:
    return with_networks(lambda: nn.Dropout(0.3))


def batch_norm() -> PairAndData:
    return with_networks(lambda: nn.BatchNorm1d(HIDDEN))


class Latent(PyroModule):
    """One latent site of any family, whose parameters two linear maps give."""

    def __init__(self, family: Callable[[Tensor, Tensor], dist.Distribution], prior: dist.Distribution) -> None:
        super().__init__()
        self.family, self.prior_law = family, prior
        self.encoder = nn.Linear(X_DIM, 2 * LATENT_DIM)
        self.decoder = nn.Linear(LATENT_DIM, X_DIM)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior_law.expand([LATENT_DIM]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a, b = self.encoder(x).chunk(2, -1)
            pyro.sample("z", self.family(a, nn.functional.softplus(b) + 0.1).to_event(1))


def _family(family: Callable, prior: dist.Distribution) -> PairAndData:
    torch.manual_seed(0)
    owner = Latent(family, prior)
    return PairAndData(owner.model, owner.guide, binary_rows())


def laplace() -> PairAndData:
    return _family(dist.Laplace, dist.Laplace(0.0, 1.0))


def gamma() -> PairAndData:
    return _family(lambda a, b: dist.Gamma(a.exp() + 0.5, b), dist.Gamma(2.0, 1.0))


def student_t() -> PairAndData:
    return _family(lambda a, b: dist.StudentT(5.0, a, b), dist.StudentT(4.0, 0.0, 1.0))


def bernoulli_latent() -> PairAndData:
    """The guide's site is not reparameterized: its gradient needs the score function."""
    return _family(lambda a, b: dist.Bernoulli(logits=a + b), dist.Bernoulli(0.5))


class SeveralSites(PyroModule):
    """A two-level model with an inner plate, a masked observation and a masked latent."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.mid = nn.Linear(X_DIM, 4), nn.Linear(X_DIM, 2 * LATENT_DIM)
        self.down, self.out = nn.Linear(2, LATENT_DIM), nn.Linear(LATENT_DIM, X_DIM)

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            # Masked where a datum starts with a one: the site then counts nothing, in the model and the guide.
            with poutine.mask(mask=x[:, 0] == 0):
                z = pyro.sample("z", dist.Normal(self.down(top), 1.0).to_event(1))
            seen = x.cumsum(-1) < 4
            pyro.sample("x", dist.Bernoulli(logits=self.out(z)).mask(seen).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            a, b = self.top(x).chunk(2, -1)
            pyro.sample("top", dist.Normal(a, b.exp()).to_event(1))
            a, b = self.mid(x).chunk(2, -1)
            with poutine.mask(mask=x[:, 0] == 0):
                pyro.sample("z", dist.Normal(a, b.exp()).to_event(1))


def several_sites() -> PairAndData:
    torch.manual_seed(0)
    owner = SeveralSites()
    return PairAndData(owner.model, owner.guide, binary_rows())


class Subsampled(PyroModule):
    """Both programs take a random part of the rows they are shown, the same part."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.encoder, self.decoder = nn.Linear(X_DIM, 2 * LATENT_DIM), nn.Linear(LATENT_DIM, X_DIM)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x[rows])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as rows:
            a, b = self.encoder(x[rows]).chunk(2, -1)
            pyro.sample("z", dist.Normal(a, b.exp()).to_event(1))


def subsampled(size: int = 7) -> PairAndData:
    torch.manual_seed(0)
    owner = Subsampled(size)
    return PairAndData(owner.model, owner.guide, binary_rows())


def functions() -> PairAndData:
    """Plain functions whose parameters, one of them constrained, live in Pyro's store."""

    def model(x: Tensor) -> None:
        weight = pyro.param("weight", lambda: 0.1 * torch.ones(LATENT_DIM, X_DIM))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.linspace(-1, 1, X_DIM * LATENT_DIM).reshape(X_DIM, LATENT_DIM))
        scale = pyro.param("scale", torch.full((LATENT_DIM,), 0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ loc, scale).to_event(1))

    return PairAndData(model, guide, binary_rows())


class PyroStyle(nn.Module):
    """The VAE of Pyro's tutorial: one module, two methods, ``pyro.module`` in each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(X_DIM, 2 * LATENT_DIM), nn.Linear(LATENT_DIM, X_DIM)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), LATENT_DIM), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_style(seed: int = 0) -> PairAndData:
    torch.manual_seed(seed)
    vae = PyroStyle()
    return PairAndData(vae.model, vae.guide, binary_rows())


REPARAMETERIZED = {
    "mean_field": mean_field,
    "dropout": dropout,
    "batch_norm": batch_norm,
    "laplace": laplace,
    "gamma": gamma,
    "student_t": student_t,
    "several_sites": several_sites,
    "subsampled": subsampled,
    "functions": functions,
    "pyro_style": pyro_style,
}
"""Pairs whose step can be captured as a graph."""


def state(pair: PairAndData) -> list[Tensor]:
    """Parameters and buffers, wherever they live."""
    owned = [t.detach().clone() for m in modules_of(pair.model, pair.guide) for t in m.state_dict().values()]
    store = pyro.get_param_store()
    return owned + [store[name].detach().clone() for name in sorted(store.keys())]


def loss_of(pair: PairAndData) -> BatchLoss:
    """The loss that ``fit`` descends, of batches that are the numbers of their rows."""
    parameters = Parameters.of(*pair).trainable
    return BatchLoss(
        pair.model, pair.guide, Trace_ELBO(), lambda rows: pair.x[rows], parameters, modules_of(pair.model, pair.guide)
    )


def lines(caplog) -> list[str]:
    """What we said; torch's compiler logs to itself."""
    return [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]


class Location(PyroModule):
    """x ~ N(shift, 1), and a latent that is not used: the bound is log N(x; shift, 1), without noise.

    Under SGD on one batch a step, ``shift`` follows a geometric sequence that can be computed by hand.
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.start = start
        self.shift = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.shift, 1.0).expand([1]).to_event(1), obs=x)


class PriorGuide(PyroModule):
    """q(z | x) = p(z)."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
