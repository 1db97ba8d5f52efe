"""Compiled weights of every guide are those of Pyro under a seed."""

import logging

import pytest
import torch
from held_parts import data_for, held_parts, model_for
from torch.testing import assert_close

from pyro_vae import log_likelihood
from pyro_vae.parts import make_pair
from pyro_vae.testing.guide import EVERY_IMAGE

COMPILED_EACH_TIME = ("auxiliary", "iaf", "mean_field")
"""The rest takes minutes."""


@pytest.mark.parametrize(
    "part",
    [
        text if name in COMPILED_EACH_TIME else pytest.param(text, marks=pytest.mark.slow)
        for name, texts in held_parts("guide").items()
        for text in texts
    ],
)
def test_compiled_weights_equal_those_of_pyro_under_a_seed(part, caplog):
    """To 1e-5, some eighty roundings of float32: a log-weight is a sum of ten terms or more that partly cancel."""
    torch.manual_seed(0)
    model, guide = make_pair((1, 3, 2), 4, (5,), model=model_for(part), guide=part, data=lambda: EVERY_IMAGE)
    x = data_for(part, torch.rand(6, 1, 3, 2).round())
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        expected, found = (log_likelihood(model, guide, x, 300, seed=4, compile=level) for level in ("off", "inductor"))
    assert [record for record in caplog.records if record.name == "pyro_vae"] == []
    assert_close(found.per_datum, expected.per_datum, rtol=1e-5, atol=1e-5)
    assert_close(found.ess, expected.ess, rtol=1e-3, atol=0)
