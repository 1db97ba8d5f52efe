"""Likelihoods p(x | z)."""

from pyro_vae.models.likelihoods.bernoulli import BernoulliLikelihood

__all__ = ["BernoulliLikelihood"]
