import math
from importlib.util import find_spec

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from benchmarks.batches import NumberedBatches
from benchmarks.raw_vae import RawVAE
from benchmarks.training import X_DIM

pytestmark = pytest.mark.skipif(
    find_spec("numpyro") is None,
    reason="numpyro is not installed: pip install -r benchmarks/requirements-opponents.txt",
)

HIDDEN_DIMS = (7, 5)


@pytest.fixture
def raw():
    vae = RawVAE(6, 3, HIDDEN_DIMS)
    with torch.no_grad():
        for parameter in vae.parameters():
            # Away from the flat start, where a layer that is left out would hardly show.
            parameter.mul_(2)
    return vae


def test_the_elbo_is_that_of_the_hand_written_model_with_the_same_weights(raw):
    import jax
    from jax import numpy as jnp
    from numpyro.infer import Trace_ELBO

    from benchmarks.opponents.numpyro_vae import NumpyroVAE

    x = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1]]).float()
    draws, block = 200_000, 2000
    other = NumpyroVAE(raw)
    data = jnp.array(x.numpy())
    losses = jax.vmap(lambda key: Trace_ELBO().loss(key, {}, other.model, other.guide, data))
    theirs = torch.tensor(losses(jax.random.split(jax.random.key(0), draws)).tolist(), dtype=torch.float64)
    with torch.no_grad():
        blocks = [raw.loss(x.repeat(block, 1)).item() / block for _ in range(draws // block)]
    ours = torch.tensor(blocks, dtype=torch.float64)
    # Standard error of the difference of two means.
    error = math.hypot(theirs.std() / math.sqrt(len(theirs)), ours.std() / math.sqrt(len(ours)))
    assert error < 0.01
    assert abs(theirs.mean() - ours.mean()) < 4 * error


def test_both_densities_are_the_hand_written_models_at_the_same_z(raw):
    from jax import numpy as jnp
    from numpyro.infer.util import log_density

    from benchmarks.opponents.numpyro_vae import NumpyroVAE

    x, z = torch.randint(0, 2, (4, 6)).float(), torch.randn(4, 3)
    other = NumpyroVAE(raw)
    sites = {"z": jnp.array(z.numpy())}
    loc, log_variance = raw.encoder(x).chunk(2, dim=-1)
    log_q = Normal(loc, (0.5 * log_variance).exp()).log_prob(z).sum()
    log_joint = Normal(0, 1).log_prob(z).sum() + Bernoulli(logits=raw.decoder(z)).log_prob(x).sum()
    for program, expected in ((other.guide, log_q), (other.model, log_joint)):
        found, _ = log_density(program, (jnp.array(x.numpy()),), {}, sites)
        torch.testing.assert_close(float(found), expected.item(), rtol=1e-5, atol=0)


def test_it_trains_as_many_parameters(raw):
    import jax
    from jax import numpy as jnp

    from benchmarks.opponents.numpyro_vae import NumpyroVAE

    svi = NumpyroVAE(raw).svi
    trained = svi.get_params(svi.init(jax.random.key(0), jnp.zeros((2, 6))))
    assert sum(array.size for array in trained.values()) == sum(p.numel() for p in raw.parameters())


def test_the_scanned_steps_are_the_jitted_ones():
    from benchmarks.opponents import numpyro_vae

    # One dispatch of 20 steps, and one of the 3 that are left.
    batches = NumberedBatches(torch.randint(0, 2, (46, X_DIM)).float(), 2)
    totals = []
    for make in (numpyro_vae.jitted, numpyro_vae.scanned):
        torch.manual_seed(0)
        side = make(batches, HIDDEN_DIMS)
        totals.append([side(0), side(1)])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=0)
    assert totals[0][1] < totals[0][0]
