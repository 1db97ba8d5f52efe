"""Evaluations by name: what is one, what it is asked for with, and what comes of it in files and tables."""

import html
import inspect
import json
import sys

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import evaluation
from pyro_vae.cli import main
from pyro_vae.comparison import Cell, Comparison, compare
from pyro_vae.comparison.cautions import cautions
from pyro_vae.comparison.evaluations import evaluations, find_evaluation
from pyro_vae.comparison.measure import measure_cell
from pyro_vae.comparison.quantities import quantities_of
from pyro_vae.comparison.results import is_finished, read_cell
from pyro_vae.comparison.run_cell import load_data_of, load_pair, make_pair_of, rehearse, run_cell
from pyro_vae.errors import RunError
from pyro_vae.evaluation import Estimate, Result
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian
from pyro_vae.report.page import to_html, to_markdown
from pyro_vae.runtime.user_code import place_of

TINY = {"epochs": 1, "latent_dim": 2, "hidden_dims": [5], "num_test": 6, "num_samples": 30, "elbo_samples": 4,
        "compile": "off"}  # fmt: skip

FAST = {
    "elbo_terms": "num_samples=3",
    "log_likelihood": "num_samples=31",
    "active_units": "threshold=0.02",
    "inference_gaps": "num_test=2, max_steps=50, num_samples=20, evidence_samples=30",
    "ais": "num_test=2, num_chains=2, num_temperatures=3",
    "bdmc": "num_test=2, num_chains=2, num_temperatures=3",
    "evidence_budget": "ks=(1, 5)",
    "latent_statistics": "num_samples=4",
    "linear_probe": "l2=0.1",
    "sbc": "num_data=20, num_draws=5",
    "reconstruction_sharpness": "num_test=5",
    "reference_posterior": "num_test=1, num_chains=2, num_samples=300, warmup=150",
    "guide_error": "num_test=1, num_samples=50, num_permutations=9",
}
"""Options with which evaluations are fast whose own are not small enough."""

FAST |= {name: "num_test=3" for name in evaluations() if name not in FAST}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    grid = {"common": {**TINY, "measure": [f"{name}({options})" for name, options in FAST.items()]},
            "grid": {"guide": ["mean_field", "full_rank"]}}  # fmt: skip
    with torch.random.fork_rng():
        return compare(grid, tmp_path_factory.mktemp("evaluations") / "out", threads=1)


def test_every_function_that_returns_estimates_is_an_evaluation():
    returning = {
        name
        for name in evaluation.__all__
        if inspect.isfunction(function := getattr(evaluation, name))
        and (result := inspect.get_annotations(function, eval_str=True).get("return")) in vars(evaluation).values()
        and inspect.isclass(result)
        and issubclass(result, Result | Estimate)
    }
    assert set(evaluations()) == returning - {"sharpness_ratio"}
    assert all(one.help for one in evaluations().values())
    assert set(FAST) == set(evaluations()), "an evaluation that is no longer there"


def test_each_is_measured_where_a_grid_asks_for_it(done):
    for result in done.finished:
        assert list(result.measured) == [
            "elbo_terms", "log_likelihood", "active_units", *(name for name in FAST if name not in CORE)
        ]  # fmt: skip
        assert len(result.evaluation["in_words"]) == len(FAST)
        assert result.measured["elbo_terms"]["num_samples"] == 3
        assert result.measured["log_likelihood"]["num_samples"] == 31
        assert result.measured["ais"]["log_likelihood"]["num_data"] == 2
        assert result.measured["active_units"]["threshold"] == 0.02


CORE = ("elbo_terms", "log_likelihood", "active_units")


def test_each_has_the_numbers_that_the_function_gives(done):
    """The same by hand, with the cell's seed."""
    result = done.finished[1]
    cell, data = result.cell, load_data_of(result.cell)
    model, _ = load_pair(result.path, cell, data)
    found = evaluation.ais(model, data.test[:2], num_chains=2, num_temperatures=3, seed=cell.seed, compile="off")
    torch.testing.assert_close(result.per_datum["ais.log_likelihood"], found.per_datum, rtol=0, atol=0)
    assert result.summary_of("ais.log_likelihood") == Estimate.summary(found)
    reference = evaluation.reference_posterior(
        model, data.test[:1], num_chains=2, num_samples=300, warmup=150, seed=cell.seed
    )
    assert result.measured["reference_posterior"] == json.loads(json.dumps(reference.summary()))


