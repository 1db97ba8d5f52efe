"""The grid of grey levels: what lies on it, in which precision, and how it is told."""

import pytest
import torch

from pyro_vae.data.binarization import to_grey
from pyro_vae.distributions.grey_levels import GreyLevels, level_of
from pyro_vae.errors import SupportError
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import CategoricalLikelihood, DiscretizedLogisticLikelihood
from pyro_vae.programs.support import check_support

BYTES = torch.arange(256, dtype=torch.uint8)
LIKELIHOODS = [CategoricalLikelihood, DiscretizedLogisticLikelihood]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_lies_on_the_grid_as_the_level_it_is(dtype):
    grey = to_grey(BYTES).to(dtype)
    assert GreyLevels(256).check(grey).all()
    assert torch.equal(level_of(grey, 256), BYTES.to(dtype))


def test_what_lies_between_or_beyond_does_not():
    grey = to_grey(BYTES)
    for off in (grey + 0.5 / 255, grey + 2e-6, grey - 2e-6, torch.tensor([-1 / 255, 256 / 255, torch.nan, torch.inf])):
        assert not GreyLevels(256).check(off).any()
    assert GreyLevels(3).check(torch.tensor([0.0, 0.5, 1.0, 0.25])).tolist() == [True, True, True, False]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_grey_values_off_the_grid_are_found_and_told_what_the_grid_is(likelihood):
    model = VAE((6,), 2, likelihood=likelihood((6,), 2, (4,)))
    x = to_grey(torch.randint(256, (20, 6), dtype=torch.uint8))
    check_support(model, x, x[:3])
    x[13, 2] = 0.3
    with pytest.raises(SupportError, match=r"255}, and 1 of 120 values"):
        check_support(model, x, x[:3])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_one_level_is_refused(likelihood):
    with pytest.raises(ValueError, match=f"{likelihood.__name__}: levels must be at least"):
        likelihood((6,), 2, levels=1)
