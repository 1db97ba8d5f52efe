"""The opponent: the same VAE in numpyro, its SVI compiled by XLA on the CPU.

The networks start from the hand-written side's weights. The loss is ``numpyro.infer.Trace_ELBO``, the optimizer
``numpyro.optim.Adam``, as in numpyro's own example. The data lie in a JAX array, and a step takes the numbers of its
rows: indexing is part of what is compiled. State is donated, so that XLA may update it in place.
"""

from typing import Any

import jax
import numpyro
from jax import Array
from jax import numpy as jnp
from numpyro import distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import Adam
from torch import nn

from benchmarks.batches import NumberedBatches
from benchmarks.raw_vae import RawVAE
from benchmarks.timing import Side
from benchmarks.training import LATENT_DIM, LEARNING_RATE, X_DIM

STEPS_A_DISPATCH = 20

numpyro.set_platform("cpu")

Layers = list[tuple[Array, Array]]
"""Weight ``(n_in, n_out)`` and bias of each."""


class NumpyroVAE:
    """Model and guide with the weights of a hand-written VAE, tanh between the layers.

    Args:
        vae: whose weights to start from.
    """

    def __init__(self, vae: RawVAE) -> None:
        self.layers = {"encoder": _layers(vae.encoder), "decoder": _layers(vae.decoder)}
        self.latent_dim = self.layers["decoder"][0][0].shape[0]
        self.svi = SVI(self.model, self.guide, Adam(LEARNING_RATE), Trace_ELBO())

    def model(self, x: Array) -> None:
        """p(z) p(x | z) for x ``(batch, x_dim)``."""
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([len(x), self.latent_dim]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=self._network("decoder", z)).to_event(1), obs=x)

    def guide(self, x: Array) -> None:
        """q(z | x) for x ``(batch, x_dim)``."""
        loc, log_variance = jnp.split(self._network("encoder", x), 2, axis=-1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    def _network(self, part: str, features: Array) -> Array:
        for number, (weight, bias) in enumerate(self.layers[part]):
            features = jnp.tanh(features) if number else features
            named = f"{part}.{number}"
            features = features @ numpyro.param(f"{named}.weight", weight) + numpyro.param(f"{named}.bias", bias)
        return features


def jitted(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return one jitted ``svi.update`` a step, and its loss as a number each step."""
    svi, state, data = _start(batches, hidden_dims)
    update = jax.jit(lambda state, data, rows: svi.update(state, data[rows]), donate_argnums=0)

    def epoch(index: int) -> float:
        nonlocal state
        total = 0.0
        for rows in batches.numbers(index).int().numpy():
            state, loss = update(state, data, rows)
            total += float(loss)
        return total

    return epoch


def scanned(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return the same steps, ``STEPS_A_DISPATCH`` of them in one ``lax.scan``, and their losses after each of those."""
    svi, state, data = _start(batches, hidden_dims)

    def steps(state: Any, data: Array, numbers: Array) -> Any:
        return jax.lax.scan(lambda state, rows: svi.update(state, data[rows]), state, numbers)

    updates = jax.jit(steps, donate_argnums=0)

    def epoch(index: int) -> float:
        nonlocal state
        total = 0.0
        for numbers in batches.numbers(index).int().split(STEPS_A_DISPATCH):
            state, losses = updates(state, data, numbers.numpy())
            total += sum(losses.tolist())
        return total

    return epoch


def _start(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> tuple[SVI, Any, Array]:
    svi = NumpyroVAE(RawVAE(X_DIM, LATENT_DIM, hidden_dims)).svi
    data = jnp.array(batches.pixels.numpy())
    return svi, svi.init(jax.random.key(0), data[: batches.batch_size]), data


def _layers(network: nn.Sequential) -> Layers:
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    # Copied: an array that shares PyTorch's memory must not be donated.
    return [(jnp.array(layer.weight.detach().T.numpy()), jnp.array(layer.bias.detach().numpy())) for layer in linear]
