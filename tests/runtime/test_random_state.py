"""Seeds, and generators that are left as they were."""

import torch

from pyro_vae.runtime.random_state import seeded, unmoved_generators


def test_a_seed_gives_the_same_numbers_and_moves_nothing():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(3):
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seed_draws_from_the_generator_as_it_is():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(None):
        assert torch.equal(torch.rand(4), expected)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_generators_of_all_cuda_devices_are_put_back(monkeypatch):
    states = {0: "first", 1: "second"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state))
    with unmoved_generators():
        states |= {0: "moved", 1: "moved too"}
    assert states == {0: "first", 1: "second"}
