"""What the command line says of mistakes: one line, in its own words, and nothing written before it can be known.

This is a suite of wordings: whole messages are compared here, and elsewhere only their class and noun.
"""

import contextlib
import io
import math
import re
import sys
from dataclasses import fields
from functools import partial

import pytest
import torch
from small_folders import settings, write_images, write_run

from pyro_vae.cli import main
from pyro_vae.cli.part_flags import Part
from pyro_vae.comparison.cell import Cell
from pyro_vae.parts import PARTS, make_objective, make_pair, part_names
from pyro_vae.runtime.arguments import named_as

OWN = '''
import pyro
import torch
from pyro import distributions as dist
from torch import nn


def guide(x):
    """A program without parameters."""


class Bare(nn.Module):
    def __init__(self, x_shape, latent_dim, hidden_dims=(), activation="tanh", width: int = 3):
        super().__init__()
        self.x_shape, self.latent_dim, self.width = x_shape, latent_dim, width
        self.encoder = nn.Linear(16, latent_dim)

    def forward(self, x):
        loc = self.locate(x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, torch.ones(())).to_event(1))

    def locate(self, x):
        return self.encoder(x.flatten(1))


class Unmade(Bare):
    def __init__(self, x_shape, latent_dim):
        {}["width"]


class Stops(Bare):
    def locate(self, x):
        raise RuntimeError("two lines\\n\\nof which the second matters")


class Looks(Bare):
    def locate(self, x):
        return {}["nothing"]


class Refuses(Bare):
    def locate(self, x):
        raise ValueError("these are no images of mine")


class Outside(Bare):
    def locate(self, x):
        return torch.full((len(x), self.latent_dim), torch.nan)


class Unfit(Bare):
    def locate(self, x):
        return self.encoder(x)
'''
FILE = "own_guides_of_the_command_line.py"


def said(*words: object, code: int = 2) -> str:
    """What a command says of a mistake, in one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*map(str, words), "--quiet"]) == code, err.getvalue()
    line = err.getvalue()
    assert line.startswith("pyro-vae: error: ")
    assert line.count("\n") == 1
    return line.removeprefix("pyro-vae: error: ").rstrip("\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with images, a run and classes of one's own."""
    path = tmp_path_factory.mktemp("messages")
    with contextlib.chdir(path):
        write_images(path / "images.npy")
        (path / FILE).write_text(OWN)
        yield path
    sys.modules.pop(FILE.removesuffix(".py"), None)


@pytest.fixture(scope="module")
def fitted(folder):
    return write_run(folder / "run", folder / "images.npy")


def tiny(**more: object) -> list[object]:
    """Flags of a run that takes a moment."""
    words: list[object] = []
    for name, value in (settings("images.npy") | {"init_bias": "false"} | more).items():
        words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return words


def line_of(text: str) -> int:
    """The line of the class file that a text is in."""
    return next(number for number, line in enumerate(OWN.splitlines(), 1) if text in line)


FLAGS = [
    ["--latent_dim", 0], ["--hidden_dims", 0], ["--encoder_dims", 0], ["--data", "mnist6"], ["--binarization", "half"],
    ["--labels", "true"], ["--labels", "x"], ["--quadrants", 4],
    ["--valid_size", -1], ["--valid_size", 1000], ["--data_seed", -1], ["--seed", -1], ["--seed", 2**64],
    ["--epochs", 0], ["--batch_size", 0], ["--batch_size", 49], ["--lr", -1], ["--lr", "inf"], ["--adam_eps", -1],
    ["--schedule", "x"], ["--kl_warmup", -1], ["--clip_grad_norm", 0], ["--patience", 0], ["--compile", "x"],
    ["--device", "x"], ["--num_test", 1], ["--num_samples", 0], ["--elbo_samples", 1], ["--num_gaps", -1],
    ["--model", "x"], ["--guide", "x"], ["--prior", "x"], ["--likelihood", "x"], ["--objective", "x"],
    ["--encoder", "x"], ["--decoder", "x"],
    ["--activation", "x"], ["--init_bias", "x"], ["--patience", 3, "--valid_size", 0], ["--out", "images.npy"],
    ["--measure", "aiss"], ["--prior", "vamp"], ["--guide", "iaf", "--latent_dim", 1],
]  # fmt: skip


