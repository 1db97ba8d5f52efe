"""Objectives of several samples run a pair that does not vectorize in a loop."""

import pyro
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import objectives


def test_a_pair_that_does_not_vectorize_is_looped(caplog):
    """Same estimate, one sample after another, under the same noise: a guide whose noise is drawn beforehand."""
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 5, dtype=torch.float64)

    class Fixed(dist.Normal):
        """Its samples come from `noise`, one row a call."""

        calls = 0

        def rsample(self, _sample_shape=()):
            row = noise[: self.batch_shape[0]] if len(self.batch_shape) > 1 else noise[Fixed.calls % 4]
            Fixed.calls += 1
            return self.loc + self.scale * row

    def model(x, refuse):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            if refuse and z.ndim > 1:
                raise ValueError("one batch dim only")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x, refuse):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Fixed(x @ weight, torch.full((5,), 0.8).double()))

    x = torch.randn(5, 3).double()
    for make_one in (lambda: objectives.IWAE(4), lambda: objectives.DReG(4), lambda: objectives.PIWAE(2, 2)):
        found = []
        for refuse in (True, False):
            objective = make_one()
            objective.loss(model, guide, x, refuse)
            Fixed.calls = 0
            loss = objective.differentiable_loss(model, guide, x, refuse)
            found.append((loss.detach(), *torch.autograd.grad(loss, weight)))
        assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert sum("one batch dim only" in message for message in caplog.messages) == 3
