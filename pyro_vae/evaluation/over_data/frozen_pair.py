"""A pair whose parameters stay as they are: draws of its q in flat unconstrained coordinates, for any of the data."""

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.pair_rows import PairRows
from pyro_vae.evaluation.over_data.rows import HEAD
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import LogTerms, Particles
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.protocols import Program

TRIES = 16
"""Data that are tried one by one where the guide is not finite on one of the first."""


class FrozenPair(PairRows):
    r"""Draws u ~ q(u | x_n) and log q(u | x_n), with u as in :class:`pyro_vae.programs.joint.Joint`.

    .. math:: \log q(u | x) = \log q(z(u) | x) + \log |\det \partial z / \partial u|

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x); what it draws beside the model's latent sites is in its density, as in a log-weight.
        x: data ``(N, ...)``, or a tuple of all arguments, of which tensors of length N are cut along their first dim.
        plate: the batch plate's name, needed only where several would do.

    Raises:
        ValueError: x is no tensor, empty or not finite; a latent site is discrete; or the batch plate does not follow
            the number of data that the programs are given.
        PairError: model and guide do not fit each other or mask other latent elements, or have no batch plate.
        SupportError: x lies outside the likelihood's support.
        NonFiniteError: the guide's parameters are not finite for any of the data that were tried.
    """

    def __init__(self, who: str, model: Program, guide: Program, x: Any, plate: str | None = None) -> None:
        super().__init__(who, model, guide, x, plate)
        self.refuse_whole("its maps are fitted to some data at a time")
        with in_mode(self.modules, training=False):
            pair, seen = self._first_that_is_finite()
            self._head = head = self.take(seen)
            self.check_support(model, head)
            with torch.no_grad(), pyro.validation_enabled(False), no_side_effects(self.modules):
                values = self.joint.values(head, self.joint.draw(head, 2))
            self.learn(pair, seen, self.joint)
            self.check_masks(self.joint, pair)
        self._ndims = {name: value.ndim for name, value in values.items()}
        self.vectorizes = pair.vectorizes and self.joint.vectorizes

    def draw(self, block: tuple[Any, ...], num_samples: int) -> list[Tensor]:
        """Draw u ``(num_samples, batch, dim)``, and return it with log q(u | x) ``(num_samples, batch)``."""
        runs = self.pair.run(block, num_samples)
        log_guide = LogTerms.together([run.terms() for run in runs]).log_guide
        values = {}
        for part in self.joint.parts:
            of_runs = [self.pair.layout.apart(run, run.model_trace.nodes[part.name]) for run in runs]
            value = of_runs[0] if self.pair.vectorizes else torch.cat(of_runs)
            # Plates of the guide's own put dims of size 1 between samples and data.
            values[part.name] = value.flatten(0, value.ndim - self._ndims[part.name])
        u = self.joint.from_values(block, values)
        return [u, log_guide + self.joint.terms(block, u).log_volume]

    def counted(self, block: tuple[Any, ...]) -> Tensor | None:
        """Return which coordinates of some data count, ``(batch, dim)``; None where no latent site has a mask."""
        return self.joint.counted(block)

    def log_joint(self, block: tuple[Any, ...], u: Tensor) -> Tensor:
        """Return log p(x, u), ``(num_samples, batch)``."""
        return self.joint.terms(block, u).log_joint

    def two_runs(self) -> list[Particles]:
        """Run the pair twice on the first data, each time with a sample, and leave nothing of it."""
        with self.at_rest(), no_side_effects(self.modules):
            return [self.pair.run(self._head, 1)[0] for _ in range(2)]

    def _first_that_is_finite(self) -> tuple[Pair, Tensor]:
        """Return the pair, made on the first data on which it is finite, and which these are; make the joint density.

        Raises:
            NonFiniteError: there are none.
        """
        for index in self._heads():
            head = self.take(index)
            try:
                self.joint = Joint(self.who, self.model, head, self.plate)
                pair = Pair(self.model, self.guide, head, self.plate)
                pair.require_density(self.who)
            except NonFiniteError as error:
                refused = error
                continue
            if pair.plate.size != len(index):
                raise ValueError(
                    f"{self.who}: plate {pair.plate.name!r} does not have a row for each row of x. Give the plate the "
                    f"length of x, as pyro.plate('data', len(x))."
                )
            return pair, index
        raise refused

    def _heads(self) -> Iterator[Tensor]:
        """Give some of the data, a smaller set's repeated; never as many as there are, as a fixed plate has."""
        count = HEAD if self.size != HEAD else HEAD + 1
        yield torch.arange(count) % self.size
        for datum in range(min(self.size, TRIES)):
            yield torch.full((count,), datum)
