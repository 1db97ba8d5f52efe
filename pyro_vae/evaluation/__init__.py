"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.ais import AIS, ais
from pyro_vae.evaluation.bdmc import BDMC, bdmc
from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.log_likelihood import LogLikelihood, log_likelihood

__all__ = [
    "AIS",
    "BDMC",
    "ActiveUnits",
    "BitsPerDim",
    "ElboTerms",
    "LogLikelihood",
    "active_units",
    "ais",
    "bdmc",
    "elbo_terms",
    "log_likelihood",
]