def test_all_estimates_have_the_same_keys(done):
    keys = set()
    for result in done.finished:
        for summary in result.measured.values():
            keys |= {tuple(value) for value in summary.values() if isinstance(value, dict) and "mean" in value}
    assert keys == {("mean", "standard_error", "data_standard_error", "num_data", "num_left_out", "unit")}


def test_each_becomes_columns_with_its_errors(done):
    table = done.table
    for name in (
        "elbo",
        "rate",
        "log_likelihood",
        "inference_gap",
        "ais.log_likelihood",
        "width",
        "mutual_information",
    ):
        assert {name, f"{name}_se", f"{name}_data_se"} <= set(table.columns)
        assert table[name].notna().all()
    assert (table["num_rejected"] >= 0).all()
    assert {"ais.log_likelihood", "mutual_information", "khat_above", "smallest_adjusted_p_value"} <= set(
        done.quantities
    )
    assert {"elbo", "log_likelihood", "ais.log_likelihood", "inference_gap"} <= set(done.ranked)
    assert "mutual_information" not in done.ranked


def test_what_two_evaluations_call_alike_is_told_apart():
    measured = {"elbo_terms": {"elbo": ESTIMATE}, "own": {"elbo": ESTIMATE, "other": ESTIMATE},
                "ais": {"log_likelihood": ESTIMATE}}  # fmt: skip
    found = quantities_of(measured, {})
    assert list(found) == ["elbo", "ais.log_likelihood"]
    found = quantities_of(measured, {"own": Estimate})
    assert list(found) == ["elbo", "own.elbo", "own.other", "ais.log_likelihood"]
    measured = {"log_likelihood": {"log_likelihood": ESTIMATE}, "ais": {"log_likelihood": ESTIMATE}}
    assert [one.title() for one in quantities_of(measured, {}).values()] == ["log p(x) ≥", "AIS: log p(x) ≥"]


ESTIMATE = {"mean": 1.0, "standard_error": 0.1, "data_standard_error": 0.1, "num_data": 3, "num_left_out": 0,
            "unit": "nats"}  # fmt: skip


def test_one_that_needs_anothers_result_brings_it_along():
    plan = Cell(measure=["guide_error(num_test=3)"]).evaluations
    assert list(plan)[-2:] == ["reference_posterior", "guide_error"]
    assert plan["reference_posterior"] == {"num_test": 3}


def test_one_that_refuses_says_so_and_the_others_go_on(tmp_path):
    """Ten draws are no reference, so that there is nothing to hold the guide against."""
    measure = ["reference_posterior(num_test=2, num_chains=2, num_samples=5, warmup=1)", "guide_error(num_test=2)",
               "ais(num_test=2, num_chains=2, num_temperatures=2)"]  # fmt: skip
    cell = Cell.of({**TINY, "measure": measure})
    data = load_data_of(cell)
    measured = measure_cell(cell, *make_pair_of(cell, data), data, False)
    assert "guide_error" not in measured.summaries
    assert "ais" in measured.summaries
    (said,) = [line for line in measured.in_words if line.startswith("guide_error")]
    assert "measured nothing: ValueError: guide_error: none of the 2 data has a trusted reference" in said


def test_one_whose_reference_is_of_other_images_says_so():
    measure = ["reference_posterior(num_test=2, num_chains=2, num_samples=5, warmup=1)", "guide_error(num_test=3)"]
    cell = Cell.of({**TINY, "measure": measure})
    data = load_data_of(cell)
    measured = measure_cell(cell, *make_pair_of(cell, data), data, False)
    assert "guide_error needs the result of reference_posterior on the same test images" in measured.in_words[-1]


def test_labels_are_asked_for_where_the_data_have_none(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 3)).astype(np.float32))
    cell = Cell.of({**TINY, "data": str(tmp_path / "x.npy"), "measure": ["linear_probe"], "init_bias": False,
                    "likelihood": "gaussian"})  # fmt: skip
    with pytest.raises(ValueError, match=r"^linear_probe: .* no labels"):
        rehearse(cell, load_data_of(cell))


def test_what_an_evaluation_refuses_is_found_before_a_step():
    cell = Cell.of({**TINY, "measure": ["inference_gaps(num_test=2, family='square')"]})
    with pytest.raises(ValueError, match="inference_gaps: family must"):
        rehearse(cell, load_data_of(cell))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aiss", "no evaluation 'aiss'.* 'ais'"),
        ("ais(num_chain=2)", "no option 'num_chain'.*_chains'"),
        ("ais(num_test=0)", "ais: num_test must .*least 1"),
        ("ais(seed=2)", "ais has no option 'seed'"),
        ("log_likelihood(num_test=2)", "measures all test images"),
        ("ais(2)", r"cannot read 'ais\(2\)'"),
        ("gone.py:f", r"no file gone\.py"),
        ("os:getcwd", "os:getcwd is no evaluation"),
    ],
)
def test_what_cannot_be_asked_for_is_said(text, words):
    with pytest.raises(ValueError, match=f"^measure: .*{words}"):
        Cell(measure=(text,))


