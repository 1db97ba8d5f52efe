"""The discrepancy by its definition, and p-values that are uniform where they must be."""

import math

import pytest
import torch
from scipy.stats import kstest

from pyro_vae.evaluation import two_sample_test


def test_the_discrepancy_is_that_of_its_definition():
    x, y = torch.randn(5, 2), torch.randn(7, 2) + 1
    both = torch.cat([x, y]).double()
    both = both / both.std(0)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    distance = {(i, j): (both[i] - both[j]).norm() for i, j in pairs}
    # The lower middle one, as torch takes it; all distances occur twice.
    width = sorted(distance.values())[len(pairs) // 2 - 1]
    kernel = {pair: math.exp(-((d / width) ** 2) / 2) for pair, d in distance.items()}
    in_x = sum(kernel[i, j] for i, j in pairs if i < 5 and j < 5) / 20
    in_y = sum(kernel[i, j] for i, j in pairs if i >= 5 and j >= 5) / 42
    across = sum(kernel[i, j] for i, j in pairs if i < 5 <= j) / 35
    assert two_sample_test(x, y, 1).mmd2 == pytest.approx(in_x + in_y - 2 * across, rel=1e-9)


def test_p_values_of_equal_laws_are_uniform():
    """Kolmogorov-Smirnov distance of 400 from uniform below 1.95 / sqrt(400): missed by one run in a thousand.

    A p-value on a grid of 1/50 is made continuous by noise over one step.
    """
    p_values = [
        two_sample_test(torch.randn(20, 3).exp(), torch.randn(25, 3).exp(), 49).p_value - torch.rand(()).item() / 50
        for _ in range(400)
    ]
    assert kstest(p_values, "uniform").statistic < 1.95 / 20


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 0.6), (0.0, 1.7)])
def test_another_location_or_scale_is_seen(shift, scale):
    assert two_sample_test(torch.randn(300, 3), shift + scale * torch.randn(300, 3), 499).p_value == 1 / 500


def test_another_dependence_is_seen():
    x = torch.randn(300, 2)
    y = torch.randn(300, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.19**0.5]])
    assert two_sample_test(x, y, 499).p_value < 0.01


def test_units_do_not_matter():
    x, y = torch.randn(30, 2).double(), torch.randn(30, 2).double()
    units = torch.tensor([1e-6, 1e8]).double()
    one, other = two_sample_test(x, y, 9), two_sample_test(x * units, y * units, 9)
    assert one.mmd2 == pytest.approx(other.mmd2, rel=1e-9)


def test_the_generator_decides_the_permutations():
    x, y = torch.randn(30, 2), torch.randn(30, 2) + 0.3
    first, second = (two_sample_test(x, y, 99, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second


def test_equal_points_have_no_discrepancy():
    found = two_sample_test(torch.ones(5, 2), torch.ones(5, 2), 9)
    assert found.mmd2 == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1


def test_bad_samples_are_refused():
    for x, y in [(torch.ones(1, 2), torch.ones(5, 2)), (torch.ones(5, 2), torch.ones(5, 3)), (torch.ones(5),) * 2]:
        with pytest.raises(ValueError, match=r"samples \(m, dim\) and \(n, dim\)"):
            two_sample_test(x, y)
    with pytest.raises(ValueError, match=r"and 0 permutations"):
        two_sample_test(torch.ones(5, 2), torch.ones(5, 2), 0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        two_sample_test(torch.full((5, 2), math.nan), torch.ones(5, 2))
