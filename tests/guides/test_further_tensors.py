"""Every guide beside a likelihood that takes a library size, which the guides that run the model see, too."""

import pyro
import pytest
import torch
from held_parts import model_for
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.distributions import Poisson
from torch.testing import assert_close

import pyro_vae
from pyro_vae import log_weights
from pyro_vae.errors import PairError
from pyro_vae.evaluation import active_units, ais, inference_gaps
from pyro_vae.guides import MeanFieldGuide, SemiAmortizedGuide
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.models import VAE
from pyro_vae.nn import MLP
from pyro_vae.parts import make_guide, make_pair, part_names
from pyro_vae.protocols import PosteriorGuide


def counts(n=6):
    library = torch.tensor([20.0, 100.0, 30.0, 5.0, 60.0, 1000.0])[:n]
    return (torch.rand(n, 4) * library[:, None]).round(), library


def model_of_counts(name="vae"):
    return make_pair((4,), 2, (5,), model=name, likelihood="poisson(library=True)", data=lambda: counts()[0])[0]


def data_of(guide, x, library):
    """x and library, with a label between them where the model is given one."""
    return (x, torch.arange(len(x)) % 3, library) if "num_classes" in model_for(guide) else (x, library)


@pytest.mark.parametrize("guide", part_names("guide"))
def test_every_guide_takes_a_library_size(guide):
    """The weights are those of the joint with each datum's own library size, whatever the model."""
    x, library = counts()
    model, made = make_pair(
        (4,), 2, (5,), model=model_for(guide), guide=guide, likelihood="poisson(library=True)", data=lambda: x
    )
    data = data_of(guide, x, library)
    trace = poutine.trace(made.eval()).get_trace(*data)
    joint = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*data)
    joint.compute_log_prob()
    z = trace.nodes["z1" if "z1" in trace.nodes else "z"]["value"]
    if len(data) == 3:
        z = torch.cat([z, nn.functional.one_hot(data[1], 3)], dim=-1)
    rate = data[-1].unsqueeze(-1) * model.likelihood.decoder(z).softmax(-1)
    assert_close(joint.nodes["x"]["log_prob"], Poisson(rate).log_prob(data[0]).sum(-1))
    assert log_weights(model, made, data, 3).isfinite().all()


@pytest.mark.parametrize("guide", [name for name in part_names("guide") if model_for(name) == "vae"])
def test_a_guide_that_runs_no_model_ignores_a_library_size(guide):
    model, (x, library) = model_of_counts(), counts()
    made = make_guide((4,), 2, (5,), guide=guide, model=model, data=lambda: x).eval()
    if isinstance(made, PosteriorGuide) and not hasattr(made, "model"):
        torch.manual_seed(0)
        drawn = made.posterior(x, library).sample()
        torch.manual_seed(0)
        assert torch.equal(made.posterior(x).sample(), drawn)


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
def test_a_guide_of_two_layers_sees_0_where_x_is_missing(name):
    guide = make_pair((4,), 2, (5,), model="hierarchical_vae", guide=name)[1]
    x = torch.tensor([[1.0, torch.nan, 2.0, torch.nan]])
    drawn = []
    for data in ((x, torch.ones(1), ~x.isnan()), (x.nan_to_num(0.0),)):
        torch.manual_seed(0)
        drawn.append(guide(*data))
    assert torch.equal(*drawn)


def test_a_semi_amortized_guide_climbs_the_elbo_of_each_library_size():
    """Ten steps leave a gradient of log p(x, z | library) at most a tenth of what it was at the start."""
    model, data = model_of_counts(), counts()
    slopes = []
    for num_steps in (0, 10):
        torch.manual_seed(0)
        guide = SemiAmortizedGuide((4,), 2, (5,), num_steps=num_steps, num_pairs=2, model=model)
        q = guide.posterior(*data)
        z = q.mean.detach().requires_grad_()
        joint = model.likelihood(z, data[1]).log_prob(data[0]) + model.prior().log_prob(z)
        slopes.append(torch.autograd.grad(joint.sum(), z)[0].norm(dim=1) * q.stddev.norm(dim=1))
    assert slopes[1].mean() < 0.1 * slopes[0].mean()


def test_evaluations_and_fit_take_it():
    model, data = model_of_counts(), counts()
    guide = MeanFieldGuide((4,), 2, (5,))
    run = pyro_vae.fit(model, guide, data, epochs=2, batch_size=3, seed=0)
    assert run.compiled == "trace"
    options = {"seed": 0, "progress": False}
    assert ais(model, data, num_temperatures=5, num_chains=2, num_leapfrog=1, burn_in=0, **options).num_data == 6
    gaps = inference_gaps(model, guide, data, num_samples=20, evidence_samples=20, max_steps=5, **options)
    assert gaps.best_elbo.per_datum.isfinite().all()
    assert active_units(guide, data).variance.shape == (2,)


def test_a_guide_of_ones_own_may_take_x_alone():
    class Own(AmortizedGuide):
        def __init__(self):
            super().__init__((4,), 2, (5,), "tanh", None, {"location": 2})

        def posterior(self, x):
            return dist.Normal(self.features(x)[0], 1.0).to_event(1)

    assert log_weights(model_of_counts(), Own(), counts(), 3).shape == (3, 6)


def test_too_few_tensors_are_told_what_is_missing():
    class NeedsBoth(nn.Module):
        def forward(self, z, library, batch):
            return dist.Poisson(library + batch + z[..., 0]).to_event(0)

    x, library = counts()
    with pytest.raises(PairError, match=r"missing, as \(x, library, batch\)"):
        log_weights(VAE((4,), 2, likelihood=NeedsBoth()), MeanFieldGuide((4,), 2), (x, library), 3)


def test_an_encoder_is_given_what_its_forward_names():
    class Encoder(nn.Module):
        def __init__(self, in_features, out_features):
            super().__init__()
            self.layers = MLP(in_features + 1, (5,), out_features)

        def forward(self, x, library):
            return self.layers(torch.cat([x.log1p(), library.log().unsqueeze(-1)], dim=-1))

    x, library = counts()
    guide = MeanFieldGuide((4,), 2, encoder=Encoder)
    assert not torch.equal(guide.posterior(x, library).mean, guide.posterior(x, 2 * library).mean)
    found = log_weights(model_of_counts(), guide, (x, library), 3)
    assert found.isfinite().all()
    with pyro.plate("particles", 5, dim=-2):
        assert guide(x, library).shape == (5, 6, 2)
    mean = guide.encoder(x, library)[:, :2]
    assert_close(guide.posterior(x, library).mean, mean)
