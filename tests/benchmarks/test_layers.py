import json

import pytest

from benchmarks import layers


@pytest.mark.slow
def test_prints_the_ratio_of_each_pair(capsys, caplog):
    layers.main(
        ["--json", "--level", "trace", "--batch", "1000", "--seconds", "0.01", "--images", "1", "--samples", "10",
         "--rounds", "1"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["step, batch 1000"].keys() == {"one_layer_ms", "bottom_up", "top_down"}
    assert found["evidence"].keys() >= {"one_layer share of peak", "bottom_up / one_layer", "top_down / one_layer"}
    assert all(value > 0 for row in found.values() for value in row.values())
    assert not caplog.records


def test_the_multiplications_of_a_sample_by_hand():
    decoder = 200 * 200 + 200 * 784
    assert layers.sampled_multiplications("one_layer") == 50 * 200 + decoder
    path = 50 * 100 + 100 * 100 + 100 * 200 + 100 * 200 + decoder
    assert layers.sampled_multiplications("top_down") == path
    assert layers.sampled_multiplications("bottom_up") == path + 100 * 100 + 100 * 100 + 100 * 100
