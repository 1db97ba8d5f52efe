"""Lower bounds and gradient estimators, each a ``pyro.infer.ELBO``; for now Pyro's own, and a KL weight."""

from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.objectives.without_jit import without_jit

__all__ = ["KLWeight", "tensor_loss", "without_jit"]
