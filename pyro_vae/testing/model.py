"""What every model owes that is a module with one latent site ``"z"`` and one observed site ``"x"``."""

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_vae.parts import make_pair
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
)


class ModelSuite(ModuleSuite):
    """Tests of a model with z of 3 dims; what is observed must take zeros and ones."""

    latent_dim = 3

    def make(self) -> Any:
        """Return a new model, with other parameters at each call."""
        return make_pair(self.x_shape, self.latent_dim, HIDDEN, model=self.part)[0]

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return the model, and a guide without parameters."""
        return part, self._guide

    def test_sites_plate_shapes_and_dtype(self) -> None:
        """Sample z and observe x in a plate over the data, and return z."""
        for dtype in DTYPES:
            for n in (1, 7):
                model = self.make().to(dtype)
                trace = poutine.trace(model).get_trace(self.data(model, n, dtype))
                latent = [site for site in trace.stochastic_nodes if site != PLATE]
                assert latent == [LATENT], f"the latent site must be {LATENT!r}; got {latent}"
                assert trace.observation_nodes == [OBSERVED], f"observed are {trace.observation_nodes}"
                trace.compute_log_prob()
                for name, event in ((LATENT, (self.latent_dim,)), (OBSERVED, self.x_shape)):
                    assert_site(trace.nodes[name], n, event, dtype)
                    fn = trace.nodes[name]["fn"]
                    assert (fn.batch_shape, fn.event_shape) == ((n,), event), name
                assert torch.equal(trace.nodes["_RETURN"]["value"], trace.nodes[LATENT]["value"])

    def test_samples_vectorize(self) -> None:
        """Draw many samples in one run, in a plate left of the data's."""
        model = self.make()
        x = self.data(model, 4)
        assert_vectorized(Pair(*self.pair(model), x))
        with pyro.plate(PARTICLES, 5, dim=-2):
            z = model(x)
        assert z.shape == (5, 4, self.latent_dim)

    def test_data_are_independent(self) -> None:
        """Score a datum alone as in a batch."""
        model = self.make().double()
        x = self.data(model, 6, torch.float64)
        z = torch.randn(6, self.latent_dim, dtype=torch.float64)

        def joint(rows: slice) -> Tensor:
            trace = poutine.trace(poutine.condition(model, {LATENT: z[rows]})).get_trace(x[rows])
            trace.compute_log_prob()
            log_prob: Tensor = trace.nodes[LATENT]["log_prob"] + trace.nodes[OBSERVED]["log_prob"]
            return log_prob

        alone = torch.cat([joint(slice(n, n + 1)) for n in range(6)])
        assert_close(joint(slice(None)), alone, rtol=1e-12, atol=1e-12)

    def test_other_shapes_and_dtypes_are_refused(self) -> None:
        """Say which shape and dtype x must have."""
        assert_refuses_other_data(self.make(), self.x_shape)

    def _guide(self, x: Tensor) -> None:
        with pyro.plate(PLATE, len(x), dim=-1):
            pyro.sample(LATENT, dist.Normal(x.new_zeros(self.latent_dim), 0.7).to_event(1))
