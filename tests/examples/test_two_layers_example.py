"""The four nets, run as their user runs them: a row a net, kept, and the differences between them."""

import json

import pytest
from run_an_example import run_example


@pytest.mark.slow
def test_every_net_has_a_row_and_every_gain_is_the_difference_of_two(tmp_path):
    done = run_example("two_layers.py", "--smoke", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    nets = json.loads((tmp_path / "run" / "table.json").read_text())["nets"]
    assert [(net["layers"], net["objective"]) for net in nets] == [(1, "ELBO"), (1, "IWAE"), (2, "ELBO"), (2, "IWAE")]
    lines = done.stdout.splitlines()
    means = {}
    for net in nets:
        (line,) = [line for line in lines if line.split()[:2] == [str(net["layers"]), net["objective"]]]
        assert f" {net['mean']:.2f} (s.e. " in line
        assert line.split()[-1] == net["active_units"]
        assert net["active_units"].count("+") == net["layers"] - 1
        means[net["layers"], net["objective"]] = net["mean"]
    for words, with_it, without in (
        ("second layer, trained on the IWAE", (2, "IWAE"), (1, "IWAE")),
        ("importance weights, with 1 layer ", (1, "IWAE"), (1, "ELBO")),
    ):
        (line,) = [line for line in lines if words in line]
        printed = float(line[len(words) :].split("(")[0].split()[-1])
        assert printed == pytest.approx(means[with_it] - means[without], abs=0.006)
