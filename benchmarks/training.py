"""The sides of the training benchmark: each takes the steps of one epoch over the same batches."""

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam as PyroAdam
from tqdm import tqdm

from benchmarks.batches import NumberedBatches
from benchmarks.pyro_example import ExampleVAE
from benchmarks.raw_vae import RawVAE
from benchmarks.timing import Side
from pyro_vae.fit.parameters import Parameters
from pyro_vae.fit.steps.auto_step import make_step
from pyro_vae.fit.steps.gradients import BatchLoss
from pyro_vae.fit.steps.watch import Watch
from pyro_vae.fit.training import Training
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.programs.modules import modules_of
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Objective, Program

X_DIM = 784
LATENT_DIM = 50
LEARNING_RATE = 1e-3


def raw(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return the hand-written VAE with one fused Adam."""
    vae = RawVAE(X_DIM, LATENT_DIM, hidden_dims)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)

    def epoch(index: int) -> float:
        total = 0.0
        for x in batches.images(index):
            optimizer.zero_grad()
            loss = vae.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return epoch


def pyro_example(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return Pyro's example as its authors wrote it: ``SVI.step`` under Pyro's default settings."""
    pyro.clear_param_store()
    vae = ExampleVAE(X_DIM, LATENT_DIM, hidden_dims)
    svi = SVI(vae.model, vae.guide, PyroAdam({"lr": LEARNING_RATE}), loss=Trace_ELBO())

    def epoch(index: int) -> float:
        total = 0.0
        with pyro.validation_enabled(True):
            for x in batches.images(index):
                total += svi.step(x)
        return total

    return epoch


def ours(
    batches: NumberedBatches, hidden_dims: tuple[int, ...], level: str, objective: Objective | None = None
) -> Side:
    """Return this library's VAE, as ``fit`` trains it."""
    model = VAE((X_DIM,), LATENT_DIM, hidden_dims[::-1])
    return in_fit(model, MeanFieldGuide((X_DIM,), LATENT_DIM, hidden_dims), batches, level, objective)


def in_fit(
    model: Program, guide: Program, batches: NumberedBatches, level: str, objective: Objective | None = None
) -> Side:
    """Return a pair in the very loop of ``pyro_vae.fit``, with ``compile=level`` and ``Trace_ELBO`` unless given."""
    objective = Trace_ELBO() if objective is None else objective
    rows = batches.first()
    x = batches.observe(rows)
    pair, parameters = Pair(model, guide, x), Parameters.of(model, guide, x)
    optimizer = torch.optim.Adam(parameters.trainable, lr=LEARNING_RATE, fused=True)
    loss = BatchLoss(model, guide, objective, batches.observe, parameters.trainable, modules_of(model, guide))
    # As fit does before it captures one: an objective may learn the pair's structure from it.
    loss.eager()(rows, torch.ones(()))
    step = make_step(level, loss, optimizer)
    watch = None if level == "off" else Watch(loss, rows)
    training = Training(pair, parameters, objective, step, batches, optimizer, watch=watch)
    bar = tqdm(disable=True)

    def epoch(index: int) -> float:
        with pyro.validation_enabled(False):
            return training.epoch(index, 1.0, bar.update)

    return epoch
