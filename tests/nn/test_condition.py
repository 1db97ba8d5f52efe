"""y as features: one-hot codes by hand, and what is no y is told so."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.nn.condition import Condition, joined

ROWS = torch.zeros(4, 5, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_are_one_hot_in_the_dtype_of_x(dtype):
    y = torch.tensor([2, 0, 1, 2])
    codes = Condition("here", 3).encode(y.to(dtype), ROWS)
    assert torch.equal(codes, torch.eye(3, dtype=torch.float64)[y])


def test_several_labels_of_a_datum_are_beside_each_other():
    y = torch.tensor([[0, 2], [1, 1]])
    condition = Condition("here", 3, (2,))
    assert condition.dim == 6
    assert condition.encode(y, ROWS[:2]).tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize("y_shape", [(), (3,), (1, 2, 3)])
def test_numbers_are_flat_and_keep_their_order(y_shape):
    y = torch.randn(4, *y_shape)
    features = Condition("here", y_shape=y_shape).encode(y, ROWS)
    assert features.dtype == torch.float64
    assert torch.equal(features, y.reshape(4, -1).double())


def test_draws_are_joined_with_the_features_of_their_datum():
    z, features = torch.randn(5, 4, 2), torch.randn(4, 3)
    rows = joined(z, features)
    assert torch.equal(rows[..., :2], z)
    assert torch.equal(rows[3, :, 2:], features)


def test_in_a_recorded_graph_a_label_outside_has_no_number():
    condition = Condition("here", 3)
    graph = make_fx(lambda y, x: condition.encode(y, x))(torch.tensor([0, 1, 2, 0]), ROWS)
    codes = graph(torch.tensor([2, 3, -1, 0]), ROWS)
    assert codes[[0, 3]].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert codes[[1, 2]].isnan().all()


@pytest.mark.parametrize(
    ("condition", "y", "message"),
    [
        ({"num_classes": 3}, torch.tensor([0, 1, 2, 3]), "between 0 and 2, .* got 3"),
        ({"num_classes": 3}, torch.tensor([0, -1, 2, 3]), "between 0 and 2, .* got -1"),
        ({"num_classes": 3}, torch.tensor([0, 1, 2]), r"shape \(4,\), .* got \(3,\)"),
        ({"num_classes": 3}, torch.zeros(4), "integers, .* got torch.float32"),
        ({"num_classes": 3}, torch.zeros(4) == 0, r"write y.long\(\)"),
        ({"num_classes": 3}, None, "y is missing"),
        ({"num_classes": 3}, [0, 1, 2, 0], "must be a tensor"),
        ({"y_shape": (2,)}, torch.zeros(4, 3), r"shape \(4, 2\), .* got"),
        ({"y_shape": (2,)}, torch.zeros(3, 2), r"shape \(4, 2\), .* got"),
        ({"y_shape": (2,)}, torch.zeros(4, 2).long(), "floating point; got"),
    ],
)
def test_what_is_no_y_of_these_data_is_told_so(condition, y, message):
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        Condition("here", **condition).encode(y, ROWS)
