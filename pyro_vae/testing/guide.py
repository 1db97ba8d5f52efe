"""What every guide owes."""

from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.testing import assert_close

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.parts import make_guide, make_pair
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.programs.modules import as_args
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.programs.sites import OBSERVED, PLATE
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
    latent_sites,
    refuses,
    rows_of,
)

EVERY_IMAGE = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).reshape(-1, 1, 3, 2)
"""All binary images of this shape: a guide that is not amortized is made with them."""


MODEL_SEED = 1
"""Of the parameters of the suite's model, which are the same for each guide that is made."""


class GuideSuite(ModuleSuite):
    """Tests of a guide, on binary images of shape (1, 3, 2), with z of 4 dims.

    Which latent sites the guide owes, and of which shapes, the suite learns from the model.

    Attributes:
        model: text of the model that the guide is for; options that it has and that the guide has too are the guide's
            as well. A guide with an attribute ``model`` is paired with that one.
    """

    model: ClassVar[str] = "vae"

    def make(self) -> Any:
        """Return a new guide, with other parameters at each call, for a model with the same."""
        return make_guide(
            self.x_shape, self.latent_dim, HIDDEN, guide=self.part, model=self._model(), model_text=self.model,
            data=lambda: EVERY_IMAGE,
        )  # fmt: skip

    def pair(self, part: Any) -> tuple[Any, Any]:
        """Return the model, and the guide."""
        return getattr(part, "model", None) or self._model(), part

    def test_sites_plate_shapes_and_dtype_at_any_batch_size(self) -> None:
        """Sample the model's latent sites in a plate over the data, whatever their number and dtype."""
        for dtype in DTYPES:
            for n in (1, 2, 7):
                model, guide = self.typed_pair(self.make(), dtype)
                x = self.data(guide, n, dtype)
                trace = poutine.trace(guide).get_trace(*as_args(x))
                trace.compute_log_prob()
                owed = latent_sites(poutine.trace(model).get_trace(*as_args(x)))
                sites = latent_sites(trace)
                assert set(sites) == set(owed), f"the latent sites must be {set(owed)}; got {set(sites)}"
                for name, site in sites.items():
                    assert_site(site, n, tuple(owed[name]["fn"].event_shape), dtype)

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
            sites = latent_sites(poutine.trace(guide).get_trace(*as_args(x)))
        for name, site in sites.items():
            assert site["value"].shape == (5, 7, *site["fn"].event_shape), name
            assert site["fn"].log_prob(site["value"]).shape == (5, 7), name

    def test_a_datum_does_not_feel_the_others(self) -> None:
        """Score a datum's latents, and the same auxiliary variables, alone as in a batch."""
        guide = self._wide_guide()
        x = self.data(guide, 6, torch.float64)
        drawn = poutine.trace(guide).get_trace(*as_args(x))
        sites = latent_sites(drawn)
        events = {name: site["fn"].event_shape for name, site in sites.items()}
        values = {site: drawn.nodes[site]["value"] for site in drawn.stochastic_nodes}
        values |= {name: torch.randn(6, *event, dtype=torch.float64) for name, event in events.items()}

        def density(rows: slice) -> Tensor:
            fixed = poutine.trace(guide).get_trace(*as_args(rows_of(x, rows)))
            for site, value in values.items():
                fixed.nodes[site]["value"] = value[rows]
            return log_weights(partial(_priors_alone, events), poutine.replay(guide, trace=fixed), rows_of(x, rows))[0]

        if not all(_scores_any_z(site["fn"]) for site in sites.values()):
            with refuses(r"\w+: this flow has no inverse"):
                density(slice(None))
            return
        alone = torch.cat([density(slice(n, n + 1)) for n in range(6)])
        assert_close(density(slice(None)), alone, rtol=1e-10, atol=1e-10)

    def test_a_datum_draws_alone_what_it_draws_among_others(self) -> None:
        """Draw the same latents under the same noise, with the same log-densities."""
        guide = self._wide_guide()
        x = self.data(guide, 6, torch.float64)

        def drawn(rows: slice) -> dict[str, tuple[Tensor, Tensor]]:
            sites = latent_sites(poutine.trace(guide).get_trace(*as_args(rows_of(x, rows))))
            return {name: (site["value"], site["fn"].log_prob(site["value"])) for name, site in sites.items()}

        with RecordedNoise() as noise:
            together = drawn(slice(None))
        for n in range(6):
            with ReplayedNoise([draw[n : n + 1] for draw in noise.draws], 0):
                alone = drawn(slice(n, n + 1))
            for name, (z, log_prob) in together.items():
                assert_close(alone[name], (z[n : n + 1], log_prob[n : n + 1]), rtol=1e-10, atol=1e-10)

    def test_posterior_is_the_density_that_is_sampled(self) -> None:
        """Offer as ``posterior(x)`` what is sampled, the first of several latents, or no ``posterior`` at all."""
        guide = self._wide_guide()
        x = self.data(guide, 7, torch.float64)
        if not isinstance(guide, PosteriorGuide):
            assert not hasattr(guide, "posterior"), "`posterior` must be a method of x, or be missing"
            return
        q = guide.posterior(*as_args(x))
        torch.manual_seed(0)
        site = next(iter(latent_sites(poutine.trace(guide).get_trace(*as_args(x))).values()))
        event = site["fn"].event_shape
        assert (q.batch_shape, q.event_shape) == ((7,), event), f"{q.batch_shape}, {q.event_shape}"
        assert q.sample(torch.Size([5])).shape == (5, 7, *event)
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
                guide(*as_args(self.data(guide, 4)))

    def test_other_shapes_and_dtypes_are_refused(self) -> None:
        """Say which shape and dtype x must have."""
        part = self.make()
        assert_refuses_other_data(part, self.x_shape, self.data(part, 4))

    def _model(self) -> Any:
        """Return the model, with the same parameters at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(MODEL_SEED)
            return make_pair(self.x_shape, self.latent_dim, HIDDEN, model=self.model)[0]

    def _wide_guide(self) -> Any:
        """Return a new guide with parameters of float64, of its model as well, in eval mode."""
        return self.typed_pair(self.make(), torch.float64)[1].eval()


def _priors_alone(events: dict[str, torch.Size], x: Tensor, *_: Tensor) -> None:
    """Sample each latent from a standard normal, and observe x whatever they are."""
    with pyro.plate(PLATE, len(x), dim=-1):
        for name, event in events.items():
            pyro.sample(name, dist.Normal(x.new_zeros(event), 1.0).to_event(len(event)))
        pyro.sample(OBSERVED, dist.Normal(x.flatten(1), 1.0).to_event(1), obs=x.flatten(1))


def _scores_any_z(q: Any) -> bool:
    """Whether a law scores more than its own draws, as a flow without an inverse does not."""
    return getattr(q, "invertible", True)
