"""What counts as memory that is used up, and memory that need not be asked for again."""

import platform
import subprocess
import sys

import pytest
import torch

from pyro_vae.errors import OutOfMemoryError
from pyro_vae.runtime.memory import is_out_of_memory


def test_what_torch_raises_when_the_system_refuses_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("x"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_classes_of_their_own(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("DefaultCPUAllocator"), KeyError("memory")]
)
def test_other_errors_are_other_errors(error):
    assert not is_out_of_memory(error)


FAULTS = """
import resource, torch
from pyro_vae.runtime.memory import keep_freed_memory
keep_freed_memory()
def call():
    kept = [torch.ones(1_000_000) for _ in range(5)]
for _ in range(3):
    call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_memory_that_was_freed_is_used_again():
    """Five tensors of 4 MB are 5000 pages a call that would be asked for anew, 100 000 in all."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 5000
