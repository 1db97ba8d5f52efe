"""MIWAE by hand, and the bounds it contains."""

import pytest
from gaussian_toy import Toy
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, MIWAE
from pyro_vae.testing import ObjectiveSuite


def test_gradient_by_hand():
    toy = Toy(6)

    def bound(w):
        return sum(group.exp().mean(0).log() for group in w.split(4)) / 3

    for found, exact in zip(toy.gradients(MIWAE(3, 4)), toy.autograd(bound, toy.noise(12)), strict=True):
        assert_close(found, exact, rtol=1e-10, atol=1e-10)


def test_one_group_is_iwae_and_groups_of_one_the_elbo():
    toy = Toy(6)
    stock = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    for ours, other in ((MIWAE(1, 4), IWAE(4)), (MIWAE(4, 1), stock)):
        for found, exact in zip(toy.gradients(ours), toy.gradients(other), strict=True):
            assert_close(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("arguments", "name"), [((0, 4), "num_groups"), ((4, 0), "num_particles")])
def test_fewer_than_one_is_refused(arguments, name):
    with pytest.raises(ValueError, match=f"MIWAE: {name} must be at least"):
        MIWAE(*arguments)


class TestContract(ObjectiveSuite):
    part = "miwae(num_groups=2, num_particles=3)"
