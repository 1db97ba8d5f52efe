"""What importing the package promises."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(__file__).parents[1]


def in_a_new_interpreter(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, **kwargs)


def test_importing_changes_no_global():
    done = in_a_new_interpreter(
        "import torch, pyro, random\n"
        "import torch.distributions as td\n"
        "def state(): return (td.Distribution._validate_args, pyro.settings.get(), torch.get_default_dtype(),\n"
        "    torch.get_num_threads(), torch.random.get_rng_state().tolist(), random.getstate(),\n"
        "    list(pyro.get_param_store()))\n"
        "before = state()\n"
        "import pyro_vae\n"
        "assert state() == before, 'a global changed'\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


LIGHT = {"filelock", "mlxtend", "numpy", "platformdirs", "safetensors", "tqdm", "yaml"}
"""Packages that may be loaded beside torch and Pyro: some hundredths of a second together."""

HEAVY = [
    "arviz",
    "joblib",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
]
"""Each takes some tenths of a second to seconds, and waits until something needs it."""


def test_importing_loads_nothing_that_is_slow_to_import():
    done = in_a_new_interpreter(
        "import json, sys, pyro, torch\n"
        "before = set(sys.modules)\n"
        "from pyro_vae import parts, plots\n"
        "print(json.dumps([name for name in sys.modules if name not in before and not name.startswith('_')]))\n"
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "pyro_vae" in loaded
    assert [name for name in HEAVY if name in loaded] == []
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - sys.stdlib_module_names - {"pyro", "pyro_vae", "torch"} <= LIGHT


def test_the_packages_that_must_wait_are_called_by_their_names():
    for name in HEAVY:
        assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", ["models", "guides"])
def test_models_and_guides_refuse_a_second_name(name):
    done = in_a_new_interpreter(f"import {name}", cwd=ROOT)
    assert f"import pyro_vae.{name} instead" in done.stderr


def test_public_names_exist():
    for name in pyro_vae.__all__:
        assert hasattr(pyro_vae, name)
