"""CIWAE is a weighted mean of the ELBO and IWAE."""

import pytest
from gaussian_toy import Toy
from torch.testing import assert_close

from pyro_vae.objectives import CIWAE, IWAE, MIWAE
from pyro_vae.testing import ObjectiveSuite


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradient_is_the_mean_of_both(beta):
    toy = Toy(6)
    found, elbo, iwae = (toy.gradients(objective) for objective in (CIWAE(beta, 5), MIWAE(5, 1), IWAE(5)))
    for ours, one, other in zip(found, elbo, iwae, strict=True):
        assert_close(ours, beta * one + (1 - beta) * other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_weight_outside_the_unit_interval_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be from 0 to 1"):
        CIWAE(beta)


class TestContract(ObjectiveSuite):
    part = "ciwae(beta=0.3, num_particles=3)"
