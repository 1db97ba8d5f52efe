"""Parts of an installed package are found by name wherever ours are, and imported when they are asked for."""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from small_folders import settings, write_images, write_run

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison import Cell, Grid, compare, load_cell
from pyro_vae.comparison.evaluations import _declared
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.parts import KINDS, find_part, make_objective, make_pair, part_names
from pyro_vae.runtime.installed import _all_on

CODE = '''
"""Parts of a package that knows pyro-vae, and that pyro-vae does not."""

from pyro_vae import guides, models, nn, objectives
from pyro_vae.evaluation import Estimate


class ShyGuide(guides.MeanFieldGuide):
    """q(z | x) that is shy.

    Args:
        shyness: of z.
    """

    def __init__(
        self, x_shape, latent_dim=50, hidden_dims=(20,), activation="tanh", shyness: float = 1.0, encoder=None
    ):
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder=encoder)
        self.shyness = shyness


class ShyModel(models.VAE):
    """p(x, z) that is shy."""


class ShyPrior(models.priors.StandardNormalPrior):
    """p(z) that is shy."""


class ShyLikelihood(models.likelihoods.BernoulliLikelihood):
    """p(x | z) that is shy."""


class ShyNetwork(nn.MLP):
    """Layers that are shy."""


class ShyELBO(objectives.IWAE):
    """A bound that is shy."""


def function():
    pass


def brightness(x, times: float = 1.0) -> Estimate:
    """Mean pixel of each image."""
    pixels = times * x.double().flatten(1).mean(1)
    return Estimate(pixels, pixels.new_zeros(len(x)))
'''

CLASSES = {
    "models": "ShyModel", "guides": "ShyGuide", "priors": "ShyPrior", "likelihoods": "ShyLikelihood",
    "networks": "ShyNetwork", "objectives": "ShyELBO",
}  # fmt: skip


def install(folder: Path, points: str, name: str = "shy-parts") -> None:
    """What pip leaves of a package with entry points."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(CODE)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for module in ("shy_parts", "more_parts"):
        sys.modules.pop(module, None)


@pytest.fixture
def package(site):
    install(site, "".join(f"[pyro_vae.{group}]\nshy = shy_parts:{cls}\n" for group, cls in CLASSES.items()))


@pytest.fixture
def data(tmp_path) -> Path:
    return write_images(tmp_path / "images.npy")


ALL_SHY = dict.fromkeys(("model", "guide", "prior", "likelihood", "objective", "encoder", "decoder"), "shy")


def said(*words: object, code: int = 0) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*map(str, words)]) == code, err.getvalue()
    return out.getvalue() if code == 0 else err.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_every_kind_is_found_by_its_name(kind, package):
    assert part_names(kind)[-1] == "shy"
    assert "shy_parts" not in sys.modules, "to list names imports nothing"
    assert find_part(kind, "shy").__name__ == CLASSES[f"{kind}s"]
    with pytest.raises(ValueError, match=f"{kind}: .*Did you mean 'shy'"):
        find_part(kind, "shyy")


def test_without_the_package_the_name_is_unknown():
    assert "shy" not in part_names("guide")
    with pytest.raises(ValueError, match="guide: unknown name 'shy'"):
        find_part("guide", "shy")


def test_a_pair_is_made_of_them(package):
    model, guide = make_pair(
        (4,),
        2,
        (3,),
        model="shy",
        guide="shy(shyness=2.0)",
        prior="shy",
        likelihood="shy",
        encoder="shy",
        decoder="shy",
    )
    made = [model, guide, model.prior, model.likelihood, guide.encoder, model.likelihood.decoder]
    assert {type(part).__module__ for part in made} == {"shy_parts"}
    assert make_objective("shy(num_particles=3)").num_particles == 3


def test_the_command_line_lists_them_and_takes_their_options(package, data, tmp_path):
    for kind in KINDS:
        assert any(line.startswith("shy ") and "shy." in line for line in said("list", f"{kind}s").splitlines())
    assert "--guide.shyness X" in said("fit", "--guide.help", "shy")
    printed = said("fit", "--guide", "shy", "--guide.shyness", 3, "--print_config", "--json")
    assert json.loads(printed)["guide"] == "shy(shyness=3)"
    assert " or --guide shy or " in said("fit", "shy", code=2)


def test_run_folders_and_grids_name_them_and_need_no_more_trust(package, data, tmp_path):
    """Their code is the user's own choice, as ours is."""
    grid = Grid.of({"common": settings(data) | ALL_SHY, "grid": {"guide": ["mean_field", "shy", "shy(shyness=2.0)"]}})
    done = compare(grid, tmp_path / "grid", threads=1)
    assert [result.error for result in done.results] == [None] * 3
    run = done.results[1].path
    model, guide, _ = load_cell(run)
    loaded = pyro_vae.load_run(run)
    for part in (model, guide, loaded.model, loaded.guide):
        assert type(part).__module__ == "shy_parts"
    assert Cell.of(settings(data) | {"guide": "shy_parts:ShyGuide"}).guide == "shy_parts:ShyGuide"
    torch.manual_seed(0)
    pyro_vae.fit(model, guide, torch.rand(20, 1, 4, 4).round(), epochs=1, batch_size=10, out=tmp_path / "run")
    assert type(pyro_vae.load_run(tmp_path / "run").guide).__name__ == "ShyGuide"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            "[pyro_vae.guides]\nbroken = shy_parts.nothing:ShyGuide\n",
            "guide broken, of the installed package shy-parts: shy_parts.nothing:ShyGuide cannot be imported: Module",
        ),
        (
            "[pyro_vae.guides]\nbroken = shy_parts:function\n",
            "shy_parts:function is no guide: its class is a torch.nn.Module, or has __call__",
        ),
    ],
)
def test_what_cannot_be_taken_is_told(points, message, site):
    install(site, points)
    name = points.split("\n")[1].split(" ")[0]
    assert message in said("fit", "--guide", name, "--print_config", code=2)


