"""What goes wrong in a fit says who, what came, and what to do; and nothing good is lost.

This is a suite of wordings: whole messages are compared here, and elsewhere only their class and noun.
"""

import errno
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from fit_programs import Location, PriorGuide, mean_field
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import fit, load_run
from pyro_vae.errors import CheckpointError, NonFiniteError, RunError
from pyro_vae.fit.run import CHECKPOINT, CONFIG, METRICS
from pyro_vae.runtime import checkpoint
from pyro_vae.runtime.checkpoint import read_checkpoint, write_checkpoint
from pyro_vae.runtime.files import write_bytes

X = torch.linspace(-1, 1, 12).unsqueeze(1)


def fit_location(**settings):
    arguments = {"epochs": 1, "batch_size": 6, "compile": "off", "data": X, "model": Location(0.1), **settings}
    return fit(arguments.pop("model"), PriorGuide(), arguments.pop("data"), **arguments)


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


def only_matrices(parameters):
    raise AssertionError("only matrices")


FAILS_AT = only_matrices.__code__.co_firstlineno + 1
HERE = os.path.relpath(__file__) if Path(__file__).is_relative_to(Path.cwd()) else __file__

LEAVE_OUT = (
    "To leave out all tensors of the DataLoader but the first, pass it collate_fn=lambda batch: "
    "torch.stack([datum[0] for datum in batch])."
)
TENSORS = (
    "fit: a batch of the DataLoader must be a tensor, or a sequence of tensors that model and guide are called with in "
    "order; got"
)
NAN, INF = X.clone(), X.repeat(2, 1)
NAN[7, 0] = NAN[9, 0] = torch.nan
INF[3, 0] = -torch.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "fit: epochs must be at least 1; got 0."),
        ({"compile": "jit"}, "fit: compile must be one of off, trace, inductor, auto; got 'jit'."),
        ({"kl_warmup": -1}, "fit: kl_warmup must be at least 0; got -1."),
        ({"clip_grad_norm": 0.0}, "fit: clip_grad_norm must be positive; got 0.0."),
        ({"clip_grad_norm": float("nan")}, "fit: clip_grad_norm must be a finite number; got nan."),
        ({"patience": 0, "valid": X}, "fit: patience must be at least 1; got 0."),
        ({"patience": 3}, "fit: patience needs validation data; pass valid=..., or patience=None."),
        ({"patience": 3, "valid": X[:0]}, "fit: patience needs validation data; pass valid=..., or patience=None."),
        ({"resume": True}, "fit: resume=True needs the run folder: out=..."),
        ({"scheduler": "cosine"}, "fit: unknown scheduler 'cosine'; by name there are iwae."),
        (
            {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "fit: ReduceLROnPlateau needs validation data; pass valid=..., or another scheduler.",
        ),
        (
            {"optimizer": SGD([torch.zeros(1, requires_grad=True)], lr=0.1)},
            "fit: the optimizer holds none of the pair's parameters. Build it over model.parameters() and "
            "guide.parameters(), or pass what makes one: functools.partial(torch.optim.Adam, lr=1e-3).",
        ),
        (
            {"data": NAN},
            "training data: 2 values are NaN or infinite, the first at index (7, 0). Clean the data before fitting.",
        ),
        (
            {"valid": INF},
            "validation data: 1 value is NaN or infinite, the first at index (3, 0). Clean the data before fitting.",
        ),
        (
            {"data": DataLoader(TensorDataset(INF), batch_size=24)},
            "a batch of the DataLoader: 1 value is NaN or infinite, the first at index (3, 0). "
            "Clean the data before fitting.",
        ),
        ({"data": X[:0]}, "training data: there are none (shape (0, 1))."),
        ({"data": X[:5]}, "fit: 5 training data are fewer than one batch of 6; choose batch_size=5 or less."),
        ({"batch_size": 0}, "fit: batch_size must be at least 1; got 0."),
        (
            {"data": np.zeros((12, 1))},
            "fit: data must be an ImageData, a tensor, a tuple of tensors or a DataLoader; got an object of "
            "class ndarray. Of an array pass torch.from_numpy(x).",
        ),
        (
            {"data": DataLoader(TensorDataset(X), batch_size=24, drop_last=True)},
            "fit: the DataLoader has no batch; lower its batch_size or set drop_last=False.",
        ),
        (
            {"data": DataLoader(TensorDataset(X, torch.arange(12)), batch_size=6)},
            "fit: the model cannot be called with the data, which are 2 positional arguments of model and guide: too "
            f"many positional arguments. {LEAVE_OUT}",
        ),
        (
            {"valid": DataLoader(TensorDataset(X, X), batch_size=12)},
            "fit: a datum of the validation data must have as many tensors as one of the training data, 1; got 2.",
        ),
        (
            {"data": (X, X[:5])},
            "fit: the tensors of data must have one row for each datum; got shapes (12, 1), (5, 1).",
        ),
        (
            {"data": (X, "labels")},
            "fit: data must be an ImageData, a tensor, a tuple of tensors or a DataLoader; got 'labels'.",
        ),
        *(
            (
                {"optimizer": optimizer},
                f"fit: optimizer must be a torch optimizer, or what makes one from a list of parameters; got {name}, "
                f"and Pyro's keep one torch optimizer for each parameter. Pass functools.partial(torch.optim.Adam, "
                f"lr=1e-3); clip_grad_norm=... bounds the gradient.",
            )
            for optimizer, name in (
                (pyro.optim.Adam({"lr": 1e-3}), "an object of class PyroOptim"),
                (pyro.optim.Adam, "pyro.optim.Adam"),
                (pyro.optim.ClippedAdam, "pyro.optim.ClippedAdam"),
                (partial(pyro.optim.ClippedAdam, {"lr": 1e-3}), "pyro.optim.ClippedAdam"),
                (pyro.optim.ClippedAdam({"lr": 1e-3}), "an object of class PyroOptim"),
                (pyro.optim.ExponentialLR, "pyro.optim.ExponentialLR"),
            )
        ),
        (
            {"optimizer": torch.optim.SparseAdam},
            "fit: SparseAdam takes sparse gradients alone, and those of a loss are dense. Use torch.optim.Adam or "
            "another optimizer.",
        ),
        (
            {"optimizer": pyro.optim.adagrad_rmsprop.AdagradRMSProp},
            "fit: AdagradRMSProp has no learning rate `lr`, which each epoch records and a scheduler moves. Use "
            "torch.optim.Adam or another optimizer.",
        ),
        (
            {"optimizer": only_matrices},
            "fit: optimizer must be made by a call with one argument, which failed: AssertionError: only matrices "
            f"({HERE}, line {FAILS_AT}).",
        ),
        (
            {"objective": pyro.infer.ReweightedWakeSleep()},
            "fit: pyro.infer.ReweightedWakeSleep cannot be trained: it has two losses, one of the model and one of the "
            "guide; pyro_vae.objectives.ReweightedWakeSleep() has their gradients in one.",
        ),
        (
            {"objective": pyro.infer.ReweightedWakeSleep},
            "fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got the class "
            "ReweightedWakeSleep.",
        ),
        (
            {"objective": pyro.infer.TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True)},
            "fit: pyro.infer.TraceTailAdaptive_ELBO cannot be trained: Pyro computes a gradient for it and no loss; "
            "pyro_vae.objectives.RenyiBound() is a family of divergences with one.",
        ),
        (
            {"objective": pyro.infer.SVI(None, None, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())},
            "fit: pyro.infer.SVI cannot be trained: it takes steps of its own; pass its loss, as Trace_ELBO(), and a "
            "torch optimizer.",
        ),
        (
            {"objective": pyro.infer.EnergyDistance()},
            "fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got an object "
            "of class EnergyDistance.",
        ),
        (
            {"optimizer": 1e-3},
            "fit: optimizer must be a torch optimizer, or what makes one from a list of parameters; got 0.001. "
            "Pass functools.partial(torch.optim.Adam, lr=1e-3).",
        ),
        (
            {"optimizer": list},
            "fit: optimizer must make a torch optimizer; the class list made an object of class list.",
        ),
        (
            {"optimizer": torch.optim.LBFGS},
            "fit: LBFGS evaluates the loss several times a step, on noise that must not change; fit draws new noise "
            "and new data each step. Use torch.optim.Adam or another optimizer.",
        ),
        (
            {"scheduler": torch.optim.lr_scheduler.StepLR(SGD([torch.zeros(1, requires_grad=True)], lr=0.1), 2)},
            "fit: the scheduler moves the learning rate of another optimizer. Make it of the optimizer that is passed, "
            "or pass what makes it: functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10).",
        ),
        (
            {"objective": Trace_ELBO},
            "fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got the class "
            "Trace_ELBO: Trace_ELBO() is one.",
        ),
        (
            {"objective": "iwae"},
            "fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got 'iwae'.",
        ),
        (
            {"objective": [Trace_ELBO()]},
            "fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got an object "
            "of class list.",
        ),
        ({"data": DataLoader(Empty())}, "fit: the DataLoader must yield a batch at least; it yields none."),
        (
            {"data": DataLoader([{"x": row} for row in X], batch_size=4)},
            f"{TENSORS} an object of class dict: collate_fn=... makes tensors of it.",
        ),
        (
            {"data": DataLoader([(row, "a label") for row in X], batch_size=4)},
            f"{TENSORS} 2 parts (Tensor(4, 1), tuple): collate_fn=... makes tensors of it.",
        ),
        (
            {"data": DataLoader([X], batch_size=None, collate_fn=lambda x: (x, x[:5]))},
            "fit: the tensors of a batch of the DataLoader must have one row for each datum; got shapes (12, 1), "
            "(5, 1).",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    model = Location(0.1)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_location(model=model, **settings)
    assert model.shift.item() == torch.tensor(0.1).item()


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match=r"^fit: device 'abacus' cannot be used here: "):
        fit_location(device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_device_is_named():
    with pytest.raises(ValueError, match=r"^fit: device 'cuda:3' cannot be used here: "):
        fit_location(device="cuda:3")


def test_a_pair_without_parameters_is_refused():
    with pytest.raises(ValueError, match="neither the model nor the guide has a parameter that requires a gradient"):
        fit_location(model=Location(0.1).requires_grad_(False))


# Losses that are not finite


class Breaks(nn.Module):
    """A model that fails on a given step: `clock`, whose gradient is 1, falls by the learning rate each step.

    Its loss becomes NaN once the clock is below 1/2; or its gradient does, under a finite loss, at 0 exactly.
    """

    def __init__(self, what: str, steps: int) -> None:
        super().__init__()
        self.what = what
        self.clock = nn.Parameter(torch.tensor(float(steps)))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            clock = self.clock
            if self.what == "loss":
                clock = clock + 0 * (self.clock - 0.5).log()
            elif self.what == "gradient":  # 0 everywhere, with a derivative at 0 that comes out as 0 * inf
                clock = clock + 0 * self.clock.abs().sqrt()
            mean = (x - 1).detach() + 0 * clock
            pyro.sample("seen", dist.Normal(mean, 1.0).expand(x.shape).to_event(1), obs=x)
            pyro.factor("clock", -clock / len(x))


@pytest.mark.parametrize("compile", ["off", "trace", "inductor"])
def test_a_loss_that_becomes_nan_names_the_site_and_keeps_the_last_good_checkpoint(compile, tmp_path):
    """Two steps an epoch; the logarithm of a negative number comes with the sixth."""
    model = Breaks("loss", 5)
    with pytest.raises(NonFiniteError) as raised:
        fit_location(
            model=model, out=tmp_path, epochs=9, optimizer=partial(SGD, lr=1.0), compile=compile, progress=False
        )
    assert str(raised.value) == (
        "fit: the loss became nan at epoch 3, step 2. The first log-probability that is not finite is at site "
        "'seen' of the model. All parameters are still finite. "
        f"The last good checkpoint is in {tmp_path}. Usual fixes: a lower learning rate, clip_grad_norm=..., data "
        "on the scale the likelihood expects."
    )
    assert model.clock.item() == 0
    kept = Breaks("loss", 5)
    run = load_run(tmp_path, model=kept, guide=PriorGuide())
    assert (len(run.history), kept.clock.item()) == (2, 1.0)


@pytest.mark.parametrize("compile", ["off", "trace", "inductor"])
@pytest.mark.parametrize("steps", [4, 5])
def test_a_nan_gradient_under_a_finite_loss_never_reaches_a_checkpoint(steps, compile, tmp_path):
    """The poison comes with the fifth step, the first of its epoch, or with the sixth, the last."""
    model = Breaks("gradient", steps)
    with pytest.raises(NonFiniteError) as raised:
        fit_location(model=model, out=tmp_path, epochs=9, optimizer=partial(SGD, lr=1.0), compile=compile)
    what = {
        4: "the loss became nan at epoch 3, step 2. The first log-probability that is not finite is at site 'seen' of "
        "the model.",
        5: "a step made parameters NaN or infinite in epoch 3.",
    }[steps]
    assert str(raised.value).startswith(f"fit: {what} Not finite any more: model.clock. The last good checkpoint")
    tensors, state = read_checkpoint(tmp_path / CHECKPOINT)
    assert state["epoch"] == 2
    assert tensors["values.model.clock"].item() == steps - 4
    assert len((tmp_path / METRICS).read_text().splitlines()) == 3


def test_poisoned_parameters_are_found_without_a_folder_or_validation():
    with pytest.raises(
        NonFiniteError, match=r"in epoch 1\. Not finite any more: model\.clock\. No checkpoint was kept"
    ):
        fit_location(model=Breaks("gradient", 1), optimizer=partial(SGD, lr=1.0))


def test_an_absurd_learning_rate_is_stopped(tmp_path):
    model, guide, x = mean_field()
    with pytest.raises(NonFiniteError, match=r"the loss became (nan|inf|-inf) at epoch 1, step .* at site '[xz]'"):
        fit(model, guide, x, epochs=5, batch_size=4, optimizer=partial(SGD, lr=1e4), out=tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()
    with pytest.raises(RunError, match=r"the run was stopped before its first one. Start it again."):
        load_run(tmp_path)


def test_a_validation_loss_that_is_nan_is_named():
    class OnlyTrains(Location):
        def forward(self, x):
            scale = torch.ones(()) if self.training else torch.full((), torch.nan)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.shift, scale).expand([1]).to_event(1), obs=x)

    with pytest.raises(
        NonFiniteError, match=r"the validation loss became nan at epoch 1. The first log-prob.* site 'x'"
    ):
        fit_location(model=OnlyTrains(), valid=X)


