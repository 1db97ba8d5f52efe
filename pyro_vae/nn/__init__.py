"""Networks that accept any leading batch shape."""

from pyro_vae.nn.mlp import MLP
from pyro_vae.nn.shapes import flatten_event

__all__ = ["MLP", "flatten_event"]
