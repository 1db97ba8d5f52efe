"""Run folders: what they hold, what comes back from them, and how they are taken up again."""

import csv
import hashlib
import pickle
from functools import partial

import pyro
import pytest
import torch
import yaml
from fit_programs import Location, PriorGuide, binary_rows, functions, mean_field, pyro_style
from pyro.infer import Trace_ELBO
from torch import nn
from torch.optim import SGD, Adam
from torch.optim import lr_scheduler as schedulers

from pyro_vae import fit, load_run, log_weights
from pyro_vae.data import ImageData
from pyro_vae.errors import RunError
from pyro_vae.fit.run import CHECKPOINT, CONFIG, METRICS
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.nn import MLP
from pyro_vae.runtime.checkpoint import read_checkpoint

SETTINGS = {"batch_size": 20, "compile": "off"}


def files(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_checkpoints(a, b) -> None:
    (tensors_a, state_a), (tensors_b, state_b) = read_checkpoint(a / CHECKPOINT), read_checkpoint(b / CHECKPOINT)
    assert state_a == state_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, value in tensors_a.items():
        assert torch.equal(value, tensors_b[name]), name


def without_seconds(history) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_the_configuration_says_how_to_do_it_again(tmp_path):
    model, guide, x = mean_field()
    data = ImageData(
        name="rows",
        train=x[:30],
        valid=x[30:],
        test=x[:7],
        binarization="none",
        seed=3,
        content_hash="abc",
        source="made here",
    )
    run = fit(
        model,
        guide,
        data,
        objective=Trace_ELBO(num_particles=2),
        optimizer=partial(Adam, lr=0.02),
        scheduler=partial(schedulers.StepLR, step_size=2),
        epochs=2,
        kl_warmup=1,
        patience=5,
        seed=8,
        clip_grad_norm=3.5,
        out=tmp_path / "new" / "run",
        **SETTINGS,
    )
    config = yaml.safe_load((run.path / CONFIG).read_text())
    environment = config.pop("environment")
    assert environment["torch"] == str(torch.__version__)
    assert environment["pyro"] == pyro.__version__
    assert set(environment) == {"pyro_vae", "python", "torch", "pyro", "machine", "device", "threads"}
    assert config["objective"]["num_particles"] == 2
    assert config["optimizer"]["lr"] == 0.02
    assert config.pop("objective")["class"] == "pyro.infer.trace_elbo:Trace_ELBO"
    assert config.pop("optimizer")["class"] == "torch.optim.adam:Adam"
    assert config.pop("model")["class"] == "pyro_vae.models.vae:VAE"
    assert config.pop("guide") == {
        "class": "pyro_vae.guides.mean_field:MeanFieldGuide",
        "args": {
            "x_shape": [6],
            "latent_dim": 3,
            "hidden_dims": [8],
            "activation": "tanh",
            "encoder": {
                "class": "pyro_vae.nn.mlp:MLP",
                "args": {"in_features": 6, "hidden_dims": [8], "out_features": 6, "activation": "tanh"},
            },
        },
    }
    config["scheduler"].pop("verbose", None)  # an argument of older torch
    assert config.pop("structure")["guide.encoder.layers.1"] == "Tanh()"
    assert config == {
        "format": 2,
        "recipe": None,
        "data": {
            "name": "rows",
            "binarization": "none",
            "seed": 3,
            "valid_size": 10,
            "sizes": {"train": 30, "valid": 10, "test": 7},
            "x_shape": [6],
            "content_hash": "abc",
            "source": "made here",
        },
        "valid": None,
        "scheduler": {"class": "torch.optim.lr_scheduler:StepLR", "step_size": 2, "gamma": 0.1},
        "epochs": 2,
        "batch_size": 20,
        "seed": 8,
        "compile": "off",
        "device": "cpu",
        "dtype": "float32",
        "kl_warmup": 1,
        "clip_grad_norm": 3.5,
        "patience": 5,
    }


def test_the_hash_of_a_tensor_is_that_of_its_bytes(tmp_path):
    model, guide, x = mean_field()
    run = fit(model, guide, x, epochs=1, **SETTINGS)
    digest = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    assert run.data == {"name": "tensor", "shape": [40, 6], "content_hash": digest}


def test_metrics_have_one_row_an_epoch_and_exact_numbers(tmp_path):
    model, guide, x = mean_field()
    run = fit(model, guide, x, valid=x[:9], epochs=3, kl_warmup=3, out=tmp_path, **SETTINGS)
    with (tmp_path / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["epoch", "train_bound_nats", "valid_bound_nats", "kl_weight", "learning_rate", "seconds"]
    assert [list(row) for row in rows] == [names] * 3
    assert [{key: float(value) for key, value in row.items()} for row in rows] == run.history
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def custom_pair():
    """Parts that are not the defaults, one of them nested: what a description has to carry."""
    torch.manual_seed(0)
    likelihood = BernoulliLikelihood((2, 3), 2, (5,), "relu", soft_targets=True)
    model = VAE((2, 3), 2, likelihood=likelihood)
    return model, MeanFieldGuide((2, 3), 2, encoder=MLP(6, (7, 4), 4, "elu")), binary_rows().reshape(-1, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("patience", [None, 4])
def test_a_run_comes_back_with_the_same_pair(dtype, patience, tmp_path, monkeypatch):
    model, guide, x = custom_pair()
    model, guide, x = model.to(dtype), guide.to(dtype), x.to(dtype)
    run = fit(model, guide, x, valid=x[:9], epochs=2, patience=patience, out=tmp_path, **SETTINGS)

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was opened")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    loaded = load_run(tmp_path)
    assert type(loaded.model) is VAE
    assert loaded.model.likelihood.soft_targets
    assert not loaded.model.training
    assert not loaded.guide.training
    for ours, theirs in ((loaded.model, model), (loaded.guide, guide)):
        assert ours is not theirs
        for (name, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(a, b)
    assert loaded.history == run.history
    assert loaded.data == run.data
    assert (loaded.best_epoch, loaded.path) == (run.best_epoch, tmp_path)
    weights = []
    for pair in (model, guide), (loaded.model, loaded.guide):
        torch.manual_seed(2)
        weights.append(log_weights(*pair, x, 5))
    assert torch.equal(*weights)


def test_the_best_parameters_come_back_where_early_stopping_kept_them(tmp_path):
    """As in test_fit: the bound is best after three epochs of five."""
    run = fit(
        Location(0.0),
        PriorGuide(),
        torch.full((10, 1), 4.0),
        valid=torch.full((5, 1), 2.0),
        batch_size=10,
        optimizer=partial(SGD, lr=0.02),
        patience=2,
        out=tmp_path,
    )
    loaded = load_run(tmp_path, trust=True)
    assert loaded.best_epoch == run.best_epoch == 3
    assert loaded.model.shift.item() == run.model.shift.item() == pytest.approx(4 - 4 * 0.8**3)
    assert str(loaded) == str(run)


def test_a_pair_that_cannot_be_described_is_passed_in(tmp_path):
    """Bound methods of a module in Pyro's own style."""
    model, guide, x = pyro_style()
    fit(model, guide, x, epochs=1, out=tmp_path, **SETTINGS)
    with pytest.raises(RunError, match=r"PyroStyle\.model was recorded"):
        load_run(tmp_path)
    pyro.clear_param_store()
    other_model, other_guide, _ = pyro_style(seed=1)
    run = load_run(tmp_path, model=other_model, guide=other_guide)
    assert run.model is other_model
    for a, b in zip(other_model.__self__.parameters(), model.__self__.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_class_that_is_gone_is_named(tmp_path):
    model, guide, x = mean_field()
    fit(model, guide, x, epochs=1, out=tmp_path, **SETTINGS)
    text = (tmp_path / CONFIG).read_text().replace("pyro_vae.models.vae:VAE", "no_such_module:VAE")
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(RunError, match="no_such_module:VAE cannot be"):
        load_run(tmp_path, trust=True)
    assert load_run(tmp_path, model=model).model is model


def test_parameters_of_pyros_store_come_back(tmp_path):
    model, guide, x = functions()
    fit(model, guide, x, epochs=2, out=tmp_path, **SETTINGS)
    store = pyro.get_param_store()
    trained = {name: store[name].detach().clone() for name in store.keys()}  # noqa: SIM118 (not a dict)
    pyro.clear_param_store()
    with pytest.raises(RunError, match=r"'loc' lives in .*Run both once"):
        load_run(tmp_path, model=model, guide=guide)
    log_weights(model, guide, x)
    assert not torch.equal(store["scale"], trained["scale"])
    load_run(tmp_path, model=model, guide=guide)
    for name, value in trained.items():
        assert torch.equal(store[name], value)


# Resuming


def resumable(out, epochs, scheduler=None, optimizer=None, **settings):
    model, guide, x = mean_field()
    return fit(
        model,
        guide,
        x,
        valid=x[:9],
        optimizer=optimizer or partial(SGD, lr=0.01, momentum=0.9),
        scheduler=scheduler,
        epochs=epochs,
        out=out,
        resume=True,
        **{**SETTINGS, **settings},
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(schedulers.MultiStepLR, milestones=[1, 3], gamma=0.5),
        partial(schedulers.ReduceLROnPlateau, patience=0, threshold=0.05),
        partial(schedulers.OneCycleLR, max_lr=0.02, total_steps=5),
        lambda optimizer: schedulers.SequentialLR(
            optimizer,
            [schedulers.ConstantLR(optimizer, 0.5, 2), schedulers.ExponentialLR(optimizer, 0.7)],
            milestones=[2],
        ),
    ],
    ids=["multi-step", "plateau", "one-cycle", "sequential"],
)
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning", "ignore:The epoch parameter:UserWarning")
def test_a_longer_run_goes_on_where_the_shorter_one_ended(scheduler, tmp_path):
    whole = resumable(tmp_path / "whole", 5, scheduler)
    for epochs in (1, 3, 5):
        parts = resumable(tmp_path / "parts", epochs, scheduler)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert without_seconds(parts.history) == without_seconds(whole.history)
    assert len({row["learning_rate"] for row in whole.history}) > 1
    assert load_run(tmp_path / "parts").config["epochs"] == 5


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(Adam, lr=0.01, amsgrad=True),
        partial(torch.optim.NAdam, lr=0.01),
        partial(SGD, lr=0.01),
        partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    ],
    ids=["amsgrad", "nadam", "sgd", "rmsprop"],
)
def test_the_state_of_any_optimizer_is_kept(optimizer, tmp_path):
    resumable(tmp_path / "whole", 3, optimizer=optimizer)
    resumable(tmp_path / "parts", 1, optimizer=optimizer)
    resumable(tmp_path / "parts", 3, optimizer=optimizer)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("own", [False, True])
def test_a_shuffling_loader_resumes_in_its_order(tmp_path, own):
    def run(out, epochs):
        torch.manual_seed(epochs)  # the caller's state must not matter
        model, guide, x = mean_field()
        generator = torch.Generator().manual_seed(7) if own else None
        loader = torch.utils.data.DataLoader(x, batch_size=16, shuffle=True, generator=generator)
        fit(model, guide, loader, epochs=epochs, out=out, resume=True, compile="off")

    run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 1)
    run(tmp_path / "parts", 3)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_batch_norm_buffers_resume(tmp_path):
    def run(out, epochs):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))
        guide = MeanFieldGuide((6,), 3, encoder=encoder)
        fit(VAE((6,), 3, (8,)), guide, binary_rows(), epochs=epochs, out=out, resume=True, **SETTINGS)
        return int(encoder[1].num_batches_tracked)

    assert run(tmp_path / "whole", 3) == 6
    assert run(tmp_path / "parts", 1) == 2
    assert run(tmp_path / "parts", 3) == 6
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_objects_that_have_been_used_resume(tmp_path):
    """In a notebook the optimizer, scheduler and objective of the first call are those of the second."""
    model, guide, x = mean_field()
    optimizer = SGD([*model.parameters(), *guide.parameters()], lr=0.01)
    settings = {
        "optimizer": optimizer,
        "scheduler": schedulers.StepLR(optimizer, 2),
        "objective": Trace_ELBO(num_particles=2, vectorize_particles=True),
        "out": tmp_path,
        **SETTINGS,
    }
    fit(model, guide, x, epochs=1, **settings)
    run = fit(model, guide, x, epochs=4, resume=True, **settings)
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = resumable(tmp_path, 2, patience=9)
    before = files(tmp_path)
    again = resumable(tmp_path, 2, patience=9)
    assert files(tmp_path) == before
    assert again.history == first.history
    assert again.best_epoch == first.best_epoch
    for a, b in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    def run(epochs):
        return fit(
            Location(0.0),
            PriorGuide(),
            torch.full((10, 1), 4.0),
            valid=torch.full((5, 1), 2.0),
            batch_size=10,
            optimizer=partial(SGD, lr=0.02),
            patience=2,
            out=tmp_path,
            epochs=epochs,
            resume=True,
        )

    assert len(run(50).history) == 5
    again = run(80)
    assert (len(again.history), again.best_epoch) == (5, 3)
    assert again.model.shift.item() == pytest.approx(4 - 4 * 0.8**3)


def test_resume_without_a_run_starts_one(tmp_path):
    run = resumable(tmp_path / "fresh", 1)
    assert len(run.history) == 1
    assert (tmp_path / "fresh" / CHECKPOINT).is_file()


def test_leftovers_of_a_killed_write_disturb_nobody(tmp_path):
    resumable(tmp_path / "whole", 3)
    resumable(tmp_path / "parts", 1)
    for name in (CHECKPOINT, METRICS, CONFIG):
        (tmp_path / "parts" / f"{name}.0badcafe.partial").write_bytes(b"cut sho")
    # Killed between metrics and checkpoint: the metrics are an epoch ahead.
    with (tmp_path / "parts" / METRICS).open("a") as file:
        file.write("2,0.0,0.0,0.0,0.0,0.0\n")
    assert len(load_run(tmp_path / "parts").history) == 1
    resumable(tmp_path / "parts", 3)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").rglob("*") if path.is_file()) == sorted(
        [".lock", "config.yaml", "last.safetensors", "metrics.csv"]
    )
