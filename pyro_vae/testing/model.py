"""What every model owes that is a module with latent sites and one observed site ``"x"``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_vae.parts import make_pair
from pyro_vae.programs.modules import as_args, as_input
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.testing.suite import (
    DTYPES,
    HIDDEN,
    ModuleSuite,
    assert_refuses_other_data,
    assert_site,
    assert_vectorized,
    latent_sites,
    rows_of,
)


class ModelSuite(ModuleSuite):
    """Tests of a model of ``latent_dim = 3``; what is observed must take zeros and ones.

    Attributes:
        latents: event shape of each latent site; unless given, there is one, ``"z"``, of shape ``(latent_dim,)``.
    """

    latent_dim = 3
    latents: ClassVar[Mapping[str, tuple[int, ...]]] = MappingProxyType({})

    def make(self) -> Any:
        """Return a new model, with other parameters at each call."""
        return make_pair(self.x_shape, self.latent_dim, HIDDEN, model=self.part)[0]

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return the model, and a guide without parameters."""
        return part, self._guide

    def further(self, x: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002 (a subclass's)
        """Return what the model is called with after x ``(n, *x_shape)``, each ``(n, ...)``."""
        return ()

    def data(self, part: Any, n: int, dtype: torch.dtype = torch.float32) -> Any:
        """Return binary images, with the further tensors of each datum."""
        x = super().data(part, n, dtype)
        return as_input((x, *self.further(x)))

    def test_sites_plate_shapes_and_dtype(self) -> None:
        """Sample the latents and observe x in a plate over the data, and return the latent sampled last."""
        for dtype in DTYPES:
            for n in (1, 7):
                model = self.make().to(dtype)
                trace = poutine.trace(model).get_trace(*as_args(self.data(model, n, dtype)))
                latents, owed = latent_sites(trace), self._events
                assert set(latents) == set(owed), f"the latent sites must be {list(owed)}; got {list(latents)}"
                assert trace.observation_nodes == [OBSERVED], f"observed are {trace.observation_nodes}"
                trace.compute_log_prob()
                for name, event in (*owed.items(), (OBSERVED, self.x_shape)):
                    assert_site(trace.nodes[name], n, event, dtype)
                    fn = trace.nodes[name]["fn"]
                    assert (fn.batch_shape, fn.event_shape) == ((n,), event), name
                assert torch.equal(trace.nodes["_RETURN"]["value"], list(latents.values())[-1]["value"])

    def test_samples_vectorize(self) -> None:
        """Draw many samples in one run, in a plate left of the data's."""
        model = self.make()
        x = self.data(model, 4)
        assert_vectorized(Pair(*self.pair(model), x))
        with pyro.plate(PARTICLES, 5, dim=-2):
            trace = poutine.trace(model).get_trace(*as_args(x))
        for name, event in self._events.items():
            assert trace.nodes[name]["value"].shape == (5, 4, *event), name

    def test_data_are_independent(self) -> None:
        """Score a datum alone as in a batch."""
        model = self.make().double()
        x = self.data(model, 6, torch.float64)
        values = {name: torch.randn(6, *event, dtype=torch.float64) for name, event in self._events.items()}

        def joint(rows: slice) -> Tensor:
            fixed = {name: value[rows] for name, value in values.items()}
            trace = poutine.trace(poutine.condition(model, fixed)).get_trace(*as_args(rows_of(x, rows)))
            trace.compute_log_prob()
            return torch.stack([trace.nodes[name]["log_prob"] for name in (*fixed, OBSERVED)]).sum(0)

        alone = torch.cat([joint(slice(n, n + 1)) for n in range(6)])
        assert_close(joint(slice(None)), alone, rtol=1e-12, atol=1e-12)

    def test_other_shapes_and_dtypes_are_refused(self) -> None:
        """Say which shape and dtype x must have."""
        part = self.make()
        assert_refuses_other_data(part, self.x_shape, self.data(part, 4))

    @property
    def _events(self) -> Mapping[str, tuple[int, ...]]:
        return self.latents or {LATENT: (self.latent_dim,)}

    def _guide(self, x: Tensor, *_: Tensor) -> None:
        with pyro.plate(PLATE, len(x), dim=-1):
            for name, event in self._events.items():
                pyro.sample(name, dist.Normal(x.new_zeros(event), 0.7).to_event(len(event)))
