"""GDReG: its gradient by the paper's formula, and its mean against IWAE's on hierarchies."""

from pyro_vae.testing import ObjectiveSuite


class TestContract(ObjectiveSuite):
    part = "gdreg(num_particles=3)"
    needs_reparameterized_samples = True
