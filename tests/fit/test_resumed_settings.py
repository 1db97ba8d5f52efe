"""A run is resumed with the settings it had; whatever else was passed is refused, and epochs stay whole numbers."""

import csv
from functools import partial

import pytest
import torch
from fit_programs import mean_field
from torch.optim import SGD, Adam
from torch.optim import lr_scheduler as schedulers

from pyro_vae import fit, load_run
from pyro_vae.errors import RunError
from pyro_vae.fit.run import METRICS
from pyro_vae.objectives import BetaELBO, RenyiBound

SETTINGS = {"batch_size": 20, "compile": "off"}


def groups(model, guide, model_lr=0.01, guide_lr=0.02, **options):
    """An optimizer whose two groups have learning rates of their own."""
    return Adam(
        [{"params": [*model.parameters()], "lr": model_lr}, {"params": [*guide.parameters()], "lr": guide_lr}],
        **options,
    )


def started(tmp_path, optimizer, **settings):
    model, guide, x = mean_field()
    return fit(model, guide, x, epochs=1, out=tmp_path, optimizer=optimizer(model, guide), **SETTINGS, **settings)


def resumed(tmp_path, optimizer, **settings):
    model, guide, x = mean_field()
    made = optimizer(model, guide)
    return fit(model, guide, x, epochs=2, out=tmp_path, optimizer=made, resume=True, **SETTINGS, **settings)


OPTIMIZERS = {
    "a group's lr": (groups, partial(groups, guide_lr=0.1)),
    "the other group's lr": (groups, partial(groups, model_lr=0.1)),
    "betas": (groups, partial(groups, betas=(0.5, 0.9))),
    "a tensor for a lr": (groups, partial(groups, model_lr=torch.tensor(0.3), foreach=False)),
}


@pytest.mark.parametrize("changed", OPTIMIZERS)
def test_a_changed_optimizer_is_no_resumption(changed, tmp_path):
    before, after = OPTIMIZERS[changed]
    started(tmp_path, before)
    with pytest.raises(
        RunError,
        match=r"(\.lr|\.betas): was [^{]*\.$",
    ):
        resumed(tmp_path, after)
    run = resumed(tmp_path, before)
    assert [group["lr"] for group in optimizer_of(tmp_path)] == [0.01, 0.02]
    assert len(run.history) == 2


def optimizer_of(path):
    from pyro_vae.fit.run import CHECKPOINT
    from pyro_vae.runtime.checkpoint import read_checkpoint

    return read_checkpoint(path / CHECKPOINT)[1]["optimizer"]["groups"]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("scheduler", lambda o: schedulers.MultiStepLR(o, [1, 3]), lambda o: schedulers.MultiStepLR(o, [2, 3])),
        ("scheduler", lambda o: schedulers.StepLR(o, 2, 0.1), lambda o: schedulers.StepLR(o, 2, 0.2)),
        ("objective", BetaELBO(2.0), BetaELBO(3.0)),
        ("objective", RenyiBound(0.5, 3), RenyiBound(0.2, 3)),
        ("valid", torch.zeros(20, 6), torch.ones(20, 6)),
    ],
)
def test_other_settings_are_told_apart(name, before, after, tmp_path):
    plain = lambda model, guide: SGD([*model.parameters(), *guide.parameters()], lr=0.01)  # noqa: E731
    started(tmp_path, plain, **{name: before})
    with pytest.raises(RunError, match=rf"; {name}[.\w]*: was [^{{]*\.$"):
        resumed(tmp_path, plain, **{name: after})
    assert len(resumed(tmp_path, plain, **{name: before}).history) == 2


def test_groups_that_a_schedule_has_moved_are_those_they_were(tmp_path):
    """In one session the optimizer of the first call, whose rates have moved, is that of the second."""
    model, guide, x = mean_field()
    for make in (partial(schedulers.ExponentialLR, gamma=0.5), partial(schedulers.ReduceLROnPlateau, patience=0)):
        optimizer = groups(model, guide)
        out = tmp_path / type(make(groups(model, guide))).__name__
        settings = {"optimizer": optimizer, "valid": x, "out": out, **SETTINGS}
        fit(model, guide, x, epochs=3, scheduler=make, **settings)
        assert len(fit(model, guide, x, epochs=4, resume=True, scheduler=make, **settings).history) == 4


def test_a_resumed_runs_epochs_are_whole_numbers(tmp_path):
    started(tmp_path, groups)
    run = resumed(tmp_path, groups)
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert [type(row["epoch"]) for row in load_run(tmp_path).history] == [int, int]
    with (tmp_path / METRICS).open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
