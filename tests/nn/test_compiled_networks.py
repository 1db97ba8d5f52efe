"""A compiled step of training is the eager one, with each network on both sides."""

import pytest
import torch
from torch.optim import SGD
from torch.testing import assert_close

from pyro_vae import fit
from pyro_vae.parts import make_pair, part_names

TEXTS = {
    "conv": "conv(channels=(4, 6), linear_dims=(5,))",
    "gated_conv": "gated_conv(channels=(3, 4), strides=(2, 2), vector_dim=5)",
    "resnet": "resnet(channels=(4, 8), num_blocks=2, groups=2)",
}
"""Small ones; a network that is not named here is taken as it is."""


def trained(network, level):
    """How the steps ran, and parameters after an epoch of two steps, which start from the same ones."""
    torch.manual_seed(0)
    # Odd heights and widths, which a stride of 2 halves to numbers with a remainder.
    model, guide = make_pair((2, 5, 7), 3, (5,), network=TEXTS.get(network, network))
    x = torch.rand(20, 2, 5, 7).round()
    run = fit(model, guide, x, optimizer=lambda p: SGD(p, lr=1e-2), epochs=1, batch_size=10, compile=level, seed=1)
    return run.compiled, {**model.state_dict(), **guide.state_dict()}, run.history[-1]["train_bound_nats"]


@pytest.mark.slow
@pytest.mark.parametrize("network", part_names("network"))
def test_a_compiled_step_is_the_eager_one(network):
    """SGD moves each parameter by its gradient, so that parameters agree as gradients do, to float32's roundings."""
    _, expected, bound = trained(network, "off")
    level, found, ours = trained(network, "inductor")
    assert level == "inductor"
    assert ours == pytest.approx(bound, rel=1e-5)
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
