"""Coupling layers: Jacobians by autograd, inverses, which dims stay, and that these alone choose the functions."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.distributions.coupling import LOG_SCALE_BOUND, Affine, CouplingLayer, Halves, couple

KINDS = [Halves(*kind) for kind in product((2, 3, 5, 6), (False, True), (False, True))]


def layer(halves, context_dim=0):
    network = nn.Linear(len(halves.fixed) + context_dim, 2 * len(halves.moved)).double()
    return CouplingLayer(halves, network, Affine.bounded)


@pytest.mark.parametrize("halves", KINDS)
def test_halves_are_all_dims_once_and_splitting_is_undone(halves):
    assert sorted([*halves.fixed, *halves.moved]) == list(range(halves.dim))
    z = torch.randn(4, halves.dim)
    fixed, moved = halves.split(z)
    assert torch.equal(fixed, z[:, list(halves.fixed)])
    assert torch.equal(moved, z[:, list(halves.moved)])
    assert torch.equal(halves.join(fixed, moved), z)


@pytest.mark.parametrize("halves", KINDS)
@pytest.mark.parametrize("context_dim", [0, 2])
def test_the_log_determinant_is_that_of_the_jacobian(halves, context_dim):
    coupling, context = layer(halves, context_dim), torch.randn(context_dim).double() if context_dim else None
    z = torch.randn(halves.dim).double()
    moved, log_det = coupling(z, context)
    jacobian = torch.autograd.functional.jacobian(lambda z: coupling(z, context)[0], z)
    assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    stays = list(halves.fixed)
    assert torch.equal(moved[stays], z[stays])
    assert_close(coupling.inverse(moved, context), (z, log_det))
    assert_close(coupling.step(context).inverse(moved), (z, log_det))


def test_the_functions_are_those_that_the_half_which_stays_has_chosen():
    """b exp(s) + t by hand, of z = (a, b) with s = a and t = 2 a; in one dim there is nothing to choose by."""

    def chosen(a):
        return Affine(a, 2 * a) if a.shape[-1] else Affine(torch.ones(1), torch.ones(1))

    z = torch.tensor([0.5, 3.0])
    moved, log_det = couple(Halves(2), chosen, z)
    assert_close(moved, torch.tensor([0.5, 3 * torch.e**0.5 + 1]))
    assert log_det == 0.5
    assert_close(couple(Halves(2), chosen, moved, inverse=True), (z, log_det))
    assert_close(couple(Halves(1), chosen, torch.ones(4, 1))[0], torch.full((4, 1), torch.e + 1))


def test_no_feature_stretches_by_more_than_the_bound():
    y, log_slope = Affine.bounded(torch.tensor([1e30, -1e30, 0.0, 0.0]))(torch.ones(2))
    assert_close(log_slope, torch.tensor([LOG_SCALE_BOUND, -LOG_SCALE_BOUND]))
    assert_close(y, log_slope.exp())
