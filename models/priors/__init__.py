"""Priors p(z)."""

from pyro_vae.models.priors.mixture import GaussianMixturePrior
from pyro_vae.models.priors.standard_normal import StandardNormalPrior
from pyro_vae.models.priors.student_t import StudentTPrior

__all__ = ["GaussianMixturePrior", "StandardNormalPrior", "StudentTPrior"]
