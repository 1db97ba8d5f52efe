"""Likelihoods p(x | z)."""

from pyro_vae.models.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.models.likelihoods.categorical import CategoricalLikelihood
from pyro_vae.models.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood
from pyro_vae.models.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood
from pyro_vae.models.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixtureLikelihood
from pyro_vae.models.likelihoods.gaussian import GaussianLikelihood
from pyro_vae.models.likelihoods.negative_binomial import NegativeBinomialLikelihood
from pyro_vae.models.likelihoods.poisson import PoissonLikelihood
from pyro_vae.models.likelihoods.student_t import StudentTLikelihood
from pyro_vae.models.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomialLikelihood

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DiscretizedLogisticLikelihood",
    "DiscretizedLogisticMixtureLikelihood",
    "GaussianLikelihood",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "StudentTLikelihood",
    "ZeroInflatedNegativeBinomialLikelihood",
]
