"""What runs on a GPU, on a device that every machine has."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

TESTS = Path(__file__).with_name("on_a_second_device.py")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="NOT CHECKED: this torch takes no device that is written in Python",
)
@pytest.mark.slow
def test_everything_runs_on_a_second_device():
    """In a process of its own, which the device stays registered in."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", TESTS],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=TESTS.parents[2],
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
