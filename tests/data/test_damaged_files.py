"""Any file that can be loaded, damaged in any way: it is read, or refused in one error that names it."""

import builtins
import errno
import gzip
import io
import pickle
import random
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from pyro_vae.data import DATASETS, DataCorruptError, load_data, mnist_5k
from pyro_vae.data.array_file import BOMB_BYTES

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 4), dtype=np.uint8)


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def npz(compression=zipfile.ZIP_STORED, **arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            archive.writestr(name, array if isinstance(array, bytes) else npy(array))
    return file.getvalue()


def header(text, body=b""):
    """A .npy file with any header."""
    line = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + body


def encoded(suffix, mode="L"):
    file = io.BytesIO()
    Image.fromarray(PIXELS[5]).convert(mode).save(
        file, {"jpg": "jpeg", "pgm": "ppm", "tif": "tiff"}.get(suffix, suffix)
    )
    return file.getvalue()


IMAGES = ("png", "jpg", "bmp", "pgm", "tif", "gif", "webp")


def write(kind, folder, content=None):
    """Write a data set with one file of a kind; returns what to load, the file's name and its content."""
    if kind in IMAGES:
        whole = encoded(kind)
        for number in range(12):
            Image.fromarray(PIXELS[number]).save(folder / f"{number}.png")
        (folder / "5.png").unlink()
        name = f"a/5.{kind}"
        (folder / "a").mkdir(exist_ok=True)
        for file in folder.glob("*.png"):
            file.rename(folder / "a" / file.name)
        load = folder
    else:
        whole = {
            "npy": npy(PIXELS),
            "npz": npz(**{"a.npy": PIXELS}),
            "compressed npz": npz(zipfile.ZIP_DEFLATED, **{"train.npy": PIXELS, "test.npy": PIXELS[..., ::-1]}),
        }[kind]
        name = f"x.{kind[-3:]}"
        load = folder / name
    (folder / name).write_bytes(whole if content is None else content)
    return load, name, whole


def load_or_refuse(load, name):
    """Load, or be refused in words that name the file; returns whether it was loaded."""
    start, said = time.perf_counter(), None
    try:
        load_data(load)
    except ValueError as error:
        said = str(error)
    assert time.perf_counter() - start < 20
    assert said is None or said.startswith("load_data: ")
    assert said is None or name.rpartition("/")[2] in said
    return said is None


@pytest.mark.parametrize("kind", [*IMAGES, "npy", "npz", "compressed npz"])
def test_each_file_is_read_while_it_is_whole(kind, tmp_path):
    load, name, _ = write(kind, tmp_path)
    assert load_or_refuse(load, name) == (kind not in ("gif", "webp"))  # of three channels


@pytest.mark.parametrize("kind", [*IMAGES, "npy", "npz", "compressed npz"])
def test_a_truncated_file_is_named(kind, tmp_path):
    load, name, whole = write(kind, tmp_path)
    for size in sorted({0, 1, 3, 8, 20, len(whole) // 2, len(whole) * 2 // 3}):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(DataCorruptError, match=rf"{name} \({size} bytes\) is not a whole"):
            load_data(load)


@pytest.mark.parametrize("kind", [*IMAGES, "npy", "npz", "compressed npz"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata that it passes over
def test_a_file_with_wrong_bytes_is_read_or_refused_by_name(kind, tmp_path):
    load, name, whole = write(kind, tmp_path)
    draw = random.Random(kind)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 10])):
            position = min(draw.randrange(len(content)), draw.randrange(len(content)))  # headers more often
            content[position] = draw.choice(
                [0, 255, 1 << draw.randrange(8), content[position] ^ 1 << draw.randrange(8)]
            )
        (tmp_path / name).write_bytes(content)
        load_or_refuse(load, name)


OBJECTS = np.array([{"a": 1}, None], dtype=object)

ARRAYS = {
    "tokens": header("{'descr': '|u1', 'fortran_order': False, 'shape': (12, 6, 4), }, ((("),
    "unclosed": header("{'descr': '|u1', 'fortran_order': False, 'shape': (12, 6, 4"),
    "null": header("{'descr': '|u1', \0'fortran_order': False, 'shape': (12, 6, 4)}"),
    "call": header("{'descr': exit(), 'fortran_order': False, 'shape': (12, 6, 4)}"),
    "deep": header("(" * 5000 + ")" * 5000),
    "no shape": header("{'descr': '|u1', 'fortran_order': False}"),
    "shape of text": header("{'descr': '|u1', 'fortran_order': False, 'shape': 'wide'}"),
    "unhashable": header("{[]: 1}"),
    "no dtype": header("{'descr': 'u99', 'fortran_order': False, 'shape': (2,)}"),
    "713 TiB": header("{'descr': '|u1', 'fortran_order': False, 'shape': (784000000000000,)}", bytes(40)),
    "more than 64 bits": header("{'descr': '|u1', 'fortran_order': False, 'shape': (2000000000000, 90000000000000)}"),
    "one row too many": header("{'descr': '|u1', 'fortran_order': False, 'shape': (13, 6, 4)}", PIXELS.tobytes()),
    "version 9": b"\x93NUMPY\x09\x00" + npy(PIXELS)[8:],
    "two arrays": npy(PIXELS) + npy(PIXELS),
    "pickle": pickle.dumps(PIXELS),
}


@pytest.mark.parametrize("place", ["npy", "npz"])
@pytest.mark.parametrize("damage", ARRAYS)
def test_a_damaged_array_is_corrupt(damage, place, tmp_path):
    path = tmp_path / f"x.{place}"
    path.write_bytes(ARRAYS[damage] if place == "npy" else npz(**{"a.npy": ARRAYS[damage]}))
    with pytest.raises(DataCorruptError, match=rf"x\.{place} \(\d+ bytes\) is not"):
        load_data(path)


@pytest.mark.parametrize("place", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (OBJECTS, "holds Python objects"),
        (np.zeros((12, 3), dtype=[("a", "u1"), ("b", "O")]), "holds Python objects"),
        (np.zeros((12, 3), dtype=[("a", "u1"), ("b", "f4")]), r"; got dtype \[\('a'"),
        (np.zeros((12, 3), dtype="U5"), "; got dtype <U5"),
        (np.zeros((12, 3), dtype="datetime64[s]"), r"; got dtype datetime64\[s\]"),
        (np.zeros((12, 3), dtype=complex), "; got dtype complex128"),
        (np.array(3.0), r"have shape .*; got \(\)"),
    ],
)
def test_an_array_of_something_else_is_refused(array, message, place, tmp_path):
    path = tmp_path / f"x.{place}"
    content = npy(array, allow_pickle=True)
    path.write_bytes(content if place == "npy" else npz(**{"a.npy": content}))
    with pytest.raises(ValueError, match=rf"x\.{place}.*{message}"):
        load_data(path)


@pytest.mark.parametrize("place", ["npy", "npz"])
@pytest.mark.parametrize("dtype", ["|u1", "<f4", ">f4", "<f8", ">f8", "<f2", "?"])
@pytest.mark.parametrize("order", "CF")
def test_any_order_and_byte_order_is_read_rightly(dtype, order, place, tmp_path):
    values = PIXELS if dtype == "|u1" else PIXELS > 100 if dtype == "?" else PIXELS / np.float64(255)
    array = np.array(values.astype(dtype), order=order)
    path = tmp_path / f"x.{place}"
    path.write_bytes(npy(array) if place == "npy" else npz(**{"train.npy": array, "test.npy": array[..., ::-1]}))
    data = load_data(path, valid_size=0)
    found = data.train if place == "npz" else torch.cat([data.train, data.test])
    expected = torch.from_numpy(np.ascontiguousarray(array.astype("f4") / (255 if dtype == "|u1" else 1)))[:, None]
    assert sorted(image.numpy().tobytes() for image in found) == sorted(row.numpy().tobytes() for row in expected)


def claiming(size):
    """An archive whose directory says another size of its member."""
    content = npz(zipfile.ZIP_DEFLATED, **{"a.npy": np.zeros((1000, 784), dtype=np.uint8)})
    return content.replace(struct.pack("<I", 128 + 784_000), struct.pack("<I", size))


def test_a_zip_bomb_is_not_inflated(tmp_path):
    (tmp_path / "x.npz").write_bytes(claiming(2 * BOMB_BYTES - 1))
    with pytest.raises(DataCorruptError, match="grow to 2147483647 bytes"):
        load_data(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [
        npz(**{"a.npy": b"no array"}),
        npz(**{"readme.txt": b"no array"}),
        npz(**{"a.npy": PIXELS, "folder/": b""}),
        npz(**{"a.npy": PIXELS, "a": PIXELS}),
        claiming(100_000),
        b"PK\x03\x04" + bytes(100),
        b"PK\x05\x06" + bytes(5),
    ],
)
def test_an_archive_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"x\.npz \(\d+ bytes\) is not"):
        load_data(tmp_path / "x.npz")