def test_every_setting_has_a_wrong_value_to_try():
    assert {field.name for field in fields(Cell)} - {words[0].removeprefix("--") for words in FLAGS} == {"fitted_model"}


def assert_in_flags(message: str, flag: str, words: list) -> None:
    """A message names a flag, and no argument as Python writes it."""
    assert flag in message
    arguments = [field.name for field in fields(Cell) if "_" in field.name] + ["num_components", "num_chains"]
    found = re.findall(rf"(?<![-.\w])(?:{'|'.join(arguments)})(?!\w)|\w=\.\.\.|=True|=None", message)
    assert not found, (message, words)


@pytest.mark.parametrize("words", FLAGS, ids=lambda words: " ".join(map(str, words)))
def test_a_wrong_value_is_told_with_its_flag(words, folder):
    flag = {"vamp": "--prior.num_components", "iaf": "--latent_dim"}.get(words[1], words[0])
    assert_in_flags(said("fit", *tiny(), *words), flag, words)


@pytest.mark.parametrize(
    "words",
    [["--num_test", 0], ["--num_samples", 0], ["--elbo_samples", 1], ["--num_gaps", -1], ["--seed", -1],
     ["--device", "x"], ["--data", "nothing.npy"]],
    ids=lambda words: " ".join(map(str, words)),
)  # fmt: skip
def test_a_wrong_value_of_evaluate_is_told_with_its_flag(words, fitted):
    assert_in_flags(said("evaluate", fitted, *words), words[0], words)


@pytest.mark.parametrize(
    ("flag", "options", "words"),
    [
        ("--ais", "num_test=0", "num_test must be a whole number of at least 1; got 0."),
        ("--ais", "num_chain=2", "has no option 'num_chain'. Did you mean 'num_chains'?"),
        ("--ais", "num_chains=2,,", "cannot read 'ais(num_chains=2,,)'"),
        ("--ais", "2", "cannot read 'ais(2)'"),
        ("--log_likelihood", "seed=2", "has no option 'seed'"),
    ],
)
def test_wrong_options_of_an_evaluation_are_told_with_its_flag(flag, options, words, fitted):
    assert said("evaluate", fitted, flag, options).startswith(f"{flag}: {words}")


def test_what_an_evaluation_refuses_is_told_before_anything_is_measured(fitted):
    told = said("evaluate", fitted, "--ais", "num_chains=0")
    assert "ais: num_chains must be" in told
    assert not list(fitted.glob("evaluation,*"))


def test_a_fitted_model_of_a_run_that_takes_none_is_refused(fitted):
    told = "the run takes over no other run's model: leave out --fitted_model."
    assert said("figures", fitted, "--fitted_model", fitted) == told


@pytest.mark.parametrize(
    "words",
    [["--jobs", 0], ["--threads", 0], ["--backend", "x"], ["--scheduler", "tcp://x"], ["--scheduler", "x"]],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_wrong_value_of_compare_is_told_with_its_flag_before_anything_is_written(words, folder):
    grid = folder / "grid.yaml"
    grid.write_text("common: {data: images.npy}\ngrid: {guide: [mean_field, full_rank]}\n")
    assert_in_flags(said("compare", grid, "--out", folder / "cmp", *words), words[0], words)
    assert not (folder / "cmp").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--network", "conv", "--network.channels", 4, 0],
            "ConvNetwork: --network.channels must be at least 1; got 0.",
        ),
        (
            ["--network", "conv", "--encoder.channels", 4, 0],
            "ConvNetwork: --encoder.channels must be at least 1; got 0.",
        ),
        (
            ["--network", "conv(channels=(4, 4, 4))"],
            "ConvNetwork: images must be at least 8 x 8 to be halved 3 times; got x_shape = (1, 4, 4). Halve them less "
            "often, as by --network.channels=(32,).",
        ),
        (
            ["--network", "conv", "--guide", "local"],
            "guide local takes no encoder: leave out --encoder conv; beside --network, which is for both sides, give "
            "--encoder mlp.",
        ),
    ],
)
def test_a_network_of_both_sides_is_told_with_the_flag_that_was_typed(words, message, folder):
    assert said("fit", "--data", "images.npy", *words) == message