def test_a_default_whose_name_a_package_takes_is_pyro_vaes_own(site, data):
    """Every run and every grid names the defaults, whatever it chooses."""
    install(site, "[pyro_vae.guides]\nmean_field = shy_parts:ShyGuide\n[pyro_vae.networks]\nmlp = shy_parts:Shy\n")
    with pytest.warns(UserWarning, match="by a guide of pyro-vae itself"):
        assert find_part("guide", "mean_field") is MeanFieldGuide
    with pytest.warns(UserWarning, match="by a network of pyro-vae itself"):
        grid = Grid.of({"common": settings(data), "grid": {"guide": ["iaf", "mean_field"]}})
    assert [cell.guide for cell in grid.cells] == ["iaf", "mean_field"]


def test_two_packages_with_one_name_are_told_where_it_is_asked_for(site):
    install(site, "[pyro_vae.priors]\nshy = shy_parts:ShyPrior\n")
    install(site, "[pyro_vae.priors]\nshy = more_parts:ShyPrior\n", name="more-parts")
    assert part_names("prior").count("shy") == 1
    with pytest.raises(ValueError, match=r"and so does .*(shy|more)-parts"):
        find_part("prior", "shy")


BROKEN = """
[pyro_vae.guides]
broken = shy_parts.nothing:ShyGuide
shy = shy_parts:ShyGuide
iaf = shy_parts:ShyGuide
[pyro_vae.evaluations]
broken = shy_parts.nothing:brightness
sbc = shy_parts:brightness
brightness = shy_parts:brightness
"""


def test_a_package_with_broken_parts_is_named_and_all_others_are_used(site):
    install(site, BROKEN)
    with pytest.warns(UserWarning, match="installed package shy-parts") as warned:
        listed = json.loads(said("list", "--json"))
    assert [str(w.message).partition(":")[0] for w in warned] == [
        f"{part}, of the installed package shy-parts" for part in ("guide iaf", "evaluation broken", "evaluation sbc")
    ]
    assert listed["evaluations"]["brightness"] == "Mean pixel of each image"
    assert "shy-parts: shy_parts.nothing:brightness cannot be imported" in listed["evaluations"]["broken"]
    assert listed["guides"]["shy"] == "q(z | x) that is shy."
    assert "shy-parts: shy_parts.nothing:ShyGuide cannot be imported" in listed["guides"]["broken"]
    words = ["fit", "--print_config", "--json", "--guide"]
    assert json.loads(said(*words, "planar"))["guide"] == "planar"
    assert json.loads(said(*words, "iaf"))["guide"] == "iaf"
    assert Cell(measure=("sbc", "brightness")).measure == ("sbc", "brightness")
    with pytest.raises(ValueError, match=r"broken, .*cannot be imported"):
        Cell(measure=("broken",))


def test_evaluations_are_asked_for_whatever_they_are_called(site, data, tmp_path):
    """A name may have a hyphen, and one that is a flag of ours already is asked for by --measure."""
    install(site, "[pyro_vae.evaluations]\n" + "".join(f"{n} = shy_parts:brightness\n" for n in ("out", "mean-pixel")))
    run = write_run(tmp_path / "run", data)
    assert "--mean_pixel" in said("evaluate", "--help")
    out = tmp_path / "measured.json"
    words = ["--mean-pixel", "times=2.0", "--measure", "out(num_test=3)", "--out", out]
    measured = json.loads(said("evaluate", run, *words, "--json"))["measured"]
    twice, once = measured["mean-pixel"]["mean-pixel"], measured["out"]["out"]
    assert twice["mean"] > once["mean"] > 0
    assert once["num_data"] == 3
    assert out.is_file()
    assert "--mean_pixel: has no option 'tims'" in said("evaluate", run, "--mean-pixel", "tims=2", code=2)


