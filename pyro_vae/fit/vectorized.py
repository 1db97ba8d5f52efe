"""Refuse ``vectorize_particles=True`` for pairs that do not take the dim of the particles."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import torch

from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.fit.steps.gradients import Batch, BatchLoss
from pyro_vae.fit.summed import Summed
from pyro_vae.programs.modules import as_args, in_mode
from pyro_vae.programs.pair import REMEDY, Pair
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.wording import in_one_line


@contextmanager
def takes_particles(pair: Pair | Summed, loss: BatchLoss, batch: Batch) -> Iterator[None]:
    """Refuse a pair that fails, or gives wrong numbers, with particles in a dim left of the data's.

    A pair with weights of each datum is tried before the first step, in evaluation mode, where batch normalization
    does not couple the particles; of any other the first step must not fail by what it does one by one.

    Args:
        pair: that is trained.
        loss: of the pair under its objective.
        batch: of the first step, which is taken inside.

    Raises:
        PairError: says by what the pair fails, and what to do.
    """
    objective = loss.objective
    particles = getattr(objective, "num_particles", 1)
    if particles == 1 or not getattr(objective, "vectorize_particles", False):
        yield
        return
    what = f"fit: {type(objective).__name__}(num_particles={particles}, vectorize_particles=True)"

    def refused(reason: str) -> PairError:
        return PairError(
            f"{what} puts its particles in a dim left of the data's, which model and guide do not take: {reason}. Pass "
            f"vectorize_particles=False; or an objective of pyro_vae.objectives, as StickingTheLanding({particles}) or "
            f"IWAE({particles}), which repeats the data instead; or mend the networks. {REMEDY}"
        )

    if isinstance(pair, Pair):
        with in_mode(list(loss.modules), training=False):
            failure = pair.why_no_outer_plate
        if failure is not None:
            raise refused(failure)
    try:
        yield
    except NonFiniteError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        one_by_one: Any = copy(objective)
        one_by_one.vectorize_particles = False
        try:
            replace(loss, objective=one_by_one).eager()(batch, torch.ones((), device=as_args(batch)[0].device))
        except Exception:
            # Without that dim it fails as well.
            raise error from None
        raise refused(in_one_line(error)) from error
