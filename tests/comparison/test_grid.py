"""Grids: all combinations, lists, two designs; and each typo is found in its line."""

import pytest
import yaml

from pyro_vae.comparison import Cell, Grid


def test_a_product_is_all_combinations_with_what_is_common():
    grid = Grid.of({"common": {"epochs": 3}, "grid": {"guide": ["mean_field", "iaf"], "seed": [0, 1, 2]}})
    assert grid.cells == tuple(Cell(guide=g, seed=s, epochs=3) for g in ("mean_field", "iaf") for s in (0, 1, 2))
    assert grid.varying == ("guide", "seed")


def test_cells_are_listed_beside_a_product_or_alone():
    listed = {"cells": [{"guide": "planar", "epochs": 9}, {"prior": "flow"}], "common": {"epochs": 3}}
    assert Grid.of(listed).cells == (Cell(guide="planar", epochs=9), Cell(prior="flow", epochs=3))
    both = Grid.of({**listed, "grid": {"seed": [5]}})
    assert both.cells == (Cell(seed=5, epochs=3), *Grid.of(listed).cells)


def test_guides_of_a_frozen_design_take_over_the_model_that_is_theirs():
    grid = Grid.of(
        {
            "design": "frozen",
            "common": {"epochs": 3, "num_gaps": 5},
            "grid": {"guide": ["mean_field", "iaf"], "latent_dim": [2, 3], "seed": [0, 1]},
            "fitted_model": {"epochs": 7, "objective": "iwae"},
        }
    )
    assert len(grid.cells) == 8
    for cell in grid.cells:
        assert cell.fitted_model == Cell(latent_dim=cell.latent_dim, epochs=7, objective="iwae")
    assert grid.fitted_models == tuple(Cell(latent_dim=d, epochs=7, objective="iwae") for d in (2, 3))


def test_a_network_of_both_sides_is_an_axis():
    grid = Grid.of({"grid": {"network": ["mlp", "conv"], "seed": [0, 1]}, "common": {"decoder": "gated_mlp"}})
    assert [(cell.encoder, cell.decoder) for cell in grid.cells] == [("mlp", "gated_mlp")] * 2 + [
        ("conv", "gated_mlp")
    ] * 2
    assert grid.varying == ("encoder", "seed")
    listed = Grid.of({"cells": [{"network": "conv"}, {"guide": "iaf"}], "common": {"network": "resnet"}})
    assert [cell.decoder for cell in listed.cells] == ["conv", "resnet"]


@pytest.mark.parametrize("where", ["common", "grid"])
def test_a_frozen_model_has_the_decoder_of_the_network_of_both_sides(where):
    settings = {"common": {"network": "conv"}} if where == "common" else {}
    axes = {"guide": ["mean_field", "iaf"]} | ({"network": ["conv", "resnet"]} if where == "grid" else {})
    grid = Grid.of({"design": "frozen", "grid": axes, **settings})
    assert [cell.fitted_model.decoder for cell in grid.cells] == [cell.decoder for cell in grid.cells]
    assert {cell.decoder for cell in grid.cells} == ({"conv"} if where == "common" else {"conv", "resnet"})


def test_a_frozen_model_is_fitted_with_its_own_guide_unless_another_one_is_named():
    description = {"design": "frozen", "common": {"model": "hierarchical_vae"}, "grid": {"seed": [0, 1]}}
    assert [cell.guide for cell in Grid.of(description).fitted_models] == ["bottom_up"]
    named = Grid.of({**description, "fitted_model": {"guide": "top_down"}})
    assert [cell.guide for cell in named.fitted_models] == ["top_down"]
    assert {cell.guide for cell in named.cells} == {"bottom_up"}


def test_a_grid_goes_to_a_file_and_back():
    grid = Grid.of({"design": "frozen", "grid": {"guide": ["mean_field", "iaf"]}})
    assert Grid.of(yaml.safe_load(yaml.safe_dump(grid.description()))) == grid
    assert grid.description()["folders"] == [cell.hash for cell in grid.cells]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "GRID must hold .*; it holds None"),
        ("- 1\n", r"GRID must hold .*holds \[1\]"),
        ("grid: [\n", "GRID, line 2: "),
        ("grd:\n  guide: [iaf]\n", "GRID, line 1: .*'grd'.* 'grid'"),
        ("common:\n  epochs: 2\n", "GRID: the grid is empty"),
        ("grid: {}\n", "GRID: the grid is empty"),
        ("grid:\n  gide: [iaf]\n", "GRID, line 2: .*setting 'gide'"),
        ("common: {model: vae(a=1, b=(4,))}\n", "GRID.*'b=.*needs quotes"),
        ("grid:\n  guide: iaf\n", "GRID, line 2: guide .*got 'iaf'"),
        ("grid:\n  guide: []\n", r"GRID, line 2: guide .* list.*\[\]"),
        ("grid:\n  guide:\n    - iaf\n    - iav\n", "GRID, line 4: .*name 'iav'"),
        ("common:\n  epochs: 2\n  lr: x\ngrid:\n  seed: [0]\n", "GRID, line 3: lr must"),
        ("cells:\n  - {guide: iaf}\n  - {sed: 1}\n", "GRID, line 3: .*setting 'sed'"),
        ("cells: iaf\n", "GRID, line 1: cells must.*'iaf'"),
        ("cells:\n  - iaf\n", "GRID, line 2: expected `key"),
        ("design: froze\n", "GRID, line 1: design must"),
        ("grid:\n  seed: [0]\nfitted_model: {epochs: 2}\n", "GRID, line 3: `fitted_model` is"),
        ("grid:\n  guide: [iaf]\n  guide: [planar]\n", "GRID, line 3: 'guide' .*twice"),
        ("grid:\n  seed: [0, 1, 0]\n", r"GRID: cells 1 and 3 .*\(seed 0, "),
        ("grid:\n  guide: [iaf, 'iaf( )']\n", r"GRID: cells 1 and 2 .*\(iaf, "),
        (
            "design: frozen\ngrid:\n  seed: [0]\nfitted_model: {latent_dim: 3}\n",
            "GRID: .*differ: latent_dim",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, message, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="^" + message.replace("GRID", str(path))):
        Grid.read(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read"):
        Grid.read(tmp_path / "none.yaml")


def test_a_grid_of_no_cells_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        Grid(())
