"""A cell's settings are checked when it is made, and its hash tells apart what would be computed differently."""

import sys

import numpy as np
import pytest
import yaml

from pyro_vae.comparison import Cell


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "guides_of_a_cell.py"
    path.write_text("from pyro_vae.guides import MeanFieldGuide\n\n\nclass Mine(MeanFieldGuide):\n    pass\n")
    yield path
    sys.modules.pop("guides_of_a_cell", None)


OTHER = {
    "model": "pyro_vae.models:VAE", "guide": "iaf", "prior": "mixture", "likelihood": "gaussian", "objective": "iwae",
    "latent_dim": 3, "hidden_dims": [7], "encoder_dims": [9], "activation": "elu", "init_bias": False,
    "data": "mnist", "labels": True, "quadrants": 1,
    "binarization": "static", "valid_size": 10, "data_seed": 1, "seed": 1, "epochs": 2,
    "batch_size": 5, "lr": 0.5, "adam_eps": 1e-4, "schedule": "iwae", "kl_warmup": 2, "clip_grad_norm": 3.0,
    "patience": 4, "compile": "off", "device": "cuda", "num_test": 7, "num_samples": 9, "elbo_samples": 8,
    "num_gaps": 3, "measure": ["sbc"], "fitted_model": {}, "encoder": "mlp(hidden_dims=(5,))",
    "decoder": "mlp(activation='relu')",
}  # fmt: skip


def test_every_setting_is_in_the_hash():
    assert set(OTHER) == set(Cell().settings())
    hashes = {name: Cell.of({name: value}).hash for name, value in OTHER.items()}
    assert len({Cell().hash, *hashes.values()}) == len(OTHER) + 1


def test_settings_go_to_yaml_and_back():
    cell = Cell.of({**OTHER, "fitted_model": None})
    assert Cell.of(yaml.safe_load(yaml.safe_dump(cell.settings()))) == cell
    frozen = Cell(guide="iaf", fitted_model=Cell(seed=3))
    again = Cell.of(yaml.safe_load(yaml.safe_dump(frozen.settings())))
    assert again == frozen
    assert again.hash == frozen.hash != Cell(guide="iaf", fitted_model=Cell(seed=4)).hash


def test_spellings_of_one_part_are_one_cell():
    assert Cell(guide=" iaf( num_flows = 2 ) ") == Cell(guide="iaf(num_flows=2)")
    assert Cell(hidden_dims=[200, 200]) == Cell()
    assert Cell(lr="3e-3") == Cell(lr=3e-3) == Cell()  # YAML takes 1e-3 for text
    assert Cell(kl_warmup=0, lr=1).lr == 1.0


def test_a_network_of_both_sides_is_an_encoder_and_a_decoder():
    """A cell without one keeps its settings, and so its hash and its folder."""
    assert Cell.of({"network": "conv( channels = (4,) )"}) == Cell(
        encoder="conv(channels=(4,))", decoder="conv(channels=(4,))"
    )
    assert Cell.of({"network": "conv", "decoder": "mlp"}) == Cell(encoder="conv")
    assert Cell.of({"network": None}) == Cell()
    assert "network" not in Cell.of({"network": "conv"}).settings()


def test_a_model_says_which_guide_it_has_where_none_is_named():
    names = {"vae": "mean_field", "hierarchical_vae": "bottom_up", "conditional_vae(num_classes=3)": "conditional"}
    for model, guide in names.items():
        assert Cell(model=model).guide == Cell.of({"model": model}).guide == guide
    named = Cell(model="conditional_vae", guide="mean_field")
    assert Cell.of(named.settings()).guide == named.guide == "mean_field"


def test_a_class_of_ones_own_is_told_by_its_file_and_what_it_says(own_file, monkeypatch):
    cell = Cell(guide=f"{own_file}:Mine")
    monkeypatch.chdir(own_file.parent)
    assert Cell(guide="guides_of_a_cell.py:Mine") == cell
    before = cell.hash
    own_file.write_text(own_file.read_text() + "\n# another version\n")
    # What runs in this process is what was loaded.
    assert cell.hash == before
    sys.modules.pop("guides_of_a_cell")
    assert Cell(guide=f"{own_file}:Mine").hash != before


def test_data_of_ones_own_are_told_by_their_absolute_path(tmp_path, monkeypatch):
    np.save(tmp_path / "own.npy", np.zeros((4, 2), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    assert Cell(data="own.npy").data == str(tmp_path / "own.npy")
    # Also where they are not there now: a cell that was run before they went must keep its hash.
    assert Cell(data="missing.npy").data == str(tmp_path / "missing.npy")
    assert Cell(data="~/missing.npy").data == "~/missing.npy"


def test_cells_of_one_group_differ_by_their_seed():
    assert Cell(guide="iaf").with_seed(3) == Cell(guide="iaf", seed=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gide": "iaf"}, "no setting 'gide'.*'guide'"),
        ({"guide": "iav"}, "guide: unknown name 'iav'"),
        ({"network": "cnov"}, "network: unknown name 'cnov'"),
        ({"network": "conv(chanels=3)"}, "no option 'chanels'"),
        ({"network": ["conv"]}, "network must be text"),
        ({"guide": "iaf(num_flow=2)"}, "no option 'num_flow'"),
        ({"objective": "elbow"}, "unknown name 'elbow'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 1.5}, r"epochs must .*whole.* 1\.5"),
        ({"epochs": True}, "epochs must .*whole.* True"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"lr": False}, "lr must be a number"),
        ({"hidden_dims": 200}, "hidden_dims must .*; got 200"),
        ({"hidden_dims": [0]}, r"hidden_dims must .*; got \[0\]"),
        ({"encoder_dims": "x"}, r"encoder_dims must .* \(null\)"),
        ({"init_bias": 1}, "init_bias must be true or false"),
        ({"schedule": "cosin"}, "schedule must .* cosine, iwae"),
        ({"compile": "jit"}, "compile must be one of"),
        ({"binarization": "half"}, "binarization must be one of"),
        ({"data": "mnist5k"}, "Did you mean 'mnist-5k'"),
        ({"fitted_model": {"latent_dim": 7}}, "these differ: latent_dim"),
        ({"decoder": {"seed": 1}}, "decoder must be text"),
        ({"lr": float("inf")}, "lr must be a number; got inf"),
        ({"fitted_model": 3}, "fitted_model must be"),
    ],
)
def test_what_makes_no_sense_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        Cell.of(settings)