# Run folders


@pytest.fixture
def run_folder(tmp_path) -> Path:
    model, guide, x = mean_field()
    fit(model, guide, x, epochs=2, batch_size=20, compile="off", out=tmp_path / "run", optimizer=partial(Adam, lr=0.01))
    return tmp_path / "run"


def test_a_folder_in_use_is_not_overwritten(run_folder):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    model, guide, x = mean_field()
    with pytest.raises(RunError, match="already holds a run: resume=True goes on with it, or choose another out"):
        fit(model, guide, x, epochs=2, batch_size=20, compile="off", out=run_folder)
    assert before == {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}


def test_other_settings_are_listed_when_a_run_is_resumed(run_folder):
    model, guide, x = mean_field()
    with pytest.raises(RunError) as raised:
        fit(model, guide, x[:30], epochs=2, batch_size=10, seed=3, compile="off", out=run_folder, resume=True)
    message = str(raised.value)
    assert re.fullmatch(
        rf"{run_folder} cannot be resumed with other settings; data\.content_hash: was '[^;]+, is '[^;]+; "
        r"data\.shape: was \[40, 6\], is \[30, 6\]; optimizer\.lr: was 0\.01, is 0\.003; "
        r"optimizer.fused: was None, is True; and 2 more\.",
        message,
    )
    assert len(message) < 400


