"""Damages one kind of input again and again, and reports each answer that is not one plain line.

A process of its own, so that memory can be bounded: ``python attempts.py KIND COUNT SEED FOLDER``.
"""

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from hostile import damage_folder, damaged_bytes, damaged_text, damaged_words

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison import Grid

SECONDS = 120
"""CPU seconds for one attempt. The longest, ``evaluate --ais`` without options, takes 15 to 35."""

LONGEST = 1000
"""Characters of a message."""

GIGABYTES = 4
"""Of address space beyond what the libraries take."""

GRID = """\
design: frozen
common:
  data: images.npy
  epochs: 1
  batch_size: 16
  binarization: threshold
  latent_dim: 2
  hidden_dims: [5]
  compile: "off"
  num_test: 4
  num_samples: 5
  elbo_samples: 5
fitted_model:
  guide: mean_field
grid:
  guide: [mean_field, low_rank(rank=1)]
  seed: [0, 1]
cells:
- guide: iaf(num_flows=1)
  lr: 1.0e-3
"""

FIT = [
    "fit", "--data", "images.npy", "--epochs", "1", "--batch_size", "16", "--binarization", "threshold",
    "--latent_dim", "2", "--hidden_dims", "5", "--compile", "off", "--num_test", "4", "--num_samples", "5",
    "--elbo_samples", "5", "--guide", "low_rank", "--guide.rank", "1",
]  # fmt: skip

COMMANDS = (
    [*FIT, "--print_config"],
    [*FIT, "--prior", "student_t", "--prior.df", "3", "--objective", "iwae(num_particles=2)", "--print_config"],
    [*FIT, "--kl_warmup", "2", "--lr", "1e-3", "--patience", "1", "--clip_grad_norm", "1.0", "--valid_size", "2"],
    ["evaluate", "run", "--num_samples", "7", "--num_test", "3", "--seed", "1"],
    ["evaluate", "run", "--ais", "num_test=1, num_chains=2, num_temperatures=3"],
    ["figures", "run"],
    ["report", "comparison"],
    ["compare", "grid.yaml", "--out", "new"],
    ["list", "guides"],
    ["--json", "list"],
)


def write_images(path: Path) -> None:
    """Write a folder of images with a split and classes."""
    dice = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "ab":
            (path / split / label).mkdir(parents=True)
            for number in range(6):
                image = Image.fromarray(dice.integers(0, 256, (4, 4), dtype=np.uint8))
                image.save(path / split / label / f"{number}.png")


def prepare(folder: Path) -> None:
    """Lay out what attempts start from."""
    dice = np.random.default_rng(0)
    np.save(folder / "images.npy", dice.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8))
    splits = {name: dice.random((size, 1, 4, 4)) for name, size in (("train", 8), ("valid", 4), ("test", 4))}
    np.savez(folder / "images.npz", **splits)
    write_images(folder / "images")
    (folder / "grid.yaml").write_text(GRID)
    for words in ([*FIT, "--out", "run"], ["compare", "grid.yaml", "--out", "comparison"]):
        assert main([*words, "--quiet"]) == 0, words


def grids(dice: random.Random) -> Callable[[], object]:
    """Damage a grid."""
    Path("damaged.yaml").write_text(damaged_text(GRID, dice), encoding="utf-8", errors="surrogatepass")
    return lambda: Grid.read("damaged.yaml")


def arguments(dice: random.Random) -> Callable[[], object]:
    """Damage a command."""
    shutil.rmtree("new", ignore_errors=True)
    words = damaged_words(dice.choice(COMMANDS), dice)
    return lambda: command(words)


def arrays(dice: random.Random) -> Callable[[], object]:
    """Damage a file of images."""
    name = dice.choice(["images.npy", "images.npz"])
    damaged = Path("damaged" + name[-4:])
    damaged.write_bytes(damaged_bytes(Path(name).read_bytes(), dice))
    return lambda: pyro_vae.load_data(damaged)


def images(dice: random.Random) -> Callable[[], object]:
    """Damage a folder of images."""
    copied = copy_of("images", dice)
    return lambda: pyro_vae.load_data(copied)


def runs(dice: random.Random) -> Callable[[], object]:
    """Damage a run folder."""
    copied = copy_of("run", dice)
    if dice.random() < 0.5:
        return lambda: as_it_was(copied)
    return lambda: command([dice.choice(["evaluate", "figures"]), str(copied)])


