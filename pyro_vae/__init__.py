"""Variational autoencoders as probabilistic programs, with their posterior approximations measured."""

import sys
from pathlib import Path

try:
    from pyro_vae import guides, models, objectives
    from pyro_vae.comparison import compare, load_run
    from pyro_vae.data import load_data
    from pyro_vae.evaluation import (
        active_units,
        ais,
        bdmc,
        elbo_terms,
        evidence_budget,
        guide_error,
        inference_gaps,
        latent_statistics,
        log_likelihood,
        reference_posterior,
        sbc,
        to_inference_data,
    )
    from pyro_vae.fit import Run, fit
    from pyro_vae.programs.log_weights import log_weights
    from pyro_vae.version import __version__
except KeyboardInterrupt:
    # Most of the time is torch's. The command ends as it does later; elsewhere the caller decides.
    if Path(sys.argv[0]).stem != "pyro-vae" and not (sys.argv[0] == "-m" and "pyro_vae" in sys.orig_argv):
        raise
    sys.stderr.write("pyro-vae: interrupted.\n")
    raise SystemExit(130) from None

__all__ = [
    "Run",
    "__version__",
    "active_units",
    "ais",
    "bdmc",
    "compare",
    "elbo_terms",
    "evidence_budget",
    "fit",
    "guide_error",
    "guides",
    "inference_gaps",
    "latent_statistics",
    "load_data",
    "load_run",
    "log_likelihood",
    "log_weights",
    "models",
    "objectives",
    "reference_posterior",
    "sbc",
    "to_inference_data",
]