def test_spellings_of_one_evaluation_are_one_cell():
    assert Cell(measure=("ais( num_chains = 2,num_test=3 )",)) == Cell(measure=["ais(num_test=3, num_chains=2)"])
    assert Cell().hash != Cell(measure=("sbc",)).hash


def test_a_guide_is_given_to_what_can_do_without_only_where_asked(gaussian):
    model, guide, x = gaussian
    ais = find_evaluation("ais")
    inputs = {"model": model, "guide": guide, "x": x}
    few = {"num_temperatures": 2, "num_chains": 2, "burn_in": 0}
    how = {"seed": 0, "progress": False, "compile": "off"}
    assert ais.measure(inputs, few, **how).start == "prior"
    assert ais.measure(inputs, {**few, "guide": True}, **how).start == "guide"


@pytest.fixture
def gaussian():
    return LinearGaussian(4, 2), MeanFieldGuide((4,), 2), torch.zeros(3, 4)


def test_every_evaluation_is_a_flag(done, capsys):
    run = done.finished[0].path
    assert main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    for name in evaluations():
        assert f"--{name} [OPTIONS]" in text
    assert main(["evaluate", str(run), "--sbc", "num_data=9, num_draws=3", "--bdmc",
                 "num_test=2, num_chains=2, num_temperatures=2", "--json", "--quiet"]) == 0  # fmt: skip
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert measured["sbc"]["num_draws"] == 3
    assert measured["bdmc"]["width"]["num_data"] == 2
    assert measured["bdmc"]["num_temperatures"] == 2


def test_a_comparison_reads_back_what_it_measured(done):
    again = Comparison.read(done.path)
    assert [r.quantities for r in again.results] == [r.quantities for r in done.results]


