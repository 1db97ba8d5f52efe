"""Parts are found by name, in a user's file and in a module; what cannot be found is said."""

import inspect
import math
import sys

import pytest
import torch
from held_parts import data_for, model_for

from pyro_vae import guides, log_weights, models, nn, objectives
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import (
    KINDS,
    find_part,
    make_guide,
    make_objective,
    make_pair,
    own_parts,
    parse_part,
    part_names,
    part_options,
)


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "my_own_guides.py"
    path.write_text("from pyro_vae.guides import MeanFieldGuide\n\n\nclass Mine(MeanFieldGuide):\n    pass\n")
    yield path
    sys.modules.pop("my_own_guides", None)


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("model", models),
        ("guide", guides),
        ("prior", models.priors),
        ("likelihood", models.likelihoods),
        ("network", nn),
        ("objective", objectives),
    ],
)
def test_every_part_has_a_name(kind, package):
    found = own_parts(kind)
    classes = [name for name in package.__all__ if inspect.isclass(getattr(package, name))]
    assert sorted(cls.__name__ for cls in found.values()) == sorted(classes)
    assert all(find_part(kind, name) is cls for name, cls in found.items())


def test_every_kind_is_tried():
    assert set(KINDS) == {"model", "guide", "prior", "likelihood", "network", "objective"}


@pytest.mark.parametrize(("name", "hint"), [("meen_field", r" Did you mean 'mean_field'\?"), ("abacus", "")])
def test_an_unknown_name_suggests_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"unknown name '{name}'\.{hint} There"):
        find_part("guide", name)


def test_a_class_of_ones_own_file(own_file):
    found = find_part("guide", f"{own_file}:Mine")
    assert issubclass(found, MeanFieldGuide)
    assert find_part("guide", f"{own_file}:Mine") is found
    assert sys.modules[found.__module__].Mine is found


def test_a_class_of_a_module():
    assert find_part("guide", "pyro_vae.guides.mean_field:MeanFieldGuide") is MeanFieldGuide


def test_what_is_not_there_is_said(own_file):
    cases = {
        f"{own_file}:Yours": r"'Yours'; it defines Mine\.",
        f"{own_file.parent}/nothing.py:Mine": r"no file .*nothing\.py\.",
        "no.such.module:Mine": r"cannot import no\.such\.module",
        "math:Mine": "'Mine'; it defines none",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            find_part("guide", name)


def test_a_file_that_fails_is_told_and_not_kept(tmp_path):
    path = tmp_path / "broken_guide.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ValueError, match="import: ZeroDivisionError"):
        find_part("guide", f"{path}:Mine")
    assert "broken_guide" not in sys.modules


def test_a_file_must_not_hide_a_loaded_module(tmp_path):
    path = tmp_path / "math.py"
    path.write_text("class Mine: ...\n")
    with pytest.raises(ValueError, match="already loaded: rename"):
        find_part("guide", f"{path}:Mine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iaf", ("iaf", {})),
        ("low_rank(rank=4)", ("low_rank", {"rank": 4})),
        ("my/file.py:Mine(a=0.5, b='x', c=(1, 2))", ("my/file.py:Mine", {"a": 0.5, "b": "x", "c": (1, 2)})),
        (" iwae( ) ", ("iwae", {})),
    ],
)  # fmt: skip
def test_a_part_is_written_as_a_call(text, expected):
    assert parse_part("guide", text) == expected


@pytest.mark.parametrize(
    "text", ["low_rank(4)", "low_rank(rank=4", "low_rank(rank=x)", "low_rank(**a)", "(rank=1)", "low_rank(rank=4)(x=1)"]
)
def test_what_is_no_call_is_refused(text):
    with pytest.raises(ValueError, match=r"guide: cannot read .*NAME\("):
        parse_part("guide", text)


def data(n=20):
    return torch.rand(n, 1, 3, 2).round()


def test_a_pair_by_names_with_options():
    parts = {"guide": "low_rank(rank=2)", "prior": "mixture(num_components=3)", "likelihood": "gaussian(scale=0.5)"}
    model, guide = make_pair((1, 3, 2), 4, (6, 5), **parts)
    assert (guide.rank, guide.hidden_dims, guide.latent_dim) == (2, (5, 6), 4)
    assert (model.prior.num_components, model.likelihood.scale, model.likelihood.hidden_dims) == (3, 0.5, (6, 5))
    assert log_weights(model, guide, data(3), 2).shape == (2, 3)
    assert make_objective("renyi(alpha=0.25, num_particles=3)").alpha == 0.25