def as_it_was(folder: Path) -> None:
    """Load a run, which has the parameters of the one that was written, or is refused.

    Raises:
        AssertionError: a run with other parameters is taken for it.
    """
    found, written = (
        [value for module in (run.model, run.guide) for value in module.state_dict().values()]
        for run in (pyro_vae.load_run(folder), pyro_vae.load_run("run"))
    )
    if len(found) != len(written) or not all(map(torch.equal, found, written)):
        raise AssertionError(f"{folder} was taken with other parameters than were written")


def comparisons(dice: random.Random) -> Callable[[], object]:
    """Damage a comparison's folder."""
    copied = copy_of("comparison", dice)
    return lambda: command(["report", str(copied)])


def copy_of(name: str, dice: random.Random) -> Path:
    """Return a damaged copy of a folder."""
    copied = Path("damaged")
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(name, copied)
    damage_folder(copied, dice)
    return copied


def command(words: list[str]) -> None:
    """Run a command.

    Raises:
        RefusedError: it ended with an error that it says to the user.
        AssertionError: it ended with something else.
    """
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    said = error.getvalue()
    if "unexpected" in said or "Traceback" in said or code not in (0, 2):
        raise AssertionError(f"{words} ended with {code}: {said[-600:]}")
    if code == 2:
        name, _, message = said.splitlines()[-1].partition(" error: ")
        if name != "pyro-vae:" or len(message) > LONGEST:
            raise AssertionError(f"{words} said {said[-600:]}")
        raise RefusedError(message)


def answer(attempt: Callable[[], object]) -> tuple[str, str]:
    """Return how an attempt ended ("taken", "refused" or "wrong"), and with what message."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        attempt()
    except (ValueError, OSError) as error:
        message = str(error)
        own = type(error) is ValueError or type(error).__module__.startswith(("pyro_vae.", __name__))
        if not own or not message or len(message) > LONGEST or "\n" in message:
            return "wrong", f"{type(error).__name__}: {message[:LONGEST]!r} ({len(message)} characters)"
        return "refused", message
    except OverdueError:
        return "wrong", f"more than {SECONDS} s: {traceback.format_exc()[-LONGEST:]}"
    except Exception:
        return "wrong", traceback.format_exc()[-LONGEST:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "taken", ""


class RefusedError(ValueError):
    """A command says what is wrong with what it was given."""


class OverdueError(BaseException):
    """An attempt takes too long."""


def _stop(*_: object) -> None:
    raise OverdueError


UNDAMAGED: dict[str, tuple[Callable[[], object], ...]] = {
    "grids": (lambda: Grid.read("grid.yaml"),),
    "arguments": tuple(lambda words=words: command(words) for words in COMMANDS),
    "arrays": (lambda: pyro_vae.load_data("images.npy"), lambda: pyro_vae.load_data("images.npz")),
    "images": (lambda: pyro_vae.load_data("images"),),
    "runs": (
        lambda: as_it_was(Path("run")), lambda: command(["evaluate", "run"]), lambda: command(["figures", "run"]),
    ),
    "comparisons": (lambda: command(["report", "comparison"]),),
}  # fmt: skip
"""What each kind of attempt does, without damage."""

KINDS = {kind.__name__: kind for kind in (grids, arguments, arrays, images, runs, comparisons)}


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let the process take only so much address space more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    yield


def not_taken(kind: str) -> list[str]:
    """Return what is said of inputs without damage that are not taken."""
    found = []
    for number, attempt in enumerate(UNDAMAGED[kind]):
        for made in ("new", "runs"):
            shutil.rmtree(made, ignore_errors=True)
        end, message = answer(attempt)
        if end != "taken":
            found.append(f"undamaged {number}: {end}: {message}")
    return found


def run(kind: str, count: int, seed: int, folder: Path) -> dict[str, object]:
    """Return how ``count`` attempts ended: how many were taken, how many refused, and what went wrong.

    Wrong, too, is an input without damage that is not taken, before or after the attempts.
    """
    signal.signal(signal.SIGPROF, _stop)
    torch.set_num_threads(1)
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(folder)
        ends: Counter[str] = Counter()
        wrong = []
        with bounded_memory():
            wrong += not_taken(kind)
            for number in range(count):
                end, message = answer(KINDS[kind](random.Random(f"{kind} {seed} {number}")))
                ends[end] += 1
                if end == "wrong":
                    wrong.append(f"attempt {number}: {message}")
            wrong += not_taken(kind)
    return {"taken": ends["taken"], "refused": ends["refused"], "wrong": wrong}


if __name__ == "__main__":
    kind, count, seed, folder = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        result = run(kind, int(count), int(seed), Path(folder).absolute())
    sys.stdout.write(json.dumps(result))
