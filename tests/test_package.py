"""What importing the package promises."""

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


@pytest.mark.parametrize("name", ["models", "guides"])
def test_models_and_guides_refuse_a_second_name(name):
    done = in_a_new_interpreter(f"import {name}", cwd=ROOT)
    assert f"import pyro_vae.{name} instead" in done.stderr


def test_public_names_exist():
    for name in pyro_vae.__all__:
        assert hasattr(pyro_vae, name)
