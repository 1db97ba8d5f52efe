"""Variational autoencoders as probabilistic programs, with their posterior approximations measured."""

from pyro_vae import guides, models, objectives
from pyro_vae.data import load_data
from pyro_vae.evaluation import active_units, elbo_terms, log_likelihood
from pyro_vae.fit import Run, fit, load_run
from pyro_vae.log_weights import log_weights

__version__ = "0.1.0"

__all__ = [
    "Run",
    "active_units",
    "elbo_terms",
    "fit",
    "guides",
    "load_data",
    "load_run",
    "log_likelihood",
    "log_weights",
    "models",
    "objectives",
]
