"""The training loop."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from pyro_vae.data import ImageData
from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.fit.batches import Batches, Data, LoaderBatches, TensorBatches, describe_data, validation_blocks
from pyro_vae.fit.by_place import check_places
from pyro_vae.fit.describe import describe_pair, describe_settings, structure
from pyro_vae.fit.options import (
    BATCH_SIZE,
    EPOCHS,
    OptimizerLike,
    SchedulerLike,
    as_device,
    as_objective,
    as_optimizer,
    as_scheduler,
    check_settings,
)
from pyro_vae.fit.parameters import Parameters, owners_of
from pyro_vae.fit.rebuilt import checked_description
from pyro_vae.fit.run import Run, bounds, environment
from pyro_vae.fit.schedules import kl_weight_at
from pyro_vae.fit.shared_params import say_what_is_shared
from pyro_vae.fit.snapshot import open_folder, restore, save
from pyro_vae.fit.steps.auto_step import make_step
from pyro_vae.fit.steps.gradients import BatchLoss
from pyro_vae.fit.steps.watch import Watch
from pyro_vae.fit.summed import Summed, trained_pair
from pyro_vae.fit.training import Training
from pyro_vae.fit.vectorized import takes_particles
from pyro_vae.objectives.analytic_kl import AnalyticKL
from pyro_vae.programs.missing import all_finite, check_finite_rows
from pyro_vae.programs.modules import as_args, check_arguments, check_programs, in_mode, local_params, plain_errors
from pyro_vae.programs.nonfinite import find_outside
from pyro_vae.programs.pair import SOFT_TARGETS, Pair
from pyro_vae.programs.support import check_support
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.protocols import Objective, Program, ScheduledObjective
from pyro_vae.runtime.arguments import are_flags, argument
from pyro_vae.runtime.checks import check_path, in_short
from pyro_vae.runtime.files import alone_in
from pyro_vae.runtime.progress import progress_bar
from pyro_vae.runtime.random_state import seeded

logger = logging.getLogger("pyro_vae")


def fit(
    model: Program,
    guide: Program,
    data: Data,
    *,
    valid: Tensor | tuple[Tensor, ...] | DataLoader | None = None,
    objective: Objective | None = None,
    optimizer: OptimizerLike | None = None,
    scheduler: SchedulerLike | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    compile: str = "trace",
    device: str | torch.device = "cpu",
    kl_warmup: int = 0,
    clip_grad_norm: float | None = None,
    patience: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Run:
    """Fit model and guide to data by stochastic variational inference.

    The parameters of both are changed in place, but for those that require no gradient; a module of which no parameter
    does is run in evaluation mode. The caller's random state, Pyro's settings and the modules'
    train or eval mode are left as they were.

    Args:
        model: p(x, z), any Pyro program. Objectives that weigh each datum (IWAE and its kin) need one vectorized batch
            plate around all sites; those that sum, as Pyro's own, do not.
        guide: q(z | x), with the same latent sites; under ``TraceEnum_ELBO`` the model may enumerate others.
        data: an ``ImageData``; or a tensor of model inputs ``(N, ...)``, or a tuple of such tensors, which are
            all passed to model and guide in order; or any DataLoader of batches, each a tensor or a sequence of
            tensors, which are passed on in the same way.
        valid: validation data, where ``data`` is not an ``ImageData`` that brings its own.
        objective: any ``pyro.infer.ELBO``, ``Trace_ELBO()`` unless given. Its loss is summed over the batch, and
            so is the gradient, as in ``pyro.infer.SVI``.
        optimizer: a torch optimizer over the pair's parameters, or what makes one from a list of them;
            ``Adam(lr=3e-3)`` unless given.
        scheduler: a torch learning-rate scheduler, or what makes one from the optimizer, or a name in
            ``pyro_vae.fit.SCHEDULES``; stepped once an epoch.
        epochs: passes over the data, counted from the start of the run also when it is resumed.
        batch_size: data a step (a DataLoader brings its own). What is left over at an epoch's end is dropped. A batch
            of all data has them in their order, so that a guide with parameters of each datum (AutoNormal) keeps them.
        seed: of the order of the data and of all noise.
        out: the run folder: configuration, metrics, checkpoint. None keeps nothing.
        resume: take up the run in ``out`` where its last checkpoint left it, if there is one. The result is
            bit-identical to a run that was never stopped.
        compile: how a step is taken. "off": Pyro runs it. "trace": loss and gradient are recorded once as a graph,
            and that is run. "inductor": gather, binarization, loss, gradient, clipping and the move of Adam, AdamW,
            Adamax or SGD are compiled as one graph, which takes seconds once and is kept by torch for later runs;
            batches of another shape than the first are traced. "auto": traced, then compiled if the steps left are
            worth it. What is not possible falls back a level, and one line says why. Noise is the same at each
            level, numbers differ by rounding. A graph does not see a Python number of the pair that changes: sites,
            loss and gradients are compared with the pair's every 1000 steps and at the end.
        device: "cpu", "cuda", "cuda:1", "mps", ...
        kl_warmup: epochs over which the KL term's weight rises linearly to 1.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        patience: stop after this many epochs without a better validation bound, and keep the best parameters.
        recipe: what the pair and the data were made from, in YAML's terms; kept in ``config.yaml`` for whoever makes
            them again, as ``pyro-vae fit --config`` does.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        The run, with the pair as fitted.

    Raises:
        ValueError: settings or data make no sense; the message says which and what to do.
        PairError: model and guide do not fit each other.
        SupportError: the data lie outside the likelihood's support.
        NonFiniteError: the loss became NaN or infinite; the message names the site.
        StaleGraphError: the pair changed while its graph was run.
        RunError: ``out`` holds another run, or one that cannot be resumed, or another process works there.
        CheckpointError: the disk refuses; the last good checkpoint is intact.
    """
    target = as_device(device)
    check_settings(
        epochs=epochs, compile=compile, kl_warmup=kl_warmup, clip_grad_norm=clip_grad_norm, patience=patience, seed=seed
    )
    if out is not None:
        check_path("fit", "out", out)
    if recipe is not None and not isinstance(recipe, Mapping):
        raise ValueError(f"fit: recipe must be a mapping of settings; got {in_short(recipe)}.")
    if resume and out is None:
        raise ValueError("fit: resume=True needs the run folder: out=...")
    check_programs("fit", model, guide)
    objective = as_objective(objective)
    modules = [module.to(target) for module in owners_of(model, guide).values()]
    dtype = next((p.dtype for m in modules for p in m.parameters()), torch.get_default_dtype())
    batches: Batches
    if isinstance(data, DataLoader):
        batches = LoaderBatches(data, target, dtype, model, guide)
    else:
        batches = TensorBatches(data, batch_size, seed, target, dtype)
    valid_data = data.valid if isinstance(data, ImageData) and valid is None else valid
    valid_blocks = validation_blocks(valid_data, target, dtype)

    rows = batches.first()
    with no_side_effects(modules):
        x = batches.observe(rows)
        pair = _checked_pair(model, guide, x, objective, batches, valid_blocks)
        parameters = Parameters.of(model, guide, x)
        say_what_is_shared(parameters)
        if type(objective) is TraceMeanField_ELBO:
            # Unlike Pyro's class, this one logs a KL term that is sampled for want of a closed form.
            with local_params(model, guide), pair.guarded():
                AnalyticKL().loss(model, guide, *as_args(x))
    optimizer = as_optimizer(optimizer, parameters.trainable)
    schedule = as_scheduler(scheduler, optimizer, epochs)
    if valid_blocks is None and patience is not None:
        remedy = "take a larger --valid_size, or no --patience" if are_flags() else "pass valid=..., or patience=None"
        raise ValueError(f"fit: {argument('patience')} needs validation data; {remedy}.")
    if valid_blocks is None and isinstance(schedule, ReduceLROnPlateau):
        raise ValueError("fit: ReduceLROnPlateau needs validation data; pass valid=..., or another scheduler.")
    loss = BatchLoss(
        model, guide, objective, batches.observe, parameters.trainable, modules, kl_warmup > 0, pair.guarded
    )
    plain = plain_errors("fit", f"a step of {type(objective).__name__}")
    with pyro.validation_enabled(True), no_side_effects(modules), _in_training(modules), plain:
        _take_a_checked_step(pair, loss, rows, x, target)
        watch = None if compile == "off" else Watch(loss, rows)
    steps = None if batches.steps is None else epochs * batches.steps
    step = make_step(compile, loss, optimizer, clip_grad_norm, steps)

    config = {
        **(describe_pair(model, guide) if out is None else checked_description(model, guide, x)),
        "structure": structure(parameters.owners),
        "data": batches.describe(),
        "valid": None if valid is None else describe_data(valid),
        "objective": describe_settings(objective),
        "optimizer": describe_settings(optimizer),
        "scheduler": scheduler if schedule is None or isinstance(scheduler, str) else describe_settings(schedule),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "compile": compile,
        "device": str(target),
        "dtype": str(dtype).removeprefix("torch."),
        "kl_warmup": kl_warmup,
        "clip_grad_norm": clip_grad_norm,
        "patience": patience,
        "recipe": None if recipe is None else dict(recipe),
        "environment": environment(target),
    }
    folder = None if out is None else Path(out)
    training = Training(pair, parameters, objective, step, batches, optimizer, schedule, watch, target, folder)
    _run_epochs(training, config, valid_blocks, resume=resume, progress=progress)

    best_epoch = None
    if training.best:
        # Early stopping kept these; the pair has those of the last epoch.
        parameters.load_state(training.best, "the best epoch")
        best_epoch = training.best_epoch
    return Run(model, guide, training.history, config["data"], config, folder, best_epoch, step.level)


def _checked_pair(
    model: Program, guide: Program, x: Any, objective: Objective, batches: Batches,
    valid_blocks: Callable[[], Iterator[Any]] | None,
) -> Pair | Summed:  # fmt: skip
    """Return the structure of the pair, after checking all data as far as they are there.

    Raises:
        ValueError: data are NaN or infinite, or lie outside the likelihood's support.
        PairError: the pair cannot be trained on these data.
    """
    try:
        check_arguments(as_args(x), model=model, guide=guide)
    except PairError as error:
        if isinstance(batches, TensorBatches) or len(as_args(x)) == 1:
            raise
        raise PairError(
            f"fit: {error} To leave out all tensors of the DataLoader but the first, pass it collate_fn=lambda batch: "
            f"torch.stack([datum[0] for datum in batch])."
        ) from error
    inputs = batches.all_inputs()
    if inputs is None:
        inputs = x
    if not all(map(all_finite, as_args(inputs))):
        in_memory = isinstance(batches, TensorBatches)
        whole = batches.observe(torch.arange(batches.num_data or 0)) if in_memory else inputs
        check_finite_rows("training data", whole, model, guide)
    check_places(model, guide, x, batches, validated=valid_blocks is not None)
    pair = trained_pair(model, guide, x, objective, batches.num_data)
    if isinstance(batches, LoaderBatches) and not pair.hides_data:
        # Values that a mask hides in a later batch alone are refused: the steps are not made for them.
        batches.pair = ()
    if isinstance(pair, Pair):
        _say_what_is_no_bound(pair)
    check_support(model, inputs, x)
    for block in [] if valid_blocks is None else valid_blocks():
        if len(as_args(block)) != len(as_args(x)):
            raise ValueError(
                f"fit: a datum of the validation data must have as many tensors as one of the training data, "
                f"{len(as_args(x))}; got {len(as_args(block))}."
            )
        check_finite_rows("validation data", block, model, guide)
        check_support(model, block, block)
    return pair


@contextmanager
def _in_training(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into train mode, and those without a trained parameter into evaluation mode.

    In evaluation mode dropout is off, and running statistics stay.
    """
    frozen = [m for m in modules if [*m.parameters()] and not any(p.requires_grad for p in m.parameters())]
    trained = [module for module in modules if module not in frozen]
    with in_mode(trained, training=True), in_mode(frozen, training=False):
        yield


