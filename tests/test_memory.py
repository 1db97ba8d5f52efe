"""What counts as memory that is used up."""

import pytest
import torch

from pyro_vae.errors import OutOfMemoryError
from pyro_vae.memory import is_out_of_memory


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
