"""Arguments that are numbers: every part and every public call refuses what is none, in one sentence."""

import inspect
import math

import pytest
import torch
from pyro.infer import ELBO

import pyro_vae
from pyro_vae.evaluation import bdmc, guide_error, linear_probe
from pyro_vae.evaluation.latents.latent_statistics import latent_statistics
from pyro_vae.fit import iwae_schedule
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import KINDS, find_part, part_names
from pyro_vae.runtime.checks import check_count, check_number

X_SHAPE = (3,)
NOT_FINITE = [math.nan, math.inf, -math.inf, True, "3", None]
NO_BOUND = {("VampPrior", "low"): -math.inf, ("VampPrior", "high"): math.inf}
"""What says, where a number is a bound, that there is none."""
NO_COUNT = [1e3, 2.5, math.nan, True, "3", None, -1]


def arguments_of(kind, wanted):
    """Each numeric constructor argument of each part of a kind: the class and the argument's name."""
    for name in part_names(kind):
        cls = find_part(kind, name)
        for argument in inspect.signature(cls).parameters.values():
            # Pyro's own class checks its own.
            if argument.annotation in wanted and cls.__module__.startswith("pyro_vae."):
                yield pytest.param(cls, argument.name, id=f"{cls.__name__}.{argument.name}")


def others(cls, name):
    """The arguments that a part cannot do without."""
    x = torch.rand(8, *X_SHAPE)
    made = {
        "x_shape": X_SHAPE, "x_dim": 3, "latent_dim": 2, "hidden_dims": (4,), "data": x,
        "in_features": 3, "out_features": 2, "role": "decoder",
        "guide": MeanFieldGuide(X_SHAPE, 2, (4,)), "model": VAE(X_SHAPE, 2, (4,)),
    }  # fmt: skip
    needed = [p.name for p in inspect.signature(cls).parameters.values() if p.name in made and p.name != name]
    return {key: made[key] for key in needed}


@pytest.mark.parametrize(("cls", "name"), [case for kind in KINDS for case in arguments_of(kind, (int,))])
def test_a_count_of_every_part_is_a_whole_number(cls, name):
    for value in NO_COUNT:
        with pytest.raises(ValueError, match=name) as caught:
            cls(**others(cls, name), **{name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cls", "name"), [case for kind in KINDS for case in arguments_of(kind, (float,))])
def test_a_number_of_every_part_is_finite(cls, name):
    for value in NOT_FINITE:
        if value == NO_BOUND.get((cls.__name__, name)):
            continue
        with pytest.raises(ValueError, match=name) as caught:
            cls(**others(cls, name), **{name: value})
        assert "\n" not in str(caught.value)


def test_every_objective_of_the_package_was_looked_at():
    assert all(issubclass(find_part("objective", name), ELBO) for name in part_names("objective"))
    assert len(list(arguments_of("objective", (int,)))) >= 12
    assert {case.id for case in arguments_of("objective", (float,))} >= {"RenyiBound.alpha", "FreeBits.floor"}


def calls():
    """Each numeric argument of each public call, and the call with all others as they are."""
    model, guide, x = VAE(X_SHAPE, 2, (4,)), MeanFieldGuide(X_SHAPE, 2, (4,)), torch.rand(8, 3).round()
    pair = {"model": model, "guide": guide, "x": x}
    labels = torch.arange(8) % 2
    probe = {"guide": guide, "train_x": x, "train_labels": labels, "test_x": x, "test_labels": labels}
    optimizer = torch.optim.Adam(model.parameters())
    for function, given, needs_none in (
        (pyro_vae.fit, {"model": model, "guide": guide, "data": x}, ()),
        (pyro_vae.log_weights, pair, ()),
        (pyro_vae.log_likelihood, pair, ()),
        (pyro_vae.elbo_terms, pair, ()),
        (pyro_vae.active_units, {"guide": guide, "x": x}, ()),
        (pyro_vae.inference_gaps, pair, ()),
        (pyro_vae.ais, {"model": model, "x": x}, ()),
        (bdmc, {"model": model, "x": x}, ()),
        (pyro_vae.sbc, pair, ()),
        (pyro_vae.reference_posterior, {"model": model, "x": x}, ()),
        (guide_error, {**pair, "reference": None}, ()),
        (latent_statistics, pair, ()),
        (pyro_vae.to_inference_data, pair, ()),
        (linear_probe, probe, ("num_samples",)),
        (iwae_schedule, {"optimizer": optimizer}, ()),
    ):
        for argument in inspect.signature(function).parameters.values():
            if argument.annotation in (int, float, int | None, float | None) and argument.name not in needs_none:
                yield pytest.param(
                    function, given, argument.name, argument.annotation, id=f"{function.__name__}.{argument.name}"
                )


@pytest.mark.parametrize(("function", "given", "name", "kind"), list(calls()))
def test_a_number_of_every_call_is_checked_before_any_work(function, given, name, kind):
    fractions = kind in (float, float | None)
    bad = NOT_FINITE if fractions else NO_COUNT[:-1] if name == "seed" else NO_COUNT
    for value in bad:
        if value is None and kind in (int | None, float | None):
            continue
        with pytest.raises(ValueError, match=name) as caught:
            function(**given, **{name: value})
        assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    check_count("here", "num_samples", numpy.int64(3))
    check_number("here", "alpha", numpy.float32(0.5))


def test_a_count_that_was_written_as_a_fraction_says_how_to_write_it():
    with pytest.raises(ValueError, match=r"got 1000\.0: write 1000\.$"):
        pyro_vae.log_likelihood(VAE(X_SHAPE, 2), MeanFieldGuide(X_SHAPE, 2), torch.zeros(2, 3), 1e3)
