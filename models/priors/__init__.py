"""Priors p(z)."""

from pyro_vae.models.priors.flow import FlowPrior
from pyro_vae.models.priors.mixture import GaussianMixturePrior
from pyro_vae.models.priors.standard_normal import StandardNormalPrior
from pyro_vae.models.priors.student_t import StudentTPrior
from pyro_vae.models.priors.vamp import VampPrior

__all__ = ["FlowPrior", "GaussianMixturePrior", "StandardNormalPrior", "StudentTPrior", "VampPrior"]
