import csv
import json

import pytest

from benchmarks import stages, wall_time

QUICK = ("--data", "mnist-5k", "--epochs", "2", "--hidden-dims", "20", "--num-test", "20", "--num-samples", "30")


@pytest.mark.slow
def test_the_stages_add_up_to_the_wall_time(tmp_path, capfd):
    out = tmp_path / "run"
    wall_time.main(["--json", "--", *QUICK, "--compile", "off", "--out", str(out)])
    printed, said = capfd.readouterr()
    assert f"Figures and numbers are in {out}." in said
    found = json.loads(printed)
    seconds = found["stages"]
    expected = {*stages.OF_THE_EXAMPLE.values(), *stages.OF_THE_LIBRARY.values(), stages.FIRST_STEP, stages.STEPS}
    # So few samples need no graph.
    assert expected - seconds.keys() == {"evaluation: capture", "evaluation: compile"}
    assert all(value >= 0 for value in seconds.values())
    # Two clocks of one machine: the process's own, and that of whoever waits for it.
    assert sum(seconds.values()) == pytest.approx(found["total"], abs=0.05)

    # The run folder's own record of the epochs: steps and validation lie within it, and it within the fit.
    with (out / "metrics.csv").open() as file:
        epochs = sum(float(row["seconds"]) for row in csv.DictReader(file))
    within = sum(seconds[name] for name in (stages.FIRST_STEP, stages.STEPS, "fit: validation"))
    fit = sum(value for name, value in seconds.items() if name.startswith("fit: "))
    imports = sum(value for name, value in seconds.items() if name.startswith("imports: "))
    rounding = 1e-3
    assert within <= epochs + rounding
    assert epochs <= fit + imports + rounding


def test_an_example_that_fails_fails_the_measurement(capfd):
    with pytest.raises(SystemExit) as stopped:
        wall_time.main(["--", "--data", "mnits"])
    assert stopped.value.code == 1
    printed, said = capfd.readouterr()
    assert "Did you mean 'mnist'" in said
    assert "wall time" not in printed


def test_the_table_shows_groups_with_their_parts_and_the_whole(monkeypatch, capsys):
    seconds = {"imports: torch": 1.0, "imports: others": 0.5, "data": 2.0, "fit: steps": 16.5}
    monkeypatch.setattr(wall_time, "measure", lambda *_, **__: (20.0, seconds))
    wall_time.main([])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["imports", "1.50", "7.5", "%"],
        ["torch", "1.00", "5.0", "%"],
        ["others", "0.50", "2.5", "%"],
        ["data", "2.00", "10.0", "%"],
        ["fit", "16.50", "82.5", "%"],
        ["all", "of", "it", "20.00", "100.0", "%"],
    ]
