"""Pyro's own ELBO owes what every objective owes."""

from pyro_vae.testing import ObjectiveSuite


class TestContract(ObjectiveSuite):
    part = "trace_elbo"
