"""Folders that somebody sent: nothing in them runs, nothing leads out of them, and damage is one line."""

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_folders import settings, write_comparison, write_images, write_run

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison import Cell, Comparison, Grid, load_cell
from pyro_vae.comparison.results import ELBO, is_finished
from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.errors import RunError
from pyro_vae.runtime.checkpoint import read_checkpoint, write_checkpoint

EVIL = """
from pathlib import Path

Path({marker!r}).touch()


class Guide:
    def __init__(self, *args, **kwargs):
        Path({marker!r}).touch()
"""


def command(*words: object) -> str:
    """What a command says of an error, in the one line that it has for it; nothing where it succeeds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, words), "--quiet"])
    lines = [line for line in err.getvalue().splitlines() if line.startswith("pyro-vae: error")]
    assert code in (0, 1, 2), err.getvalue()
    assert len(lines) == (code == 2), err.getvalue()
    assert "error: unexpected" not in err.getvalue()
    assert "Traceback" not in err.getvalue()
    return lines[0] if lines else ""


def refused(read: Callable[[], object]) -> str:
    """What a reader says of an error, in one line; nothing where it succeeds."""
    raised = None
    try:
        said = read()
    except (ValueError, DataNotFoundError) as error:
        raised = error
    if raised is None:
        return said if isinstance(said, str) else ""
    assert len(str(raised).splitlines()) == 1
    return str(raised)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = write_images(folder / "images.npy")
    write_run(folder / "run", data)
    write_comparison(folder / "cmp", data)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def folder(originals, tmp_path) -> Path:
    """Copies of a run and a comparison, to damage."""
    for name in ("run", "cmp"):
        shutil.copytree(originals / name, tmp_path / name)
    return tmp_path


RUN_READERS: dict[str, Callable[[Path], object]] = {
    "load_run": lambda folder: pyro_vae.load_run(folder / "run"),
    "load_cell": lambda folder: load_cell(folder / "run"),
    "evaluate": lambda folder: command("evaluate", folder / "run", "--num_samples", 31),
    "figures": lambda folder: command("figures", folder / "run"),
    "resume": lambda folder: command("fit", "--resume", "--out", folder / "run"),
    "config": lambda folder: command("fit", "--config", folder / "run", "--print_config"),
}
COMPARISON_READERS: dict[str, Callable[[Path], object]] = {
    "Comparison.read": lambda folder: Comparison.read(folder / "cmp"),
    "Grid.read": lambda folder: Grid.read(folder / "cmp" / "grid.yaml"),
    "report": lambda folder: command("report", folder / "cmp"),
    "compare": lambda folder: command("compare", folder / "cmp" / "grid.yaml", "--out", folder / "again"),
}


# Classes


def with_config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A folder whose run has another configuration."""

    def damage(folder: Path) -> None:
        file = folder / "run" / "config.yaml"
        config = yaml.safe_load(file.read_text())
        change(config)
        file.write_text(yaml.safe_dump(config))

    return damage


def call(path: str, **args: object) -> dict:
    return {"class": path, "args": args}


HOSTILE_CLASSES = {
    "os:system": lambda marker: call("os:system", command=f"touch {marker}"),
    "Popen": lambda marker: call("subprocess:Popen", args=["touch", str(marker)]),
    "a partial": lambda marker: call("functools:partial", func=call("os:system", command=f"touch {marker}")),
    "nested": lambda marker: call(
        "pyro_vae.models.vae:VAE", x_shape=call("os:system", command=f"touch {marker}"), latent_dim=2
    ),
    "through a package": lambda marker: call("torch.nn.modules.module:os.system", command=f"touch {marker}"),
    "a function of torch": lambda _: call("torch.nn.modules.module:register_module_forward_hook", hook=1),
    "the command line": lambda _: call("pyro_vae.__main__:main"),
    "a module of this folder": lambda _: call("evil_module:Guide"),
    "no name": lambda _: call("../evil_module.py:Guide"),
    "a list": lambda _: {"class": ["os:system"], "args": {}},
    "args that are none": lambda _: {"class": "torch.nn.modules.activation:Tanh", "args": [1]},
    "another argument": lambda _: call("torch.nn.modules.activation:Tanh", nothing=1),
}