OWN = """
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation import Estimate, Result


def first_pixel(x: Tensor, *, factor: float = 1.0) -> Estimate:
    \"\"\"The first pixel of each image, times a factor.\"\"\"
    pixels = factor * x.flatten(1)[:, 0].double()
    return Estimate(pixels, torch.zeros_like(pixels), unit="grey levels", datum="image")


def ais(x: Tensor) -> Estimate:
    return first_pixel(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class Corners(Result):
    columns = {"first": "higher"}
    first: Estimate
    last: Estimate


def corners(x: Tensor) -> Corners:
    \"\"\"Both corners.\"\"\"
    pixels = x.flatten(1).double()
    no_error = torch.zeros(len(x)).double()
    return Corners(first=Estimate(pixels[:, 0], no_error), last=Estimate(pixels[:, -1], no_error))


def nothing(x):
    return x


def fails(x) -> Estimate:
    if len(x) > 2:
        raise RuntimeError("too many images")
    return first_pixel(x)


def finds_no_file(x) -> Estimate:
    return Estimate(torch.load("there_is_no_such_file.pt"), torch.zeros(len(x)))


def refuses_colours(x) -> Estimate:
    if len(x) > 2:
        raise RuntimeError("\\x1b[31mred\\x1b[0m")
    return first_pixel(x)


def out_of_memory(x) -> Estimate:
    raise MemoryError


def of_pixels(x) -> Estimate:
    pixels = x.flatten(1)[:, :2].flatten().double()
    return Estimate(pixels, torch.zeros_like(pixels))


def of_no_kind(x) -> Estimate:
    return x


@dataclass(frozen=True, eq=False, kw_only=True)
class Odd(Result):
    columns = {"by_corner": "", "first": "higher", "words": ""}
    first: Estimate

    def facts(self):
        return {"by_corner": {"left": 1.0}, "words": "none", "num_corners": None}


def odd(x) -> Odd:
    return Odd(first=first_pixel(x))


def with_a_factor(x, factor: float) -> Estimate:
    return first_pixel(x, factor=factor)


def by_position(x, /) -> Estimate:
    return first_pixel(x)


def of_a_name_that_is_not_there(x: "Images") -> Estimate:
    return first_pixel(x)


def of_evidence(x, evidence: Estimate) -> Estimate:
    return evidence
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "own_evaluations.py"
    path.write_text(OWN)
    yield path
    sys.modules.pop("own_evaluations", None)


def test_a_function_in_a_file_is_measured_and_becomes_a_column(own_file, tmp_path):
    grid = {"common": {**TINY, "measure": [f"{own_file}:first_pixel(factor=2.0, num_test=4)", f"{own_file}:corners"]},
            "grid": {"guide": ["mean_field", "full_rank"]}}  # fmt: skip
    done = compare(grid, tmp_path / "out", threads=1)
    data = load_data_of(done.finished[0].cell)
    expected = 2.0 * data.test[:4].flatten(1)[:, 0].double()
    for result in done.finished:
        torch.testing.assert_close(result.values_of("first_pixel"), expected, rtol=0, atol=0)
    assert list(done.table["first_pixel"]) == [expected.mean().item()] * 2
    heads = to_markdown(done).splitlines()[0]
    assert "| first pixel, grey levels, N = 4 | corners: first |" in heads, "of a result that names its columns, those"
    assert done.finished[0].values_of("corners.last").shape == (6,)
    assert "corners.first" in done.ranked
    again = Comparison.read(done.path, trust=True)
    assert again.quantities["first_pixel"].evaluation == "first_pixel"
    assert "Numbers of first_pixel are those of the first 4 test images, where a cell has 6 of them." in cautions(again)
    with pytest.raises(RunError, match="own_evaluations"):
        Comparison.read(done.path)


def test_a_changed_file_is_another_cell(own_file):
    before = Cell(measure=(f"{own_file}:first_pixel",)).hash
    sys.modules.pop("own_evaluations")
    own_file.write_text(OWN + "# changed\n")
    assert Cell(measure=(f"{own_file}:first_pixel",)).hash != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("first_pixl", "the function 'first_pixl'"),
        ("ais", "the package's evaluations"),
        ("nothing", "is no evaluation"),
        ("with_a_factor", r"needs .*a_factor\(factor=\.\.\.\)"),
        ("by_position", "`x` is positional-only"),
        ("of_a_name_that_is_not_there", "annotations .*name 'Images'"),
        ("of_evidence", "be given to `evidence`"),
    ],
)
def test_what_is_no_evaluation_in_a_file_is_said(name, words, own_file):
    with pytest.raises(ValueError, match=words):
        Cell(measure=(f"{own_file}:{name}",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", "RuntimeError: too many images"),
        ("of_pixels", "ValueError: of_pixels.of_pixels must have a number of each image, 6 at most; got 12"),
        ("of_no_kind", "ValueError: of_no_kind must return a Estimate"),
    ],
)
def test_one_of_ones_own_that_fails_says_so_and_the_others_go_on(name, words, own_file):
    cell = Cell.of({**TINY, "measure": [f"{own_file}:{name}", f"{own_file}:first_pixel"]})
    data = load_data_of(cell)
    measured = measure_cell(cell, *make_pair_of(cell, data), data, False)
    assert list(measured.summaries)[3:] == ["first_pixel"]
    assert f"{name} measured nothing: {words}" in measured.in_words[3]
    assert list(measured.failed_evaluations) == [name]
    assert measured.failed_evaluations[name].startswith(words)
    assert not any(place.startswith(f"{name}.") for place in measured.per_datum)


def test_an_evaluation_that_failed_is_named_wherever_a_comparison_is_read(own_file, tmp_path):
    """The file knows the reason, and the terminal, the Markdown table and the page say it."""
    grid = {"common": {**TINY, "measure": [f"{own_file}:fails"]}, "grid": {"guide": ["mean_field", "full_rank"]}}
    done = compare(grid, tmp_path / "out", threads=1)
    line = 1 + OWN.splitlines().index('        raise RuntimeError("too many images")')
    reason = f"RuntimeError: too many images ({own_file}, line {line})"
    again = Comparison.read(done.path, trust=True)
    for result in again.finished:
        content = json.loads((result.path / "evaluation.json").read_text(encoding="utf-8"))
        assert content["failed_evaluations"] == result.failed_evaluations == {"fails": reason}
    caution = f"fails measured nothing in 2 of 2 cells: {reason}."
    assert cautions(again).count(caution) == 1
    assert str(again).splitlines()[1] == f"  {caution}"
    assert caution in to_markdown(again).splitlines()
    assert caution in html.unescape(to_html(again, max_drawn=0))


def test_a_reason_has_no_signs_that_steer_a_terminal(own_file, tmp_path):
    """A file with such signs would be refused by whoever reads it."""
    result = run_cell(Cell.of({**TINY, "measure": [f"{own_file}:refuses_colours"]}), tmp_path / "run")
    assert result.failed_evaluations["refuses_colours"].startswith("RuntimeError: [31mred[0m (")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("finds_no_file", FileNotFoundError, "there_is_no_such_file"),
        ("of_no_kind", ValueError, "must return"),
        ("of_pixels", ValueError, "2 at most"),
    ],
)
def test_one_that_fails_before_the_fit_is_named(name, kind, words, own_file):
    cell = Cell.of({**TINY, "measure": [f"{own_file}:{name}"]})
    with pytest.raises(kind, match=words) as caught:
        rehearse(cell, load_data_of(cell))
    assert str(caught.value).startswith(f"{name}, tried on 2 images before the fit: ")
    assert type(caught.value).__name__ == kind.__name__
    if name == "finds_no_file":
        assert place_of(caught.value).startswith(f"{own_file}, line ")


def test_one_that_fails_before_the_fit_is_named_in_a_comparison(own_file, tmp_path):
    """A class of errors of the user's own, whose text does not follow from its arguments, too."""
    own_file.write_text(OWN + OWN_ERROR)
    done = compare({"common": {**TINY, "measure": [f"{own_file}:unlucky"]}, "cells": [{}]}, tmp_path / "out", threads=1)
    line = len((OWN + OWN_ERROR).splitlines())
    expected = f"Unlucky: unlucky, tried on 2 images before the fit: no luck (13) ({own_file}, line {line})"
    assert done.failed[0].error_line == expected
    assert str(done).endswith(expected)