def test_a_run_is_not_resumed_for_fewer_epochs_than_it_has(run_folder):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    model, guide, x = mean_field()
    options = {"batch_size": 20, "compile": "off", "optimizer": partial(Adam, lr=0.01), "out": run_folder}
    message = f"{run_folder} has trained 2 epochs already, and epochs is 1: give 2 or more, or choose another out."
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        fit(model, guide, x, epochs=1, resume=True, **options)
    assert before == {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert len(fit(model, guide, x, epochs=2, resume=True, **options).history) == 2


def test_missing_folders_and_files_are_told_apart(tmp_path):
    with pytest.raises(RunError, match=f"^no run folder at {tmp_path / 'nowhere'}.$"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=f"^{tmp_path} is not a run folder: it has no config.yaml.$"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("format: 0\n", "is a run folder of format 0; this version reads 2."),
        ("- a list\n", "is a run folder of format None; this version reads 2."),
        ("a: [1\n", "config.yaml, line 2: expected ',' or ']'"),
        ("!!python/object/apply:os.system ['true']\n", "config.yaml, line 1: could not determine a constructor"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(content, message, run_folder):
    (run_folder / CONFIG).write_text(content)
    with pytest.raises(RunError, match=re.escape(message)):
        load_run(run_folder)


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


def flip_in_state(file: Path) -> None:
    flip(file, file.read_bytes().index(b"epoch") + len(b'epoch\\": '))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: flip(file, -1), "its content does not match its hash"),
        (lambda file: flip(file, file.stat().st_size // 2), "its content does not match its hash"),
        (flip_in_state, ""),
        (lambda file: flip(file, 0), "rror"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "rror"),
        (lambda file: file.write_bytes(b""), "rror"),
        (lambda file: file.write_bytes(b"not a checkpoint at all"), "rror"),
    ],
    ids=["last byte", "middle", "state", "header", "truncated", "empty", "text"],
)
def test_a_damaged_checkpoint_is_refused(damage, reason, run_folder):
    damage(run_folder / CHECKPOINT)
    model, guide, x = mean_field()
    settings = {"epochs": 3, "batch_size": 20, "compile": "off", "optimizer": partial(Adam, lr=0.01)}
    for load in (
        lambda: load_run(run_folder),
        lambda: fit(model, guide, x, out=run_folder, resume=True, **settings),
    ):
        with pytest.raises(RunError) as raised:
            load()
        message = str(raised.value)
        assert message.startswith(f"the checkpoint {run_folder / CHECKPOINT} is damaged: ")
        assert reason in message
        assert message.endswith("Restore it from a copy, or start the run again in another folder.")


def test_a_checkpoint_of_another_format_is_refused(run_folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    with pytest.raises(RunError, match=r"last.safetensors is a checkpoint of format 2; this version reads 3"):
        load_run(run_folder)


def test_a_checkpoint_of_another_architecture_is_refused(run_folder):
    model, guide, _ = mean_field(latent_dim=2)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        RunError, match=r"decoder\.layers\.0\.weight has shape \(8, 3\), the model and guide .* \(8, 2\)"
    ):
        load_run(run_folder, model=model, guide=guide)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(RunError, match="its parameters are not those of this model and guide; found in only one"):
        load_run(run_folder, model=Location())


def test_metrics_that_are_short_or_unreadable_are_refused(run_folder):
    lines = (run_folder / METRICS).read_text().splitlines()
    (run_folder / METRICS).write_text("\n".join(lines[:2]))
    with pytest.raises(RunError, match=r"metrics.csv has 1 rows; the checkpoint is of epoch 2"):
        load_run(run_folder)
    (run_folder / METRICS).write_text("epoch\none\ntwo\n")
    with pytest.raises(RunError, match=r"metrics.csv cannot be read: could not convert string to float"):
        load_run(run_folder)


# Disks that refuse


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=f"^cannot make the run folder {out}: .*. Choose another out.$"):
            fit_location(out=out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_vanishes_at_checkpoint_time(tmp_path):
    """Moved away while the run goes on: what was written before moves along."""
    (tmp_path / "run").mkdir()
    write_checkpoint(tmp_path / "run" / "last", {"a": torch.ones(2)}, {"epoch": 1})
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError) as raised:
        write_checkpoint(tmp_path / "run" / "last", {"a": torch.zeros(2)}, {"epoch": 2})
    assert str(raised.value) == (
        f"could not write {tmp_path / 'run' / 'last'}: No such file or directory. Put the folder {tmp_path / 'run'} "
        f"back or choose another folder with out=..., then go on with resume=True."
    )
    assert isinstance(raised.value.__cause__, OSError)
    tensors, state = read_checkpoint(tmp_path / "moved" / "last")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert state == {"epoch": 1}


def test_a_read_only_disk(tmp_path, monkeypatch):
    """Which refuses to delete as well."""
    (tmp_path / "last").write_bytes(b"before")

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    for operation in ("open", "unlink", "replace"):
        monkeypatch.setattr(Path, operation, refuse)
    with pytest.raises(CheckpointError, match=r"could not write .*last: Read-only file system; the one written before"):
        write_bytes(tmp_path / "last", b"after")
    monkeypatch.undo()
    assert (tmp_path / "last").read_bytes() == b"before"


def test_a_rename_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_bytes(tmp_path / "last", b"before")

    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_bytes(tmp_path / "last", b"after")
    assert (tmp_path / "last").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_scheduler_class_that_needs_more_says_so():
    with pytest.raises(ValueError, match=r"^fit: scheduler must be made by a call with one .*step_size.*partial"):
        fit_location(scheduler=torch.optim.lr_scheduler.StepLR)


@pytest.mark.parametrize("which", ["model", "guide"])
def test_a_class_in_place_of_a_program_is_named(which):
    pair = {"model": Location(0.1), "guide": PriorGuide(), which: Location}
    with pytest.raises(ValueError, match=r"^fit: model and guide must be .*the class Location: make an object of it"):
        fit(pair["model"], pair["guide"], X, epochs=1, batch_size=6)


def test_a_device_without_values_is_refused_before_anything_moves():
    pair = mean_field()
    with pytest.raises(ValueError, match="device 'meta' cannot be used here: it holds no values"):
        fit(pair.model, pair.guide, pair.x, epochs=1, batch_size=4, device="meta")
    assert {p.device.type for p in pair.model.parameters()} == {"cpu"}
