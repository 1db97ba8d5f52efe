"""Priors p(z)."""

from pyro_vae.models.priors.standard_normal import StandardNormalPrior

__all__ = ["StandardNormalPrior"]
