"""Likelihoods p(x | z)."""

from pyro_vae.models.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.models.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood
from pyro_vae.models.likelihoods.gaussian import GaussianLikelihood

__all__ = ["BernoulliLikelihood", "ContinuousBernoulliLikelihood", "GaussianLikelihood"]
