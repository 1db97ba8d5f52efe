"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evaluation.log_likelihood import LogLikelihood, log_likelihood

__all__ = [
    "ActiveUnits",
    "BitsPerDim",
    "ElboTerms",
    "InferenceGaps",
    "LogLikelihood",
    "active_units",
    "elbo_terms",
    "inference_gaps",
    "log_likelihood",
]
