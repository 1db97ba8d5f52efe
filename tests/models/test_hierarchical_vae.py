from typing import ClassVar

from pyro_vae.testing import ModelSuite


class TestContract(ModelSuite):
    part = "hierarchical_vae(inner_latent_dims=(4, 2), inner_hidden_dims=((6, 5), (4,)))"
    latents: ClassVar = {"z1": (4,), "z2": (2,), "z3": (3,)}
