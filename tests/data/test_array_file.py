"""A user's .npy and .npz files."""

import pickle

import numpy as np
import pytest
import torch

from pyro_vae.data import DataCorruptError, is_available, load_data


@pytest.fixture
def save(tmp_path):
    """Write arrays as a .npz, or one array as a .npy, and return the path."""

    def write(array=None, **arrays):
        path = tmp_path / ("x.npz" if array is None else "x.npy")
        np.savez(path, **arrays) if array is None else np.save(path, array)
        return path

    return write


def firsts(split):
    """Which of the fixture's images these are."""
    return (split.flatten(1)[:, 0] * 255).round().int().tolist()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_one_array_is_split_80_10_10_once_and_for_all(save, images, kind):
    path = save(images) if kind == "npy" else save(faces=images)
    assert is_available(path)
    data = load_data(path)
    assert (data.binarization, data.x_shape, data.name) == ("none", (1, 5, 4), str(path))
    train, valid, test = firsts(data.train), firsts(data.valid), firsts(data.test)
    assert (len(train), len(valid), len(test)) == (32, 4, 4)
    assert sorted(train + valid + test) == list(range(40))
    # The fixed permutation, not the file's order: sorted classes must not end up in one split.
    assert test != list(range(36, 40))
    assert torch.equal(data.train, torch.from_numpy(images)[train][:, None] / 255)
    for options in ({"seed": 8}, {"valid_size": 0}, {"valid_size": 30}):
        assert firsts(load_data(str(path), **options).test) == test


def test_given_splits_are_taken_as_they_are(save, images):
    path = save(train=images[:20], valid=images[20:23], test=images[23:], train_labels=np.arange(20) % 3)
    data = load_data(path, binarization="stochastic")
    assert torch.equal(data.train, torch.from_numpy(images[:20, None]))
    assert torch.equal(data.train_labels, torch.arange(20) % 3)
    assert data.valid_labels is None
    grey = load_data(path, valid_size=3)
    assert torch.equal(grey.valid, torch.from_numpy(images[20:23, None]) / 255)
    assert torch.equal(grey.test, torch.from_numpy(images[23:, None]) / 255)
    with pytest.raises(ValueError, match="leave valid_size out; got 4"):
        load_data(path, valid_size=4)


def test_test_images_that_are_trained_on_are_counted_in_a_warning(save, images):
    path = save(train=images[:30], valid=images[30:34], test=images[28:])
    with pytest.warns(UserWarning, match="2 of 12 test data") as said:
        load_data(path)
    assert (len(said), said[0].filename) == (1, __file__)
    with pytest.warns(UserWarning, match="4 of 4 test .* 4 of 4 valid"):
        load_data(save(np.repeat(images[:2], 20, axis=0)))


def test_validation_images_are_cut_off_training_where_none_are_given(save, images):
    path = save(train=images[:30], test=images[30:], train_labels=np.arange(30), test_labels=np.arange(10))
    data = load_data(path)
    assert (len(data.train), len(data.valid), len(data.test)) == (27, 3, 10)
    assert sorted(firsts(data.train) + firsts(data.valid)) == list(range(30))
    assert data.train_labels.tolist() == firsts(data.train)
    assert data.valid_labels.tolist() == firsts(data.valid)
    assert firsts(data.valid) != [27, 28, 29]  # Files come sorted by class.
    assert firsts(data.test) == list(range(30, 40))
    whole = load_data(path, valid_size=0)
    assert (len(whole.train), len(whole.valid)) == (30, 0)


@pytest.mark.filterwarnings("ignore:.*are training data as well")  # all alike
def test_float_rows_stay_float_under_stochastic(save):
    data = load_data(save(np.full((10, 6), 0.25)), binarization="stochastic")
    assert (data.train.dtype, data.x_shape) == (torch.float32, (6,))
    torch.manual_seed(0)
    mean = data.observe(data.train[:1].expand(4000, 6)).mean()
    # 24000 draws: 5 standard errors of sqrt(.25 * .75 / 24000).
    assert (mean - 0.25).abs() < 5 * (0.25 * 0.75 / 24000) ** 0.5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": (10, 4), "b": (10, 4)}, "it holds a, b"),
        ({"train": (20, 4), "valid": (2, 4)}, "it holds train, valid"),
        ({"train": (20, 4), "test": (2, 4), "extra": (1, 4)}, "it also holds extra"),
        (
            {"train": (20, 4), "test": (2, 5)},
            r"'train': '\(4,\) .*'test': '\(5,\)",
        ),
        ({"train": (20, 4), "test": (0, 4)}, r"\['test'\] is empty.*\(0, 4\)"),
        ({"train": (9, 4), "test": (2, 4)}, "9 training data, too few"),
        ({"train": (20, 4), "test": (2, 4), "train_labels": (19,)}, "train_labels must be 20 .* .19,"),
    ],
)
def test_arrays_that_make_no_splits_are_refused(save, arrays, message):
    path = save(**{name: np.zeros(shape, dtype=np.uint8) for name, shape in arrays.items()})
    with pytest.raises(ValueError, match=message):
        load_data(path)


def test_labels_must_be_integers(save, images):
    path = save(train=images[:20], test=images[20:], test_labels=np.zeros(20))
    with pytest.raises(ValueError, match=r"test_labels must.* float64"):
        load_data(path)


def test_too_few_images_are_refused(save, images):
    with pytest.raises(ValueError, match="holds 9 data, too few"):
        load_data(save(images[:9]))
    assert len(load_data(save(images[:10])).test) == 1
    with pytest.raises(ValueError, match=r"between 0 and 35, .*got 36"):
        load_data(save(images), valid_size=36)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_python_objects_are_refused_unread(save, kind):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.zeros((2, 2)), np.zeros((3, 3))]
    with pytest.raises(ValueError, match=r"x\.np. holds Python objects"):
        load_data(save(ragged) if kind == "npy" else save(a=ragged))


class Mine:
    """Unpickling this would leave a trace."""

    exploded = False

    def __reduce__(self):
        return (setattr, (Mine, "exploded", True))


def test_a_pickle_is_never_executed(tmp_path):
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Mine()))
        with pytest.raises(DataCorruptError, match="a pickle is not accepted"):
            load_data(tmp_path / name)
    assert not Mine.exploded


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("size", [0, 5, 60, 200, -1, -30])
def test_a_truncated_file_is_named(save, images, kind, size):
    path = save(images) if kind == "npy" else save(a=images)
    content = path.read_bytes()[:size]
    path.write_bytes(content)
    message = rf"x\.{kind} \({len(content)} bytes\) is not"
    with pytest.raises(DataCorruptError, match=message):
        load_data(path)


def test_a_flipped_bit_inside_a_npz_is_found(save, images):
    path = save(a=images)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"x\.npz .*NumPy file .*CRC"):
        load_data(path)
