"""The command line, as a shell sees it: what it prints where, what it leaves behind, and what it says of mistakes."""

import contextlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from matplotlib import image

import pyro_vae
from pyro_vae.cli import COMMANDS, SWITCHES, main
from pyro_vae.cli.output import finite
from pyro_vae.cli.part_flags import Part
from pyro_vae.cli.signature import REQUIRED
from pyro_vae.cli.wording import in_text, is_list, summary
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.results import read_cell
from pyro_vae.data import DATASETS
from pyro_vae.parts import KINDS, PARTS, kind_of, own_parts, part_names

TINY = [
    "--data", "mnist-5k", "--epochs", "1", "--latent-dim", "2", "--hidden-dims", "10", "--num-test", "20",
    "--num-samples", "20", "--elbo-samples", "5",
]  # fmt: skip

EVERY_PART = [(kind, name) for kind in PARTS for name in part_names(kind)]

OWN = '''
from pyro_vae.guides import MeanFieldGuide


class Mine(MeanFieldGuide):
    """A guide of my own. It is new.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers.
        activation: of the encoder.
        width: how wide, in standard deviations.
        names: of things.
        strict: whether it is.
        device_of: what only Python has.
    """

    def __init__(
        self, x_shape, latent_dim=2, hidden_dims=(3,), activation="tanh", *, width: int, names: list[str] = ["a"],
        strict: bool = True, device_of: type | None = None,
    ):
        super().__init__(x_shape, latent_dim, hidden_dims, activation)
        print("made of", width)
        self.width, self.names, self.strict = width, names, strict
'''


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def run(*words: object) -> Done:
    """Run a command in this process; Ctrl-C and all errors end in an exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def cell_of(*words: object) -> Cell:
    """The cell that flags come to."""
    done = run("fit", "--print_config", *words)
    assert (done.code, done.err) == (0, ""), done.err
    return Cell.of(yaml.safe_load(done.out))


def assert_one_line(done: Done, code: int = 2) -> str:
    assert done.code == code
    assert done.out == ""
    assert done.err.startswith("pyro-vae: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    return done.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory in which runs may be left."""
    path = tmp_path_factory.mktemp("cli")
    with contextlib.chdir(path):
        yield path


@pytest.fixture(scope="module")
def fitted(folder):
    """A run, and what fitting it printed."""
    done = run("fit", *TINY, "--guide", "low_rank", "--guide.rank", 2)
    assert done.code == 0, done.err
    (path,) = (folder / "runs").glob("low_rank-*")
    return path, done


@pytest.fixture(scope="module")
def own_guide(folder):
    path = folder / "guide_for_the_command_line.py"
    path.write_text(OWN)
    yield path
    sys.modules.pop(path.stem, None)


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command):
    for word in ("--help", "-h"):
        done = run(command, word)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"usage: pyro-vae {command} ")
        assert all(switch in done.out for switch in SWITCHES)
        assert max(map(len, done.out.splitlines())) <= 100


def test_the_help_of_all_names_every_command():
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert all(f"  {name} " in done.out for name in [*COMMANDS, *SWITCHES])
    assert "nats" in done.out
    assert run("--version").out == f"pyro-vae {pyro_vae.__version__}\n"


def test_every_setting_of_a_cell_is_a_flag_with_its_help():
    text = run("fit", "--help").out
    for field in fields(Cell):
        assert f"  --{field.name} " in text
    assert "passes over the training images (default: 40)" in text
    assert "importance samples" in " ".join(text.split())


