"""Figures: a run's curves and images, draws of a posterior, budgets of evidence."""

from pyro_vae.plots.budget import evidence_budgets
from pyro_vae.plots.pair import (
    class_samples,
    completions,
    model_samples,
    pair_reconstructions,
    pair_traversal,
    rows_of_classes,
)
from pyro_vae.plots.posterior import pairwise_marginals, rank_ecdfs
from pyro_vae.plots.run import (
    QUANTILES,
    image_grid,
    latent_traversal,
    learning_curves,
    manifold,
    prior_samples,
    reconstructions,
)

__all__ = [
    "QUANTILES",
    "class_samples",
    "completions",
    "evidence_budgets",
    "image_grid",
    "latent_traversal",
    "learning_curves",
    "manifold",
    "model_samples",
    "pair_reconstructions",
    "pair_traversal",
    "pairwise_marginals",
    "prior_samples",
    "rank_ecdfs",
    "reconstructions",
    "rows_of_classes",
]
