"""Run one cell: make its pair, fit it and measure it, as far as this is not done yet."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.data_text import naming_data, parse_data
from pyro_vae.comparison.measure import measure_cell
from pyro_vae.comparison.results import (
    CellResult,
    is_finished,
    is_fitted,
    read_cell,
    read_result,
    write_fitted,
    write_result,
)
from pyro_vae.data import DATASETS, DataNotFoundError, ImageData, load_data
from pyro_vae.data.conditions import conditions_of
from pyro_vae.data.image_data import first_of
from pyro_vae.errors import NonFiniteError, RunError
from pyro_vae.fit import Run, fit, load_run
from pyro_vae.fit.options import as_device
from pyro_vae.fit.parameters import STORE, owners_of
from pyro_vae.fit.run import CHECKPOINT, CONFIG, read_config, read_fitted
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.parts import PARTS, make_guide, make_objective, make_pair, parse_part
from pyro_vae.programs.modules import as_args, local_params
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.bounded import Bounded, require_sizes
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.trust import is_declared


def load_data_of(cell: Cell, moved: str | Path | None = None) -> ImageData:
    """Return the data of a cell.

    Args:
        cell: with the settings of the data.
        moved: where the data are now, if not at the place that the cell names.

    Raises:
        As for :func:`pyro_vae.load_data`.
    """
    name, options = parse_data(cell.data)
    if moved is not None:
        name, others = parse_data(str(moved))
        options |= others
    with naming_data(name):
        return load_data(
            name, binarization=cell.binarization, seed=cell.data_seed, valid_size=cell.valid_size, labels=cell.labels,
            quadrants=cell.quadrants, **options,
        )  # fmt: skip


def load_data_of_run(path: Path, cell: Cell, moved: str | Path | None = None) -> ImageData:
    """Return the data of a cell that was run in a folder.

    Args:
        path: the run folder, for the message.
        cell: with the settings of the data.
        moved: where the data are now, if not at the place that the cell names.

    Raises:
        RunError: the data are no longer at that place.
        As for :func:`pyro_vae.load_data`.
    """
    try:
        return load_data_of(cell, moved)
    except DataNotFoundError as error:
        if moved is not None or parse_data(cell.data)[0] in DATASETS:
            raise
        raise RunError(
            f"{error} Where the data that {path} was fitted to lie elsewhere now, name them with "
            f"{argument('data', '...')}."
        ) from error


def make_pair_of(cell: Cell, data: ImageData, fitted_model: Path | None = None) -> tuple[Any, Any]:
    """Return the model and guide of a cell before they are fitted.

    Args:
        cell: names the parts, which are made under its seed. The caller's random state does not change.
        data: of the cell.
        fitted_model: the run folder of the model that the cell takes over, if it does; this model requires no gradient.
    """
    inputs = partial(data.observe, data.train_images)
    with seeded(cell.seed):
        if cell.fitted_model is not None:
            if fitted_model is None or not is_fitted(fitted_model, cell.fitted_model):
                raise RunError(f"the model that the cell takes over is not fitted to its end in {fitted_model}.")
            model = load_pair(fitted_model, cell.fitted_model, data)[0].requires_grad_(False)
            torch.manual_seed(cell.seed)
            encoder_dims = cell.encoder_dims or cell.hidden_dims[::-1]
            guide = make_guide(
                data.x_shape, cell.latent_dim, encoder_dims, guide=cell.guide, model=model, encoder=cell.encoder,
                activation=cell.activation, data=inputs, model_text=cell.model, **conditions_of(data),
            )  # fmt: skip
            return model, guide
        model, guide = make_pair(
            data.x_shape, cell.latent_dim, cell.hidden_dims, model=cell.model, guide=cell.guide, prior=cell.prior,
            likelihood=cell.likelihood, encoder=cell.encoder, decoder=cell.decoder, encoder_dims=cell.encoder_dims,
            activation=cell.activation, data=inputs, **conditions_of(data),
        )  # fmt: skip
        if cell.init_bias and hasattr(getattr(model, "likelihood", None), "initialize_bias"):
            model.likelihood.initialize_bias(data.train_mean())
        return model, guide


def load_pair(path: Path, cell: Cell, data: ImageData, fitted_model: Path | None = None) -> tuple[Any, Any]:
    """Return the fitted model and guide of a cell from its run folder.

    Args: as for :func:`make_pair_of`; ``path`` is the run folder.

    Raises:
        RunError: the run is missing, damaged, does not fit the cell, or was fitted to other data.
    """
    require_same_data(read_config(path)["data"], data, path)
    run = load_run(path, make=partial(pair_to_fill, path, cell, data, fitted_model), always_make=True)
    return run.model, run.guide


def pair_to_fill(path: Path, cell: Cell, data: ImageData, fitted_model: Path | None) -> tuple[Any, Any]:
    """Return the pair of :func:`make_pair_of`, into which the folder's checkpoint can be loaded.

    Raises:
        RunError: the checkpoint is damaged, or too small for the pair that the cell describes.
    """
    parts, _ = read_fitted(path)
    values = [*parts["values"].values(), *parts["best"].values()]
    size = sum(tensor.numel() for tensor in values)
    names, options = zip(*(parse_part(kind, getattr(cell, kind)) for kind in PARTS), strict=True)
    require_sizes([cell.latent_dim, cell.hidden_dims, cell.encoder_dims or (), options], size, str(path))
    # There is no limit for a class of the user's own, which the user trusts.
    trusted = any(":" in name and not is_declared(name.rpartition(":")[0]) for name in names)
    try:
        with contextlib.nullcontext() if trusted else Bounded(values, str(path), others=data.train_images.numel()):
            # The bias is in the checkpoint; to compute an initial one may take thousands of steps.
            model, guide = make_pair_of(
                cell if cell.fitted_model else replace(cell, init_bias=False), data, fitted_model
            )
        if any(name.startswith(STORE) for name in parts["values"]):
            # Parameters of `pyro.param` statements must exist before they are loaded.
            with seeded(cell.seed), torch.no_grad(), poutine.block(), local_params(model, guide):
                x = as_args(data.observe(first_of(data.train, 2)))
                guide(*x)
                model(*x)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RunError(f"{path}: its pair cannot be made again: {reason}.") from error
    return model, guide


def load_cell(
    path: str | Path, *, data: ImageData | str | Path | None = None, trust: bool = False
) -> tuple[Any, Any, ImageData]:
    """Return the fitted model, the fitted guide and the data of the run folder of a cell.

    A model that was taken over from another cell is loaded from the run folder beside this one, as in a comparison.

    Args:
        path: the run folder.
        data: its data, or where they are now, if not at the place that the folder names.
        trust: import the classes that the folder names, also those of other packages and files.

    Raises:
        RunError: the folder is missing or damaged, was made by :func:`pyro_vae.fit` from objects or fitted to other
            data, or names a class that is not trusted.
    """
    path = Path(path).resolve()
    cell = read_cell(path, trust=trust)
    data = data if isinstance(data, ImageData) else load_data_of_run(path, cell, data)
    fitted_model = None if cell.fitted_model is None else path.parent / cell.fitted_model.hash
    return *load_pair(path, cell, data, fitted_model), data


def _require_fitting_checkpoint(path: Path, cell: Cell, data: ImageData, fitted_model: Path | None) -> None:
    """Raise a RunError if a folder has a checkpoint that is too small for the pair that its recipe describes."""
    if (path / CHECKPOINT).is_file():
        pair_to_fill(path, cell, data, fitted_model)


def fit_cell(
    cell: Cell, path: Path, *, data: ImageData | None = None, fitted_model: Path | None = None,
    progress: bool | None = None,
) -> Run:  # fmt: skip
    """Fit a cell's pair in a run folder, or resume from the folder's last checkpoint.

    Raises:
        As for :func:`pyro_vae.fit`.
    """
    data = load_data_of(cell) if data is None else data
    _require_fitting_checkpoint(path, cell, data, fitted_model)
    model, guide = make_pair_of(cell, data, fitted_model)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=cell.epochs, eta_min=0.02 * cell.lr)
    schedules: dict[str, Any] = {"cosine": cosine, "iwae": "iwae", "constant": None}
    run = fit(
        model, guide, data,
        objective=make_objective(cell.objective),
        optimizer=partial(torch.optim.Adam, lr=cell.lr, eps=cell.adam_eps, fused=True),
        scheduler=schedules[cell.schedule],
        epochs=cell.epochs, batch_size=cell.batch_size, seed=cell.seed, out=path, resume=True, compile=cell.compile,
        device=cell.device, kl_warmup=cell.kl_warmup, clip_grad_norm=cell.clip_grad_norm, patience=cell.patience,
        recipe=cell.settings(), progress=progress,
    )  # fmt: skip
    write_fitted(path, cell, len(run.history))
    return run


def rehearse(cell: Cell, data: ImageData, fitted_model: Path | None = None) -> None:
    """Measure a cell's pair before it is fitted, on a few images and with a few samples.

    So a pair that cannot be measured is found before hours of training. A number that is not finite is no error here:
    it may be finite after the pair is fitted.

    Raises:
        ValueError: a part cannot be made, or an evaluation refuses the pair.
        Exception: an evaluation of the user's own fails; the message begins with its name.
    """
    with _silent(), pyro.get_param_store().scope(), contextlib.suppress(NonFiniteError):
        model, guide = make_pair_of(cell, data, fitted_model)
        make_objective(cell.objective)
        for module in owners_of(model, guide).values():
            module.to(as_device(cell.device))
        with seeded(cell.seed):
            measure_cell(cell, model, guide, data, False, rehearsal_before="the fit")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Disable the package's log, as the fit and the measurement log the same again."""
    logger = logging.getLogger("pyro_vae")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def run_cell(
    cell: Cell, path: Path, *, data: ImageData | None = None, fitted_model: Path | None = None,
    progress: bool | None = False, rehearsed: bool = False,
) -> CellResult:  # fmt: skip
    """Fit and measure a cell in its run folder, as far as this is not done yet.

    Only one process at a time may work in the folder: the caller locks it by
    :func:`pyro_vae.runtime.files.alone_in`.

    Args:
        cell: to run.
        path: its run folder; missing parent folders are made.
        data: of the cell; loaded by default, unless there is nothing left to do.
        fitted_model: the run folder of the model that the cell takes over, if it does.
        progress: show bars; None shows them on a terminal only.
        rehearsed: whether the caller has called :func:`rehearse`.

    Raises:
        RunError: the folder holds another run, or a run with other data.
        As for :func:`pyro_vae.load_data` and :func:`pyro_vae.fit`.
    """
    finished = is_finished(path, cell)
    if finished and data is None:
        return read_result(path, cell)
    data = load_data_of(cell) if data is None else data
    if (path / CONFIG).is_file():
        require_same_data(read_config(path)["data"], data, path)
    if finished:
        return read_result(path, cell)
    _require_fitting_checkpoint(path, cell, data, fitted_model)
    if not (rehearsed or is_fitted(path, cell)):
        rehearse(cell, data, fitted_model)
    run = fit_cell(cell, path, data=data, fitted_model=fitted_model, progress=progress)
    start = time.perf_counter()
    measured = measure_cell(cell, run.model, run.guide, data, progress)
    evaluation = {
        "measured": measured.summaries,
        "in_words": measured.in_words,
        "failed_evaluations": measured.failed_evaluations,
        "epochs": len(run.history),
        "compiled": run.compiled,
        "fit_seconds": sum(row["seconds"] for row in run.history),
        "evaluation_seconds": time.perf_counter() - start,
        "model_parameters": _num_parameters(run.model, without=run.guide),
        "guide_parameters": _num_parameters(run.guide),
        "data": run.data,
        "test_images": images_hash(data.test_images[: cell.num_test]),
        "environment": run.config["environment"],
    }
    write_result(path, cell, evaluation, measured.per_datum)
    return read_result(path, cell)


def images_hash(images: Tensor) -> str:
    """Return a hash of a set of binarized test images."""
    content = images.contiguous().numpy()
    return hashlib.sha256(f"{content.dtype} {content.shape}".encode() + content.tobytes()).hexdigest()[:16]


def _num_parameters(program: Any, without: Any = None) -> int:
    """Return how many numbers the parameters of a module hold, without parameters that are in ``without`` too."""
    shared = set(getattr(without, "parameters", list)())
    return sum(p.numel() for p in set(getattr(program, "parameters", list)()) - shared)