@pytest.mark.parametrize("name", HOSTILE_CLASSES)
@pytest.mark.parametrize("which", ["model", "guide"])
def test_a_configuration_runs_nothing(name, which, folder, monkeypatch):
    marker = folder / "ran"
    (folder / "evil_module.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(folder)
    with_config(lambda config: config.update({which: HOSTILE_CLASSES[name](marker)}))(folder)
    message = refused(lambda: pyro_vae.load_run(folder / "run"))
    assert f"{folder / 'run'}: {which}" in message
    assert not marker.exists()
    assert "evil_module" not in sys.modules


HOSTILE_PARTS = ["subprocess:Popen(args=['touch', 'MARKER'])", "FOLDER/evil_part.py:Guide", "evil_part:Guide",
                 "torch.nn.modules.module:os.system(command='touch MARKER')", "functools:partial(func=1)"]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE_PARTS)
@pytest.mark.parametrize("kind", ["model", "guide", "objective", "prior"])
def test_a_recipe_runs_nothing(part, kind, folder, monkeypatch):
    marker = folder / "ran"
    (folder / "evil_part.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(folder)
    text = part.replace("MARKER", str(marker)).replace("FOLDER", str(folder))
    with_config(lambda config: config["recipe"].update({kind: text}))(folder)
    grid = folder / "cmp" / "grid.yaml"
    content = yaml.safe_load(grid.read_text())
    content["cells"][1][kind] = text
    grid.write_text(yaml.safe_dump(content))
    for name, read in (RUN_READERS | COMPARISON_READERS).items():
        if name != "load_run":  # which reads no recipe
            assert refused(lambda read=read: read(folder)), name
    assert not marker.exists()
    assert "evil_part" not in sys.modules


OWN = """
from pyro_vae.guides import MeanFieldGuide


class Mine(MeanFieldGuide):
    pass
"""


def test_a_class_of_ones_own_needs_to_be_named_or_trusted(originals, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trusted_guide", None)
    sys.modules.pop("trusted_guide")
    (tmp_path / "trusted_guide.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own, run = f"{tmp_path / 'trusted_guide.py'}:Mine", tmp_path / "run"
    flags = [word for name, value in settings(originals / "images.npy").items() for word in (f"--{name}", value)]
    flags = [word for value in flags for word in (value if isinstance(value, list) else [value])]
    assert command("fit", "--guide", own, "--out", run, *flags) == ""
    how = "because loading it runs its code: if you trust that code, add --trust."
    for words in (["evaluate", run], ["figures", run], ["fit", "--resume", "--out", run], ["fit", "--config", run]):
        line = command(*words)
        assert own in line
        assert line.endswith(how)
    assert command("fit", "--resume", "--out", run, "--guide", own) == ""
    for words in (["evaluate", run], ["fit", "--resume", "--out", run], ["figures", run]):
        assert command(*words, "--trust") == ""
    loaded = pyro_vae.load_run(run, trust=True)
    assert type(loaded.guide).__name__ == "Mine"
    assert pyro_vae.load_run(run, guide=loaded.guide).guide is loaded.guide
    for read in (pyro_vae.load_run, load_cell):
        with pytest.raises(RunError, match=r"Mine, .*pass trust=True"):
            read(run)
    assert type(load_cell(run, trust=True)[1]).__name__ == "Mine"
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"common": settings(originals / "images.npy"), "grid": {"guide": [own]}}))
    assert command("compare", grid, "--out", tmp_path / "cmp", "--threads", 1).endswith(how)
    assert command("compare", grid, "--out", tmp_path / "cmp", "--threads", 1, "--trust") == ""
    assert command("report", tmp_path / "cmp").endswith(how)
    assert command("report", tmp_path / "cmp", "--trust") == ""


# Paths


def replace_by_link(file: Path, target: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.symlink_to(target)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "checkpoint/last.safetensors", "checkpoint",
                                  "evaluation.json", "per_datum.safetensors", "fitted.json"])  # fmt: skip
def test_links_lead_out_of_no_run(name, folder):
    outside = folder / "outside"
    shutil.move(folder / "run" / name, outside)
    (folder / "run" / name).symlink_to(outside)
    readers = {
        "config.yaml": ("load_run", "load_cell", "evaluate", "resume", "config"),
        "metrics.csv": ("load_run", "load_cell", "evaluate", "resume"),
        "evaluation.json": ("resume",),
        "per_datum.safetensors": ("resume",),
    }.get(name, ("load_run", "load_cell", "evaluate") if name != "fitted.json" else ("evaluate", "figures"))
    for reader in readers:
        assert f"leads out of {folder / 'run'}" in refused(lambda reader=reader: RUN_READERS[reader](folder))


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "checkpoint/last.safetensors"])
def test_a_link_to_itself_is_one_line(name, folder):
    file = folder / "run" / name
    file.unlink()
    file.symlink_to(file.name)
    for reader in ("load_run", "load_cell", "evaluate"):
        assert refused(lambda reader=reader: RUN_READERS[reader](folder))


