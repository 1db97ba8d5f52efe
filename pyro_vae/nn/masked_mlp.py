"""The multilayer perceptron of data with missing values, which is told what was observed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.nn.mlp import MLP
from pyro_vae.runtime.checks import check_count, check_number


class MaskedMLP(nn.Module):
    r"""An :class:`MLP` of :math:`[m \odot x + (1 - m) \odot a, m]`, with m the mask of what was observed.

    As an encoder it is called with x and the mask of the datum (x, observed), and so tells an element that is missing
    from one that has the filler's value. Without a mask all is observed.

    Args:
        in_features: size of the last dimension of x.
        hidden_dims: sizes of the hidden layers; may be empty, which leaves one linear map.
        out_features: size of the last dimension of the output, which has no activation.
        activation: as of :class:`MLP`.
        fill: a, what stands in the place of what is missing: a number (of standardised data, 0 is the mean), or
            ``"learned"``, one learned number for each feature, which starts at 0.
        with_mask: whether the mask is part of the input, as further features; otherwise x alone is, filled.

    Raises:
        ValueError: ``fill`` is neither a finite number nor ``"learned"``, ``with_mask`` is neither True nor False, or
            as for :class:`MLP`.

    References:
        P.-A. Mattei, J. Frellsen (2019), *MIWAE: Deep generative modelling and imputation of incomplete data sets*,
        arXiv 1812.02633, section 2.4 (zero filling); M. Collier, A. Nazabal, C. Williams (2020), *VAEs in the presence
        of missing data*, arXiv 2006.05301 (the mask as input).

    >>> network = MaskedMLP(3, (20,), 4)
    >>> x = torch.tensor([[0.5, torch.nan, 2.0]])
    >>> network(x, ~x.isnan()).isfinite().all().item(), network(torch.zeros(5, 7, 3)).shape
    (True, torch.Size([5, 7, 4]))
    """

    def __init__(
        self,
        in_features: int,
        hidden_dims: Sequence[int],
        out_features: int,
        activation: str = "tanh",
        fill: float | str = 0.0,
        with_mask: bool = True,
    ) -> None:
        super().__init__()
        check_count("MaskedMLP", "in_features", in_features)
        if isinstance(fill, str) and fill != "learned":
            raise ValueError(f"MaskedMLP: fill must be a finite number or 'learned'; got {fill!r}.")
        if not isinstance(fill, str):
            check_number("MaskedMLP", "fill", fill)
        if not isinstance(with_mask, bool):
            raise ValueError(f"MaskedMLP: with_mask must be True or False; got {with_mask!r}.")
        self.in_features = in_features
        self.hidden_dims = tuple(hidden_dims)
        self.out_features = out_features
        self.activation = activation
        self.fill = fill
        self.with_mask = with_mask
        self.mlp = MLP(in_features * (2 if with_mask else 1), hidden_dims, out_features, activation)
        if fill == "learned":
            self.filler = nn.Parameter(torch.zeros(in_features))

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return self.mlp.output

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Map x ``(*batch, in_features)`` to ``(*batch, out_features)``.

        Args:
            x: whatever it holds where it was not observed.
            observed: boolean, of x's shape, True where x was observed; None where all of it was.
        """
        if observed is None:
            observed = torch.ones_like(x, dtype=torch.bool)
        else:
            filler = self.filler if self.fill == "learned" else x.new_tensor(float(self.fill))
            x = torch.where(observed, x, filler)
        return self.mlp(torch.cat([x, observed.to(x.dtype)], dim=-1) if self.with_mask else x)
