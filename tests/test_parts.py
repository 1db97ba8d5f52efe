"""Parts are found by name, in a user's file and in a module; what cannot be found is said."""

import sys

import pytest

from pyro_vae import guides, models
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.parts import PACKAGES, find_part, part_names


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "my_own_guides.py"
    path.write_text("from pyro_vae.guides import MeanFieldGuide\n\n\nclass Mine(MeanFieldGuide):\n    pass\n")
    yield path
    sys.modules.pop("my_own_guides", None)


@pytest.mark.parametrize(
    ("kind", "package"), [("guide", guides), ("prior", models.priors), ("likelihood", models.likelihoods)]
)
def test_every_part_has_a_name(kind, package):
    found = part_names(kind)
    assert sorted(cls.__name__ for cls in found.values()) == sorted(package.__all__)
    assert all(find_part(kind, name) is cls for name, cls in found.items())


def test_every_kind_is_tried():
    assert set(PACKAGES) == {"guide", "prior", "likelihood"}


@pytest.mark.parametrize(("name", "hint"), [("meen_field", r" Did you mean 'mean_field'\?"), ("abacus", "")])
def test_an_unknown_name_suggests_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"guide: unknown name '{name}'\.{hint} There are full_rank, .*; your own is"):
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
        f"{own_file}:Yours": r"does not define the class 'Yours'; it defines Mine\.",
        f"{own_file.parent}/nothing.py:Mine": r"guide: there is no file .*nothing\.py\.",
        "no.such.module:Mine": r"guide: cannot import no\.such\.module: No module named 'no'\.",
        "math:Mine": r"math does not define the class 'Mine'; it defines none\.",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            find_part("guide", name)


def test_a_file_that_fails_is_told_and_not_kept(tmp_path):
    path = tmp_path / "broken_guide.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ValueError, match=r"broken_guide\.py fails on import: ZeroDivisionError: division by zero"):
        find_part("guide", f"{path}:Mine")
    assert "broken_guide" not in sys.modules


def test_a_file_must_not_hide_a_loaded_module(tmp_path):
    path = tmp_path / "math.py"
    path.write_text("class Mine: ...\n")
    with pytest.raises(ValueError, match=r"math\.py has the name of a module that is already loaded: rename"):
        find_part("guide", f"{path}:Mine")
