"""Without a home folder, or with one that cannot be written, as in a container: what can do without it does."""

import os
import subprocess
import sys

import pytest

# A user without an entry in the list of users; without HOME there is no home folder then.
NOBODY = """
import pwd
def no_entry(*_):
    raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = no_entry
"""

PROGRAM = """
import torch
import pyro_vae
from pyro_vae.data import DataNotFoundError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
torch.manual_seed(0)
model, guide, x = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), torch.rand(20, 4).round()
run = pyro_vae.fit(model, guide, x, epochs=1, batch_size=10)
print("k-hat", pyro_vae.log_likelihood(model, guide, x, num_samples=50).pareto_k.shape)
pyro_vae.to_inference_data(model, guide, x[:2], num_samples=5)
print(pyro_vae.load_data("mnist-5k"))
import matplotlib.figure
try:
    pyro_vae.load_data("frey-faces")
except DataNotFoundError as error:
    print("frey", error)
"""


@pytest.mark.parametrize(
    ("before", "home"), [(NOBODY, {}), ("", {"HOME": "/proc/nowhere"})], ids=["none", "unwritable"]
)
def test_a_run_needs_no_home(before, home, tmp_path):
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG", "MPL", "PYRO_VAE"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", before + PROGRAM], env=kept | home | {"TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "k-hat torch.Size([20])" in done.stdout
    assert "ImageData('mnist-5k', 4000/500/500 of 1x28x28" in done.stdout
    assert ("frey load_data: there is no home folder" in done.stdout) == bool(before)
    assert not list(tmp_path.glob("pyro-vae-*"))