# The code of an installed part


def reinstalled(folder: Path, change: str = "# changed\n", version: str = "1.0", name: str = "shy-parts") -> None:
    """Another version of the package, as a new process sees it."""
    module = name.replace("-", "_")
    file = folder / f"{module}.py"
    file.write_text(file.read_text() + change)
    metadata = folder / f"{module}-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", f"Version: {version}"))
    sys.modules.pop(module, None)
    for cached in (_all_on, _declared):
        cached.cache_clear()


MEASURED = "[pyro_vae.guides]\nshy = shy_parts:ShyGuide\n[pyro_vae.evaluations]\nguide = shy_parts:brightness\n"


def test_the_hash_of_a_cell_covers_the_code_of_installed_parts(site):
    install(site, MEASURED)
    shy, measured, plain = {"guide": "shy"}, {"measure": ["guide(times=2.0)"]}, {"guide": "iaf", "measure": ["sbc"]}
    before = [Cell.of(given).hash for given in (shy, measured, shy | measured, plain)]
    assert set(Cell.of(shy | measured).own_code) == {"guide", "evaluation guide"}
    reinstalled(site)
    after = [Cell.of(given).hash for given in (shy, measured, shy | measured, plain)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, False, True]


def test_the_code_of_a_decorated_evaluation_is_its_own(site):
    """A decorator's function lies in the decorator's file."""
    install(site, "[pyro_vae.evaluations]\nbrightness = shy_parts:brightness\n")
    file = site / "shy_parts.py"
    file.write_text(file.read_text().replace("def brightness", "@torch.no_grad()\ndef brightness") + "# end\n")
    file.write_text("import torch\n" + file.read_text())
    before = Cell(measure=("brightness",)).hash
    reinstalled(site)
    assert Cell(measure=("brightness",)).hash != before


def test_the_packages_own_parts_are_known_by_its_version(site):
    """Also Pyro's objectives, and a part of ours that a package declares under another name."""
    install(site, "[pyro_vae.guides]\nours = pyro_vae.guides:MeanFieldGuide\n")
    assert Cell(objective="trace_elbo", guide="ours", measure=("ais",)).own_code == {}
    assert Cell(objective="trace_elbo", guide="iaf", measure=("ais",)).hash == "f32edb206f468673"


def test_a_comparison_computes_the_cells_of_a_changed_package_anew(package, site, data, tmp_path):
    grid = {"common": settings(data), "grid": {"guide": ["mean_field", "shy"]}}
    first = compare(grid, tmp_path / "grid", threads=1)
    reinstalled(site)
    again = compare(grid, tmp_path / "grid", threads=1)
    assert [a.path == b.path for a, b in zip(first.results, again.results, strict=True)] == [True, False]
    assert all(result.finished for result in again.results)


@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "--num_samples", 9], ["figures"]])
def test_a_run_of_a_package_that_has_changed_is_not_read(words, package, site, data, tmp_path):
    run = write_run(tmp_path / "run", data, guide="shy")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    reinstalled(site, version="1.1")
    error = said(words[0], run, *words[1:], code=2)
    assert "--guide shy" in error
    assert "shy-parts 1.0" in error
    assert "shy-parts 1.1" in error
    assert f"fit --config {run} --out" in error
    assert "remove" not in error
    assert {file: file.read_bytes() for file in before} == before


def test_a_run_of_before_packages_were_recorded_says_that_they_were_not(package, site, data, tmp_path):
    run = write_run(tmp_path / "run", data, guide="shy")
    for name in ("fitted.json", "evaluation.json"):
        content = json.loads((run / name).read_text())
        del content["own_code"], content["packages"]
        (run / name).write_text(json.dumps(content | {"cell": "0" * 16}))
    error = said("evaluate", run, code=2)
    assert "--guide shy (installed package shy-parts 1.0) has changed since, or was not recorded" in error


def test_a_run_without_its_package_says_which_package_it_was(site, data, tmp_path):
    install(site, MEASURED)
    run = write_run(tmp_path / "run", data, guide="shy")
    measured = write_run(tmp_path / "measured", data, measure=["guide"])
    (site / "shy_parts-1.0.dist-info" / "entry_points.txt").unlink()
    reinstalled(site)
    for folder, name in ((run, "shy"), (measured, "guide")):
        error = said("evaluate", folder, code=2)
        assert f"'{name}' was a part of the installed package shy-parts 1.0: install it" in error
    for name in ("fitted.json", "evaluation.json"):
        (run / name).unlink()
    assert "An installed package may have declared 'shy'" in said("evaluate", run, code=2)
