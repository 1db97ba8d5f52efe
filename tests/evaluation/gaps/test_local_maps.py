"""Maps with parameters for each datum: the identity at the start, Jacobians by autograd, one family inside the next."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.distributions.coupling import LOG_SCALE_BOUND
from pyro_vae.evaluation.gaps.local_maps import FAMILIES


def some(family, dim, count=4, num_samples=3):
    """A map away from the identity, and points."""
    local_map = FAMILIES[family](dim)
    e = torch.randn(num_samples, count, dim).double()
    theta = local_map.start(count, e)
    return local_map, theta + 0.5 * torch.randn_like(theta), e


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_starts_at_the_identity(family, dim):
    local_map, _, e = some(family, dim)
    theta = local_map.start(4, e)
    assert theta.shape == (4, local_map.num_parameters)
    moved, log_det = local_map(theta, e)
    assert_close(moved, e, rtol=0, atol=0)
    assert_close(log_det.expand(3, 4), torch.zeros(3, 4).double(), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_log_determinant_is_that_of_the_jacobian_and_a_datum_has_parameters_of_its_own(family, dim):
    local_map, theta, e = some(family, dim)
    _, log_det = local_map(theta, e)
    for sample, datum in ((0, 0), (2, 3), (1, 2)):

        def alone(point, datum=datum):
            return local_map(theta[datum : datum + 1], point.reshape(1, 1, dim))[0].flatten()

        assert_close(alone(e[sample, datum]), local_map(theta, e)[0][sample, datum])
        jacobian = torch.autograd.functional.jacobian(alone, e[sample, datum])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert_close(log_det.expand(3, 4)[sample, datum], expected)


def test_full_rank_reaches_any_covariance():
    """L L^T of three dims by hand."""
    local_map = FAMILIES["full_rank"](3)
    wanted = torch.tensor([[2.0, 0, 0], [-1, 0.5, 0], [3, 1, 0.1]]).double()
    shift = torch.tensor([1.0, -2.0, 3.0]).double()
    theta = torch.cat([shift, wanted.diagonal().log(), wanted.flatten()])[None]
    e = torch.randn(5, 1, 3).double()
    moved, log_det = local_map(theta, e)
    assert_close(moved[:, 0], e[:, 0] @ wanted.T + shift)
    assert_close(log_det, torch.tensor([math.log(0.1)]).double())


def test_the_flow_bends_what_affine_maps_cannot():
    """Second differences of an affine map are 0; every dim of the flow's has others."""
    local_map, theta, e = some("flow", 5)
    step = 0.3 * torch.randn_like(e)
    left, middle, right = (local_map(theta, e + k * step)[0] for k in (-1, 0, 1))
    assert ((left + right - 2 * middle).abs() > 1e-3).any(0).all()


def test_a_stretch_of_the_flow_is_bounded():
    local_map = FAMILIES["flow"](4)
    e = torch.randn(3, 2, 4)
    theta = local_map.start(2, e) + 1e4
    theta[:, -24:] = 0
    moved, log_det = local_map(theta, e)
    assert moved.isfinite().all()
    assert log_det.abs().max() <= 4 * 2 * LOG_SCALE_BOUND


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5, 8])
def test_what_does_not_count_stays_and_says_nothing(family, dim):
    """The block that counts has the Jacobian of its own, whatever the rest is."""
    local_map, theta, e = some(family, dim)
    counted = torch.rand(len(theta), dim) < 0.6
    e_new, log_det = local_map(theta, e, counted)
    assert torch.equal(e_new[:, ~counted], e[:, ~counted])
    other, log_det_again = local_map(theta, torch.where(counted, e, torch.randn_like(e)), counted)
    assert torch.equal(other[:, counted], e_new[:, counted])
    assert torch.equal(log_det, log_det_again)
    log_det = log_det.expand(len(e), len(theta))
    assert not log_det[:, ~counted.any(-1)].any()
    for datum in counted.any(-1).nonzero().flatten().tolist():
        here = counted[datum]

        def block(part, datum=datum, here=here):
            full = e[:1].clone()
            full[0, datum, here] = part
            return local_map(theta, full, counted)[0][0, datum, here]

        jacobian = torch.autograd.functional.jacobian(block, e[0, datum, here])
        assert_close(log_det[0, datum], torch.linalg.slogdet(jacobian).logabsdet)
