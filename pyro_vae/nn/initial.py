"""The start of linear layers and convolutions: Glorot's uniform law, and biases of 0."""

import math

from torch import nn


def start_glorot(module: nn.Module, gain: float = 1.0) -> None:
    r"""Start the weights of all linear layers and convolutions in a module, and set their biases to 0.

    Weights are from :math:`U(-a, a)` with :math:`a = g \sqrt{6 / (n_{in} + n_{out})}`. A transposed convolution of
    stride s has s times the gain, as each of its outputs sees one tap in :math:`s^2`.

    Args:
        module: whose layers start anew.
        gain: g.

    References:
        X. Glorot, Y. Bengio (2010), *Understanding the difficulty of training deep feedforward neural networks*.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            spread = math.sqrt(math.prod(layer.stride)) if isinstance(layer, nn.ConvTranspose2d) else 1.0
            nn.init.xavier_uniform_(layer.weight, gain * spread)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
