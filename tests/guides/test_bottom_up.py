from pyro_vae.testing import GuideSuite


class TestContract(GuideSuite):
    part = "bottom_up"
    model = "hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(5,))"


class TestContractOfFlows(GuideSuite):
    part = "bottom_up(layers=('full_rank', 'planar(num_flows=2)', 'iaf(num_flows=1)'))"
    model = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"
