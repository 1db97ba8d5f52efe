"""The training loop."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader
from tqdm import tqdm

from pyro_vae.data import ImageData
from pyro_vae.errors import NonFiniteError, RunError
from pyro_vae.fit.batches import Batches, LoaderBatches, TensorBatches, check_rows
from pyro_vae.fit.checkpoint import (
    load_optimizer_state,
    optimizer_state,
    plain,
    read_checkpoint,
    restored,
    write_checkpoint,
)
from pyro_vae.fit.describe import describe, describe_settings
from pyro_vae.fit.parameters import Parameters, owners_of
from pyro_vae.fit.run import (
    CHECKPOINT,
    CONFIG,
    Row,
    Run,
    environment,
    read_config,
    read_history,
    write_config,
    write_history,
)
from pyro_vae.fit.schedules import SCHEDULES, kl_weight_at
from pyro_vae.fit.step import LossAndGradients, TracedStep, eager_step
from pyro_vae.graph import no_side_effects
from pyro_vae.log_weights import nonfinite_site
from pyro_vae.objectives import without_jit
from pyro_vae.pair import Pair, in_mode, local_params
from pyro_vae.protocols import Objective, Program
from pyro_vae.support import check_support

OptimizerLike = Optimizer | Callable[[list[Tensor]], Optimizer]
SchedulerLike = LRScheduler | Callable[[Optimizer], LRScheduler] | str

COMPILE_LEVELS = ("off", "trace")
VALIDATION_BLOCK = 1000
"""Validation data a call: large enough for the matmuls, small enough for the cache."""
FREE_ON_RESUME = ("epochs", "environment")
"""Settings that may differ when a run is resumed; a longer run goes on where the shorter one ended."""


def fit(
    model: Program,
    guide: Program,
    data: ImageData | Tensor | DataLoader,
    *,
    valid: Tensor | DataLoader | None = None,
    objective: Objective | None = None,
    optimizer: OptimizerLike | None = None,
    scheduler: SchedulerLike | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    compile: str = "trace",
    device: str | torch.device = "cpu",
    kl_warmup: int = 0,
    clip_grad_norm: float | None = None,
    patience: int | None = None,
    progress: bool | None = None,
) -> Run:
    """Fit model and guide to data by stochastic variational inference.

    The parameters of both are changed in place. The caller's random state, Pyro's settings and the modules'
    train or eval mode are left as they were.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate.
        guide: q(z | x), with the same latent sites.
        data: an ``ImageData``; or a tensor of model inputs ``(N, ...)``; or any DataLoader of batches, each a
            tensor or a sequence that starts with one.
        valid: validation data, where ``data`` is not an ``ImageData`` that brings its own.
        objective: any ``pyro.infer.ELBO``, ``Trace_ELBO()`` unless given. Its loss is summed over the batch, and
            so is the gradient, as in ``pyro.infer.SVI``.
        optimizer: a torch optimizer over the pair's parameters, or what makes one from a list of them;
            ``Adam(lr=1e-3)`` unless given.
        scheduler: a torch learning-rate scheduler, or what makes one from the optimizer, or a name in
            ``pyro_vae.fit.SCHEDULES``; stepped once an epoch.
        epochs: passes over the data, counted from the start of the run also when it is resumed.
        batch_size: data a step (a DataLoader brings its own). What is left over at an epoch's end is dropped.
        seed: of the order of the data and of all noise.
        out: the run folder: configuration, metrics, checkpoint. None keeps nothing.
        resume: take up the run in ``out`` where its last checkpoint left it, if there is one. The result is
            bit-identical to a run that was never stopped.
        compile: "trace" captures the step once as a graph and runs that, and says so where it cannot;
            "off" lets Pyro run every step.
        device: "cpu", "cuda", "cuda:1", "mps", ...
        kl_warmup: epochs over which the KL term's weight rises linearly to 1.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        patience: stop after this many epochs without a better validation bound, and keep the best parameters.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        The run, with the pair as fitted.

    Raises:
        ValueError: settings or data make no sense; the message says which and what to do.
        PairError: model and guide do not fit each other.
        SupportError: the data lie outside the likelihood's support.
        NonFiniteError: the loss became NaN or infinite; the message names the site.
        RunError: ``out`` holds another run, or one that cannot be resumed.
        CheckpointError: the disk refuses; the last good checkpoint is intact.
    """
    target = _device(device)
    _check_settings(epochs, compile, kl_warmup, clip_grad_norm, patience, resume, out)
    objective = Trace_ELBO() if objective is None else without_jit(objective)
    modules = [module.to(target) for module in owners_of(model, guide).values()]
    dtype = next((p.dtype for m in modules for p in m.parameters()), torch.get_default_dtype())
    batches: Batches
    if isinstance(data, DataLoader):
        batches = LoaderBatches(data, target, dtype)
    else:
        batches = TensorBatches(data, batch_size, seed, target, dtype)
    valid_blocks = _valid_blocks(data.valid if isinstance(data, ImageData) and valid is None else valid, target, dtype)
    if patience is not None and valid_blocks is None:
        raise ValueError("fit: patience needs validation data; pass valid=..., or patience=None.")

    rows = batches.first()
    with no_side_effects(modules, target):
        x = batches.observe(rows)
        pair = Pair(model, guide, x)
        check_support(model, _all_inputs(data, x), x)
        for block in [] if valid_blocks is None else valid_blocks():
            check_support(model, block, block)
        parameters = Parameters.of(model, guide, x)
    make_step = (model, guide, objective, batches.observe, parameters.trainable, kl_warmup > 0)
    optimizer = _optimizer(optimizer, parameters.trainable)
    schedule = _scheduler(scheduler, optimizer, epochs)
    if isinstance(schedule, ReduceLROnPlateau) and valid_blocks is None:
        raise ValueError("fit: ReduceLROnPlateau needs validation data; pass valid=..., or another scheduler.")
    config = {
        "model": describe(model),
        "guide": describe(guide),
        "data": batches.describe(),
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
        "environment": environment(),
    }
    with pyro.validation_enabled(True), no_side_effects(modules, target):
        # Once, so that Pyro finds what it can find; the steps that follow run without its checks.
        eager_step(*make_step)(rows, torch.ones((), device=target))
    step: LossAndGradients = eager_step(*make_step) if compile == "off" else TracedStep(*make_step, modules)

    folder = None if out is None else Path(out)
    history: list[Row] = []
    best: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=_cuda(target)), pyro.validation_enabled(False), warnings.catch_warnings():
        # Pyro's warning; the error raised below says more.
        warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
        torch.manual_seed(seed)
        if folder is not None:
            resumed = _open_folder(folder, config, resume)
            if resumed is not None:
                history, best = _restore(folder, resumed, parameters, optimizer, schedule, target)
        bar = tqdm(
            total=None if batches.steps is None else epochs * batches.steps,
            initial=len(history) * (batches.steps or 0),
            unit="step",
            disable=None if progress is None else not progress,
            dynamic_ncols=True,
        )
        with bar, in_mode(modules, training=True):
            while len(history) < epochs and not _has_stalled(history, patience):
                epoch = len(history)
                start = time.perf_counter()
                beta = kl_weight_at(epoch, kl_warmup)
                train = _epoch(
                    epoch, step, batches, pair, parameters, optimizer, beta, clip_grad_norm, bar, folder, rows
                )
                bound = _validate(valid_blocks, objective, pair, modules, seed, target, folder, epoch)
                row = {
                    "epoch": epoch + 1,
                    "train_bound_nats": train,
                    "valid_bound_nats": bound,
                    "kl_weight": beta,
                    "learning_rate": float(optimizer.param_groups[0]["lr"]),
                    "seconds": round(time.perf_counter() - start, 4),
                }
                if schedule is not None:
                    _advance(schedule, bound)
                history.append(row)
                if patience is not None and _best_epoch(history) == epoch + 1:
                    best = parameters.state()
                if folder is not None:
                    _save(folder, history, parameters, best, optimizer, schedule, target)
                bar.set_description(f"epoch {epoch + 1}/{epochs}")
                bar.set_postfix_str(f"train {train:.2f}, valid {bound:.2f} nats ({type(objective).__name__})")
    if best:
        parameters.load_state(best, "the best epoch")
    compiled = step.level if isinstance(step, TracedStep) else "off"
    best_epoch = _best_epoch(history) if best else None
    return Run(model, guide, history, config["data"], config, folder, best_epoch, compiled)


def _epoch(
    epoch: int,
    step: LossAndGradients,
    batches: Batches,
    pair: Pair,
    parameters: Parameters,
    optimizer: Optimizer,
    beta: float,
    clip_grad_norm: float | None,
    bar: tqdm,
    folder: Path | None,
    example: Tensor,
) -> float:
    """Take the steps of one epoch; returns the mean bound in nats per datum."""
    trainable = parameters.trainable
    weight = torch.tensor(beta, device=example.device, dtype=trainable[0].dtype)
    total, count = 0.0, 0
    for index, rows in enumerate(batches.epoch(epoch)):
        noise = torch.get_rng_state()
        loss, *gradients = step(rows, weight)
        value = loss.item()
        if not math.isfinite(value):
            torch.set_rng_state(noise)
            site = nonfinite_site(pair.model, pair.guide, batches.observe(rows))
            raise _stopped(
                f"the loss became {value} at epoch {epoch + 1}, step {index + 1}. {site}", parameters, folder
            )
        if clip_grad_norm is not None:
            # Out of place: gradients out of a graph may share their memory.
            factor = (clip_grad_norm / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
            gradients = [gradient * factor for gradient in gradients]
        for parameter, gradient in zip(trainable, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        total -= value / _stands_for(pair, rows) * len(rows)
        count += len(rows)
        bar.update()
    if count == 0:
        raise ValueError(f"fit: the data ran out: epoch {epoch + 1} has no batch.")
    optimizer.zero_grad()
    if parameters.not_finite():
        # A gradient can be NaN where the loss is not, and the loss of the epoch's last step was taken before it.
        raise _stopped(f"a step made parameters NaN or infinite in epoch {epoch + 1}", parameters, folder)
    return total / count


def _validate(
    blocks: Callable[[], Iterable[Tensor]] | None,
    objective: Objective,
    pair: Pair,
    modules: list[torch.nn.Module],
    seed: int,
    device: torch.device,
    folder: Path | None,
    epoch: int,
) -> float:
    """Return the objective's bound on validation data in nats per datum, under the same noise every epoch."""
    if blocks is None:
        return math.nan
    total, count = 0.0, 0
    with torch.random.fork_rng(devices=_cuda(device)), in_mode(modules, training=False), torch.no_grad():
        torch.manual_seed(seed)
        for x in blocks():
            with local_params(pair.model, pair.guide):
                loss = objective.loss(pair.model, pair.guide, x)
            if not math.isfinite(loss):
                site = nonfinite_site(pair.model, pair.guide, x)
                parameters = Parameters.of(pair.model, pair.guide, x)
                raise _stopped(
                    f"the validation loss became {loss} at epoch {epoch + 1}. {site}", parameters, folder
                )
            total -= loss / _stands_for(pair, x) * len(x)
            count += len(x)
    return total / count


