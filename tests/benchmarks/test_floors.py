import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floors, training
from benchmarks.batches import NumberedBatches
from benchmarks.raw_vae import RawVAE

HIDDEN_DIMS = (7, 5)


@pytest.fixture
def batches():
    return NumberedBatches(torch.zeros(12, training.X_DIM), 4)


def flops(side):
    with FlopCounterMode(display=False) as counter:
        side(0)
    return counter.get_total_flops()


@pytest.mark.parametrize("hidden_dims", [(7,), HIDDEN_DIMS])
def test_the_multiplications_are_those_of_the_hand_written_step(batches, hidden_dims):
    expected = flops(training.raw(batches, hidden_dims))
    assert expected > 0
    assert flops(floors.matmul_floor(batches, hidden_dims)) == expected


class Traffic(TorchDispatchMode):
    """Counts the numbers that operators read and write, each of which works in place."""

    def __init__(self):
        super().__init__()
        self.read = self.written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.read += sum(a.numel() for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor))
        self.written += out.numel()
        return out


def test_the_memory_floor_reads_four_numbers_and_writes_three_for_each_parameter(batches):
    side = floors.memory_floor(batches, HIDDEN_DIMS)
    with Traffic() as traffic:
        side(0)
    raw = RawVAE(training.X_DIM, training.LATENT_DIM, HIDDEN_DIMS)
    passes = batches.steps * sum(p.numel() for p in raw.parameters())
    assert (traffic.read, traffic.written) == (4 * passes, 3 * passes)
