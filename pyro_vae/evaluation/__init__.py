"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.annealing.ais import AIS, ais
from pyro_vae.evaluation.annealing.bdmc import BDMC, bdmc
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.evidence.log_likelihood import LogLikelihood, log_likelihood
from pyro_vae.evaluation.evidence_budget import EvidenceBudget, evidence_budget
from pyro_vae.evaluation.gaps.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evaluation.inference_data import to_inference_data
from pyro_vae.evaluation.latents.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.latents.latent_statistics import LatentStatistics, latent_statistics
from pyro_vae.evaluation.latents.linear_probe import LinearProbe, linear_probe
from pyro_vae.evaluation.reference.guide_error import GuideError, guide_error
from pyro_vae.evaluation.reference.reference_posterior import ReferencePosterior, reference_posterior
from pyro_vae.evaluation.reference.two_sample import TwoSample, two_sample_test
from pyro_vae.evaluation.result import BoundResult, Result
from pyro_vae.evaluation.sbc import SBC, sbc
from pyro_vae.evaluation.sharpness import SharpnessRatio, reconstruction_sharpness, sharpness, sharpness_ratio

__all__ = [
    "AIS",
    "BDMC",
    "SBC",
    "ActiveUnits",
    "BoundResult",
    "ElboTerms",
    "Estimate",
    "EvidenceBudget",
    "GuideError",
    "InferenceGaps",
    "LatentStatistics",
    "LinearProbe",
    "LogLikelihood",
    "ReferencePosterior",
    "Result",
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
    "reconstruction_sharpness",
    "reference_posterior",
    "sbc",
    "sharpness",
    "sharpness_ratio",
    "to_inference_data",
    "two_sample_test",
]
