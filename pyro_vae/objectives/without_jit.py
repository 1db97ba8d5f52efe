"""Pyro's Jit objectives as what they compute."""

import inspect
import logging

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from pyro_vae.protocols import Objective

logger = logging.getLogger("pyro_vae")

PLAIN: dict[type[ELBO], type[ELBO]] = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
}


def without_jit(objective: Objective) -> Objective:
    """Return the objective, or the plain one of the same loss where it is one of Pyro's Jit classes.

    Those compile the loss on their own, and look parameters up in Pyro's global store, where those of a module
    that keeps its parameters to itself are not. The step is captured by ``fit`` instead, which is said in one line.

    >>> type(without_jit(JitTrace_ELBO(num_particles=3))).__name__
    'Trace_ELBO'
    """
    plain = PLAIN.get(type(objective))
    if plain is None:
        return objective
    logger.warning("fit: %s runs as %s; compile=... compiles", type(objective).__name__, plain.__name__)
    names = set(inspect.signature(ELBO.__init__).parameters) & vars(objective).keys()
    return plain(**{name: getattr(objective, name) for name in names})
