import json
import math
import random

import pytest

from benchmarks import regression
from benchmarks.regression import COMPILED_VS_PLAIN, VS_PLAIN, Band, compare, median_interval

STORED = {"step 20 trace": Band(1.1, 1.0, 1.2), VS_PLAIN: Band(1.3, 1.2, 1.4)}


def test_bands_that_meet_are_noise():
    assert compare(STORED, {"step 20 trace": Band(1.4, 1.2, 1.6), VS_PLAIN: Band(1.1, 1.0, 1.2)}) == []


def test_a_time_that_grew_beyond_both_bands_is_named_with_both_values():
    (failure,) = compare(STORED, STORED | {"step 20 trace": Band(1.4, 1.21, 1.6)})
    assert failure.startswith("step 20 trace: 1.400 (1.210 to 1.600) today, and 1.100 (1.000 to 1.200) stored")


def test_a_speed_fails_where_it_fell():
    (failure,) = compare(STORED, STORED | {VS_PLAIN: Band(1.1, 1.0, 1.19)})
    assert failure.startswith(VS_PLAIN)


def test_what_became_faster_does_not_fail():
    assert compare(STORED, {"step 20 trace": Band(0.5, 0.4, 0.6), VS_PLAIN: Band(2.0, 1.9, 2.1)}) == []


def test_a_ratio_that_was_not_measured_fails():
    (failure,) = compare(STORED, {VS_PLAIN: STORED[VS_PLAIN]})
    assert "step 20 trace" in failure
    assert "not measured" in failure


@pytest.mark.parametrize("n", [8, 9, 15, 30, 45])
def test_the_interval_is_the_narrowest_that_holds_the_median_in_99_of_100(n):
    low, high = median_interval(list(range(1, n + 1)))
    assert low + high == n + 1

    def outside(j: int) -> float:
        return 2 * sum(math.comb(n, count) for count in range(j)) / 2**n

    assert outside(low) <= 0.01 < outside(low + 1)


def test_the_interval_of_few_rounds_is_their_range():
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_band_spans_the_processes():
    assert Band.of([[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]]) == Band(1.6, 1.0, 2.2)


def test_unchanged_ratios_seldom_fail():
    draw = random.Random(0)
    failures = 0
    for _ in range(1000):
        then, now = (Band.of([[draw.lognormvariate(0, 0.3) for _ in range(15)] for _ in range(3)]) for _ in range(2))
        failures += len(compare({"ratio": then}, {"ratio": now}))
    # Below 1 in 100: 10 expected at the very most, and 4 of their standard errors.
    assert failures < 10 + 4 * math.sqrt(10)


@pytest.fixture
def measured(monkeypatch):
    today = {"step 20 trace": Band(1.1, 1.0, 1.2), VS_PLAIN: Band(1.3, 1.2, 1.4)}
    monkeypatch.setattr(regression, "_measure", lambda *_: today)
    return today


def test_what_was_stored_compares_as_equal(measured, tmp_path, capsys):
    path = tmp_path / "ratios.json"
    regression.main(["--update", "--file", str(path)])
    regression.main(["--file", str(path)])
    assert "may not compare" not in capsys.readouterr().out


def test_a_slower_ratio_ends_with_1(measured, tmp_path, capsys):
    path = tmp_path / "ratios.json"
    regression.main(["--update", "--file", str(path)])
    measured["step 20 trace"] = Band(2.0, 1.9, 2.1)
    with pytest.raises(SystemExit, match="step 20 trace") as stopped:
        regression.main(["--file", str(path), "--rounds", "20"])
    # A message as the code is printed, and the process ends with 1.
    assert isinstance(stopped.value.code, str)
    assert "settings: --rounds 20" in capsys.readouterr().out


def test_a_missing_file_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        regression.main(["--file", str(tmp_path / "none.json")])
    assert "--update" in capsys.readouterr().err


@pytest.mark.slow
def test_the_rounds_of_one_process_are_those_of_each_ratio(monkeypatch, capsys):
    monkeypatch.setattr(regression.step, "NUM_DATA", 40)
    monkeypatch.setattr(regression.step, "HIDDEN_DIMS", {20: (7,), 5: (7,)})
    monkeypatch.setattr(regression.log_likelihood, "MATMULS", ((2, 2, 2),))
    monkeypatch.setattr(regression, "NUM_SAMPLES", 30)
    # No need to wait for a compiler.
    monkeypatch.setitem(regression.step.SIDES, "inductor", regression.step.SIDES["trace"])
    regression.main(["--one-process", "--rounds", "2", "--seconds", "0.001", "--images", "1"])
    found = json.loads(capsys.readouterr().out)
    expected = {f"step {batch} {level}" for batch in (20, 5) for level in ("inductor", "trace", "off")}
    expected |= {VS_PLAIN, COMPILED_VS_PLAIN}
    assert found.keys() == expected
    assert all(len(rounds) == 2 for rounds in found.values())
