"""The main table, for a page and for a paper."""

import math
import re
from dataclasses import replace

import pytest
import torch
from made_up import TWO_BY_TWO, made_up_comparison

from pyro_vae.comparison import Configuration
from pyro_vae.comparison.estimates import estimate
from pyro_vae.evaluation import Estimate
from pyro_vae.report.table import (
    Entry,
    _code,
    _latex,
    in_order,
    main_table,
    rankings_of,
    short,
    to_latex,
    to_markdown,
)


def table_of(comparison):
    return main_table(comparison, rankings_of(comparison), in_order(comparison))


def column(table, key):
    return [entries[list(table.heads).index(key)] for entries in table.rows.values()]


def test_the_best_log_likelihood_comes_first_and_what_has_none_last(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert [one.name for one in in_order(comparison)] == ["iaf(num_flows=2)", "mean_field"]
    failed = made_up_comparison(tmp_path, TWO_BY_TWO, failed=[2, 3])
    assert [one.name for one in in_order(failed)] == ["mean_field", "iaf(num_flows=2)"]


def test_an_entry_has_the_mean_and_all_its_errors(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    (entry, _), (best, _) = (column(table_of(comparison), "log_likelihood"), in_order(comparison))
    found = estimate(best, "log_likelihood")
    assert entry.value == found.mean
    assert entry.text == f"{found.mean:.2f}"
    assert entry.errors == {"MC": "0.0071", "data": f"{found.data:.2f}", "seeds": f"{found.spread:.2f}"}


def test_one_seed_has_no_spread_to_show(tmp_path):
    comparison = made_up_comparison(tmp_path, {"grid": {"guide": ["mean_field", "full_rank"]}})
    assert set(column(table_of(comparison), "elbo")[0].errors) == {"MC", "data"}


def test_means_of_a_column_have_as_many_decimals(tmp_path):
    comparison = made_up_comparison(tmp_path, {"grid": {"latent_dim": list(range(2, 9))}})
    assert len({len(entry.text.partition(".")[2]) for entry in column(table_of(comparison), "rate")}) == 1


def test_cells_that_are_missing_are_counted(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO, failed=[0])
    assert [entry.text for entry in column(table_of(comparison), "seeds")] == ["2", "1 of 2"]


def test_a_configuration_without_results_is_an_empty_row(tmp_path):
    table = table_of(made_up_comparison(tmp_path, TWO_BY_TWO, failed=[0, 1]))
    count, *others = table.rows["mean_field"]
    assert count.text == "0 of 2"
    assert set(map(repr, others)) == {repr(Entry())}


def test_columns_of_which_nothing_was_measured_are_left_out(tmp_path):
    with_gaps, without = (
        table_of(made_up_comparison(tmp_path, TWO_BY_TWO, num_gaps=number)).heads for number in (6, 0)
    )
    assert {"inference_gap", "approximation_gap", "amortization_gap"} == set(with_gaps) - set(without)
    assert "bits_per_dim" not in with_gaps


def test_bits_per_dim_are_the_log_likelihood_in_another_unit(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    results = []
    for result in comparison.results:
        nats = result.per_datum["log_likelihood.log_likelihood"]
        bits = Estimate(nats, torch.full_like(nats, 0.05)).in_bits(300)
        evidence = {**result.measured["log_likelihood"], "bits_per_dim": bits.summary()}
        measured = {**result.measured, "log_likelihood": evidence}
        per_datum = {**result.per_datum, "log_likelihood.bits_per_dim": bits.per_datum}
        results.append(replace(result, evaluation={**result.evaluation, "measured": measured}, per_datum=per_datum))
    comparison = replace(comparison, results=results)
    nats, bits = (column(table_of(comparison), key)[0] for key in ("log_likelihood", "bits_per_dim"))
    assert bits.value == pytest.approx(nats.value / -300 / math.log(2))
    assert float(bits.errors["data"]) == pytest.approx(float(nats.errors["data"]) / 300 / math.log(2), rel=0.1)
    assert table_of(comparison).heads["bits_per_dim"] == "bits/dim ≤"


def test_those_that_are_told_apart_from_the_best_are_not_bold(tmp_path):
    seeds = {"grid": {"guide": ["mean_field", "full_rank"], "seed": [0, 1, 2, 3]}}
    comparison = made_up_comparison(tmp_path, seeds, num_images=4000)
    assert [entry.best for entry in column(table_of(comparison), "elbo")] == [True, False]
    assert [entry.best for entry in column(table_of(comparison), "rate")] == [False, False]


def test_soft_targets_are_no_bound(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    result = comparison.results[0]
    measured = {**result.measured, "log_likelihood": {**result.measured["log_likelihood"], "bound": False}}
    soft = replace(result, evaluation={**result.evaluation, "measured": measured})
    titles = table_of(replace(comparison, results=[soft, *comparison.results[1:]])).heads.values()
    assert "log p(x), no bound" in titles
    assert "log p(x) ≥" not in titles


def test_cells_as_rows_have_no_number_of_seeds(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    cells = [Configuration(result.cell.label(comparison.varying), [result]) for result in comparison.results]
    table = main_table(comparison, {}, cells)
    assert list(table.rows) == [f"{guide}, seed {s}" for guide in ("mean_field", "iaf(num_flows=2)") for s in (0, 1)]
    assert next(iter(table.heads)) == "elbo"


def test_rankings_say_what_stands_in_their_way(tmp_path):
    one = made_up_comparison(tmp_path, {"grid": {"seed": [0, 1]}})
    assert "needs two configurations" in rankings_of(one)["elbo"]
    assert rankings_of(made_up_comparison(tmp_path, TWO_BY_TWO, failed=range(4))) == {}


def test_markdown_has_a_cell_for_each_column(tmp_path):
    lines = to_markdown(made_up_comparison(tmp_path, TWO_BY_TWO)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| `iaf(num_flows=2)` | 2 | **-9")
    assert re.search(r"\(MC 0\.021, data [\d.]+, seeds [\d.]+\)", rows[2])


def test_code_in_a_markdown_table():
    assert _code("a_b*c") == "`a_b*c`"
    assert _code("a|b\nc") == r"`a\|b c`"
    assert _code("a`b") == "`` a`b ``"


def test_latex_is_booktabs_with_a_line_for_each_error(tmp_path):
    text = to_latex(made_up_comparison(tmp_path, TWO_BY_TWO))
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\usepackage{booktabs}"):
        assert command in text
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [row for row in body.split("\\\\\n") if row.strip()]
    assert [row.split("&")[0].strip() for row in rows] == [
        r"iaf(num\_flows=2)", r"\quad MC", r"\quad data", r"\quad seeds",
        r"mean\_field", r"\quad MC", r"\quad data", r"\quad seeds",
    ]  # fmt: skip
    (columns,) = re.findall(r"begin\{tabular\}\{l(r+)\}", text)
    assert {row.count("&") for row in rows} == {len(columns)}
    assert "-" not in re.sub(r"\$-\$|k-hat", "", body)


def test_latex_escapes_what_it_would_read():
    assert _latex(r"a_b & 50 % #1 {x} ~ ^ \ <$>") == (
        r"a\_b \& 50 \% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}\$\textgreater{}"
    )


def test_short_names_have_no_folders():
    assert short("../parts/my.py:Guide(rank=2), flow") == "my.py:Guide(rank=2), flow"
    assert short("package.module:Guide, data/of/mine") == "package.module:Guide, data/of/mine"
