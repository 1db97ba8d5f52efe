"""A pair whose parameters stay as they are: draws of its q in flat unconstrained coordinates, for any of the data."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.guide_draws import GuideDraws
from pyro_vae.evaluation.over_data.pair_rows import PairRows
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.particles import Particles
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.protocols import Program


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
        super().__init__(who, x, model, guide, plate)
        self.refuse_whole("its maps are fitted to some data at a time")
        # Never as many data as there are, as a plate of a fixed size has.
        most = current_sizes().head
        width = most if self.size != most else most + 1
        with in_mode(self.modules, training=False):
            head = torch.arange(min(self.size, most))
            joint, head = self.first_finite(lambda args: Joint(who, model, args, plate), head, width)
            self._draws, seen = self.first_finite(
                lambda args: GuideDraws(joint, model, guide, args, plate), head.unique(), width
            )
            self.joint, pair = joint, self._draws.pair
            pair.require_density(who)
            if pair.plate.size != width:
                raise ValueError(
                    f"{who}: plate {pair.plate.name!r} does not have a row for each row of x. Give the plate the "
                    f"length of x, as pyro.plate('data', len(x))."
                )
            self.check_support(model, self.take(seen))
            self.learn(pair, seen, joint)
            self.check_masks(joint, pair)
        self.vectorizes = pair.vectorizes and joint.pair.vectorizes

    def draw(self, block: tuple[Any, ...], num_samples: int) -> list[Tensor]:
        """Draw u ``(num_samples, batch, dim)``, and return it with log q(u | x) ``(num_samples, batch)``."""
        u, terms = self._draws.draw(block, num_samples)
        return [u, terms.log_guide + self.joint.terms(block, u).log_volume]

    def log_joint(self, block: tuple[Any, ...], u: Tensor) -> Tensor:
        """Return log p(x, u), ``(num_samples, batch)``."""
        return self.joint.terms(block, u).log_joint

    def two_runs(self) -> list[Particles]:
        """Run the pair twice on the first data, each time with a sample, and leave nothing of it."""
        with self.at_rest(), no_side_effects(self.modules):
            return [self.pair.run(self.take(self._seen), 1)[0] for _ in range(2)]
