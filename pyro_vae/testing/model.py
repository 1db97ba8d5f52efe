"""What every model owes that is a module with one latent site ``"z"`` and one observed site ``"x"``."""

from typing import Any, ClassVar

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_vae.parts import make_pair
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.testing.suite import DTYPES, Suite, assert_captured, assert_every_gradient, assert_vectorized, refuses

LATENT_DIM, HIDDEN = 3, (5,)


class ModelSuite(Suite):
    """Tests of a model with z of 3 dims.

    Attributes:
        x_shape: of a datum; what is observed must take zeros and ones.
    """

    x_shape: ClassVar[tuple[int, ...]] = (1, 3, 2)

    def make(self) -> Any:
        """Return a new model, with other parameters at each call."""
        return make_pair(self.x_shape, LATENT_DIM, HIDDEN, model=self.part)[0]

    def test_sites_plate_shapes_and_dtype(self) -> None:
        """Sample z and observe x in a plate over the data, and return z."""
        for dtype in DTYPES:
            for n in (1, 7):
                trace = poutine.trace(self.make().to(dtype)).get_trace(self._binary(n, dtype))
                latent = [site for site in trace.stochastic_nodes if site != PLATE]
                assert latent == [LATENT], f"the latent site must be {LATENT!r}; got {latent}"
                assert trace.observation_nodes == [OBSERVED], f"observed are {trace.observation_nodes}"
                trace.compute_log_prob()
                for name, event in ((LATENT, (LATENT_DIM,)), (OBSERVED, self.x_shape)):
                    site = trace.nodes[name]
                    frames = [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]]
                    assert frames == [(PLATE, -1, n)], f"site {name} is in the plates {frames}"
                    assert (site["value"].shape, site["value"].dtype) == ((n, *event), dtype), name
                    assert (site["fn"].batch_shape, site["fn"].event_shape) == ((n,), event), name
                    assert (site["log_prob"].shape, site["log_prob"].dtype) == ((n,), dtype), name
                assert torch.equal(trace.nodes["_RETURN"]["value"], trace.nodes[LATENT]["value"])

    def test_samples_vectorize(self) -> None:
        """Draw many samples in one run, in a plate left of the data's."""
        model = self.make()
        assert_vectorized(Pair(model, _guide, self._binary(4)))
        with pyro.plate(PARTICLES, 5, dim=-2):
            z = model(self._binary(4))
        assert z.shape == (5, 4, LATENT_DIM)

    def test_data_are_independent(self) -> None:
        """Score a datum alone as in a batch."""
        model = self.make().double()
        x = self._binary(6, torch.float64)
        z = torch.randn(6, LATENT_DIM, dtype=torch.float64)

        def joint(rows: slice) -> Tensor:
            trace = poutine.trace(poutine.condition(model, {LATENT: z[rows]})).get_trace(x[rows])
            trace.compute_log_prob()
            log_prob: Tensor = trace.nodes[LATENT]["log_prob"] + trace.nodes[OBSERVED]["log_prob"]
            return log_prob

        alone = torch.cat([joint(slice(n, n + 1)) for n in range(6)])
        assert_close(joint(slice(None)), alone, rtol=1e-12, atol=1e-12)

    def test_state_dict_round_trip(self) -> None:
        """Weigh the same once another model's state is loaded."""
        first, second, x = self.make(), self.make(), self._binary(4)

        def weights(model: Any) -> Tensor:
            torch.manual_seed(0)
            return log_weights(model, _guide, x).detach()

        assert not torch.equal(weights(first), weights(second)), "two models that were made are the same"
        second.load_state_dict(first.state_dict())
        assert torch.equal(weights(first), weights(second))

    def test_gradient_reaches_every_parameter(self) -> None:
        """Have a finite gradient other than 0 in every parameter."""
        model = self.make()
        (-log_weights(model, _guide, self._binary(20), 2).sum()).backward()
        assert_every_gradient(model)

    def test_it_survives_being_captured(self) -> None:
        """Run as a recorded graph on other data."""
        model = self.make()
        x, other = self._binary(4), self._binary(4)
        assert_captured(Pair(model, _guide, x), list(model.parameters()), x, other)

    def test_the_parameter_store_stays_empty(self) -> None:
        """Keep parameters in the module, and none in Pyro's store."""
        log_weights(self.make(), _guide, self._binary(4))
        assert len(pyro.get_param_store()) == 0

    def test_wrong_shapes_and_dtypes_are_refused(self) -> None:
        """Say which shape and dtype x must have."""
        model, shape = self.make(), self.x_shape
        name = type(model).__name__
        for bad in (torch.zeros(4, *shape, 1), torch.zeros(shape), torch.zeros(4, *shape[:-1], shape[-1] + 1)):
            with refuses(rf"{name}: x must have shape \(batch, .*got"):
                model(bad)
        with refuses(f"{name}: x must be floating point; got torch.int64"):
            model(torch.zeros(4, *shape, dtype=torch.int64))

    def _binary(self, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(n, *self.x_shape, dtype=dtype).round()


def _guide(x: Tensor) -> None:
    with pyro.plate(PLATE, len(x), dim=-1):
        pyro.sample(LATENT, dist.Normal(torch.zeros(LATENT_DIM, dtype=x.dtype), 0.7).to_event(1))