@pytest.mark.parametrize("folders", [["../../run"] * 2, ["/etc"] * 2, ["x"], "x", [3, 4], ["a" * 16] * 3])
def test_folders_of_a_grid_stay_inside(folders, folder):
    grid = folder / "cmp" / "grid.yaml"
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text()) | {"folders": folders}))
    for name in ("Comparison.read", "report"):
        said = refused(lambda name=name: COMPARISON_READERS[name](folder))
        assert f"{grid}: `folders` must be" in said


def test_links_lead_out_of_no_comparison(folder):
    secret = folder / "secret"
    secret.write_text("a secret")
    cell = next((folder / "cmp" / "cells").iterdir())
    (cell / "evaluation.json").unlink(missing_ok=True)
    (cell / "error.txt").symlink_to(secret)
    for each in (folder / "cmp" / "cells").iterdir():
        (each / "evaluation.json").unlink(missing_ok=True)
        (each / "error.txt").unlink(missing_ok=True)
        (each / "error.txt").symlink_to(secret)
    said = refused(lambda: Comparison.read(folder / "cmp"))
    assert "error.txt leads out of" in said
    replace_by_link(folder / "cmp" / "cells", folder / "run")
    assert "leads out of" in refused(lambda: Comparison.read(folder / "cmp"))


# Damage


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "empty": b"",
    "list": b"[]",
    "number": b"3",
    "text": b'"text"',
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "binary": bytes(range(256)),
    "cut": b'{"format": 2, "cell',
    "format alone": b'{"format": 2}\n',
    "deep": b"[" * 100_000,
    "deep mapping": b'{"a":' * 50 + b"1" + b"}" * 50,
    "huge number": b'{"format": ' + b"9" * 5000 + b"}",
    "hex number": b"{format: 0x" + b"f" * 5000 + b"}",
    "twice": b'{"format": 2, "format": 2}',
    "surrogate": b'{"format": 2, "cell": "\\ud800"}',
    "escape": b'{"format": 2, "cell": "\\u001b[31m"}',
    "bomb": BOMB.encode(),
    "recursive": b"a: &a [*a]\n",
    "recursive mapping": b"&a {a: *a}\n",
    "unhashable": b"? [1, 2]\n: 3\n",
    "tag": b"!!python/object/apply:os.system ['true']\n",
    "set": b"!!set {a, b}\n",
    "date": b"format: 2020-13-45\n",
    "large": b"# " + b"x" * (17 * 2**20),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["config.yaml", "fitted.json", "metrics.csv", "checkpoint/last.safetensors"])
def test_a_damaged_file_of_a_run_is_one_line(name, text, folder):
    (folder / "run" / name).write_bytes(TEXTS[text])
    readers = {"fitted.json": ("evaluate", "figures")}.get(name, ("load_run", "load_cell", "evaluate"))
    for reader in readers:
        assert str(folder / "run") in refused(lambda reader=reader: RUN_READERS[reader](folder)), reader


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["grid.yaml", "evaluation.json", "per_datum.safetensors", "metrics.csv"])
def test_a_damaged_file_of_a_comparison_is_one_line(name, text, folder):
    (cell, *_) = Comparison.read(folder / "cmp").results
    file = folder / "cmp" / name if name == "grid.yaml" else cell.path / name
    file.write_bytes(TEXTS[text])
    for reader in ("Comparison.read", "report"):
        assert str(file if name == "grid.yaml" else cell.path) in refused(
            lambda reader=reader: COMPARISON_READERS[reader](folder)
        )


ODD = [None, [], {}, "text", 3.5, float("nan"), -1, True, [[1]], {"a": {"b": []}}, 2**63, "x" * 500]


