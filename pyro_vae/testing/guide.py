"""What every guide owes."""

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.testing import assert_close

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_pair
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise
from pyro_vae.testing.suite import (
    DTYPES,
    HIDDEN,
    ModuleSuite,
    assert_refuses_other_data,
    assert_site,
    assert_tensor,
    assert_vectorized,
    refuses,
)

EVERY_IMAGE = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).reshape(-1, 1, 3, 2)
"""All binary images of this shape: a guide that is not amortized is made with them."""


class GuideSuite(ModuleSuite):
    """Tests of a guide for models with the latent site ``"z"``, on binary images of shape (1, 3, 2), z of 4 dims."""

    def make(self) -> Any:
        """Return a new guide, with other parameters at each call."""
        return make_pair(self.x_shape, self.latent_dim, HIDDEN, guide=self.part, data=lambda: EVERY_IMAGE)[1]

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return a VAE, and the guide."""
        return VAE(self.x_shape, self.latent_dim, HIDDEN), part

    def test_sites_plate_shapes_and_dtype_at_any_batch_size(self) -> None:
        """Sample z in a plate over the data, whatever their number and dtype."""
        for dtype in DTYPES:
            for n in (1, 2, 7):
                guide = self.make().to(dtype)
                trace = poutine.trace(guide).get_trace(self.data(guide, n, dtype))
                trace.compute_log_prob()
                assert_site(trace.nodes[LATENT], n, (self.latent_dim,), dtype)

    def test_weights_with_a_model(self) -> None:
        """Give finite log-weights with a model."""
        for dtype in DTYPES:
            guide = self.make()
            weights = log_weights(*self.typed_pair(guide, dtype), self.data(guide, 7, dtype), 5)
            assert_tensor(weights, (5, 7), dtype)
            assert weights.isfinite().all(), f"log-weights must be finite; got {weights}"

    def test_leading_sample_dims(self) -> None:
        """Draw many samples in one run, in a plate left of the data's."""
        guide = self.make()
        x = self.data(guide, 7)
        assert_vectorized(Pair(*self.pair(guide), x))
        with pyro.plate(PARTICLES, 5, dim=-2):
            site = poutine.trace(guide).get_trace(x).nodes[LATENT]
        assert site["value"].shape == (5, 7, self.latent_dim)
        assert site["fn"].log_prob(site["value"]).shape == (5, 7)

    def test_a_datum_does_not_feel_the_others(self) -> None:
        """Score a datum's z, and the same auxiliary variables, alone as in a batch."""
        guide = self.make().double().eval()
        x = self.data(guide, 6, torch.float64)
        drawn = poutine.trace(guide).get_trace(x)
        values = {site: drawn.nodes[site]["value"] for site in drawn.stochastic_nodes}
        values[LATENT] = torch.randn(6, self.latent_dim, dtype=torch.float64)

        def density(rows: slice) -> Tensor:
            fixed = poutine.trace(guide).get_trace(x[rows])
            for site, value in values.items():
                fixed.nodes[site]["value"] = value[rows]
            return log_weights(_prior_alone, poutine.replay(guide, trace=fixed), x[rows])[0]

        if isinstance(guide, PosteriorGuide) and not _scores_any_z(guide.posterior(x)):
            with refuses(rf"{type(guide).__name__}: this flow has no inverse"):
                density(slice(None))
            return
        alone = torch.cat([density(slice(n, n + 1)) for n in range(6)])
        assert_close(density(slice(None)), alone, rtol=1e-10, atol=1e-10)

    def test_a_datum_draws_alone_what_it_draws_among_others(self) -> None:
        """Draw the same z under the same noise, with the same log-density."""
        guide = self.make().double().eval()
        x = self.data(guide, 6, torch.float64)

        def drawn(rows: slice) -> tuple[Tensor, Tensor]:
            site = poutine.trace(guide).get_trace(x[rows]).nodes[LATENT]
            return site["value"], site["fn"].log_prob(site["value"])

        with RecordedNoise() as noise:
            z, log_prob = drawn(slice(None))
        for n in range(6):
            with ReplayedNoise([draw[n : n + 1] for draw in noise.draws], 0):
                alone = drawn(slice(n, n + 1))
            assert_close(alone, (z[n : n + 1], log_prob[n : n + 1]), rtol=1e-10, atol=1e-10)

    def test_posterior_is_the_density_that_is_sampled(self) -> None:
        """Offer as ``posterior(x)`` what is sampled, or no ``posterior`` at all."""
        guide = self.make().double().eval()
        x = self.data(guide, 7, torch.float64)
        if not isinstance(guide, PosteriorGuide):
            assert not hasattr(guide, "posterior"), "`posterior` must be a method of x, or be missing"
            return
        q = guide.posterior(x)
        assert (q.batch_shape, q.event_shape) == ((7,), (self.latent_dim,)), f"{q.batch_shape}, {q.event_shape}"
        assert q.sample(torch.Size([5])).shape == (5, 7, self.latent_dim)
        torch.manual_seed(0)
        site = poutine.trace(guide).get_trace(x).nodes[LATENT]
        z = site["value"]
        if not _scores_any_z(q):
            torch.manual_seed(0)
            z = q.rsample()
            assert_close(z, site["value"], rtol=1e-12, atol=1e-12)
        assert_close(q.log_prob(z), site["fn"].log_prob(site["value"]), rtol=1e-12, atol=1e-12)

    def test_an_encoder_with_the_wrong_number_of_features_is_told_so(self) -> None:
        """Say how many features the encoder owes, and for what."""
        guide = self.make()
        if isinstance(guide, AmortizedGuide):
            guide.encoder = nn.Linear(6, 3)
            name = type(guide).__name__
            with refuses(rf"{name}: `encoder` must return \d+ \(location\) \+ .* features; got shape"):
                guide(self.data(guide, 4))

    def test_other_shapes_and_dtypes_are_refused(self) -> None:
        """Say which shape and dtype x must have."""
        assert_refuses_other_data(self.make(), self.x_shape)


def _prior_alone(x: Tensor) -> None:
    """Sample z from a standard normal, and observe x whatever z is."""
    with pyro.plate(PLATE, len(x), dim=-1):
        pyro.sample(LATENT, dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        pyro.sample(OBSERVED, dist.Normal(x.flatten(1), 1.0).to_event(1), obs=x.flatten(1))


def _scores_any_z(q: Any) -> bool:
    """Whether a posterior scores more than its own draws, as a flow without an inverse does not."""
    return getattr(q, "invertible", True)