def _stands_for(pair: Pair, rows: Tensor) -> int:
    """Return how many data a loss on these rows is a sum over: a plate of a fixed size scales up to all of it."""
    return pair.plate.full_size if pair.plate.full_size != pair.num_rows else len(rows)


def _stopped(what: str, parameters: Parameters, folder: Path | None) -> NonFiniteError:
    sick = parameters.not_finite()
    state = (
        f"Not finite any more: {', '.join(sick[:6])}{' ...' if len(sick) > 6 else ''}."
        if sick
        else "All parameters are still finite."
    )
    saved = folder is not None and (folder / CHECKPOINT).is_file()
    kept = f"The last good checkpoint is in {folder}." if saved else "No checkpoint was kept."
    return NonFiniteError(
        f"fit: {what.removesuffix('.')}. {state} {kept} Usual fixes: a lower learning rate, clip_grad_norm=..., "
        f"data on the scale the likelihood expects."
    )


def _best_epoch(history: list[Row]) -> int | None:
    """Return the first epoch with the best validation bound, among those with the full KL weight."""
    rows = [row for row in history if row["kl_weight"] == 1.0]
    return int(max(rows, key=lambda row: row["valid_bound_nats"])["epoch"]) if rows else None


def _has_stalled(history: list[Row], patience: int | None) -> bool:
    best = _best_epoch(history)
    return patience is not None and best is not None and len(history) - best >= patience


