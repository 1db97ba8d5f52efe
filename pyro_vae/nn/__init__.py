"""Networks that accept any leading batch shape."""

from pyro_vae.nn.conv import ConvNetwork
from pyro_vae.nn.gated_conv import GatedConvNetwork
from pyro_vae.nn.gated_mlp import GatedMLP
from pyro_vae.nn.masked_mlp import MaskedMLP
from pyro_vae.nn.mlp import MLP
from pyro_vae.nn.network import Network, features_of, make_network, output_bias_of
from pyro_vae.nn.resnet import ResidualNetwork
from pyro_vae.nn.shapes import flatten_event

__all__ = [
    "MLP",
    "ConvNetwork",
    "GatedConvNetwork",
    "GatedMLP",
    "MaskedMLP",
    "Network",
    "ResidualNetwork",
    "features_of",
    "flatten_event",
    "make_network",
    "output_bias_of",
]
