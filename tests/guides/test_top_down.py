from pyro_vae.testing import GuideSuite


class TestContract(GuideSuite):
    part = "top_down"
    model = "hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(5,))"


class TestContractOfThreeLayers(GuideSuite):
    part = "top_down"
    model = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"
