"""A run folder gives back the pair that was fitted, with the same weights, or says what it cannot build."""

import types

import pytest
import torch
import yaml
from every_part import HIDDEN, LATENT_DIM, TOGETHER, X_SHAPE, images, made
from held_parts import data_for, model_for
from torch import nn

import pyro_vae
from pyro_vae.errors import RunError
from pyro_vae.fit.describe import build_pair, is_buildable
from pyro_vae.fit.rebuilt import checked_description
from pyro_vae.guides import MeanFieldGuide, SemiAmortizedGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import VampPrior
from pyro_vae.nn import MLP
from pyro_vae.parts import make_objective, make_pair, part_names

SETTINGS = {"epochs": 1, "batch_size": 10, "compile": "off"}


def weights(model, guide, x) -> torch.Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        return pyro_vae.log_weights(model, guide, x, 3)


@pytest.mark.parametrize("parts", TOGETHER, ids=lambda parts: parts.guide)
def test_every_part_comes_back_from_objects(parts, tmp_path):
    """From the folder alone: no data, no names."""
    x, model, guide = made(parts)
    pyro_vae.fit(model, guide, x, objective=make_objective(parts.objective), out=tmp_path, **SETTINGS)
    loaded = pyro_vae.load_run(tmp_path)
    model.eval(), guide.eval()
    assert torch.equal(weights(loaded.model, loaded.guide, x), weights(model, guide, x))


OPTIONS = {
    "mixture": "(num_components=3)", "vamp": "(num_components=3)", "categorical": "(levels=4)",
    "discretized_logistic": "(levels=4)", "discretized_logistic_mixture": "(levels=4)", "planar": "(num_flows=2)",
}  # fmt: skip


@pytest.mark.parametrize(
    "guide_name",
    [
        name if name in ("mean_field", "semi_amortized") else pytest.param(name, marks=pytest.mark.slow)
        for name in part_names("guide")
    ],
)
def test_every_combination_is_described_as_it_is(guide_name):
    """Guide x prior x likelihood: what the description builds has the pair's weights, given its parameters."""
    built_any = False
    for prior_name in part_names("prior"):
        for likelihood_name in part_names("likelihood"):
            names = [f"{name}{OPTIONS.get(name, '')}" for name in (guide_name, prior_name, likelihood_name)]
            x = images(likelihood_name, 6)
            try:
                model, guide = make_pair(
                    X_SHAPE, LATENT_DIM, HIDDEN, model=model_for(guide_name), guide=names[0], prior=names[1],
                    likelihood=names[2], data=lambda x=x: x,
                )  # fmt: skip
                x = data_for(guide_name, x)
                expected = weights(model, guide, x)
            except ValueError:
                # A VampPrior needs a posterior that can score any z, and a semi-amortized guide needs the model first.
                assert prior_name == "vamp"
                continue
            described = checked_description(model, guide, x)
            assert is_buildable(described), (names, described)
            described = yaml.safe_load(yaml.safe_dump(described))
            built = build_pair(described, "here")
            for name, ours in (("model", model), ("guide", guide)):
                built[name].load_state_dict(ours.state_dict())
            assert torch.equal(weights(*built.values(), x), expected), names
            built_any = True
    assert built_any


def fitted(model, guide, out) -> torch.Tensor:
    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).round()
    pyro_vae.fit(model, guide, x, out=out, **SETTINGS)
    return x


def test_a_guide_inside_a_prior_is_the_pairs_own_again(tmp_path):
    guide = MeanFieldGuide((4,), 2, (3,))
    model = VAE((4,), 2, (3,), prior=VampPrior(2, guide, torch.rand(9, 4), 3))
    fitted(model, guide, tmp_path)
    loaded = pyro_vae.load_run(tmp_path)
    assert loaded.model.prior.guide is loaded.guide
    assert torch.equal(loaded.model.prior.pseudo_inputs, model.prior.pseudo_inputs)


def test_a_guide_climbs_the_pairs_own_model_again(tmp_path):
    model = VAE((4,), 2, (3,))
    fitted(model, SemiAmortizedGuide((4,), 2, (3,), num_steps=1, model=model), tmp_path)
    loaded = pyro_vae.load_run(tmp_path)
    assert loaded.guide.model is loaded.model
    # Where one of the two is passed, the other is built around it.
    other = VAE((4,), 2, (3,))
    assert pyro_vae.load_run(tmp_path, model=other).guide.model is other