def test_the_help_of_fit_shows_the_options_of_what_was_chosen_and_of_nothing_else():
    text = run("fit", "--guide", "iaf", "--help").out
    assert "--guide.num_flows N       T, at least 1 (default: 4)" in text
    assert "--objective.num_particles" not in text
    assert "--guide.encoder" not in text


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_a_parts_help_has_its_own_options_and_none_of_the_pairs(kind, name):
    done = run("fit", f"--{kind}.help", name)
    assert (done.code, done.err) == (0, "")
    part = Part.of(kind, name)
    assert done.out.startswith(f"{kind} {name}")
    assert summary(part.type) in done.out
    flags = [line.split()[0] for line in done.out.splitlines() if line.startswith(f"  --{kind}.")]
    shown = {flag.removeprefix(f"--{kind}.") for flag in flags}
    assert shown == set(part.options)
    left_out = set(inspect.signature(part.type).parameters) - shown - kind_of(kind).offered
    # What only Python has.
    assert left_out <= {"init"}


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_every_option_has_words_and_reads_its_own_default(kind, name):
    for option in Part.of(kind, name).options.values():
        # Pyro describes some parameters only.
        assert option.help or name == "trace_elbo"
        if option.default not in (REQUIRED, None):
            text = in_text(option.default)
            assert option.read(text.split() if is_list(option.kind) else text) == option.default


def test_the_chosen_parts_help_needs_no_name():
    assert run("fit", "--guide", "iaf", "--guide.help").out == run("fit", "--guide.help", "iaf").out


# Cells


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--guide", "iaf", "--guide.num_flows", 2], ["--guide", "iaf(num_flows=2)"]),
        (["--guide", "iaf(num_flows=2)", "--guide.context-dim=3"], ["--guide", "iaf(context_dim=3, num_flows=2)"]),
        (["--guide", "iaf", "--guide.flow-hidden-dims", 8, 9], ["--guide", "iaf(flow_hidden_dims=(8, 9))"]),
        (["--guide", "iaf", "--guide.flow_hidden_dims", "[8, 9]"], ["--guide", "iaf(flow_hidden_dims=(8, 9))"]),
        (["--prior", "student_t", "--prior.df", 3], ["--prior", "student_t(df=3)"]),
        (["--prior", "vamp", "--prior.low", -0.5], ["--prior", "vamp(low=-0.5)"]),
        (["--prior", "flow", "--prior.hidden_dims", 7], ["--prior", "flow(hidden_dims=(7,))"]),
        (["--likelihood", "gaussian", "--likelihood.scale", "shared"], ["--likelihood", "gaussian(scale='shared')"]),
        (["--likelihood", "gaussian", "--likelihood.scale", 0.5], ["--likelihood", "gaussian(scale=0.5)"]),
        (["--likelihood.soft_targets"], ["--likelihood", "bernoulli(soft_targets=True)"]),
        (["--objective", "iwae", "--objective.num_particles", 3], ["--objective", "iwae(num_particles=3)"]),
        (["--objective.num_particles", 3], ["--objective", "trace_elbo(num_particles=3)"]),
        (["--network", "gated_mlp"], ["--encoder", "gated_mlp", "--decoder", "gated_mlp"]),
        (["--network", "conv", "--network.channels", 4, 8], ["--network", "conv(channels=(4, 8))"]),
        (["--network.hidden_dims", 7], ["--encoder.hidden_dims", 7, "--decoder", "mlp(hidden_dims=(7,))"]),
        (["--network", "conv", "--decoder", "mlp"], ["--encoder", "conv"]),
        (
            ["--network", "conv", "--network.channels", 4, "--encoder.activation", "elu"],
            ["--encoder", "conv(activation='elu', channels=(4,))", "--decoder", "conv(channels=(4,))"],
        ),
        (["--model", "vae", "--hidden-dims", 4, 5], ["--hidden_dims", "[4,5]", "--epochs", 3, "--epochs", 40]),
        (["--hidden-dims", "4,5", "--lr", "1e-4"], ["--hidden_dims", "(4, 5)", "--lr=0.0001"]),
        (["--no-init-bias"], ["--init_bias", "false"]),
        (["--init_bias", "--num_test", "null"], []),
    ],
)  # fmt: skip
def test_one_cell_is_written_in_several_ways(flags, text):
    assert cell_of(*flags) == cell_of(*text)