@pytest.mark.parametrize("kind", PARTS)
def test_a_wrong_option_of_any_part_is_told_with_its_flag(kind):
    """Options that the constructor refuses; of one that it takes there is nothing to tell."""
    tried = 0
    for name in set(part_names(kind)) - {"trace_elbo"}:  # Pyro's own takes anything
        for option in Part.of(kind, name).options:
            for wrong in (-3, -1.5, math.nan, "nonsense"):
                text = Part.of(kind, name).text_with({option: wrong})
                try:
                    with named_as("flags"):
                        shape = (16,) if name.startswith("linear_gaussian") else (1, 4, 4)
                        classes = 3 if name.startswith("conditional") else None
                        if kind == "objective":
                            make_objective(text)
                        else:
                            data = partial(torch.rand, 600, *shape)
                            make_pair(shape, 2, (3,), data=data, num_classes=classes, **{kind: text})
                except ValueError as error:
                    tried += 1
                    message = str(error).replace(text, "")
                    assert f"--{kind}.{option}" in message
                    assert not re.search(rf"(?<![-.\w]){option}(?!\w)", message), message
    assert (
        tried
        >= {"model": 2, "likelihood": 3, "prior": 5, "guide": 20, "objective": 20, "encoder": 6, "decoder": 6}[kind]
    )


SEE = "`pyro-vae fit --help` lists what there is."
DEFINES = "it defines Bare, Looks, Outside, Refuses, Stops, Unfit, Unmade."


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mnist-5k", " Did you mean --data mnist-5k?"),
        ("iaf(num_flows=2)", " Did you mean --guide iaf(num_flows=2)?"),
        ("mixture", " Did you mean --guide mixture or --prior mixture?"),
        ("cosine", " Did you mean --schedule cosine?"),
        ("run", " Did you mean --config run?"),
        ("images.npy", " Did you mean --data images.npy?"),
        ("extra", ""),
    ],
)
def test_a_word_without_its_flag_is_told_the_flag(word, meant, fitted):
    assert said("fit", word) == f"{word!r} is one word too many.{meant} {SEE}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "guide",
            f"{FILE}:guide is a function, and a guide is made from a class, which holds its parameters: write a "
            f"torch.nn.Module whose forward does what the function does, or pass the function to pyro_vae.fit in "
            f"Python.",
        ),
        ("", f"{FILE}: names no class after the colon; {DEFINES}"),
        ("Bear", f"{FILE} does not define the class 'Bear'; {DEFINES} Did you mean 'Bare'?"),
    ],
)
def test_what_is_no_class_of_a_file_is_said(name, message, folder):
    assert said("fit", "--guide", f"{FILE}:{name}") == f"--guide: {message}"


