import json
import os

import pytest
import torch

from benchmarks import one_seed, seeds


@pytest.mark.slow
def test_seeds_prints_the_speeds_and_leaves_the_threads_as_they_were(capsys):
    threads = torch.get_num_threads()
    arguments = ["--json", "--batch", "20", "--processes", "2", "--rounds", "1", "--seconds", "0.001"]
    seeds.main([*arguments, "--compile", "off"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"20"}
    expected = {"steps_per_second", "one_thread", "processes", "processes_over_one_thread", "start_seconds"}
    assert found["20"].keys() == expected
    assert all(value > 0 for value in found["20"].values())
    assert torch.get_num_threads() == threads


def test_every_side_trains_every_seed_once_a_round():
    calls = []
    seeds.in_turn(calls.append, 3)(7)
    assert calls == [7, 7, 7]
    assert seeds.in_processes(abs, 2)(-7) == [7, 7]


def test_started_waits_until_every_process_has_had_work():
    answers = iter([[1, 1], [2, 2], [1, 2], [3, 3]])
    seeds.started(lambda _: next(answers), 3)
    assert list(answers) == []
    with pytest.raises(RuntimeError, match="only 1 of 2 processes"):
        seeds.started(lambda _: [1, 1], 2)


def test_a_training_is_kept_in_its_process_from_call_to_call():
    work = (20, 1, torch.get_num_threads(), "off")
    assert one_seed.train(*work, 0) == one_seed.train(*work, 1) == os.getpid()
    assert one_seed._training(*work) is one_seed._training(*work)


def test_one_process_has_nothing_to_compare_with(capsys):
    with pytest.raises(SystemExit):
        seeds.main(["--processes", "1"])
    assert "at least 2" in capsys.readouterr().err
