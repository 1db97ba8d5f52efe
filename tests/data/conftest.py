"""What every test of the data package starts from: no network, and no data but what it asks for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_root(request, monkeypatch, tmp_path_factory) -> Path:
    """The root that `load_data` uses: an empty folder, unless the test is marked full_data.

    Torchvision's mirrors lead to a closed port: a test that forgets download=False fails instead of fetching.
    """
    monkeypatch.setenv("no_proxy", "*")
    from torchvision import datasets

    for cls in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(cls, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    closed = {split: ["http://127.0.0.1:9/x.mat", *rest] for split, (_, *rest) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", closed)
    if request.node.get_closest_marker("full_data") is None:
        root = tmp_path_factory.mktemp("root")
        monkeypatch.setenv("PYRO_VAE_DATA", str(root))
        return root
    if not os.environ.get("PYRO_VAE_DATA"):
        pytest.skip("NOT CHECKED: needs the full data sets, and PYRO_VAE_DATA is unset")
    return Path(os.environ["PYRO_VAE_DATA"])


@pytest.fixture
def images():
    """Forty distinct 5 x 4 uint8 images: number i starts with pixel i."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 4), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(40)
    return pixels
