"""The inverse by bisection, to the last digit."""

import torch
from torch.testing import assert_close

from pyro_vae.distributions.bisection import invert_increasing


def test_the_inverse_is_exact_to_rounding_at_every_size():
    target = torch.tensor([[-30.0, -1.0, 1e-6], [0.0, 0.5, 7.0]], dtype=torch.float64)
    found = invert_increasing(lambda x: x**3, target, -1e4, 1e4)
    assert_close(found**3, target, rtol=1e-13, atol=1e-30)
    assert invert_increasing(torch.tanh, target[1:, :2].float(), -10.0, 10.0).dtype == torch.float64
