"""The guide without an encoder, which has parameters for each datum."""

import math
from collections.abc import Sequence

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.nn import flatten_event
from pyro_vae.programs.sites import LATENT, PLATE
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count

BLOCK = 1000
"""Number of data that are hashed at a time when the guide is made."""

GOLDEN = -7046029254386353131
"""2^64 / the golden ratio, an odd number, as a signed integer; a product with it carries low bits into high ones."""

START = 0.1
"""Standard deviation of the initial locations: near the prior's location, and different for each datum."""


class LocalGuide(PyroModule):
    r"""q(z | x_n) = N(loc_n, diag(scale_n^2)), free parameters for each distinct datum: nothing is amortized.

    It shows what an amortized guide of the same family loses by its encoder on the same data. A datum is found by its
    content (a 64-bit hash of its elements in float32), so that any order or batch of the data will do; two data are
    confused with a probability of about :math:`N^2 / 2^{65}`. The data themselves are not stored. Further tensors of a
    datum are ignored: data that differ in these alone share their parameters.

    Data that it was not made for are refused; in a captured graph, which cannot raise, their parameters are NaN. In
    ``fit``, ``valid=data.valid[:0]`` leaves out validation data.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        data: all data of the guide, as the model sees them, ``(N, *x_shape)``; or the number of distinct data, for a
            guide whose parameters and keys are then loaded.
        init: a guide with ``posterior``, whose means and standard deviations are the start. Otherwise the scales
            start at 1 and the locations as draws from N(0, 0.1^2).

    Raises:
        ValueError: data or x do not have ``x_shape``, there are no data, ``init`` has no ``posterior`` or another
            latent dim, or rows of x are not among the data.

    References:
        M. Hoffman, D. Blei, C. Wang, J. Paisley (2013), *Stochastic variational inference*, arXiv 1206.7051 (local
        parameters); C. Cremer, X. Li, D. Duvenaud (2018), *Inference suboptimality in variational autoencoders*,
        arXiv 1801.03558 (the amortization gap).

    >>> x = torch.eye(7).reshape(7, 1, 7)
    >>> q = LocalGuide((1, 7), latent_dim=2, data=x).posterior(x[3:5])
    >>> q.batch_shape, q.event_shape
    (torch.Size([2]), torch.Size([2]))
    """

    keys: Tensor
    multipliers: Tensor

    def __init__(
        self, x_shape: Sequence[int], latent_dim: int = 50, *, data: Tensor | int, init: PosteriorGuide | None = None
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        check_count("LocalGuide", "latent_dim", latent_dim)
        self.latent_dim = latent_dim
        self.register_buffer("multipliers", _odd_numbers(math.prod(self.x_shape)), persistent=False)
        if not isinstance(data, Tensor):
            check_count("LocalGuide", "data", data)
            if init is not None:
                raise ValueError(f"LocalGuide: init needs the data themselves, of which it knows; got data={data}.")
            keys = torch.zeros(data, dtype=torch.int64)
        elif len(data) == 0:
            raise ValueError(f"LocalGuide: there are no data (shape {tuple(data.shape)}).")
        else:
            all_keys = torch.cat([self._keys_of(block.cpu()) for block in data.split(BLOCK)])
            keys, rows = all_keys.unique(return_inverse=True)
        # What builds the guide again, once its parameters and keys are loaded.
        self.data, self.init = len(keys), None
        self.register_buffer("keys", keys)
        self.loc = nn.Parameter(START * torch.randn(len(keys), latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(len(keys), latent_dim))
        if init is not None and isinstance(data, Tensor):
            self._start_from(init, data, rows)

    def posterior(self, x: Tensor, *_rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        keys = self._keys_of(x)
        rows = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        known = self.keys[rows] == keys
        # A graph cannot raise: its loss becomes NaN, and the run that looks for the cause raises here.
        if get_proxy_mode() is None and not known.all():
            raise ValueError(
                f"LocalGuide: {(~known).sum().item()} of {known.numel()} rows of x are not among the {len(self.keys)} "
                f"data that the guide was made with. Stochastic binarization makes new data at each step: use "
                f"{argument('binarization', 'static')} or 'threshold'. Validation and test data need a guide made with "
                f"them."
            )
        known = known.unsqueeze(-1)
        loc, log_scale = nn.functional.embedding(rows, self.loc), nn.functional.embedding(rows, self.log_scale)
        return dist.Normal(loc.where(known, math.nan), log_scale.exp().where(known, math.nan)).to_event(1)

    def forward(self, x: Tensor, *_rest: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)``, whatever else a datum has."""
        with pyro.plate(PLATE, len(x), dim=-1):
            return pyro.sample(LATENT, self.posterior(x))

    def _keys_of(self, x: Tensor) -> Tensor:
        # Adding 0 makes -0 the 0 that it is equal to.
        bits = (flatten_event(x, self.x_shape, "LocalGuide").float() + 0.0).view(torch.int32)
        # The low bits of most floats are 0, and would leave those of the sum 0.
        mixed = bits.long() * GOLDEN
        return ((mixed ^ (mixed >> 32)) * self.multipliers).sum(-1)

    @torch.no_grad()
    def _start_from(self, init: PosteriorGuide, data: Tensor, rows: Tensor) -> None:
        if not isinstance(init, PosteriorGuide):
            raise ValueError(f"LocalGuide: init must be a guide with `posterior(x)`; got {type(init).__name__}.")
        for block, where in zip(data.split(BLOCK), rows.split(BLOCK), strict=True):
            q = init.posterior(block)
            if q.event_shape != (self.latent_dim,):
                raise ValueError(
                    f"LocalGuide: init must have latent_dim = {self.latent_dim}; its z has shape "
                    f"{tuple(q.event_shape)}."
                )
            self.loc[where] = q.mean.to(self.loc)
            self.log_scale[where] = q.stddev.log().to(self.log_scale)


def _odd_numbers(count: int) -> Tensor:
    """Return odd int64 numbers that look random and stay the same for ever (SplitMix64 by Steele et al., 2014)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN % 2**64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((state ^ (state >> np.uint64(31)) | np.uint64(1)).view(np.int64))