def _open_folder(folder: Path, config: dict[str, Any], resume: bool) -> Path | None:
    """Make the run folder, or return the checkpoint in it that is to be resumed."""
    checkpoint = folder / CHECKPOINT
    if (folder / CONFIG).exists():
        if not resume:
            raise RunError(f"{folder} already holds a run: pass resume=True to go on with it, or choose another out.")
        stored = read_config(folder)
        differing = [
            f"{key}: was {stored.get(key)}, now {config[key]}"
            for key in config
            if key not in FREE_ON_RESUME and stored.get(key) != config[key]
        ]
        if differing:
            raise RunError(f"{folder} cannot be resumed with other settings; {'; '.join(differing)}.")
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror}. Choose another out.") from error
    write_config(folder, config)
    return checkpoint if checkpoint.exists() else None


def _save(
    folder: Path,
    history: list[Row],
    parameters: Parameters,
    best: dict[str, Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    device: torch.device,
) -> None:
    """Write metrics and checkpoint, in this order: metrics may be ahead of the checkpoint, never behind."""
    write_history(folder, history)
    moments, rest = optimizer_state(optimizer)
    tensors = {f"values.{name}": value for name, value in parameters.state().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    state = {
        "epoch": len(history),
        "best_epoch": _best_epoch(history) if best else None,
        "optimizer": rest,
        "scheduler": None if schedule is None else plain(schedule.state_dict()),
    }
    write_checkpoint(folder / CHECKPOINT, tensors, state)


def _restore(
    folder: Path,
    checkpoint: Path,
    parameters: Parameters,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    device: torch.device,
) -> tuple[list[Row], dict[str, Tensor]]:
    """Undo :func:`_save`; returns the history and the best parameters so far."""
    tensors, state = read_checkpoint(checkpoint)
    parts: dict[str, dict[str, Tensor]] = {"values": {}, "best": {}, "optimizer": {}, "rng": {}}
    for name, value in tensors.items():
        part, key = name.split(".", 1)
        parts[part][key] = value
    parameters.load_state(parts["values"], str(folder))
    load_optimizer_state(optimizer, parts["optimizer"], state["optimizer"])
    if schedule is not None:
        schedule.load_state_dict(restored(state["scheduler"]))
    torch.set_rng_state(parts["rng"]["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(parts["rng"]["cuda"], device)
    return read_history(folder, state["epoch"]), parts["best"]


def _optimizer(optimizer: OptimizerLike | None, trainable: list[Tensor]) -> Optimizer:
    if optimizer is None:
        return torch.optim.Adam(trainable, lr=1e-3, fused=True)
    if not isinstance(optimizer, Optimizer):
        return optimizer(trainable)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in trainable}:
        raise ValueError(
            "fit: the optimizer holds none of the pair's parameters. Build it over model.parameters() and "
            "guide.parameters(), or pass what makes one: functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    return optimizer


def _scheduler(scheduler: SchedulerLike | None, optimizer: Optimizer, epochs: int) -> LRScheduler | None:
    if scheduler is None or isinstance(scheduler, LRScheduler):
        return scheduler
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULES:
            raise ValueError(f"fit: unknown scheduler {scheduler!r}; by name there are {', '.join(SCHEDULES)}.")
        return SCHEDULES[scheduler](optimizer, epochs)
    return scheduler(optimizer)


def _advance(schedule: LRScheduler, bound: float) -> None:
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(bound if schedule.mode == "max" else -bound)
    else:
        schedule.step()


def _valid_blocks(
    valid: Tensor | DataLoader | None, device: torch.device, dtype: torch.dtype
) -> Callable[[], Iterator[Tensor]] | None:
    """Return what yields the validation data block by block as model inputs."""
    if valid is None or (isinstance(valid, Tensor) and len(valid) == 0):
        return None
    if isinstance(valid, DataLoader):
        loader = LoaderBatches(valid, device, dtype)
        return lambda: (loader.observe(rows) for rows in loader.epoch(0))
    check_rows("validation data", valid)
    to = (device, dtype) if valid.is_floating_point() else (device,)
    return lambda: (block.to(*to) for block in valid.split(VALIDATION_BLOCK))


def _all_inputs(data: ImageData | Tensor | DataLoader, first: Tensor) -> Tensor:
    """Return all training inputs that are there before the steps draw or load them, else the first ones."""
    if isinstance(data, Tensor):
        return data
    return data.train if isinstance(data, ImageData) and data.binarization != "stochastic" else first


def _check_settings(
    epochs: int,
    compile: str,
    kl_warmup: int,
    clip_grad_norm: float | None,
    patience: int | None,
    resume: bool,
    out: str | Path | None,
) -> None:
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1; got {epochs}.")
    if compile not in COMPILE_LEVELS:
        raise ValueError(f"fit: compile must be one of {', '.join(COMPILE_LEVELS)}; got {compile!r}.")
    if kl_warmup < 0:
        raise ValueError(f"fit: kl_warmup counts epochs and cannot be negative; got {kl_warmup}.")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"fit: clip_grad_norm must be positive; got {clip_grad_norm}.")
    if patience is not None and patience < 1:
        raise ValueError(f"fit: patience must be at least 1 epoch; got {patience}.")
    if resume and out is None:
        raise ValueError("fit: resume=True needs the run folder: out=...")


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"fit: device {str(device)!r} cannot be used here: {reason}") from error
    return target


def _cuda(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []

