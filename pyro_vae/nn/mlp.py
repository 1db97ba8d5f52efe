"""The multilayer perceptron of encoders and decoders."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from pyro_vae.runtime.checks import check_count

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    r"""Fully connected layers with one activation, from ``in_features`` to ``out_features``.

    Weights start from Glorot's uniform law, :math:`U(-a, a)` with :math:`a = \sqrt{6 / (n_{in} + n_{out})}`,
    and biases from 0, as in Burda, Grosse and Salakhutdinov (2015).

    Args:
        in_features: size of the last dimension of the input.
        hidden_dims: sizes of the hidden layers; may be empty, which leaves one linear map.
        out_features: size of the last dimension of the output, which has no activation.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"softplus"``, ``"gelu"`` or ``"silu"``.

    Raises:
        ValueError: the activation is unknown.

    References:
        X. Glorot, Y. Bengio (2010), *Understanding the difficulty of training deep feedforward neural networks*.
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, arXiv 1509.00519.

    >>> import torch
    >>> MLP(784, (200, 200), 100)(torch.zeros(5, 7, 784)).shape
    torch.Size([5, 7, 100])
    """

    def __init__(
        self, in_features: int, hidden_dims: Sequence[int], out_features: int, activation: str = "tanh"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation must be one of {', '.join(sorted(ACTIVATIONS))}; got {activation!r}.")
        widths = [("hidden_dims", width) for width in hidden_dims]
        for name, width in (("in_features", in_features), *widths, ("out_features", out_features)):
            check_count("MLP", name, width)
        self.in_features = in_features
        self.hidden_dims = tuple(hidden_dims)
        self.out_features = out_features
        self.activation = activation
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((in_features, *hidden_dims)):
            layers += [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear((in_features, *hidden_dims)[-1], out_features))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map x ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        return self.layers(x)
