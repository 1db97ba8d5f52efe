"""Networks that accept any leading batch shape."""

from pyro_vae.nn.mlp import MLP
from pyro_vae.nn.network import Network, features_of, make_network
from pyro_vae.nn.shapes import flatten_event

__all__ = ["MLP", "Network", "features_of", "flatten_event", "make_network"]