def test_a_class_that_cannot_be_made_is_said_with_its_line(folder):
    said_of = said("fit", *tiny(guide=f"{FILE}:Unmade"))
    place = f"{FILE}, line {line_of('width' + chr(34) + ']')}"
    assert said_of == f"--guide {folder / FILE}:Unmade cannot be made with its settings: KeyError: 'width' ({place})."


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "Stops", "raise RuntimeError",
            "the guide cannot be run on data of shape (5, 1, 4, 4): RuntimeError: two lines of which the second "
            "matters ({})",
        ),
        ("Looks", '["nothing"]', "KeyError: 'nothing' ({})."),
        ("Refuses", "raise ValueError", "these are no images of mine ({})"),
        (
            "Unfit", "return self.encoder(x)",
            "the guide cannot be run on data of shape (5, 1, 4, 4): RuntimeError: mat1 and mat2 shapes cannot be "
            "multiplied (20x4 and 16x2) ({})",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("evaluated", [True, False])
def test_what_fails_in_ones_own_code_is_said_with_its_line(name, line, message, evaluated, folder):
    number = max(n for n, text in enumerate(OWN.splitlines(), 1) if text.strip().endswith(line) or line in text)
    out = folder / f"new-{name}-{evaluated}"
    words = [] if evaluated else ["--no_evaluate"]
    found = said("fit", *tiny(guide=f"{FILE}:{name}"), "--out", out, *words)
    shape = "(5, 1, 4, 4)" if evaluated else "(10, 1, 4, 4)"
    wanted = message.format(f"{FILE}, line {number}").replace("(5, 1, 4, 4)", shape)
    assert found == wanted.replace("20x4", "20x4" if evaluated else "40x4")
    assert not out.exists()


def test_a_nan_of_ones_own_is_said_with_its_site_and_its_line(folder):
    found = said("fit", *tiny(guide=f"{FILE}:Outside"))
    assert found.startswith("The first value that is not finite is at site 'z' of the guide. Expected parameter loc ")
    assert found.endswith(f"({FILE}, line {line_of('pyro.sample(')})")


def test_a_class_without_words_of_its_own_has_none_in_its_help(folder):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fit", "--guide.help", f"{FILE}:Bare"]) == 0
    assert out.getvalue() == (
        f"guide {FILE}:Bare\n\noptions:\n  --guide.width N  (default: 3)\n\nOr in one: --guide '{FILE}:Bare(width=3)'\n"
    )


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["fit", "--out", "{}"], "--out"),
        (["fit", "--config", "{}"], "--config"),
        (["fit", "--fitted_model", "{}"], "--fitted_model"),
        (["evaluate", "{}"], "RUN"),
        (["evaluate", "run", "--out", "{}"], "--out"),
        (["figures", "run", "--fitted_model", "{}"], "--fitted_model"),
        (["figures", "run", "--out", "{}"], "--out"),
        (["compare", "{}", "--out", "c"], "GRID.yaml"),
        (["compare", "grid.yaml", "--out", "{}"], "--out"),
        (["report", "{}"], "DIR"),
        (["report", "c", "--out", "{}"], "--out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["", "a\0b", "a\ud800"])
def test_what_can_be_no_path_is_refused(words, flag, path, folder):
    before = sorted(folder.iterdir())
    see = f"`pyro-vae {words[0]} --help` lists what there is."
    found = said(*(word.format(path) for word in words))
    assert found == f"{flag} must be the path of a file or folder; got {path!r}. {see}"
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("n" * 300, f"{'n' * 300}/config.yaml: File name too long."),
        ("images.npy", "cannot make the run folder images.npy: File exists. Choose another --out."),
        ("images.npy/run", "cannot make the run folder images.npy/run: Not a directory. Choose another --out."),
    ],
)
def test_a_folder_that_cannot_be_made_is_said(path, message, folder):
    assert said("fit", *tiny(), "--out", path) == message


def test_nothing_is_written_before_the_pair_could_be_made(folder):
    before = sorted(folder.iterdir())
    too_large = "this needs more memory than there is: take smaller networks, fewer latent dims or fewer data."
    assert said("fit", *tiny(latent_dim=10**13)) == too_large
    assert said("fit", *tiny(latent_dim=10**13), "--no_evaluate") == too_large
    assert sorted(folder.iterdir()) == before
