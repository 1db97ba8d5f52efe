"""Importance weights of any Pyro pair: the one core that objectives and evaluation stand on."""

import logging
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import PairError
from pyro_vae.programs.missing import check_not_empty
from pyro_vae.programs.modules import data_args, modules_of, unmoved_buffers
from pyro_vae.programs.nonfinite import check_finite
from pyro_vae.programs.pair import SOFT_TARGETS, Pair
from pyro_vae.programs.precision import MOST_ROUNDING, UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count

logger = logging.getLogger("pyro_vae")


def log_weights(model: Program, guide: Program, x: Any, num_samples: int = 1, *, plate: str | None = None) -> Tensor:
    r"""Importance weights log p(x, z_k) - log q(z_k | x), z_k ~ q(z | x), for each datum, in nats.

    Any pair with one vectorized batch plate will do, under any site names, with several latent sites, masks,
    further plates, a subsampled batch plate or ``poutine.scale``. Masked elements count nothing; a scale and a
    subsample's weight do not enter, since they belong to a loss and not to a density. Differentiable where the
    guide is reparameterized. Modules run in the mode they are in, and their buffers (running means) stay as they are.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: the data ``(batch, ...)``, or a tuple of all positional arguments of model and guide.
        num_samples: K, how many z_k are drawn for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Returns:
        Tensor ``(num_samples, batch)``. Where the batch plate subsamples x, its rows are visited block by block
        and the columns are all of x, in order.

        Its dtype is the programs', or float64 where float32 sums would lose more than 0.001 nats of a weight, as
        with weights of hundreds of thousands of nats: log-probabilities are then computed in float64 from the float32
        parameters, whose gradients stay in float32. Where the parameters themselves are rounded so that a weight
        moves by more than 0.1 nats, a warning says so, and float64 programs are the remedy. Weights that float32
        sums hold are not examined for that; :func:`pyro_vae.log_likelihood` examines all.

    Raises:
        ValueError: ``num_samples`` is below 1.
        PairError: no batch plate, one that is handed some rows of x, a latent site outside it, one in only one of model
            and guide, or the guide scores something that is no density of the latent sites (a point mass, a loss added
            by ``pyro.factor``).
        NonFiniteError: a weight is NaN or +inf; the message names the site.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, equation 8,
        arXiv 1509.00519.

    >>> import torch
    >>> from pyro_vae.models import VAE
    >>> from pyro_vae.guides import MeanFieldGuide
    >>> x = torch.zeros(7, 1, 28, 28)
    >>> log_weights(VAE((1, 28, 28)), MeanFieldGuide((1, 28, 28)), x, num_samples=3).shape
    torch.Size([3, 7])
    """
    check_count("log_weights", "num_samples", num_samples)
    x = data_args("log_weights", x, model, guide)
    check_not_empty("log_weights: x", x[0])
    pair = Pair(model, guide, x, plate)
    pair.require_density("log_weights")
    if pair.caveat not in (None, SOFT_TARGETS):
        logger.warning("log_weights: no weights of log p(x): %s", pair.caveat)
    with unmoved_buffers(modules_of(model, guide)):
        if pair.plate.size < pair.plate.full_size == pair.num_rows:
            blocks = [pair.terms(x, num_samples, rows).log_weight for rows in subsample_blocks(pair, x[0].device)]
            weights = torch.cat(blocks, dim=1)[:, : pair.plate.full_size]
        else:
            weights = pair.terms(x, num_samples).log_weight
    check_finite("log_weights", model, guide, x, weights)
    if pair.wide and bool((pair.roundings(x)[0] > MOST_ROUNDING).any()):
        logger.warning("log_weights: %s", UNRESOLVED)
    return weights


def subsample_blocks(pair: Pair, device: torch.device) -> list[Tensor]:
    """Cover all rows with blocks of the subsample's size; the last one is filled up with repeated rows.

    Raises:
        PairError: the plate is handed its rows, so that no others can be given to it.
    """
    size, full_size = pair.plate.size, pair.plate.full_size
    if size < full_size and not pair.draws_rows:
        raise PairError(
            f"plate {pair.plate.name!r} takes the {size} rows that it is handed (subsample=...) of {full_size} data, "
            f"and no others: hand it the numbers of all data, torch.arange(len(x)), or call with x[rows] "
            f"for x and a model and guide that do not index it."
        )
    starts = range(0, full_size, size)
    return [torch.arange(start, start + size, device=device).clamp(max=full_size - 1) for start in starts]
