"""Fetching, from a server on this machine that may be absent, silent or cut the line."""

import dataclasses
import gzip
import hashlib
import http.server
import socket
import threading
import time

import numpy as np
import pytest
import torch
from torchvision import datasets

from pyro_vae.data import DATASETS, DataNotFoundError, is_available, load_data
from pyro_vae.data.download import _require_an_answer
from pyro_vae.data.known_file import KnownFile


@pytest.fixture
def server(monkeypatch):
    """Serves four small IDX files as MNIST; `server.answer` may replace how a file's bytes are sent."""
    contents = {}
    shapes = {"images-idx3": (12, 28, 28), "labels-idx1": (12,)}
    files, resources = [], []
    for real in DATASETS["mnist"].files:
        name = real.path.rsplit("/", 1)[1]
        array = np.random.default_rng(len(files)).integers(0, 10, shapes[name.split("-", 1)[1][:11]], dtype=np.uint8)
        header = [0x800 + array.ndim, *array.shape]
        raw = b"".join(number.to_bytes(4, "big") for number in header) + array.tobytes()
        packed = gzip.compress(raw)
        contents[f"/{name}.gz"] = packed
        files.append(KnownFile(real.path, len(raw), "md5", hashlib.md5(raw).hexdigest()))
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(self.server.head_status)
            self.end_headers()

        def do_GET(self):
            body = contents[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(self.server.damage(self.path, body))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.damage = lambda _, body: body
        running.head_status = 200
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{running.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        source = dataclasses.replace(DATASETS["mnist"], files=tuple(files), default_valid_size=2)
        monkeypatch.setitem(DATASETS, "mnist", source)
        yield running
        running.shutdown()
        thread.join()


def test_a_download_is_put_in_place_and_not_repeated(server, data_root, monkeypatch):
    timeout = socket.getdefaulttimeout()
    data = load_data("mnist")
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 2, 12)
    assert data.train.sum() > 0
    assert [path.name for path in data_root.iterdir()] == ["MNIST"]
    assert sorted(path.name for path in (data_root / "MNIST/raw").iterdir()) == sorted(
        file.path.rsplit("/", 1)[1] for file in DATASETS["mnist"].files
    )
    assert socket.getdefaulttimeout() == timeout
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert is_available("mnist")
    assert torch.equal(load_data("mnist").train, data.train)


def test_a_host_that_refuses_the_first_question_is_still_asked_for_the_file(server):
    server.head_status = 405
    assert len(load_data("mnist").test) == 12


def test_a_file_that_is_missing_among_others_is_fetched(server, data_root):
    expected = load_data("mnist")
    (data_root / DATASETS["mnist"].files[1].path).unlink()
    assert torch.equal(load_data("mnist").train_labels, expected.train_labels)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, body: body[: len(body) // 2] if "t10k-images" in path else body,
        lambda path, body: body[:-1] + b"?" if "t10k-labels" in path else body,
        lambda path, body: b"" if "train-images" in path else body,
    ],
    ids=["cut", "altered", "empty"],
)
def test_a_download_that_breaks_off_leaves_no_file_behind(server, data_root, damage):
    server.damage = damage
    with pytest.raises(DataNotFoundError, match="the download failed"):
        load_data("mnist")
    assert list(data_root.iterdir()) == []
    server.damage = lambda _, body: body
    assert len(load_data("mnist").test) == 12


def test_files_that_do_not_match_the_known_hashes_are_not_put_in_place(server, data_root, monkeypatch):
    good = DATASETS["mnist"]
    wrong = dataclasses.replace(good.files[0], digest="0" * 32)
    monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(good, files=(wrong, *good.files[1:])))
    with pytest.raises(DataNotFoundError, match="expected 9424 bytes with md5"):
        load_data("mnist")
    assert list(data_root.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_an_unreachable_host_gives_a_clear_error_at_once(name, data_root):
    start = time.monotonic()
    with pytest.raises(DataNotFoundError) as error:
        load_data(name)
    assert time.monotonic() - start < 5
    message = str(error.value)
    for part in (
        f"load_data: {name!r} was not found, and the download failed (http://127.0.0.1:9/train-images",
        "refused",
        f"Missing: {data_root}/",
        "PYRO_VAE_DATA",
        "'mnist-5k'",
    ):
        assert part in message
    assert list(data_root.iterdir()) == []


def test_a_host_that_accepts_and_then_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(ConnectionError, match=f"{url}.*timed out|no answer .*{url}"):
            _require_an_answer([url], seconds=0.3)


def test_a_root_that_cannot_be_written_is_a_clear_error(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataNotFoundError, match=r"Not a directory|File exists"):
        load_data("mnist", root=tmp_path / "file")
