"""The suites find what is wrong with a part."""

import subprocess
import sys

import pyro
import pytest
import torch
from torch import nn

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.nn import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.testing import GuideSuite, NetworkSuite, ObjectiveSuite, PriorSuite


class Mixes(MeanFieldGuide):
    """Its posterior of a datum depends on the others."""

    def posterior(self, x):
        return super().posterior(x - x.mean(-4, keepdim=True))


class Idle(MeanFieldGuide):
    """It has a parameter that does nothing."""

    def __init__(self, x_shape, latent_dim, hidden_dims):
        super().__init__(x_shape, latent_dim, hidden_dims)
        self.idle = nn.Parameter(torch.zeros(2))


class OtherSite(MeanFieldGuide):
    """Its plate has another name."""

    def forward(self, x):
        with pyro.plate("rows", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


class Unnormalized(StandardNormalPrior):
    def forward(self):
        found = super().forward()
        density = found.log_prob
        found.log_prob = lambda z: density(z) + 0.1
        return found


class Flat(MLP):
    """It loses the dims before the last two."""

    def forward(self, x):
        return super().forward(x).reshape(-1, self.out_features)


class Doubled(IWAE):
    def loss(self, *args):
        return 2 * super().loss(*args)


@pytest.mark.parametrize(
    ("suite", "cls", "test", "message"),
    [
        (GuideSuite, Mixes, "test_a_datum_does_not_feel_the_others", "not close"),
        (GuideSuite, Idle, "test_gradient_reaches_every_parameter", "no gradient reaches .* idle"),
        (GuideSuite, OtherSite, "test_sites_plate_shapes_and_dtype_at_any_batch_size", "z must be in a plate 'data'"),
        (PriorSuite, Unnormalized, "test_the_density_integrates_to_one", r"the density integrates to 1\.1"),
        (NetworkSuite, Flat, "test_any_leading_batch_shape", "float32"),
        (ObjectiveSuite, Doubled, "test_an_exact_guide_has_the_evidence_for_its_loss", "expected a loss of"),
    ],
)
def test_a_part_that_owes_something_fails(suite, cls, test, message):
    held = type("Held", (suite,), {"part": f"{__name__}:{cls.__name__}"})()
    held.setup_method()
    with pytest.raises(AssertionError, match=message):
        getattr(held, test)()


def test_the_suites_need_no_pytest():
    code = "import sys, pyro_vae.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_suite():
    code = "import sys, pyro_vae; assert 'pyro_vae.testing' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
