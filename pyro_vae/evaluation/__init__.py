"""How good a fitted pair is; each function returns a result object with its uncertainty."""

from pyro_vae.evaluation.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.elbo import ElboTerms, elbo_terms
from pyro_vae.evaluation.guide_error import GuideError, guide_error
from pyro_vae.evaluation.log_likelihood import LogLikelihood, log_likelihood
from pyro_vae.evaluation.reference_posterior import ReferencePosterior, reference_posterior
from pyro_vae.evaluation.sbc import SBC, sbc
from pyro_vae.evaluation.two_sample import TwoSample, two_sample_test

__all__ = [
    "SBC",
    "ActiveUnits",
    "BitsPerDim",
    "ElboTerms",
    "GuideError",
    "LogLikelihood",
    "ReferencePosterior",
    "TwoSample",
    "active_units",
    "elbo_terms",
    "guide_error",
    "log_likelihood",
    "reference_posterior",
    "sbc",
    "two_sample_test",
]
