"""Generative models p(x, z), each a Pyro program."""

if __name__ != "pyro_vae.models":
    raise ImportError(
        f"imported as {__name__!r}: import pyro_vae.models instead, since otherwise every class exists twice."
    )

from pyro_vae.models import likelihoods, priors
from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.models.hierarchical_vae import HierarchicalVAE
from pyro_vae.models.linear_gaussian import LinearGaussian
from pyro_vae.models.linear_gaussian_chain import LinearGaussianChain
from pyro_vae.models.masked_vae import MaskedVAE
from pyro_vae.models.vae import VAE

__all__ = [
    "VAE",
    "ConditionalVAE",
    "HierarchicalVAE",
    "LinearGaussian",
    "LinearGaussianChain",
    "MaskedVAE",
    "likelihoods",
    "priors",
]