def test_every_value_of_a_cell_comes_through():
    others = {
        "guide": "iaf(num_flows=2)", "prior": "flow", "objective": "iwae(num_particles=3)", "latent_dim": 3,
        "encoder": "mlp(activation='relu')", "decoder": "mlp(hidden_dims=(7,))",
        "hidden_dims": [4, 5], "encoder_dims": [6], "activation": "relu", "init_bias": False, "data": "mnist-static",
        "labels": True, "quadrants": 2,
        "binarization": "static", "valid_size": 7, "data_seed": 1, "seed": 2, "epochs": 3, "batch_size": 8, "lr": 0.01,
        "adam_eps": 1e-4, "schedule": "iwae", "kl_warmup": 1, "clip_grad_norm": 2.5, "patience": 4, "compile": "off",
        "device": "cuda", "num_test": 9, "num_samples": 10, "elbo_samples": 11, "num_gaps": 12,
        "measure": ["sbc(num_draws=9)", "ais"],
    }  # fmt: skip
    words = [str(word) for name, v in others.items() for word in (f"--{name}", *(v if isinstance(v, list) else [v]))]
    assert cell_of(*words) == Cell.of(others)
    assert {field.name for field in fields(Cell)} - set(others) == {"model", "likelihood", "fitted_model"}
    assert json.loads(run("fit", *words, "--print_config", "--json").out) == Cell.of(others).settings()


def test_a_printed_configuration_gives_the_same_cell_and_flags_have_the_last_word(tmp_path):
    words = ["--guide", "low_rank", "--guide.rank", 3, "--hidden-dims", 30, 20, "--lr", 0.01, "--patience", 2]
    file = tmp_path / "mine.yaml"
    file.write_text(run("fit", *words, "--print-config").out)
    assert cell_of("--config", file) == cell_of(*words)
    assert cell_of("--config", file, "--seed", 4, "--guide.rank", 2) == cell_of(*words, "--seed", 4, "--guide.rank", 2)
    assert cell_of("--config", file, "--guide", "iaf").guide == "iaf"
    file.write_text("guide: iaf\nlr: 1e-2\n")
    assert cell_of("--config", file) == Cell(guide="iaf", lr=0.01)


