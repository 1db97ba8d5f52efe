"""Real values, counts and further tensors in NumPy files: what comes back, what is computed, and what is refused."""

import logging

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.data import load_again, load_data
from pyro_vae.data.source import default_order
from pyro_vae.data.values import MOST_COUNTS

NORMALS = np.random.default_rng(0).normal(3.0, 10.0, (50, 3)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Write arrays as a .npz and return its path."""

    def write(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return tmp_path / "x.npz"

    return write


def splits_of(rows):
    """The rows of each split of 50 data, by the documented fixed permutation."""
    order = default_order(rows)
    tenth = rows // 10
    return {"train": order[: -2 * tenth], "valid": order[-2 * tenth : -tenth], "test": order[-tenth:]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(50, 3), (50, 3, 1), (50, 1, 3, 1, 1)])
def test_real_values_come_back_bit_for_bit(save, dtype, shape):
    written = NORMALS.astype(dtype).reshape(shape)
    data = load_data(save(a=written), values="real")
    assert (data.values, data.binarization, data.x_shape) == ("real", "none", shape[1:])
    for name, rows in splits_of(50).items():
        x = getattr(data, name)
        assert x.dtype == torch.float32
        assert torch.equal(x, torch.from_numpy(written.astype(np.float32))[rows])
        assert torch.equal(data.observe(x), x)


def test_values_are_chosen_by_dtype_and_range_and_a_line_says_so(save, caplog):
    logger = logging.getLogger("pyro_vae")
    for array, values, lines in (
        (NORMALS, "real", 1),
        (NORMALS - NORMALS.min() + 1, "real", 1),
        ((NORMALS - NORMALS.min()) / np.ptp(NORMALS), "pixels", 0),
        (np.arange(150).reshape(50, 3), "counts", 1),
        (np.arange(150).reshape(50, 3) - 4, "real", 1),
        (np.arange(150, dtype=np.uint8).reshape(50, 3), "pixels", 0),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger.name):
            data = load_data(save(a=array))
        assert (data.values, len(caplog.messages)) == (values, lines)
        if lines:
            assert f"values='{values}'" in caplog.messages[0]
        caplog.clear()
        assert load_data(save(a=array), values=values).content_hash == data.content_hash
        assert not caplog.messages


def test_large_pictures_may_be_grey_levels_and_are_asked_about(save):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 4, 4))
    with pytest.raises(ValueError, match="may be grey levels"):
        load_data(save(a=pictures))
    assert load_data(save(a=pictures), values="counts").x_shape == (4, 4)
    assert load_data(save(a=pictures.astype(np.uint8))).x_shape == (1, 4, 4)


def test_counts_stay_whole_up_to_the_largest_that_float32_holds(save):
    counts = np.arange(60, dtype=np.int64).reshape(20, 3)
    counts[:, 0] = MOST_COUNTS - np.arange(20)
    data = load_data(save(a=counts), values="counts")
    assert torch.equal(data.train.to(torch.int64), torch.from_numpy(counts)[splits_of(20)["train"]])
    for wrong, message in ((MOST_COUNTS + 1, r"above 2\*\*24"), (-1, "negative")):
        counts[3, 1] = wrong
        with pytest.raises(ValueError, match=rf"the first at \(3, 1\), {message}"):
            load_data(save(a=counts), values="counts")
    with pytest.raises(ValueError, match=r"\(7, 2\), not whole"):
        load_data(save(a=np.where(np.arange(60).reshape(20, 3) == 23, 0.5, 1.0)), values="counts")


def test_standardised_data_have_the_training_mean_and_deviation(save):
    written = (1e8 + NORMALS.astype(np.float64)) * np.array([1.0, 1e-3, 1e3])
    data = load_data(save(a=written), standardize=True)
    rows = splits_of(50)
    train = written[rows["train"]]
    mean, deviation = train.mean(0), train.std(0)
    for name in rows:
        expected = (written[rows[name]] - mean) / deviation
        torch.testing.assert_close(getattr(data, name), torch.from_numpy(expected).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(data.train.double().mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(data.train.double().std(0, correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)
    assert torch.equal(data.shift, torch.from_numpy(mean).float())
    assert torch.equal(data.scale, torch.from_numpy(deviation).float())
    assert "standardised" in repr(data)


def test_a_constant_feature_cannot_be_standardised(save):
    written = NORMALS.copy()
    written[:, 1] = 0.1
    with pytest.raises(ValueError, match=r"1 feature, the first x\[1\], is"):
        load_data(save(a=written), standardize=True)


def test_missing_values_are_refused_or_marked(save):
    written = NORMALS.copy()
    gone = np.random.default_rng(1).random(written.shape) < 0.2
    written[gone] = np.nan
    with pytest.raises(ValueError, match="missing='mask'"):
        load_data(save(a=written), values="real")
    data = load_data(save(a=written), values="real", missing="mask")
    assert data.datum == ("x", "mask")
    for name, rows in splits_of(50).items():
        x, mask = getattr(data, name)
        assert mask.dtype == torch.bool
        assert torch.equal(mask, torch.from_numpy(~gone)[rows])
        assert torch.equal(x, torch.from_numpy(np.where(gone, 0, NORMALS))[rows])
    train = written[splits_of(50)["train"]]
    torch.testing.assert_close(data.train_mean(), torch.from_numpy(np.nanmean(train, 0)), rtol=1e-6, atol=1e-6)
    scaled = load_data(save(a=written), standardize=True, missing="mask")
    expected = (train - np.nanmean(train, 0)) / np.nanstd(train, 0)
    x, mask = scaled.train
    torch.testing.assert_close(x, torch.from_numpy(np.nan_to_num(expected)), rtol=1e-5, atol=1e-5)
    assert torch.equal(mask, data.train[1])
    assert torch.equal(x[~mask], torch.zeros(int((~mask).sum())))


def test_pixels_may_be_missing(save, images):
    grey = images / np.float32(255)
    grey[3, 2, 1] = np.nan
    splits = {"train": grey[:20], "valid": grey[20:30], "test": grey[30:]}
    data = load_data(save(**splits), missing="mask", binarization="threshold")
    x, mask = data.train
    assert (x.shape, mask.shape, (~mask).nonzero().tolist()) == ((20, 1, 5, 4), (20, 1, 5, 4), [[3, 0, 2, 1]])
    assert x[3, 0, 2, 1] == 0


def test_named_tensors_follow_x_in_the_order_asked_for(save):
    library = np.random.default_rng(2).random((50, 1))
    batch, seen = np.arange(50, dtype=np.uint16), np.arange(50) % 2 == 0
    arrays = {"x": NORMALS, "labels": np.arange(50) % 3, "library": library, "batch": batch, "seen": seen}
    path = save(**arrays)
    data = load_data(path, values="real", labels=True, tensors=("library", "batch", "seen"))
    assert data.datum == ("x", "labels", "library", "batch", "seen")
    for name, rows in splits_of(50).items():
        x, labels, lib, number, bools = getattr(data, name)
        assert torch.equal(x, torch.from_numpy(NORMALS)[rows])
        assert torch.equal(labels, rows % 3)
        assert torch.equal(lib, torch.from_numpy(library).float()[rows])
        assert torch.equal(number, rows)
        assert torch.equal(bools, rows % 2 == 0)
    other = load_data(path, values="real", tensors=["batch", "labels"])
    assert other.datum == ("x", "batch", "labels")
    assert torch.equal(other.test[1], other.test[0].new_tensor(splits_of(50)["test"].tolist()).long())
    assert load_data(path, values="real").train.shape == (40, 3)
    assert torch.equal(load_data(path, values="real").train_labels, splits_of(50)["train"] % 3)


def test_named_tensors_of_given_splits(save):
    path = save(
        train=NORMALS[:30], test=NORMALS[30:40], valid=NORMALS[40:], train_library_size=np.arange(30.0),
        test_library_size=np.arange(10.0), valid_library_size=np.arange(10.0) + 20, train_other=np.zeros(30),
    )  # fmt: skip
    data = load_data(path, tensors="library_size")
    assert torch.equal(data.valid[1], torch.arange(20.0, 30))
    assert data.first(4)[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"no array '(test|valid)_other'"):
        load_data(path, tensors=("library_size", "other"), values="real")
    with pytest.raises(ValueError, match="Did you mean 'library_size'"):
        load_data(path, tensors=("library_siz",), values="real")


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (np.zeros(49), r"a row for each of 50 .*\(49,\)"),
        (np.float64(1), r"a row for each of 50 .*\(\)"),
        (np.full(50, np.inf), r"'library'\] has 50 of 50 .*not"),
        (np.zeros(50, dtype=complex), "real and imaginary"),
        (np.full(50, "a"), "dtype <U1"),
        (np.full(50, 2**63, dtype=np.uint64), r"below 2\*\*63"),
    ],
)
def test_tensors_that_are_none_are_refused(save, library, message):
    with pytest.raises(ValueError, match=message):
        load_data(save(x=NORMALS, library=library), tensors=("library",), values="real")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 2), dtype=complex), "complex128.*real and imaginary"),
        (np.full((20, 2), "a"), "got dtype <U1"),
        (np.zeros((20, 2), dtype="M8[s]"), "got dtype datetime64"),
        (np.zeros((20, 0)), r"is empty.*\(20, 0\)"),
        (np.arange(20.0) - 3, r"x\.reshape\(-1, 1\)"),
        (np.where(np.arange(40).reshape(20, 2) == 5, -np.inf, -1.0), r"1 of 40 .*\(2, 1\), infinite"),
        (np.full((20, 2), 1e39), "beyond the range of float32"),
    ],
)
def test_arrays_that_are_no_real_values_are_refused(save, array, message):
    with pytest.raises(ValueError, match=message):
        load_data(save(a=array), values=None if array.dtype.kind in "cUM" else "real")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "reel"}, "one of pixels, real, counts"),
        ({"standardize": "yes"}, "standardize must be one of"),
        ({"standardize": 1}, "standardize must be one of"),
        ({"missing": "drop"}, "one of refuse, mask; got 'drop'"),
        ({"standardize": True, "values": "counts"}, "for real values; got values="),
        ({"tensors": 3}, "tensors must be names"),
        ({"tensors": ("a", "a")}, "no two of them equal"),
        ({"tensors": ("mask",), "missing": "mask"}, "leave one out"),
        ({"valus": "real"}, "no option 'valus'. Did you mean"),
        ({"labels": "species"}, "names a column of a table"),
        ({"values": "real", "binarization": "stochastic"}, "'stochastic' is for pixels"),
    ],
)
def test_options_that_do_not_fit_are_refused(save, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(save(a=NORMALS), **options)


def test_arrays_beside_which_x_cannot_be_told_are_refused(save):
    with pytest.raises(ValueError, match="it holds a, b, labels"):
        load_data(save(a=NORMALS, b=NORMALS, labels=np.arange(50)))
    data = load_data(save(cells=NORMALS, labels=np.arange(50)), values="real", labels=True)
    assert torch.equal(data.train[1], splits_of(50)["train"])


def test_a_description_loads_the_same_data_again(save):
    written = NORMALS.copy()
    written[4, 1] = np.nan
    path = save(x=written, labels=np.arange(50) % 4, library=np.arange(50.0))
    data = load_data(path, labels=True, tensors=["library"], standardize=True, missing="mask", valid_size=7)
    record = yaml.safe_load(yaml.safe_dump(data.describe()))
    assert record["options"] == {"tensors": ["library"], "standardize": True, "missing": "mask"}
    assert record["tensors"] == {"x": [38, 3], "mask": [38, 3], "labels": [38], "library": [38]}
    assert record["values"] == "real"
    again = load_again(record)
    assert again.describe() == data.describe()
    for split in ("train", "valid", "test"):
        for one, other in zip(getattr(again, split), getattr(data, split), strict=True):
            assert torch.equal(one, other)


def test_the_content_hash_sees_every_value_of_a_datum(save):
    arrays = {"x": NORMALS, "labels": np.arange(50), "library": np.arange(50.0)}

    def content_hash(**changes):
        others = {name: value for name, value in changes.items() if name in arrays}
        options = {name: value for name, value in changes.items() if name not in arrays}
        path = save(**(arrays | others))
        return load_data(path, **{"labels": True, "tensors": ("library",), "values": "real", **options}).content_hash

    changed, library = NORMALS.copy(), np.arange(50.0)
    changed[17, 1] = np.nextafter(changed[17, 1], np.float32(np.inf))
    library[3] = -1
    hashes = [
        content_hash(), content_hash(x=changed), content_hash(labels=np.arange(50) + 1), content_hash(library=library),
        content_hash(tensors=("library", "labels")), content_hash(tensors=()), content_hash(labels=np.arange(50)[::-1]),
        content_hash(standardize=True), content_hash(missing="mask"),
    ]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert content_hash() == hashes[0]
