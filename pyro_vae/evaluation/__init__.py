"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.inference_data import to_inference_data
from pyro_vae.evaluation.latent_statistics import LatentStatistics, latent_statistics
from pyro_vae.evaluation.linear_probe import LinearProbe, linear_probe
from pyro_vae.evaluation.log_likelihood import LogLikelihood, log_likelihood
from pyro_vae.evaluation.monte_carlo_mean import MonteCarloMean
from pyro_vae.evaluation.sharpness import SharpnessRatio, sharpness, sharpness_ratio

__all__ = [
    "ActiveUnits",
    "BitsPerDim",
    "ElboTerms",
    "LatentStatistics",
    "LinearProbe",
    "LogLikelihood",
    "MonteCarloMean",
    "SharpnessRatio",
    "active_units",
    "elbo_terms",
    "latent_statistics",
    "linear_probe",
    "log_likelihood",
    "sharpness",
    "sharpness_ratio",
    "to_inference_data",
]
