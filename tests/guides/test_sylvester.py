"""Sylvester flows: the formula with whole matrices, Jacobian by autograd, mass by quadrature, a bent posterior."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.guides import SylvesterGuide
from pyro_vae.guides.householder import reflect
from pyro_vae.guides.sylvester import sylvester
from pyro_vae.testing import GuideSuite


def parameters(*batch, dim=4, columns=3, reflections=2, size=1.0):
    shapes = (reflections, dim), (columns, columns + 1), (columns,)
    return [size * torch.randn(*batch, *shape).double() for shape in shapes]


def matrices(vectors, triangles):
    """Q, R and R~ of one datum, entry by entry."""
    columns = len(triangles)
    q = torch.eye(vectors.shape[-1]).double()
    for v in vectors:
        q = q @ (torch.eye(len(v)).double() - 2 * torch.outer(v, v) / (v @ v))
    right, left = torch.zeros(2, columns, columns).double()
    for row in range(columns):
        for column in range(row, columns):
            right[row, column], left[row, column] = triangles[row, column + 1], triangles[column, row]
        right[row, row], left[row, row] = right[row, row].tanh(), left[row, row].tanh()
    return q[:, :columns], right, left


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_map_is_that_of_whole_matrices(columns):
    flow = vectors, triangles, bias = parameters(7, columns=columns)
    z = torch.randn(5, 7, 4).double()
    found, _ = sylvester(z, *flow)
    assert found.shape == (5, 7, 4)
    for n in range(7):
        q, right, left = matrices(vectors[n], triangles[n])
        assert_close(q.T @ q, torch.eye(columns).double(), rtol=1e-12, atol=1e-12)
        moved = z[:, n] + torch.tanh(z[:, n] @ q @ left.T + bias[n]) @ right.T @ q.T
        assert_close(found[:, n], moved, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("size", [0.01, 1.0, 5.0])
def test_log_determinant_by_autograd(columns, size):
    for _ in range(20):
        flow, z = parameters(columns=columns, size=size), torch.randn(4).double()
        jacobian = torch.autograd.functional.jacobian(lambda z, flow=flow: sylvester(z, *flow)[0], z)
        sign, log_det = torch.linalg.slogdet(jacobian)
        assert sign == 1
        # Off the diagonal, R and R~ make entries of the order of size^2: their rounding enters a small determinant.
        found = sylvester(z, *flow)[1]
        rounding = 1e-14 * (1 + jacobian.abs().max() ** 4).item() * (-found).exp().item()
        assert_close(found, log_det, rtol=1e-9, atol=1e-12 + rounding)


@pytest.mark.parametrize(("dim", "columns"), [(1, 1), (2, 1), (2, 2)])
def test_samples_have_the_mass_of_a_density(quadrature, dim, columns):
    guide = SylvesterGuide((3,), dim, (5,), num_columns=columns, num_reflections=2).double()
    q = guide.posterior(2 * torch.randn(4, 3).double())
    assert not q.invertible
    assert_close(quadrature.mass_of_another_density(q), torch.ones(4).double(), rtol=1e-6, atol=0)


def test_extreme_features_give_finite_densities_and_gradients():
    """Diagonals at -1 and 1, where 1 + h' r vanishes at h = 0."""
    vectors, _, bias = (p.float() for p in parameters(1000))
    triangles = torch.zeros(1000, 3, 4)
    triangles.diagonal(dim1=-2, dim2=-1).fill_(30.0)
    triangles[..., 1:].diagonal(dim1=-2, dim2=-1).fill_(-30.0)
    triangles.requires_grad_()
    moved, log_det = sylvester(torch.randn(1000, 4), vectors, triangles, 0.001 * bias)
    (moved.sum() + log_det.sum()).backward()
    assert log_det.isfinite().all()
    assert triangles.grad.isfinite().all()


def test_it_comes_closer_to_a_parabola_than_the_best_mean_field(banana):
    q = banana.fit(SylvesterGuide((1,), 2, (), num_flows=8, num_reflections=1), steps=300, rate=0.1)
    assert 0 < banana.gap(q) < 0.3 * banana.mean_field_gap


def test_features_are_location_log_scale_then_each_flow():
    encoder = torch.nn.Linear(3, 4 + 2 * 9).double()
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.arange(22.0) / 10)
    guide = SylvesterGuide((3,), 2, num_flows=2, num_columns=1, num_reflections=3, encoder=encoder)
    noise = torch.randn(1, 2).double()
    z = encoder.bias[:2] + encoder.bias[2:4].exp() * noise
    for start in (4, 13):
        vectors, triangles, bias = encoder.bias[start : start + 9].split([6, 2, 1])
        z = sylvester(z, vectors.reshape(3, 2), triangles.reshape(1, 2), bias)[0]
    assert_close(guide.posterior(torch.zeros(1, 3).double()).push(noise)[0], z, rtol=1e-12, atol=1e-12)


def test_columns_are_all_unless_given_and_one_is_a_planar_flow():
    assert SylvesterGuide((3,), 4).num_columns == 4
    (vectors, triangles, bias), z = parameters(columns=1), torch.randn(4).double()
    direction = reflect(torch.eye(4).double()[0], vectors.flip(-2))
    moved = sylvester(z, vectors, triangles, bias)[0] - z
    assert_close(moved, direction * (direction @ moved), rtol=1e-12, atol=1e-12)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="num_flows must be at least"):
        SylvesterGuide((3,), 4, num_flows=0)
    with pytest.raises(ValueError, match="num_reflections must be at least"):
        SylvesterGuide((3,), 4, num_reflections=0)
    for columns in (0, 5):
        with pytest.raises(ValueError, match=f"num_columns must be from 1 .*{columns}"):
            SylvesterGuide((3,), 4, num_columns=columns)


def test_another_z_is_refused_by_name():
    q = SylvesterGuide((3,), 2, (5,)).posterior(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"SylvesterGuide: .* no inverse"):
        q.log_prob(torch.zeros(4, 2))


class TestContract(GuideSuite):
    part = "sylvester(num_flows=2, num_columns=3, num_reflections=2)"