def test_an_archive_of_nothing_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz())
    with pytest.raises(ValueError, match=r"x\.npz must .*it holds none"):
        load_data(tmp_path / "x.npz")


# Data sets with a known content


def mat(name="ff", shape=(560, 1965), kind="uint8"):
    file = io.BytesIO()
    savemat(file, {name: np.zeros(shape, dtype=kind)})
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MATLAB 5.0 MAT-file",
        mat()[:1000],
        mat("gg"),
        mat(shape=(1965, 560)),
        mat(kind="int8"),
        mat(shape=(3,)),
        mat()[:140] + b"\xff" * 8 + mat()[148:],
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        pickle.dumps(OBJECTS),
    ],
    ids=range(10),
)
def test_a_damaged_matlab_file_is_corrupt(content, data_root):
    path = data_root / "FreyFaces/frey_rawface.mat"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"frey_rawface\.mat .*sha256"):
        load_data("frey-faces")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "mnist-static"])
@pytest.mark.parametrize("damaged", range(3))
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x08\x03" + b"\xff" * 12, b"<html>404</html>", gzip.compress(bytes(9), mtime=0), pickle.dumps(1)],
)
def test_a_damaged_file_of_a_known_data_set_is_corrupt(content, damaged, name, data_root):
    """As LeCun's format: a header that declares 2^96 pixels is never believed, since the hash is compared first."""
    files = DATASETS[name].files
    for file in files:
        (data_root / file.path).parent.mkdir(parents=True, exist_ok=True)
        (data_root / file.path).write_bytes(content)
    (data_root / files[damaged].path).write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"half downloaded|not the file"):
        load_data(name, download=False)


@pytest.mark.parametrize(
    "content", [b"", b"1,2,3", gzip.compress(b"1,2,x", mtime=0), gzip.compress(b"1,2\n3", mtime=0), zlib.compress(b"1")]
)
def test_a_damaged_table_of_the_installed_images_is_corrupt(content, tmp_path, monkeypatch):
    (tmp_path / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(mnist_5k, "_CSV", tmp_path / "mnist_5k.csv.gz")
    with pytest.raises(DataCorruptError, match=r"mnist_5k\.csv\.gz"):
        load_data("mnist-5k")


@pytest.mark.parametrize("kind", ["png", "npy", "npz"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(kind, tmp_path, monkeypatch):
    load, name, _ = write(kind, tmp_path)
    whole = builtins.open

    def refuse(file, *args, **kwargs):
        if str(file).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return whole(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(PermissionError, match=f"Permission denied: .*{name}"):
        load_data(load)