def each_field(value: dict, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where a mapping has values."""
    found = []
    for name, item in value.items():
        found.append((*above, name))
        if isinstance(item, dict) and len(above) < 3:
            found += each_field(item, (*above, name))
    return found


def put(value: dict, place: tuple[str, ...], odd: object) -> dict:
    """The same with another value, or none, in one place."""
    *above, last = place
    inner = value
    for name in above:
        inner = inner[name]
    if odd is ...:
        del inner[last]
    else:
        inner[last] = odd
    return value


def test_an_odd_field_of_a_configuration_is_one_line_or_does_no_harm(folder):
    file = folder / "run" / "config.yaml"
    config = file.read_text()
    number = random.Random(0)
    for place in number.sample(each_field(yaml.safe_load(config)), 30):
        for odd in [..., number.choice(ODD)]:
            file.write_text(yaml.safe_dump(put(yaml.safe_load(config), place, odd)))
            for reader in ("load_run", "load_cell"):
                refused(lambda reader=reader: RUN_READERS[reader](folder))
    for place in ("format", "data", "dtype", "model", "guide", ("data", "name")):
        place = (place,) if isinstance(place, str) else place
        file.write_text(yaml.safe_dump(put(yaml.safe_load(config), place, ...)))
        said = refused(lambda: pyro_vae.load_run(folder / "run"))
        assert (f"`{place[-1]}` is missing." in said) == (place != ("format",))
        assert said


NO_NUMBERS = ["nan", [1.0], {"a": 1}, True]


def kinds_of_damage(content: dict, place: tuple[str, ...]) -> list:
    """What cannot stand in a place of results: another kind of value, and none where there must be one."""
    value = content
    for name in place:
        value = value[name]
    if isinstance(value, bool):
        return ["true", 1, [True]]
    if isinstance(value, int | float):
        return [*NO_NUMBERS, *([-1] if "standard_error" in place[-1] or isinstance(value, int) else [])]
    return {str: [3.5, ["a"], {}], list: ["text", 3, [1.5]], dict: ["text", 3, []]}.get(type(value), [])


def test_a_damaged_field_of_results_is_named_by_whoever_reads_them(folder):
    """Each field, in each wrong way that its kind has, and by readers that do without it."""
    (cell, *_) = Comparison.read(folder / "cmp").results
    file = cell.path / "evaluation.json"
    content = file.read_text()
    places = [
        place
        for place in each_field(json.loads(content))
        if place[0] not in ("format", "cell", "settings") and place[:2] not in (("data", "sizes"), ("data", "source"))
        if place[:2] not in (("data", "x_shape"), ("data", "valid_size"), ("data", "seed"))
        if place[0] != "environment" or len(place) == 1
    ]
    assert len(places) == 69
    for place in places:
        for odd in kinds_of_damage(json.loads(content), place):
            file.write_text(json.dumps(put(json.loads(content), place, odd)))
            said = refused(lambda: is_finished(cell.path, cell.cell))
            assert said.startswith(f"{file}: "), (place, odd)
            assert f"`{place[-1]}` must be" in said, (place, odd)
            assert said.endswith(" Remove the file: it is measured again.")


@pytest.mark.parametrize("odd", [..., "nan"])
def test_every_reader_of_a_run_names_a_damaged_field_of_its_results(odd, folder):
    (first, *_) = Comparison.read(folder / "cmp").results
    for path in (folder / "run", first.path):
        file = path / "evaluation.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(put(content, ("measured", "elbo_terms", "rate", "standard_error"), odd)))
        wrong = "is missing." if odd is ... else "must be a number; got 'nan'."
        said = f"{file}: measured: elbo_terms: rate: `standard_error` {wrong} Remove the file: it is measured again."
        readers = {
            "load_run": lambda _, path=path: pyro_vae.load_run(path),
            "figures": lambda _, path=path: command("figures", path),
            "evaluate": lambda _, path=path: command("evaluate", path),
            "evaluate with others": lambda _, path=path: command("evaluate", path, "--num_samples", 31),
        }
        if path.name == "run":
            readers["resume"] = RUN_READERS["resume"]
        else:
            readers |= {name: COMPARISON_READERS[name] for name in ("Comparison.read", "report")}
        for name, read in readers.items():
            assert refused(lambda read=read: read(folder)).removeprefix("pyro-vae: error: ") == said, name


TENSORS = {
    "scalar": {ELBO: torch.tensor(1.0)},
    "table": {ELBO: torch.zeros(5, 2)},
    "whole numbers": {ELBO: torch.zeros(5, dtype=torch.int64)},
    "complex": {ELBO: torch.zeros(5, dtype=torch.complex64)},
    "none": {ELBO: torch.zeros(0)},
    "no elbo": {"elbo_terms.rate": torch.zeros(5)},
    "longer": {ELBO: torch.zeros(5), "elbo_terms.rate": torch.zeros(7)},
}


@pytest.mark.parametrize("name", TENSORS)
def test_odd_values_of_images_are_one_line(name, folder):
    (cell, *_) = Comparison.read(folder / "cmp").results
    save_file(TENSORS[name], cell.path / "per_datum.safetensors", {"format": "2"})
    for reader in ("Comparison.read", "report"):
        assert "per_datum.safetensors: `" in refused(lambda reader=reader: COMPARISON_READERS[reader](folder))


# Sizes


def declared(shape: list[int], size: int) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 16


@pytest.mark.parametrize("content", [declared([2**40], 2**42), declared([2**62, 2**62], 16), declared([4], 2**60),
                                     declared([0, 2**62], 0), (2**63).to_bytes(8, "little") + b"{}",
                                     (2**30).to_bytes(8, "little") + b"{}"])  # fmt: skip
def test_tensors_that_are_declared_huge_are_refused(content, folder):
    (folder / "run" / "checkpoint" / "last.safetensors").write_bytes(content)
    for reader in ("load_run", "load_cell"):
        assert "is damaged" in refused(lambda reader=reader: RUN_READERS[reader](folder))


def test_a_file_without_end_is_refused(folder):
    """As large as a disk, with holes for content."""
    for name in ("checkpoint/last.safetensors", "metrics.csv", "config.yaml"):
        os.truncate(folder / "run" / name, 2**42)
        assert "more than" in refused(lambda: pyro_vae.load_run(folder / "run"))
    (folder / "run" / "config.yaml").unlink()
    os.mkfifo(folder / "run" / "config.yaml")
    assert refused(lambda: pyro_vae.load_run(folder / "run"))


BIG, IAF = 10**9, "pyro_vae.guides.iaf:InverseAutoregressiveGuide"
HUGE_PARTS = [
    ("model", call("pyro_vae.models.vae:VAE", x_shape=[1, 4, 4], latent_dim=BIG, hidden_dims=[BIG])),
    ("model", call("pyro_vae.models.vae:VAE", x_shape=[30000, 30000], latent_dim=2, hidden_dims=[900_000])),
    ("guide", call("pyro_vae.guides.iaf:InverseAutoregressiveGuide", x_shape=[1, 4, 4], latent_dim=2, num_flows=BIG)),
    (
        "guide",
        call("pyro_vae.guides.iaf:InverseAutoregressiveGuide", x_shape=[1, 4, 4], latent_dim=2, num_flows=999_999),
    ),
    ("guide", call("pyro_vae.nn.mlp:MLP", in_features=900_000, hidden_dims=[900_000], out_features=1)),
    ("guide", call("pyro_vae.nn.mlp:MLP", in_features=2, hidden_dims=[1] * 5_000, out_features=1)),
]


@pytest.mark.parametrize(
    ("which", "description"), HUGE_PARTS, ids=["latent", "image", "most flows", "many flows", "wide", "deep"]
)
def test_a_pair_larger_than_its_checkpoint_is_not_built(which, description, folder):
    with_config(lambda config: config.update({which: description}))(folder)
    said = refused(lambda: pyro_vae.load_run(folder / "run"))
    assert "checkpoint" in said
    assert ("is no size of" in said) or ("too small" in said)


@pytest.mark.parametrize(
    "recipe",
    [
        {"latent_dim": BIG},
        {"hidden_dims": [900_000, 900_000]},
        {"hidden_dims": [1] * 3000},
        {"guide": f"iaf(num_flows={BIG})"},
        {"guide": "iaf(num_flows=999999)"},
        {"prior": f"mixture(num_components={BIG})"},
        {"encoder_dims": [999_999] * 3},
    ],
    ids=["latent", "hidden", "deep", "most flows", "many flows", "mixture", "encoder"],
)
def test_a_recipe_larger_than_its_checkpoint_is_not_built(recipe, folder):
    with_config(lambda config: config["recipe"].update(recipe))(folder)
    cell = Cell.of(yaml.safe_load((folder / "run" / "config.yaml").read_text())["recipe"])
    fitted = folder / "run" / "fitted.json"
    fitted.write_text(json.dumps(json.loads(fitted.read_text()) | {"cell": cell.hash}))
    (folder / "run" / "evaluation.json").unlink()
    for reader in ("load_cell", "evaluate", "figures", "resume"):
        assert "checkpoint" in refused(lambda reader=reader: RUN_READERS[reader](folder)), reader


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": -1},
        {"epochs": True},
        {"batch_size": 10**18},
        {"seed": 3},
        {"kl_warmup": "x"},
        {"dtype": "float64"},
        {"model": {"class": "torch.nn.modules.container:Sequential", "args": {}}},
        {"guide": {"class": "os:system"}},
    ],
    ids=str,
)
def test_a_configuration_that_its_recipe_or_its_checkpoint_gainsays_is_refused(change, folder):
    with_config(lambda config: config.update(change))(folder)
    for reader in ("load_cell", "evaluate", "figures"):
        (name,) = change
        assert f"`{name}`" in refused(lambda reader=reader: RUN_READERS[reader](folder)), reader


def test_a_long_list_in_a_configuration_is_not_read(folder):
    with_config(lambda config: config["optimizer"].update(groups=[{}] * 100_000))(folder)
    for reader in ("load_run", "load_cell", "evaluate", "figures", "resume"):
        assert "config.yaml cannot be read: it has more than 262,144 bytes" in refused(
            lambda reader=reader: RUN_READERS[reader](folder)
        )


@pytest.mark.parametrize("change", [
    lambda _, state: state.pop("epoch"),
    lambda _, state: state.update(epoch="1"),
    lambda _, state: state.update(epoch=10**6),
    lambda _, state: state.update(best_epoch=[1]),
    lambda tensors, _: tensors.update(alone=torch.ones(1)),
    lambda tensors, _: tensors.update({"other.x": torch.ones(1)}),
    lambda tensors, _: tensors.update({"values.model.x": torch.ones(1)}),
    lambda tensors, _: tensors.update({name: t.to(torch.complex64) for name, t in tensors.items()}),
    lambda tensors, _: tensors.clear(),
])  # fmt: skip
def test_a_checkpoint_that_is_whole_and_odd_is_one_line(change, folder):
    file = folder / "run" / "checkpoint" / "last.safetensors"
    tensors, state = read_checkpoint(file)
    change(tensors, state)
    write_checkpoint(file, tensors, state)
    for reader in ("load_run", "load_cell"):
        assert refused(lambda reader=reader: RUN_READERS[reader](folder)), reader


@pytest.mark.parametrize("change", [
    lambda state: state.pop("optimizer"),
    lambda state: state.update(optimizer=[]),
    lambda state: state["optimizer"].update(groups=[]),
    lambda state: state["optimizer"]["groups"][0].pop("params"),
    lambda state: state.update(scheduler={"__pairs__": [[[1], 2]]}),
    lambda state: state.update(scheduler=3),
])  # fmt: skip
def test_an_odd_state_of_the_optimizer_is_one_line(change, folder):
    file = folder / "run" / "checkpoint" / "last.safetensors"
    tensors, state = read_checkpoint(file)
    change(state)
    write_checkpoint(file, tensors, state)
    for name in ("evaluation.json", "fitted.json"):
        (folder / "run" / name).unlink()
    assert str(file) in RUN_READERS["resume"](folder)


INSERTED = [b"[", b"{", b"-", b"9" * 30, b"null", b"\n", b"&a *a", b'"', b": "]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_hundred_folders_with_a_byte_or_a_value_changed(folder, originals):
    """Whatever is changed, it is one line or does no harm."""
    number = random.Random(1)
    names = ["run/config.yaml", "run/metrics.csv", "run/fitted.json", "run/evaluation.json", "cmp/grid.yaml",
             "run/checkpoint/last.safetensors", "run/per_datum.safetensors"]  # fmt: skip
    for _ in range(300):
        name = number.choice(names)
        content = bytearray((originals / name).read_bytes())
        for _ in range(number.randint(1, 4)):
            place = number.randrange(len(content))
            how = number.randrange(4)
            if how == 0:
                content[place] = number.randrange(256)
            elif how == 1:
                del content[place : place + number.randrange(1, 40)]
            elif how == 2:
                content[place:place] = number.choice(
                    [b"[", b"{", b"-", b"9" * 30, b"null", b"\n", b"&a *a", b'"', b": "]
                )
            else:
                content[place : place + 3] = content[:40]
            content = content or bytearray(b"x")
        (folder / name).write_bytes(content)
        readers = COMPARISON_READERS if name.startswith("cmp") else RUN_READERS
        for reader in ("Comparison.read", "Grid.read", "load_run", "load_cell"):
            if reader in readers:
                refused(lambda reader=reader, readers=readers: readers[reader](folder))
        shutil.copy(originals / name, folder / name)
