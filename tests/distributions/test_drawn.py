"""What is remembered of a draw belongs to that very tensor, unchanged, with the gradient that is asked for."""

import torch

from pyro_vae.distributions.drawn import Drawn


def test_only_the_very_tensor_is_the_draw():
    value = torch.ones(3)
    drawn = Drawn.of(value, value.sum())
    assert drawn.is_same(value)
    assert drawn.scores(value)
    assert not drawn.is_same(value.clone())
    assert not drawn.scores(value.clone())


def test_a_change_in_place_makes_another_value():
    value = torch.ones(3)
    drawn = Drawn.of(value, value.sum())
    value.add_(1)
    assert not drawn.is_same(value)
    assert not drawn.scores(value)


def test_a_density_without_gradient_scores_only_where_none_is_asked_for():
    value = torch.ones(3)
    with torch.no_grad():
        drawn = Drawn.of(value, value.sum())
        assert drawn.scores(value)
    assert drawn.is_same(value)
    assert not drawn.scores(value)


def test_values_of_inference_mode_are_known_without_a_version():
    with torch.inference_mode():
        value = torch.ones(3)
        drawn = Drawn.of(value, value.sum())
        assert drawn.scores(value)