OWN_ERROR = """

class Unlucky(Exception):
    def __init__(self, number, *, word):
        super().__init__(number)
        self.word = word

    def __str__(self):
        return f"no {self.word} ({self.args[0]})"


def unlucky(x) -> Estimate:
    raise Unlucky(13, word="luck")
"""


def test_an_estimate_of_ones_own_is_printed_with_its_name(own_file):
    measure = [f"{own_file}:first_pixel", "ais(num_test=2, num_chains=2, num_temperatures=2)"]
    cell = Cell.of({**TINY, "measure": measure})
    data = load_data_of(cell)
    measured = measure_cell(cell, *make_pair_of(cell, data), data, False)
    words = dict(zip(measured.summaries, measured.in_words, strict=True))
    assert words["first_pixel"].startswith("first_pixel 0.00 grey levels (Monte Carlo s.e. ")
    assert words["ais"].startswith("log p"), "one that names itself"


def test_memory_that_runs_out_ends_the_measurement(own_file):
    cell = Cell.of({**TINY, "measure": [f"{own_file}:out_of_memory"]})
    data = load_data_of(cell)
    with pytest.raises(MemoryError):
        measure_cell(cell, *make_pair_of(cell, data), data, False)


def test_a_column_of_what_is_no_number_is_none(own_file, tmp_path):
    done = compare({"common": {**TINY, "measure": [f"{own_file}:odd"]}, "cells": [{}]}, tmp_path, threads=1)
    assert not done.failed
    assert [name for name in done.quantities if name.startswith("odd.")] == ["odd.first"]
    assert "odd: first, grey levels" in to_markdown(done)


@pytest.mark.parametrize("text", ["inference_gaps(evidence=True)", "evidence_budget(ais=True)"])
def test_anothers_result_is_no_option(text):
    with pytest.raises(ValueError, match="has no option"):
        Cell(measure=(text,))


def test_results_of_a_file_that_has_changed_or_gone_say_so(own_file, tmp_path):
    cell = Cell.of({**TINY, "measure": [f"{own_file}:first_pixel"]})
    run_cell(cell, tmp_path / "run")
    sys.modules.pop("own_evaluations")
    own_file.write_text(OWN + "# changed\n")
    with pytest.raises(RunError, match="first_pixel has changed"):
        is_finished(tmp_path / "run", Cell.of(cell.settings()))
    sys.modules.pop("own_evaluations")
    own_file.unlink()
    with pytest.raises(RunError, match=r"there is no file .*Put back"):
        read_cell(tmp_path / "run", trust=True)
    assert pyro_vae.load_run(tmp_path / "run").guide is not None


def test_an_installed_package_declares_evaluations(own_file, tmp_path, monkeypatch):
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pyro_vae.evaluations]\ncorner = own_evaluations:first_pixel\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert evaluations()["corner"].help == "The first pixel of each image, times a factor"
    assert Cell(measure=("corner(factor=3.0)",)).evaluations["corner"] == {"factor": 3.0}
    (info / "entry_points.txt").write_text("[pyro_vae.evaluations]\nsbc = own_evaluations:first_pixel\n")
    monkeypatch.syspath_prepend(str(tmp_path / "."))
    with pytest.warns(UserWarning, match="plugin: the name is taken"):
        assert evaluations()["sbc"].function is evaluation.sbc