def test_a_network_that_both_share_is_one_network_again(tmp_path):
    """Trained under one name or the other, there is one tensor."""

    shared = MLP(4, (3,), 4)
    guide = MeanFieldGuide((4,), 2, (3,), encoder=shared)
    inside = MeanFieldGuide((4,), 2, (3,), encoder=shared)
    model = VAE((4,), 2, (3,), prior=VampPrior(2, inside, torch.rand(9, 4), 3))
    fitted(model, guide, tmp_path)
    loaded = pyro_vae.load_run(tmp_path)
    assert loaded.model.prior.guide.encoder is loaded.guide.encoder
    assert loaded.model.prior.guide is not loaded.guide


class Doubled(BernoulliLikelihood):
    """Its constructor does not keep what it was given."""

    def __init__(self, x_shape, latent_dim, hidden_dims=(3,)):
        super().__init__(x_shape, latent_dim, hidden_dims)
        self.hidden_dims = tuple(2 * size for size in hidden_dims)


class Halved(BernoulliLikelihood):
    gain = 1.0

    def forward(self, z):
        return super().forward(self.gain * z)


def swap_decoder(model):
    model.likelihood.decoder = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))


def swap_activation(model):
    model.likelihood.decoder.layers[1] = nn.ReLU()


def set_a_number(model):
    model.likelihood = Halved((4,), 2, (3,))
    model.likelihood.gain = 0.5


def patch_a_method(model):
    inner = model.likelihood.decoder.forward
    model.likelihood.decoder.forward = lambda z: inner(0.5 * z)


def hook(model):
    model.likelihood.decoder.register_forward_hook(lambda *call: 0.5 * call[-1])


def move_a_constant(model):
    model.prior.register_buffer("more", torch.ones(1), persistent=False)
    model.prior.forward = types.MethodType(lambda self: type(self).forward(self).expand([]), model.prior)
    model.likelihood.decoder = nn.utils.parametrizations.weight_norm(nn.Linear(2, 4))


def keep_a_wrong_argument(model):
    model.likelihood = Doubled((4,), 2)


@pytest.mark.parametrize(
    "change",
    [swap_decoder, swap_activation, set_a_number, patch_a_method, hook, move_a_constant, keep_a_wrong_argument],
)
def test_what_was_changed_by_hand_is_noticed(change, tmp_path):
    """Never another pair in silence: an error that says why, and the call with objects that works."""
    model, guide = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
    change(model)
    x = fitted(model, guide, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert "args" in config["guide"]
    why = "cannot be built|was recorded"
    with pytest.raises(RunError, match=rf"VAE ({why}).*, model="):
        pyro_vae.load_run(tmp_path, trust=True)
    loaded = pyro_vae.load_run(tmp_path, model=model)
    assert loaded.model is model
    assert torch.equal(weights(model, loaded.guide, x), weights(model, guide.eval(), x))


def test_a_decoder_that_was_swapped_for_another_of_its_class_is_described_as_it_is(tmp_path):
    model, guide = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
    model.likelihood.decoder = MLP(2, (7,), 4)
    x = fitted(model, guide, tmp_path)
    loaded = pyro_vae.load_run(tmp_path)
    assert loaded.model.likelihood.decoder.hidden_dims == (7,)
    assert torch.equal(weights(loaded.model, loaded.guide, x), weights(model.eval(), guide.eval(), x))


def test_a_decoder_that_takes_the_same_numbers_is_found_out_by_its_numbers(tmp_path):
    """A function has no structure: only what it computes tells."""
    model, guide = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
    model.likelihood.decoder.layers[1].forward = torch.sin
    fitted(model, guide, tmp_path)
    with pytest.raises(RunError, match=r"same noise, .*other numbers"):
        pyro_vae.load_run(tmp_path)


def test_a_description_leaves_the_pair_and_the_noise_alone(tmp_path):
    """With a folder and without one, training is the same to the last bit."""
    states = []
    for out in (None, tmp_path):
        torch.manual_seed(0)
        model, guide = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
        fitted(model, guide, out)
        states.append((*model.state_dict().values(), *guide.state_dict().values(), torch.get_rng_state()))
    for ours, theirs in zip(*states, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("place", ["guide", "model.prior", "nowhere", "model.hidden_dims.9", "guide.x_shape.0.1", ""])
def test_a_reference_that_leads_nowhere_or_in_a_circle_is_one_line(place, tmp_path):
    fitted(VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), tmp_path)
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["guide"] = {"same": place} if place == "guide" else config["guide"]
    config["model"]["args"]["prior"] = {"same": place}
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(RunError) as raised:
        pyro_vae.load_run(tmp_path)
    assert len(str(raised.value).splitlines()) == 1