@pytest.mark.parametrize("guide", sorted(part_names("guide")))
def test_every_guide_is_made_by_its_name(guide):
    x = data()
    model, made = make_pair((1, 3, 2), 4, (5,), model=model_for(guide), guide=guide, data=lambda: x)
    assert log_weights(model, made, data_for(guide, x[:3]), 2).isfinite().all()


@pytest.mark.parametrize("prior", sorted(part_names("prior")))
def test_every_prior_is_made_by_its_name(prior):
    x = data(600)
    model, made = make_pair((1, 3, 2), 4, (5,), prior=prior, data=lambda: x)
    assert log_weights(model, made, x[:3], 2).isfinite().all()


@pytest.mark.parametrize("likelihood", sorted(part_names("likelihood")))
def test_every_likelihood_is_made_by_its_name(likelihood):
    model, made = make_pair((1, 3, 2), 4, (5,), likelihood=likelihood)
    assert log_weights(model, made, data(3), 2).isfinite().all()


@pytest.mark.parametrize("objective", sorted(part_names("objective")))
def test_every_objective_is_made_by_its_name(objective):
    assert isinstance(make_objective(objective), own_parts("objective")[objective])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guide": "low_rank(rnak=4)"}, "no option 'rnak'.*'rank'"),
        ({"guide": "low_rank(latent_dim=4)"}, "latent_dim is the pair's"),
        ({"guide": "low_rank(rank=9)"}, "rank must be from 1 to 4"),
        ({"prior": "vamp"}, "vamp: needs `data`"),
        ({"prior": "vamp", "guide": "semi_amortized", "data": data}, "prior vamp needs the guide"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_made_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_pair((1, 3, 2), 4, (5,), **arguments)


def test_infinite_options_are_read():
    assert parse_part("prior", "vamp(low=-inf, high=inf)") == ("vamp", {"low": -math.inf, "high": math.inf})
    assert math.isnan(parse_part("prior", "vamp(low=nan)")[1]["low"])
    with pytest.raises(ValueError, match="cannot read"):
        parse_part("prior", "vamp(low=minus)")


def test_truth_values_are_read_as_yaml_reads_them():
    text = "bernoulli(a=true, b=False, c=null, d=TRUE, e=None, f='true')"
    options = {"a": True, "b": False, "c": None, "d": True, "e": None, "f": "true"}
    assert parse_part("likelihood", text) == ("bernoulli", options)
    with pytest.raises(ValueError, match=r"cannot read .* needs quotes"):
        parse_part("decoder", "mlp(activation=relu)")


def test_the_pair_gives_what_is_no_option():
    assert "hidden_dims" in part_options("prior", "flow")
    assert "hidden_dims" not in part_options("guide", "iaf")


def test_a_model_that_takes_no_prior_is_given_none():
    model, guide = make_pair((7,), 2, (5,), model="linear_gaussian(scale=0.5)")
    assert (model.x_dim, model.latent_dim, guide.latent_dim) == (7, 2, 2)
    for kind, name in (("prior", "mixture"), ("likelihood", "gaussian")):
        with pytest.raises(ValueError, match=rf"takes no {kind}: .*{kind} {name}\."):
            make_pair((7,), 2, (5,), model="linear_gaussian", **{kind: name})


def test_the_encoder_may_have_layers_and_an_activation_of_its_own():
    model, guide = make_pair((7,), 2, (5, 6), encoder_dims=(9, 8), activation="elu")
    assert (model.hidden_dims, guide.hidden_dims) == ((5, 6), (9, 8))
    assert model.activation == guide.activation == model.likelihood.activation == "elu"
    assert make_pair((7,), 2, (5, 6))[1].hidden_dims == (6, 5)


def test_a_guide_for_a_model_that_is_there():
    model, _ = make_pair((7,), 2, (5,))
    guide = make_guide((7,), 2, (9,), guide="semi_amortized", model=model)
    assert guide.hidden_dims == (9,)
    assert guide(torch.zeros(4, 7)).shape == (4, 2)


class Layered(VAE):
    """Its likelihood sees the lower of two layers."""

    def __init__(self, x_shape, latent_dim=2, hidden_dims=(5,), lower_dim: int = 3, *, likelihood=None):
        super().__init__(x_shape, latent_dim, hidden_dims, likelihood=likelihood)
        self.lower_dim = lower_dim

    @staticmethod
    def likelihood_dim(latent_dim, lower_dim=3):
        return latent_dim + lower_dim


class LayeredGuide(MeanFieldGuide):
    def __init__(self, x_shape, latent_dim=2, hidden_dims=(5,), lower_dim: int = 4):
        super().__init__(x_shape, latent_dim, hidden_dims)
        self.lower_dim = lower_dim


@pytest.mark.parametrize(
    ("model_options", "guide_options", "dims"),
    [("", "", (3, 4)), ("(lower_dim=6)", "", (6, 6)), ("(lower_dim=6)", "(lower_dim=7)", (6, 7))],
)
def test_a_guide_has_the_options_that_its_model_is_given(model_options, guide_options, dims):
    text = f"{__name__}:Layered{model_options}"
    model, guide = make_pair((7,), 2, (5,), model=text, guide=f"{__name__}:LayeredGuide{guide_options}")
    assert (model.lower_dim, guide.lower_dim) == dims
    assert model.likelihood.latent_dim == 2 + dims[0]
    made = make_guide((7,), 2, (5,), guide=f"{__name__}:LayeredGuide{guide_options}", model=model, model_text=text)
    assert made.lower_dim == dims[1]


class Curved(torch.nn.Module):
    """A network with an activation of its own."""

    def __init__(self, in_features, hidden_dims, out_features, activation="elu"):
        super().__init__()
        self.hidden_dims, self.out_features, self.activation = hidden_dims, out_features, activation
        self.layer = torch.nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.layer(x)


def test_a_part_that_a_yaml_list_has_cut_at_its_comma_says_how_it_is_written():
    with pytest.raises(ValueError, match="a comma needs quotes"):
        parse_part("measure", "sbc(num_data=20")


@pytest.mark.parametrize(("chosen", "activation"), [(None, "elu"), ("relu", "relu")])
def test_a_network_keeps_its_own_activation_unless_one_is_chosen(chosen, activation):
    curved = f"{__name__}:Curved"
    model, guide = make_pair((7,), 2, (5,), activation=chosen, encoder=curved, decoder=curved)
    assert (guide.encoder.activation, model.likelihood.decoder.activation) == (activation, activation)


def test_networks_are_chosen_by_name_with_options():
    """Where they say nothing else, they have the pair's layers and activation."""
    model, guide = make_pair(
        (7,), 2, (5, 6), activation="elu", encoder="mlp(activation='relu')", decoder="mlp(hidden_dims=(9,))"
    )
    assert (guide.encoder.hidden_dims, guide.encoder.activation, guide.activation) == ((6, 5), "relu", "elu")
    decoder = model.likelihood.decoder
    assert (decoder.hidden_dims, decoder.activation, decoder.out_features) == ((9,), "elu", 7)
    again = make_guide((7,), 2, (9,), guide="low_rank", model=model, encoder="mlp(hidden_dims=())")
    assert again.encoder.hidden_dims == ()


@pytest.mark.parametrize("network", sorted(part_names("network")))
def test_every_network_is_made_by_its_name_for_both_sides(network):
    model, guide = make_pair((1, 4, 4), 3, (5,), network=network)
    cls = own_parts("network")[network]
    assert (type(guide.encoder), type(model.likelihood.decoder)) == (cls, cls)
    x = torch.rand(3, 1, 4, 4).round()
    assert log_weights(model, guide, x, 2).isfinite().all()


@pytest.mark.parametrize(("side", "other"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_a_side_that_is_named_does_not_have_the_network_of_both(side, other):
    model, guide = make_pair((1, 4, 4), 3, (5,), network="conv(channels=(2,))", **{side: "mlp"})
    made = {"encoder": guide.encoder, "decoder": model.likelihood.decoder}
    assert type(made[side]).__name__ == "MLP"
    assert (made[other].channels, made[other].role) == ((2,), other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "conv", "model": "linear_gaussian"}, "takes no decoder: .*='mlp'"),
        ({"network": "conv(channels=(3,))"}, "x_shape must be"),
        ({"network": "conv(role='encoder')"}, "role is the pair's"),
        ({"encoder": "mpl"}, "encoder: unknown name 'mpl'"),
        ({"decoder": "mlp(width=3)"}, "mlp: has no option 'width'"),
        ({"decoder": "mlp(in_features=3)"}, "mlp: in_features is the pair's"),
        ({"encoder": "mlp(activation='x')"}, "MLP: activation must"),
        ({"encoder": "mlp(hidden_dims=())", "guide": "local", "data": data}, "guide local takes no encoder"),
        (
            {"decoder": "mlp(hidden_dims=())", "model": "linear_gaussian"},
            "linear_gaussian takes no decoder",
        ),
    ],
)
def test_networks_that_cannot_be_made_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_pair((7,), 2, (5,), **arguments)
