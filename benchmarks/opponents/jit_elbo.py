"""The opponent: Pyro's own way to a faster step, ``JitTrace_ELBO``, which runs the loss by ``torch.jit.trace``."""

import warnings
from collections.abc import Callable

import pyro
import torch
from pyro.infer import JitTrace_ELBO
from torch import Tensor

from benchmarks.batches import NumberedBatches
from benchmarks.timing import Side
from benchmarks.training import LATENT_DIM, LEARNING_RATE, X_DIM
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE


class JitStep:
    """A step by ``JitTrace_ELBO``, in its fastest form.

    No ``SVI``, whose ``pyro.optim`` keeps an optimizer for each parameter, but one fused Adam over all of them, and
    no validation. The parameters are in a store of their own, away from that of the other sides.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: a batch, by which the graph is captured.
    """

    def __init__(self, model: Callable[[Tensor], object], guide: Callable[[Tensor], object], x: Tensor) -> None:
        self.model, self.guide = model, guide
        self.elbo = JitTrace_ELBO(ignore_jit_warnings=True)
        self.store = pyro.get_param_store()
        with self.store.scope() as self.state, pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.trace` is deprecated", FutureWarning)
            self.elbo.loss_and_grads(model, guide, x)
            self.parameters = [parameter.unconstrained() for parameter in self.store.values()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def __call__(self, x: Tensor) -> float:
        """Take a step and return the loss."""
        self.optimizer.zero_grad()
        loss: float = self.elbo.loss_and_grads(self.model, self.guide, x)
        self.optimizer.step()
        return loss


def compiled(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return this library's pair as a Pyro user trains it by ``JitTrace_ELBO``."""
    model = VAE((X_DIM,), LATENT_DIM, hidden_dims[::-1])
    step = JitStep(model, MeanFieldGuide((X_DIM,), LATENT_DIM, hidden_dims), next(batches.images(0)))

    def epoch(index: int) -> float:
        with step.store.scope(step.state), pyro.validation_enabled(False):
            return sum(step(x) for x in batches.images(index))

    return epoch
