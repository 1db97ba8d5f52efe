"""What a training step cannot go below on this machine: its matrix multiplications, and its optimizer's memory traffic.

Neither is a step that one could take; each is a part of any step. They bound what a better graph can gain: the
multiplications may be hidden behind nothing, the traffic only behind the multiplications.
"""

from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.batches import NumberedBatches
from benchmarks.timing import Side
from benchmarks.training import LATENT_DIM, X_DIM


def layer_sizes(hidden_dims: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each linear layer, the encoder's and then the decoder's."""
    encoder = (X_DIM, *hidden_dims, 2 * LATENT_DIM)
    decoder = (LATENT_DIM, *hidden_dims[::-1], X_DIM)
    return [*pairwise(encoder), *pairwise(decoder)]


def matmul_floor(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return a step's matrix multiplications by ``torch.mm`` into buffers that are there, and nothing else.

    For each linear layer that is the output, the weights' gradient, and (but for the first layer, whose input is
    the data) the input's gradient.
    """
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, (n_in, n_out) in enumerate(layer_sizes(hidden_dims)):
        x, weight = torch.randn(batches.batch_size, n_in), torch.randn(n_out, n_in)
        y, slope = torch.empty(batches.batch_size, n_out), torch.randn(batches.batch_size, n_out)
        products += [(x, weight.T, y), (slope.T, x, torch.empty_like(weight))]
        if number:
            products.append((slope, weight, torch.empty_like(x)))

    def epoch(_: int) -> None:
        for _ in range(batches.steps or 0):
            for left, right, out in products:
                torch.mm(left, right, out=out)

    return epoch


def memory_floor(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return the memory traffic that Adam cannot avoid, with the least arithmetic that streams it.

    Four numbers are read for each parameter (itself, its gradient, both moments) and three written (all but the
    gradient), of one flat float32 buffer each: 28 bytes for each parameter. Nothing else uses the caches between two
    passes: where the last one holds the buffers, this is that cache's floor, not the memory's.
    """
    count = sum((n_in + 1) * n_out for n_in, n_out in layer_sizes(hidden_dims))
    parameters, gradients, first, second = torch.randn(4, count)

    def epoch(_: int) -> None:
        for _ in range(batches.steps or 0):
            parameters.add_(gradients)
            first.neg_()
            second.neg_()

    return epoch
