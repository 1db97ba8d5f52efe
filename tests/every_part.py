"""Pairs in which every guide, prior, likelihood and objective is found at least once.

A part that no pair below has comes with the plain ones, as its own test file makes it.
"""

from typing import Any, NamedTuple

import torch
from held_parts import data_for, held_parts, model_for
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.counts import Counts
from pyro_vae.parts import make_pair, make_part, parse_part
from pyro_vae.programs.values import support_of
from pyro_vae.protocols import Program

X_SHAPE, LATENT_DIM, HIDDEN = (1, 2, 3), 2, (8,)


class Parts(NamedTuple):
    guide: str
    prior: str
    likelihood: str
    objective: str


TOGETHER = [
    Parts("auxiliary(context_dim=4)", "student_t", "bernoulli", "renyi(num_particles=3)"),
    Parts(
        "bottom_up(layers=('low_rank', 'iaf(num_flows=1, flow_hidden_dims=(8,))'))",
        "flow(num_flows=1, hidden_dims=(8,))", "gaussian", "dreg(num_particles=3)",
    ),
    Parts("conditional(base='low_rank')", "student_t", "bernoulli", "iwae(num_particles=3)"),
    Parts("full_rank", "flow(num_flows=1, hidden_dims=(8,))", "gaussian", "dreg(num_particles=3)"),
    Parts(
        "householder(num_reflections=2)", "mixture(num_components=3)", "categorical(levels=4)",
        "piwae(num_groups=2, num_particles=3)",
    ),
    Parts(
        "iaf(num_flows=1, flow_hidden_dims=(8,), context_dim=4)", "vamp(num_components=3)",
        "discretized_logistic(levels=4)", "sticking_the_landing",
    ),
    Parts("local", "standard_normal", "negative_binomial", "free_bits"),
    Parts("low_rank", "student_t", "poisson", "reweighted_wake_sleep(num_particles=3, insomnia=0.5)"),
    Parts("mean_field", "standard_normal", "gaussian(scale='predicted')", "analytic_kl"),
    Parts("mixture(num_components=3)", "vamp(num_components=3)", "categorical(levels=4)", "ciwae(num_particles=3)"),
    Parts("planar(num_flows=2)", "flow(num_flows=1, hidden_dims=(8,))", "continuous_bernoulli", "trace_elbo"),
    Parts("semi_amortized(num_steps=1)", "mixture(num_components=3)", "bernoulli", "beta_elbo(warmup=2)"),
    Parts(
        "spline(num_flows=1, flow_hidden_dims=(8,), context_dim=4, num_bins=3)", "student_t",
        "discretized_logistic_mixture(num_components=2, levels=4)", "iwae(num_particles=3)",
    ),
    Parts(
        "sylvester(num_flows=1, num_reflections=2)", "standard_normal", "student_t",
        "miwae(num_groups=2, num_particles=3)",
    ),
    Parts(
        "top_down(layers=('low_rank(rank=1)', 'mean_field'))", "mixture(num_components=3)",
        "zero_inflated_negative_binomial", "iwae(num_particles=3)",
    ),
]  # fmt: skip

PLAIN = Parts("mean_field", "standard_normal", "bernoulli", "trace_elbo")

for kind in Parts._fields:
    paired = {parse_part(kind, getattr(parts, kind))[0] for parts in TOGETHER}
    for name, texts in held_parts(kind).items():
        if name not in paired:
            TOGETHER += [PLAIN._replace(**{kind: text}) for text in texts]


def images(likelihood: str, n: int = 40) -> Tensor:
    """In two clusters, on four levels of grey; black and white, or counts up to 3, where the likelihood wants that."""
    made_likelihood = make_part("likelihood", likelihood, x_shape=X_SHAPE, latent_dim=LATENT_DIM, hidden_dims=HIDDEN)
    support = support_of(made_likelihood(torch.zeros(LATENT_DIM)))
    generator = torch.Generator().manual_seed(1)
    cluster = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    levels = 2 if support is constraints.boolean else 4
    means = torch.where(cluster, torch.linspace(0.1, 0.9, 6).reshape(X_SHAPE), 0.3)
    whole = (means + 0.4 * torch.rand(n, *X_SHAPE, generator=generator) - 0.2).mul(levels).floor().clamp(0, levels - 1)
    return whole if isinstance(support, Counts) else whole / (levels - 1)


def made(parts: Parts) -> tuple[Any, Program, Program]:
    """Images, with labels where the model is given some, a guide and its model; the same at each call."""
    x = images(parts.likelihood)
    torch.manual_seed(0)
    pair = make_pair(
        X_SHAPE, LATENT_DIM, HIDDEN, model=model_for(parts.guide), guide=parts.guide, prior=parts.prior,
        likelihood=parts.likelihood, data=lambda: x,
    )  # fmt: skip
    return data_for(parts.guide, x), *pair
