"""What every test starts from, and what none may leave behind."""

import os
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_vae.models import LinearGaussian

pytest.register_assert_rewrite("pyro_vae.testing")

if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are divided among the processes; what these start inherits it.
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fresh_start() -> None:
    """A seed and an empty parameter store."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def global_state() -> dict[str, Any]:
    return {
        "Pyro's validation": pyro.settings.get("validate_distributions_pyro"),
        "Pyro's validation of poutines": pyro.settings.get("validate_poutine"),
        "Pyro's validation of inference": pyro.settings.get("validate_infer"),
        "torch.distributions' validation": torch.distributions.Distribution._validate_args,
        "module_local_params": pyro.settings.get("module_local_params"),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's grad mode": torch.is_grad_enabled(),
    }


@pytest.fixture(autouse=True)
def globals_unchanged():
    """No test, and nothing it calls, leaves a global changed."""
    before = global_state()
    yield
    after = global_state()
    pyro.settings.set(module_local_params=before["module_local_params"])
    torch.set_default_dtype(before["torch's default dtype"])
    torch.set_grad_enabled(before["torch's grad mode"])
    pyro.enable_validation(before["torch.distributions' validation"])
    assert after == before


class LinearGaussianCase:
    """A float64 probabilistic PCA with loadings that are orthogonal or correlated, and guides for it."""

    def __init__(self, x_dim: int = 5, latent_dim: int = 3, scale: float = 0.6, orthogonal: bool = False) -> None:
        loadings = torch.randn(x_dim, latent_dim, dtype=torch.float64)
        if orthogonal:
            norms = torch.linspace(0.5, 2, latent_dim, dtype=torch.float64)
            loadings = torch.linalg.qr(loadings).Q * norms
        self.model = LinearGaussian.from_values(loadings, torch.randn(x_dim, dtype=torch.float64), scale)
        self.model.requires_grad_(False)
        self.latent_dim = latent_dim

    def data(self, n: int) -> Tensor:
        return self.model.evidence().sample((n,))

    def evidence(self, x: Tensor) -> Tensor:
        return self.model.evidence().log_prob(x)

    def exact_guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.model.posterior(x))

    def diagonal(self, x: Tensor, shift: float = 0.3, stretch: float = 1.2) -> dist.TorchDistribution:
        """A wrong but honest q(z | x): off by `shift` standard deviations, and `stretch` times as wide."""
        exact = self.model.posterior(x)
        scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return dist.Normal(exact.mean + shift * scale, stretch * scale).to_event(1)

    def inexact_guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.diagonal(x))


@pytest.fixture
def linear_gaussian() -> LinearGaussianCase:
    return LinearGaussianCase()


@pytest.fixture
def make_linear_gaussian() -> type[LinearGaussianCase]:
    return LinearGaussianCase


class Recorder:
    """A guide that remembers the values it drew last, ``{site: value}``, for a computation by hand."""

    def __init__(self, guide: Callable[..., Any]) -> None:
        self.guide = guide
        self.values: dict[str, Tensor] = {}

    def __call__(self, *args: Any) -> Any:
        with poutine.trace() as recorded:
            result = self.guide(*args)
        self.values = {name: recorded.trace.nodes[name]["value"].detach() for name in recorded.trace.stochastic_nodes}
        return result


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