def test_a_network_of_both_sides_has_the_last_word_over_the_sides_of_a_configuration(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(run("fit", "--encoder", "gated_mlp", "--lr", 0.01, "--print-config").out)
    assert cell_of("--config", file, "--network", "conv") == Cell(encoder="conv", decoder="conv", lr=0.01)
    file.write_text("network: conv\ndecoder: mlp\n")
    assert cell_of("--config", file) == Cell(encoder="conv")
    assert cell_of("--config", file, "--encoder", "resnet") == Cell(encoder="resnet")


def test_the_help_of_a_network_of_both_sides():
    assert "--network.channels N ..." in run("fit", "--network.help", "conv").out
    assert run("fit", "--network", "conv", "--network.help").out == run("fit", "--network.help", "conv").out


# A class of one's own


def test_a_guide_of_ones_own_has_its_flags_and_its_help(own_guide):
    text = run("fit", "--guide.help", f"{own_guide}:Mine").out
    for line in (
        "A guide of my own.",
        "--guide.width N           how wide, in standard deviations (required)",
        "--guide.names TEXT ...    of things (default: a)",
        "whether it is (default: true; --guide.no_strict turns it off)",
    ):
        assert line in text
    assert not any(f"--guide.{name}" in text for name in ("x_shape", "latent_dim", "device_of", "encoder"))
    words = ["--guide", f"{own_guide}:Mine", "--guide.width", 3, "--guide.names", "b", "c", "--guide.no-strict"]
    assert cell_of(*words).guide == f"{own_guide.resolve()}:Mine(names=('b', 'c'), strict=False, width=3)"


def test_a_guide_of_ones_own_is_fitted_and_what_it_prints_is_no_result(own_guide, tmp_path):
    words = ["--guide", f"{own_guide.name}:Mine", "--guide.width", 3]
    done = run("fit", *TINY, *words, "--out", tmp_path / "run", "--no_evaluate", "--json", "--quiet")
    assert done.code == 0, done.err
    assert done.json["settings"]["guide"].endswith(":Mine(width=3)")
    assert "made of 3" in done.err


# Mistakes


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["fti"], "Did you mean fit?"),
        (["--quite", "fit"], "Did you mean --quiet?"),
        (["fit", "--epcohs", "3"], "Did you mean --epochs?"),
        (["fit", "--hiden-dims", "3"], "Did you mean --hidden_dims?"),
        (["fit", "--guide", "iff"], "Did you mean 'iaf'?"),
        (["fit", "--network", "cnov"], "--network: unknown name 'cnov'. Did you mean 'conv'?"),
        (["fit", "--network", "conv", "--network.chanels", "3"], "Did you mean 'channels'?"),
        (["fit", "--prior=vmap"], "Did you mean 'vamp'?"),
        (["fit", "--guide", "iaf", "--guide.num_flow", "3"], "Did you mean 'num_flows'?"),
        (["fit", "--guide", "iaf(num_flow=3)"], "Did you mean 'num_flows'?"),
        (["fit", "--giude.help"], "Did you mean --guide.help?"),
        (["evaluate", "runs/none", "--num-smaples", "3"], "Did you mean --num_samples?"),
        (["compare", "grid.yaml", "--out", "c", "--jbos", "2"], "Did you mean --jobs?"),
        (["report", "c", "--latxe"], "Did you mean --latex?"),
        (["list", "guids"], "Did you mean guides?"),
        (["figures", "c", "--fitted_modl", "d"], "Did you mean --fitted_model?"),
    ],
)  # fmt: skip
def test_a_typo_suggests_the_nearest(words, nearest):
    assert nearest in assert_one_line(run(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to do: fit, evaluate"),
        (["fit", "--epochs", "abc"], "--epochs must be a whole number; got 'abc'."),
        (["fit", "--epochs", "0"], "epochs must be at least 1; got 0."),
        (["fit", "--epochs"], "--epochs needs a value."),
        (["fit", "--lr", "fast"], "--lr must be a number; got 'fast'."),
        (["fit", "--patience", "long"], "--patience must be a whole number or null; got 'long'."),
        (["fit", "--hidden-dims", "3", "x"], "--hidden_dims must be a list of whole numbers; got '3 x'."),
        (["fit", "--init-bias", "maybe"], "--init_bias must be true or false; got 'maybe'."),
        (["fit", "--schedule", "cosin"], "schedule must be one of cosine, iwae, constant; got 'cosin'."),
        (["fit", "--guide", "low_rank", "--guide.rank", "2.5"], "--guide.rank must be a whole number; got '2.5'."),
        (["fit", "--guide.rank", "2"], "mean_field: has no option 'rank'."),
        (["fit", "--guide", "iaf", "--guide.latent_dim", "2"], "is the pair's, and no option: --latent_dim sets it."),
        (["fit", "--guide", "iaf", "--guide.encoder", "x"], "encoder is the pair's, and no option: --encoder sets it."),
        (["fit", "--guide", "nothing.py:Mine"], "there is no file nothing.py in the current folder, /"),
        (["fit", "extra"], "'extra' is one word too many."),
        (["fit", "--config", "nothing.yaml"], "nothing.yaml cannot be read: No such file or directory."),
        (["fit", "--data", "mnist-6k", "--out", "new"], "unknown data set 'mnist-6k'"),
        (["evaluate"], "evaluate needs RUN."),
        (["evaluate", "nowhere"], "no run folder at nowhere."),
        (["compare", "grid.yaml"], "compare needs --out."),
        (["compare", "nothing.yaml", "--out", "c"], "nothing.yaml cannot be read: No such file or directory."),
        (["report", "."], "holds no comparison"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_plain_line(words, message, folder):
    assert message in assert_one_line(run("--quiet", *words))
    assert not (folder / "new").exists()


def test_a_folder_is_named_only_once_all_parts_are_made(folder):
    line = assert_one_line(run("fit", "--objective", "iwae", "--objective.num_particles", "0", "--out", "new"))
    assert "IWAE: --objective.num_particles must be at least 1" in line
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gide: iaf\n", "there is no setting 'gide'. Did you mean 'guide'?"),
        ("guide: [iaf\n", "line 2: expected ',' or ']'"),
        ("- iaf\n", "must hold settings, as `guide: iaf`"),
        ("format: 1\nrecipe: null\n", "must hold settings"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_none_is_named(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    line = assert_one_line(run("fit", "--config", file))
    assert message in line
    assert str(file) in line


@pytest.mark.parametrize("words", [["--debug", "fit", "--lr", "x"], ["fit", "--lr", "x", "--debug"]])
def test_debug_shows_where_an_error_comes_from(words):
    done = run(*words)
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert done.err.endswith("pyro-vae: error: --lr must be a number; got 'x'.\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TypeError("1\n+ ''"), 1, "unexpected TypeError: 1 + '' (--debug shows where it comes from)"),
        (ModuleNotFoundError("no", name="ray"), 2, "this needs the package ray, which is not installed."),
        (PermissionError(13, "Permission denied", "/there"), 2, "/there: Permission denied."),
        (pyro_vae.errors.OutOfMemoryError("too large"), 2, "error: too large"),
    ],
)  # fmt: skip
def test_an_error_that_is_not_the_users_has_another_exit_code(error, code, message, monkeypatch, tmp_path):
    monkeypatch.setattr("pyro_vae.cli.fit.run_cell", Mock(side_effect=error))
    assert message in assert_one_line(run("fit", "--quiet", "--out", tmp_path / "run"), code)


def test_an_interrupted_run_says_how_it_goes_on(monkeypatch, tmp_path):
    path = tmp_path / "run"

    def interrupted(cell, out, **options):
        (out / "config.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.cli.fit.run_cell", interrupted)
    line = assert_one_line(run("fit", "--quiet", "--out", path), 130)
    assert f"interrupted. `pyro-vae fit --resume --out {path}` goes on" in line
    # Before there is anything to go on with, --resume would be refused.
    monkeypatch.setattr("pyro_vae.cli.fit.run_cell", Mock(side_effect=KeyboardInterrupt()))
    line = assert_one_line(run("fit", "--quiet", "--out", tmp_path / "new"), 130)
    assert "interrupted. Nothing was kept: the same command starts again." in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("more", [[], ["--epochs", 3], ["--config", "run/config.yaml"]])
def test_resume_starts_no_other_run(more, fitted, tmp_path, monkeypatch):
    """Without --out the folder is named by the settings: a forgotten or mistyped one is no order to train anew."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fitted[0], "run")
    line = assert_one_line(run("fit", "--resume", *more, "--quiet"))
    assert "there is no run to go on with in runs/" in line
    assert "name its folder with --out, or leave out --resume to start one." in line
    assert not Path("runs").exists()


# Lists


def test_list_shows_every_part_and_data_set():
    text = run("list").out
    for kind in KINDS:
        listed = {line.split(maxsplit=1)[0] for line in text.partition(f"{kind}s:\n")[2].splitlines()}
        assert set(part_names(kind)) <= listed
    assert all(f"  {name} " in text for name in DATASETS)
    assert run("list", "--json").json["guides"] == {n: summary(cls) for n, cls in own_parts("guide").items()}


def test_list_of_one_kind_is_a_line_for_each():
    lines = run("list", "priors").out.splitlines()
    assert [line.split()[0] for line in lines] == list(part_names("prior"))
    assert lines[2] == "standard_normal  p(z) = N(0, I)."


# Runs


def test_fit_prints_results_alone(fitted):
    path, done = fitted
    lines = done.out.splitlines()
    assert lines[0].startswith(f"run of 1 epoch on mnist-5k in runs/{path.name}: train -")
    assert [line.split()[0] for line in lines] == ["run", "ELBO", "log", "2"]
    assert done.err == f"Run folder: runs/{path.name}\n"
    assert read_cell(path) == cell_of(*TINY, "--guide", "low_rank(rank=2)")


def test_a_run_is_not_overwritten_and_resume_shows_it(fitted):
    path, done = fitted
    words = [*TINY, "--guide", "low_rank(rank=2)"]
    assert "holds this run already: --resume goes on with it" in assert_one_line(run("fit", *words))
    assert run("fit", *words, "--resume").out == done.out
    again = run("fit", "--resume", "--out", path, "--json", "--quiet")
    assert again.err == ""
    assert again.json == {"run": str(path), "settings": read_cell(path).settings()} | finite(evaluation(path))
    other = run("fit", "--resume", "--out", path, "--epochs", 2)
    said = f"{path} holds a run with other settings; epochs: was 1, is 2. Choose another --out."
    assert assert_one_line(other) == f"pyro-vae: error: {said}\n"


def evaluation(path: Path) -> dict:
    return json.loads((path / "evaluation.json").read_text())


def test_a_run_is_repeated_from_its_configuration(fitted, tmp_path):
    path, _ = fitted
    assert cell_of("--config", path / "config.yaml") == cell_of("--config", path) == read_cell(path)
    done = run("fit", "--config", path / "config.yaml", "--out", tmp_path / "again", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert evaluation(tmp_path / "again")["measured"] == evaluation(path)["measured"]


def test_a_run_with_its_own_settings_is_not_measured_again(fitted):
    path, done = fitted
    before = (path / "evaluation.json").stat().st_mtime_ns
    for words in ([], ["--num-samples", 20, "--seed", 0]):
        assert run("evaluate", path, *words).out.replace(str(path), f"runs/{path.name}") == done.out
    assert (path / "evaluation.json").stat().st_mtime_ns == before


def test_other_settings_are_measured_into_a_file_of_their_own(fitted):
    path, _ = fitted
    before = (path / "evaluation.json").read_bytes()
    words = ["--num-samples", 30, "--seed", 5, "--ais", "num_chains=2, num_temperatures=3, num_test=2"]
    done = run("evaluate", path, *words, "--json")
    assert done.code == 0, done.err
    found = done.json
    measured = found["measured"]
    assert found["settings"]["num_samples"] == measured["log_likelihood"]["num_samples"] == 30
    assert (measured["ais"]["num_chains"], measured["ais"]["num_temperatures"]) == (2, 3)
    assert measured["ais"]["log_likelihood"]["num_data"] == 2
    assert measured["elbo_terms"]["elbo"]["num_data"] == 20
    assert (path / "evaluation.json").read_bytes() == before
    (file,) = path.glob("evaluation,*.json")
    assert file.name == (
        "evaluation,measure=ais(num_chains=2,-num_temperatures=3,-num_test=2),num_samples=30,seed=5.json"
    )
    assert json.loads(file.read_text()) == found
    assert "log p(x) >= " in done.err
    assert "AIS from the prior: 2 chains x 3 temperatures" in done.err
    assert "Did you mean 'num_chains'?" in assert_one_line(run("evaluate", path, "--ais", "num_chain=2"))


def test_a_run_is_fitted_now_and_measured_later(tmp_path):
    path = tmp_path / "run"
    done = run("fit", *TINY, "--out", path, "--no-evaluate")
    assert done.out.startswith("run of 1 epoch on mnist-5k")
    assert not (path / "evaluation.json").exists()
    assert "ELBO -" in run("evaluate", path).out
    assert evaluation(path)["cell"] == read_cell(path).hash


def test_a_run_that_was_stopped_is_not_measured(fitted, tmp_path):
    path = tmp_path / "stopped"
    shutil.copytree(fitted[0], path)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["recipe"]["epochs"] = 5
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    for left in ("fitted.json", "evaluation.json"):
        (path / left).unlink()
    for command in ("evaluate", "figures"):
        line = assert_one_line(run(command, path))
        assert f"has 1 of its 5 epochs: go on with `pyro-vae fit --resume --out {path}`." in line


def test_figures_are_drawn(fitted):
    path, _ = fitted
    done = run("figures", path)
    assert (done.code, done.err) == (0, "")
    names = ["learning_curves", "reconstructions", "prior_samples", "traversal", "manifold"]
    assert done.out.splitlines() == [str(path / "figures" / f"{name}.png") for name in names]
    for name in names:
        assert image.imread(path / "figures" / f"{name}.png")[..., :3].std() > 0.02


def test_a_guide_is_fitted_to_the_model_of_a_run(fitted, tmp_path):
    path, _ = fitted
    out = tmp_path / "elsewhere"
    words = [word for word in TINY if word not in ("--latent-dim", "2", "--hidden-dims", "10")]
    done = run("fit", *words, "--guide", "mean_field", "--fitted_model", path, "--out", out, "--quiet", "--no_evaluate")
    assert (done.code, done.err) == (0, "")
    assert read_cell(out).fitted_model == read_cell(path)
    assert read_cell(out).hidden_dims == (10,)
    line = assert_one_line(run("evaluate", out))
    assert f"which is not at {tmp_path / read_cell(path).hash}: say where it is with --fitted_model." in line
    assert "ELBO" in run("evaluate", out, "--fitted_model", path).out
    assert "is not the run whose model is taken over" in assert_one_line(run("figures", out, "--fitted_model", out))


# Processes of their own


def in_a_process(*words: str, **kwargs) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "pyro_vae", *words]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, env=environment, timeout=120, **kwargs)


def test_a_pipe_that_is_closed_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = in_a_process("list", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_results_come_alone_whatever_a_process_prints(own_guide, tmp_path):
    own_guide.write_text(OWN.replace('print("made of", width)', 'import os; os.write(1, b"made of 3")'))
    words = ["--guide", f"{own_guide}:Mine", "--guide.width", "3", "--out", str(tmp_path / "run"), "--no_evaluate"]
    done = in_a_process("fit", *TINY, *words, "--json", "--quiet", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr.replace("made of 3", "")) == (0, "")
    assert json.loads(done.stdout)["last_epoch"]["epoch"] == 1


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [(["-m", "pyro_vae", "list"], True), (["{}/pyro-vae", "list"], True), (["-c", "import pyro_vae"], False)],
)
def test_ctrl_c_while_torch_is_imported_is_one_line(command, is_ours, tmp_path):
    """Where the package is imported by others, it is theirs."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "pyro-vae").write_text("from pyro_vae.cli import main\n")
    path = os.pathsep.join([str(tmp_path), str(Path(pyro_vae.__file__).parents[1])])
    words = [sys.executable, *(word.format(tmp_path) for word in command)]
    done = subprocess.run(words, text=True, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, timeout=60)
    if is_ours:
        assert (done.returncode, done.stderr) == (130, "pyro-vae: interrupted.\n")
    else:
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith("KeyboardInterrupt\n")


# Comparisons


@pytest.fixture(scope="module")
def compared(folder):
    """Three guides on one frozen model, of which one cannot be made, and what comparing them printed."""
    common = {"data": "mnist-5k", "epochs": 1, "latent_dim": 2, "hidden_dims": [10], "num_test": 20, "num_samples": 20}
    grid = {"design": "frozen", "common": common, "grid": {"guide": ["mean_field", "full_rank", "low_rank(rank=9)"]}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    return folder / "cmp", run("compare", "grid.yaml", "--out", "cmp", "--threads", 1, "--latex")


def test_a_comparison_with_a_failure_says_which_and_has_a_report(compared):
    path, done = compared
    assert done.code == 1
    assert done.out.startswith("2 of 3 cells finished in")
    assert done.out.splitlines()[-1] == f"report: {path / 'report.html'}"
    assert (path / "report.html").is_file()
    assert (path / "report.tex").is_file()
    assert "pyro-vae: low_rank(rank=9) failed: ValueError: LowRankGuide: rank must be from 1 to" in done.err
    assert "[2/4] mean_field: finished" in done.err


def test_a_report_is_written_again(compared):
    path, _ = compared
    (path / "report.html").unlink()
    done = run("report", path, "--json", "--quiet", "--markdown")
    assert done.code == 0
    assert (path / "report.html").is_file()
    assert done.json["markdown"] == str(path / "report.md")
    assert done.json["finished"] == 2
    assert [row["status"] for row in done.json["table"]] == ["finished", "finished", "failed"]
    assert list(done.json["failed"]) == ["low_rank(rank=9)"]


def test_a_cell_of_a_comparison_finds_the_model_that_it_took_over(compared):
    done = run("report", compared[0], "--json")
    row = done.json["table"][0]
    drawn = run("figures", row["path"])
    assert (drawn.code, drawn.err) == (0, "")
    measured = run("evaluate", row["path"], "--num_samples", 30, "--quiet")
    assert (measured.code, measured.err) == (0, "")
    assert "K = 30" in measured.out