def _take_a_checked_step(pair: Pair | Summed, loss: BatchLoss, rows: Any, x: Any, device: torch.device) -> None:
    """Compute the loss and its gradient once under Pyro's own checks; the steps that follow run without them.

    Raises:
        NonFiniteError: a latent value lies outside the support of its law in the model.
    """
    noise = torch.get_rng_state()
    try:
        with takes_particles(pair, loss, rows):
            loss.eager()(rows, torch.ones((), device=device))
    except ValueError as error:
        torch.set_rng_state(noise)
        outside = find_outside(loss.model, loss.guide, x) if pair.bounded else None
        if outside is None:
            raise
        raise NonFiniteError(f"fit: the loss of the first step is infinite. {outside}") from error


def _run_epochs(
    training: Training, config: dict[str, Any], valid_blocks: Callable[[], Iterator[Any]] | None, *, resume: bool,
    progress: bool | None,
) -> None:  # fmt: skip
    """Train for the epochs that are left, and keep a checkpoint of each where there is a folder.

    Args:
        training: the pair and its steps; its history and its best parameters are written.
        config: of the run, with ``epochs``, ``seed``, ``kl_warmup`` and ``patience``.
        valid_blocks: yields the validation data; None where there are none.
        resume: take up the run that the folder holds.
        progress: show a bar; None shows it on a terminal only.
    """
    epochs, seed, patience = config["epochs"], config["seed"], config["patience"]
    folder, objective = training.folder, training.objective
    alone = nullcontext() if folder is None else alone_in(folder)
    with alone, seeded(seed), pyro.validation_enabled(False), warnings.catch_warnings():
        # Pyro's warning gives way to an error that says more.
        warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
        if folder is not None and open_folder(folder, config, resume):
            restore(training, folder)
        history, steps = training.history, training.batches.steps
        total = None if steps is None else epochs * steps
        bar = progress_bar(total, "step", shown=progress, initial=len(history) * (steps or 0))
        with bar, _in_training(training.parameters.modules):
            while len(history) < epochs and not training.has_stalled(patience):
                epoch, start = len(history), time.perf_counter()
                beta = kl_weight_at(epoch, config["kl_warmup"])
                objective_weight = objective.set_epoch(epoch) if isinstance(objective, ScheduledObjective) else 1.0
                train = training.epoch(epoch, beta, bar.update)
                bound = training.validate(epoch, valid_blocks, seed)
                history.append(
                    {
                        "epoch": epoch + 1,
                        "train_bound_nats": train,
                        "valid_bound_nats": bound,
                        "kl_weight": beta * objective_weight,
                        "learning_rate": float(training.optimizer.param_groups[0]["lr"]),
                        "seconds": round(time.perf_counter() - start, 4),
                    }
                )
                training.advance_schedule(bound)
                if patience is not None and training.best_epoch == epoch + 1:
                    training.best = training.parameters.state()
                if folder is not None:
                    save(training, folder)
                bar.set_description(f"epoch {epoch + 1}/{epochs}")
                bar.set_postfix_str(f"{type(objective).__name__} {bounds(history[-1])}")
            if training.watch is not None:
                training.watch.look(training.step)


def _say_what_is_no_bound(pair: Pair) -> None:
    """Log why the loss of this pair, as Pyro computes it, is no bound on log p(x)."""
    reasons = []
    if pair.no_density is not None:
        reasons.append(f"the guide has no density: {pair.no_density}")
    if pair.unnormalised not in (None, SOFT_TARGETS):
        reasons.append(str(pair.unnormalised))
    if not torch.as_tensor(pair.scale).eq(1).all():
        scale = in_short(pair.scale)
        reasons.append(f"they are multiplied by {scale}, the scale of the data's site, which evaluations leave out")
    if reasons:
        logger.warning("fit: trains as Pyro does, and its bounds are none on log p(x): %s", "; ".join(reasons))
