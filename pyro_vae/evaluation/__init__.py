"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.ais import AIS, ais
from pyro_vae.evaluation.bdmc import BDMC, bdmc
from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.evidence_budget import EvidenceBudget, evidence_budget
from pyro_vae.evaluation.guide_error import GuideError, guide_error
from pyro_vae.evaluation.inference_data import to_inference_data
from pyro_vae.evaluation.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evaluation.latent_statistics import LatentStatistics, latent_statistics
from pyro_vae.evaluation.linear_probe import LinearProbe, linear_probe
from pyro_vae.evaluation.log_likelihood import LogLikelihood, log_likelihood
from pyro_vae.evaluation.monte_carlo_mean import MonteCarloMean
from pyro_vae.evaluation.reference_posterior import ReferencePosterior, reference_posterior
from pyro_vae.evaluation.sbc import SBC, sbc
from pyro_vae.evaluation.sharpness import SharpnessRatio, sharpness, sharpness_ratio
from pyro_vae.evaluation.two_sample import TwoSample, two_sample_test

__all__ = [
    "AIS",
    "BDMC",
    "SBC",
    "ActiveUnits",
    "BitsPerDim",
    "ElboTerms",
    "EvidenceBudget",
    "GuideError",
    "InferenceGaps",
    "LatentStatistics",
    "LinearProbe",
    "LogLikelihood",
    "MonteCarloMean",
    "ReferencePosterior",
    "SharpnessRatio",
    "TwoSample",
    "active_units",
    "ais",
    "bdmc",
    "elbo_terms",
    "evidence_budget",
    "guide_error",
    "inference_gaps",
    "latent_statistics",
    "linear_probe",
    "log_likelihood",
    "reference_posterior",
    "sbc",
    "sharpness",
    "sharpness_ratio",
    "to_inference_data",
    "two_sample_test",
]
