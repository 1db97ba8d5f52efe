"""PIWAE gives the model IWAE's gradient and the guide MIWAE's, of the same samples, also where weights vanish."""

import pytest
import torch
from gaussian_toy import Toy
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, MIWAE, PIWAE
from pyro_vae.testing import ObjectiveSuite


@pytest.mark.parametrize("loc", [0.2, 300.0])
def test_each_side_gets_its_own_gradient(loc):
    """Far off, whole groups have weights of 0 beside the others."""
    toy = Toy(6, loc=loc)
    found, tight, robust = (toy.gradients(objective) for objective in (PIWAE(3, 4), IWAE(12), MIWAE(3, 4)))
    assert_close(found[0], robust[0], rtol=1e-9, atol=1e-9)
    assert_close(found[1], robust[1], rtol=1e-9, atol=1e-9)
    assert_close(found[2], tight[2], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(tight[0], robust[0])


def test_the_loss_is_iwaes():
    toy = Toy(6)
    losses = []
    for objective in (PIWAE(3, 4), IWAE(12)):
        torch.manual_seed(0)
        losses.append(objective.loss(toy.model, toy.guide, toy.x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


class TestContract(ObjectiveSuite):
    part = "piwae(num_groups=2, num_particles=3)"
    needs_reparameterized_samples = True
